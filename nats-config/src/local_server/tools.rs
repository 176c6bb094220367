use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};

use super::config::MAX_TOOLS;
use super::{LocalServerError, files};
use crate::contract::Id;

/// An internal tool: an account of its own, `TOOL_{name}`, that receives all rooms of one tenant (`chat.room.{tenant}.>`)
/// and may make its own streams and consumers on them.
///
/// It is trusted for that tenant: roles do not apply to it, and a revocation does not reach what it has stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Names the account.
    pub name: Id,
    /// Whose rooms it receives.
    pub tenant: Id,
    /// The public key of its user, `U…`.
    pub nkey: String,
}

/// Keeps a tool in `{dir}/tools/{name}.json`, where `dir` is the server's folder. A running server knows it after
/// [`super::LocalServer::reload`].
///
/// Refuses a name that exists, a key that is no user's public key or that another tool has, and more than [`MAX_TOOLS`].
pub fn add_tool(dir: &Path, tool: &Tool) -> Result<(), LocalServerError> {
    let tools = list_tools(dir)?;
    check_key(tool, &tools)?;
    let path = file_of(dir, tool);
    let exists = || LocalServerError::ToolExists {
        name: tool.name.to_string(),
        path: path.clone(),
    };
    if tools.iter().any(|other| other.name == tool.name) {
        return Err(exists());
    }
    if tools.len() >= MAX_TOOLS {
        return Err(LocalServerError::TooManyTools(tools.len()));
    }
    files::private_dir(&folder(dir))?;
    let json = serde_json::to_vec_pretty(tool).map_err(|error| unusable(&path, &error))?;
    if files::write_new(&path, &json)? {
        Ok(())
    } else {
        Err(exists())
    }
}

/// All tools of a server's folder, by name.
///
/// Fails with [`LocalServerError::ToolFile`] on a damaged file: leaving a tool out would end its connections.
pub fn list_tools(dir: &Path) -> Result<Vec<Tool>, LocalServerError> {
    let folder = folder(dir);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LocalServerError::file("read the folder", folder)(error)),
    };
    let mut tools = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(LocalServerError::file("read the folder", &folder))?
            .path();
        if path.extension().is_some_and(|extension| extension == "json") {
            tools.push(read(&path)?);
        }
    }
    tools.sort_by(|a: &Tool, b: &Tool| a.name.cmp(&b.name));
    Ok(tools)
}

fn read(path: &Path) -> Result<Tool, LocalServerError> {
    let text = fs::read(path).map_err(LocalServerError::file("read", path))?;
    let tool: Tool = serde_json::from_slice(&text).map_err(|error| unusable(path, &error))?;
    if path.file_stem().is_none_or(|stem| stem != tool.name.as_str()) {
        return Err(unusable(path, &format!("it holds the tool {}", tool.name)));
    }
    check_key(&tool, &[]).map_err(|error| unusable(path, &error))?;
    Ok(tool)
}

fn check_key(tool: &Tool, others: &[Tool]) -> Result<(), LocalServerError> {
    let wrong = |reason: String| LocalServerError::ToolKey {
        name: tool.name.to_string(),
        reason,
    };
    let key = KeyPair::from_public_key(&tool.nkey).map_err(|error| wrong(error.to_string()))?;
    if key.key_pair_type() != KeyPairType::User {
        return Err(wrong("it is not the public key of a user (U…)".to_owned()));
    }
    match others
        .iter()
        .find(|other| other.nkey == tool.nkey && other.name != tool.name)
    {
        Some(other) => Err(wrong(format!("the tool {} has it", other.name))),
        None => Ok(()),
    }
}

fn folder(dir: &Path) -> PathBuf {
    dir.join("tools")
}

fn file_of(dir: &Path, tool: &Tool) -> PathBuf {
    folder(dir).join(format!("{}.json", tool.name))
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> LocalServerError {
    LocalServerError::ToolFile {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Tool {
        Tool {
            name: name.parse().unwrap(),
            tenant: "main".parse().unwrap(),
            nkey: KeyPair::new_user().public_key(),
        }
    }

    #[test]
    fn tools_are_kept_and_listed_by_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(list_tools(dir.path()).unwrap(), vec![]);
        let (b, a) = (tool("b"), tool("a"));
        add_tool(dir.path(), &b).unwrap();
        add_tool(dir.path(), &a).unwrap();
        assert_eq!(list_tools(dir.path()).unwrap(), vec![a, b]);
    }

    #[test]
    fn a_name_that_exists_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        add_tool(dir.path(), &tool("reports")).unwrap();
        let error = add_tool(dir.path(), &tool("reports")).unwrap_err();
        assert!(matches!(error, LocalServerError::ToolExists { .. }), "{error}");
    }

    #[test]
    fn a_key_must_be_a_users_public_key_and_belong_to_one_tool() {
        let dir = tempfile::tempdir().unwrap();
        let first = tool("first");
        add_tool(dir.path(), &first).unwrap();
        let user = KeyPair::new_user();
        for key in [
            first.nkey.clone(),
            KeyPair::new_account().public_key(),
            user.seed().unwrap(),
            String::new(),
            format!("{} }} evil", user.public_key()),
        ] {
            let second = Tool {
                nkey: key,
                ..tool("second")
            };
            let error = add_tool(dir.path(), &second).unwrap_err();
            assert!(matches!(error, LocalServerError::ToolKey { .. }), "{error}");
        }
    }

    #[test]
    fn there_is_a_most() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..MAX_TOOLS {
            add_tool(dir.path(), &tool(&format!("t{n}"))).unwrap();
        }
        let error = add_tool(dir.path(), &tool("one-more")).unwrap_err();
        assert!(matches!(error, LocalServerError::TooManyTools(MAX_TOOLS)), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        add_tool(dir.path(), &tool("good")).unwrap();
        let folder = folder(dir.path());
        let bad = folder.join("bad.json");
        for text in ["{", "{}", &fs::read_to_string(folder.join("good.json")).unwrap()] {
            fs::write(&bad, text).unwrap();
            let error = list_tools(dir.path()).unwrap_err();
            assert!(
                matches!(&error, LocalServerError::ToolFile { path, .. } if *path == bad),
                "{error}"
            );
        }
    }
}
