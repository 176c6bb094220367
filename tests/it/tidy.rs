//! The house's order: which crate may use which, where a library may be used, and what pure code may import.
//!
//! Each rule is a function of what it judges, so that the tests at the end can show that it sees a fault.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const MAX_LINES: usize = 600;

/// The members of the workspace that a crate of it may use.
const ARROWS: [(&str, &[&str]); 6] = [
    ("natterjack-nats-config", &[]),
    ("natterjack-authz", &["natterjack-nats-config"]),
    ("natterjack-store", &["natterjack-authz", "natterjack-nats-config"]),
    ("natterjack-bridge", &["natterjack-authz", "natterjack-nats-config"]),
    (
        "natterjack",
        &[
            "natterjack-authz",
            "natterjack-bridge",
            "natterjack-nats-config",
            "natterjack-store",
        ],
    ),
    ("natterjack-faults", &["natterjack-authz", "natterjack-nats-config"]),
];

/// Libraries that only these crates may use. `hyper` in `natterjack` is the client of `bench` and of the tests, in
/// `natterjack-faults` that of its clients.
const FENCES: [(&str, &[&str]); 8] = [
    ("axum", &["natterjack-bridge"]),
    ("hyper", &["natterjack-bridge", "natterjack", "natterjack-faults"]),
    ("hyper-util", &["natterjack-bridge", "natterjack", "natterjack-faults"]),
    ("jwt-simple", &["natterjack-authz"]),
    ("nkeys", &["natterjack-authz", "natterjack-nats-config", "natterjack"]),
    ("sea-orm", &["natterjack-store"]),
    ("sea-orm-migration", &["natterjack-store"]),
    ("clap", &["natterjack", "natterjack-faults"]),
];

/// What code that does no I/O never names.
const IO: [&str; 9] = [
    "async_nats",
    "tokio",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "sea_orm",
    "hyper",
    "SystemTime",
];

/// Files, by the start of their paths, that must not name something, and why.
const PURE: [(&str, &[&str], &str); 9] = [
    ("nats-config/src/contract/", &IO, "the contract does no I/O"),
    ("authz/src/policy/", &IO, "policy does no I/O"),
    ("faults/src/check/", &IO, "the checker does no I/O"),
    ("store/src/log/state", &IO, "the writer's state does no I/O"),
    ("store/src/log/admit", &IO, "admission does no I/O"),
    ("store/src/log/keys", &IO, "the window of keys does no I/O"),
    (
        "store/src/log/checkpoint/codec",
        &IO,
        "a checkpoint's bytes are made without I/O",
    ),
    (
        "store/src/log/checkpoint/plan",
        &IO,
        "what is due is decided without I/O",
    ),
    ("bridge/src/feed/", &["crate::door"], "the feed knows no door"),
];

/// Files in which a subject may be written out.
const WRITES_SUBJECTS: [(&str, &str); 4] = [
    (
        "nats-config/src/contract/subject.rs",
        "this is the one that makes and reads them",
    ),
    (
        "nats-config/src/local_server/config.rs",
        "nats-server's configuration names them",
    ),
    ("store/src/log/intake.rs", "a refusal shows people the form"),
    ("src/cli/nats.rs", "it prints one for people"),
];

struct Source {
    path: String,
    text: String,
}

#[test]
fn crates_use_each_other_only_along_the_arrows() {
    assert_clean(&arrow_faults(&metadata()));
}

#[test]
fn libraries_stay_behind_their_fences() {
    assert_clean(&fence_faults(&metadata()));
}

#[test]
fn pure_code_names_no_io() {
    assert_clean(&purity_faults(&sources()));
}

#[test]
fn files_are_small_and_have_names_that_say_something() {
    assert_clean(&file_faults(&sources()));
}

#[test]
fn only_the_contract_speaks_of_subjects() {
    assert_clean(&subject_faults(&sources()));
}

#[test]
fn commands_in_documents_name_tests_that_there_are() {
    assert_clean(&filter_faults(&documents(), &sources()));
}

fn assert_clean(faults: &[String]) {
    assert!(faults.is_empty(), "\n  {}", faults.join("\n  "));
}

/// Each dependency of a workspace member: crate, dependency, whether only its tests use it.
fn dependencies(metadata: &Value) -> Vec<(String, String, bool)> {
    let mut all = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
            all.push((name(package), name(dependency), dependency["kind"] == "dev"));
        }
    }
    assert!(all.len() > 20, "cargo metadata tells of the dependencies");
    all
}

fn arrow_faults(metadata: &Value) -> Vec<String> {
    let members: Vec<&str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    let mut faults = Vec::new();
    for member in &members {
        if !ARROWS.iter().any(|(name, _)| name == member) {
            faults.push(format!(
                "the crate {member} has no arrows yet: say in tests/it/tidy.rs what it may use"
            ));
        }
    }
    for (from, to, _) in dependencies(metadata)
        .into_iter()
        .filter(|(_, to, _)| members.contains(&to.as_str()))
    {
        if !ARROWS
            .iter()
            .any(|(name, may)| *name == from && may.contains(&to.as_str()))
        {
            faults.push(format!("{from} may not use {to}"));
        }
    }
    faults
}

fn fence_faults(metadata: &Value) -> Vec<String> {
    let all = dependencies(metadata);
    let used = all.iter().filter(|(_, _, only_tests)| !only_tests);
    used.filter(|(from, to, _)| {
        FENCES
            .iter()
            .any(|(name, may)| name == to && !may.contains(&from.as_str()))
    })
    .map(|(from, to, _)| format!("{from} may not use {to}"))
    .collect()
}

fn purity_faults(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for (start, names, why) in PURE {
        let files: Vec<&Source> = sources.iter().filter(|source| source.path.starts_with(start)).collect();
        if files.is_empty() {
            faults.push(format!("{start} is gone; has it moved?"));
        }
        for (file, line, text) in files.into_iter().flat_map(code_lines) {
            let named = names.iter().filter(|name| names_it(text, name));
            faults.extend(named.map(|name| format!("{}:{line}: `{name}`, but {why}", file.path)));
        }
    }
    faults
}

/// The lines of a file that are no comments.
fn code_lines(source: &Source) -> impl Iterator<Item = (&Source, usize, &str)> {
    let lines = source.text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(move |(at, line)| (source, at + 1, line))
}

/// Whether a path is named in a line, not just as part of a longer word.
fn names_it(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        !line[..at].ends_with(is_word) && !line[at + name.len()..].starts_with(is_word)
    })
}

fn file_faults(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for Source { path, text } in sources {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            faults.push(format!("{path} has {lines} lines; {MAX_LINES} is the most"));
        }
        let name = path.rsplit('/').next().unwrap();
        if ["util.rs", "utils.rs", "helpers.rs", "common.rs", "misc.rs"].contains(&name) {
            faults.push(format!("{path}: the name does not say what is in it"));
        }
    }
    faults
}

/// A subject is made and taken apart in one file. (Tests write subjects out, as clients do.)
fn subject_faults(sources: &[Source]) -> Vec<String> {
    let families = ["in", "write", "api", "log", "fan", "room", "user", "store", "authz"];
    let mut faults = Vec::new();
    for source in sources {
        let path = source.path.as_str();
        if path.starts_with("tests/") || path.contains("/tests") || WRITES_SUBJECTS.iter().any(|(may, _)| *may == path)
        {
            continue;
        }
        let code = code_lines(source).take_while(|(_, _, line)| !line.contains("#[cfg(test)]"));
        for (_, line, text) in code {
            let written = families
                .iter()
                .any(|family| text.contains(&format!("\"chat.{family}.")) || text.contains(&format!("}}.{family}.{{")));
            if written {
                faults.push(format!(
                    "{}:{line}: a subject is written here; only contract/subject.rs does that",
                    source.path
                ));
            }
        }
    }
    faults
}

/// Filters of nextest in documents that name nothing.
fn filter_faults(documents: &[Source], sources: &[Source]) -> Vec<String> {
    let faults_of = |document: &Source| -> Vec<String> {
        let commands = document.text.split(['\n', '`']);
        let faults = commands.filter_map(|command| filter_fault(command, sources));
        faults.map(|fault| format!("{}: {fault}", document.path)).collect()
    };
    documents.iter().flat_map(faults_of).collect()
}

/// Each part of a filter's path is in the name of a module or a function, of the package if the command names one.
fn filter_fault(command: &str, sources: &[Source]) -> Option<String> {
    let package = command
        .split_once("-p natterjack-")
        .and_then(|(_, rest)| rest.split(' ').next());
    let here = |source: &&Source| package.is_none_or(|package| source.path.starts_with(&format!("{package}/")));
    let no_test = || {
        let filter = argument_of(command, "test(")?;
        let names: Vec<String> = sources.iter().filter(here).flat_map(names_in).collect();
        let mut parts = filter.trim_matches('/').trim_start_matches('^').split("::");
        let missing = parts.find(|part| !names.iter().any(|name| name.contains(part)))?;
        Some(format!("no test has `{missing}` in its name"))
    };
    let no_program = || {
        let program = format!("tests/{}.rs", argument_of(command, "binary(")?);
        let is_there = sources
            .iter()
            .filter(here)
            .any(|source| source.path.ends_with(&program));
        (!is_there).then(|| format!("there is no {program}"))
    };
    no_test().or_else(no_program)
}

fn argument_of<'a>(command: &'a str, filter: &str) -> Option<&'a str> {
    let (_, rest) = command.split_once(filter)?;
    rest.split(')').next()
}

/// What can be in the names of a file's tests: the module, unless it is a test program of its own, and the functions.
fn names_in(source: &Source) -> Vec<String> {
    let functions = code_lines(source).filter_map(|(_, _, line)| {
        let (_, name) = line.split_once("fn ")?;
        name.split(['(', '<']).next().map(str::to_owned)
    });
    let (folder, file) = source.path.rsplit_once('/').unwrap();
    let module = file.trim_end_matches(".rs").to_owned();
    functions
        .chain((!folder.ends_with("/tests") || folder.contains("/src/")).then_some(module))
        .collect()
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the workspace.
fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for room in ["src", "nats-config", "authz", "store", "bridge", "faults", "tests/it"] {
        collect(&root().join(room), "rs", &mut sources);
    }
    assert!(sources.len() > 50, "the sources are found");
    sources
}

/// What people are told to read.
fn documents() -> Vec<Source> {
    let mut documents = Vec::new();
    collect(&root().join("docs"), "md", &mut documents);
    for name in ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "ARCHITECTURE.md"] {
        let text = std::fs::read_to_string(root().join(name)).unwrap();
        documents.push(Source {
            path: name.to_owned(),
            text,
        });
    }
    documents
}

fn collect(dir: &Path, wanted: &str, sources: &mut Vec<Source>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, wanted, sources);
        } else if path.extension().is_some_and(|extension| extension == wanted) {
            let text = std::fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            sources.push(Source { path, text });
        }
    }
}

mod a_fault_is_seen {
    use serde_json::json;

    use super::*;

    fn with_dependency(from: &str, to: &str, kind: &Value) -> Value {
        let mut metadata = metadata();
        let packages = metadata["packages"].as_array_mut().unwrap();
        let package = packages.iter_mut().find(|package| package["name"] == from).unwrap();
        package["dependencies"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": to, "kind": kind}));
        metadata
    }

    fn sources_with(path: &str, line: &str) -> Vec<Source> {
        let mut sources = sources();
        sources.push(Source {
            path: path.to_owned(),
            text: format!("//! A file.\n{line}\n"),
        });
        sources
    }

    #[test]
    fn in_arrows() {
        for (from, to) in [
            ("natterjack-bridge", "natterjack-store"),
            ("natterjack-store", "natterjack-bridge"),
            ("natterjack-nats-config", "natterjack-authz"),
            ("natterjack-authz", "natterjack-store"),
        ] {
            assert_eq!(
                arrow_faults(&with_dependency(from, to, &Value::Null)),
                [format!("{from} may not use {to}")]
            );
            assert_eq!(
                arrow_faults(&with_dependency(from, to, &json!("dev"))).len(),
                1,
                "tests are no way around"
            );
        }
        let mut metadata = metadata();
        metadata["packages"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "natterjack-new", "dependencies": []}));
        assert_eq!(arrow_faults(&metadata).len(), 1);
    }

    #[test]
    fn in_fences() {
        for (from, to) in [
            ("natterjack-store", "hyper"),
            ("natterjack-authz", "axum"),
            ("natterjack", "jwt-simple"),
            ("natterjack-bridge", "jwt-simple"),
            ("natterjack-bridge", "sea-orm"),
            ("natterjack-store", "nkeys"),
        ] {
            assert_eq!(
                fence_faults(&with_dependency(from, to, &Value::Null)),
                [format!("{from} may not use {to}")]
            );
            assert!(fence_faults(&with_dependency(from, to, &json!("dev"))).is_empty());
        }
    }

    #[test]
    fn in_purity() {
        for (path, line) in [
            ("nats-config/src/contract/new.rs", "use async_nats::Subject;"),
            ("authz/src/policy/view/new.rs", "use tokio::sync::watch;"),
            ("store/src/log/state.rs", "    std::fs::read(path)"),
            ("store/src/log/admit/new.rs", "use std::net::TcpStream;"),
            ("bridge/src/feed/new.rs", "use crate::door::http::HttpDoor;"),
        ] {
            let faults = purity_faults(&sources_with(path, line));
            assert_eq!(faults.len(), 1, "{path}: {faults:?}");
            assert!(faults[0].starts_with(&format!("{path}:2:")), "{faults:?}");
            assert!(
                purity_faults(&sources_with(path, &format!("// {line}"))).is_empty(),
                "a comment may name it"
            );
        }
    }

    #[test]
    fn in_files() {
        let before = file_faults(&sources()).len();
        for (path, line) in [("bridge/src/util.rs", ""), ("bridge/src/long.rs", &"\n".repeat(600))] {
            assert_eq!(file_faults(&sources_with(path, line)).len(), before + 1, "{path}");
        }
    }

    #[test]
    fn in_subjects() {
        assert_eq!(
            subject_faults(&sources_with(
                "bridge/src/new.rs",
                "format!(\"{prefix}.room.{tenant}\")"
            ))
            .len(),
            1
        );
        assert_eq!(
            subject_faults(&sources_with("bridge/src/new.rs", "let x = \"chat.in.main\";")).len(),
            1
        );
    }

    #[test]
    fn in_documents() {
        let of = |text: &str| Source {
            path: "docs/new.md".to_owned(),
            text: text.to_owned(),
        };
        for good in ["-E 'test(/^outage::away/)'", "-p natterjack-authz -E 'binary(measure)'"] {
            assert!(filter_faults(&[of(good)], &sources()).is_empty(), "{good}");
        }
        for wrong in [
            "-p natterjack-authz -E 'test(measure)'",
            "test(/^outages::/)",
            "binary(measures)",
        ] {
            assert_eq!(filter_faults(&[of(wrong)], &sources()).len(), 1, "{wrong}");
        }
    }
}
