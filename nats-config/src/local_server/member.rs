use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{LocalServerError, files, keys};
use crate::contract::Id;

const TEMPLATE: &str = include_str!("../../server/cluster.conf");
/// The servers' own name among themselves; what counts is the secret.
const ROUTE_USER: &str = "natterjack";

/// A server's place in a cluster. All that the servers of a cluster have in common is the same on each of them.
#[derive(Debug, Clone)]
pub struct Member {
    /// Names the cluster; plain.
    pub cluster: Id,
    /// Where the other servers connect. Port 0: any free one, the same until the server's value is dropped.
    pub listen: SocketAddr,
    /// Where all servers of the cluster are, this one too: `host:port`.
    pub routes: Vec<String>,
    /// What they show each other.
    pub secret: RouteSecret,
    /// Under which name this machine is reached from others; `None` where `listen` says it.
    pub host: Option<String>,
    /// Where the machine stands: no two copies of a stream are kept in one zone, if any server has one.
    pub zone: Option<Id>,
    /// The folder that the servers share, for the tools ([`super::add_tool`]).
    pub shared: PathBuf,
}

/// The secret that the servers of a cluster show each other: 32 random bytes, in base64url.
#[derive(Clone)]
pub struct RouteSecret(Arc<str>);

impl Member {
    /// The template of [`Member::block`].
    pub(crate) fn template() -> &'static str {
        TEMPLATE
    }

    /// The line that tells the other servers, and clients, under which name this one is reached.
    pub(crate) fn advertise(&self) -> String {
        self.host.as_ref().map_or_else(String::new, |host| {
            format!("\n  cluster_advertise: \"{host}:{}\"", self.listen.port())
        })
    }

    /// The file `routes.conf`, the same on every server. Secret.
    #[must_use]
    pub fn routes_file(&self) -> String {
        let secret = self.secret.expose();
        let mut routes = String::new();
        for route in &self.routes {
            // Writing to a String cannot fail.
            let _ = writeln!(routes, "  \"nats://{ROUTE_USER}:{secret}@{route}\"");
        }
        format!(
            "# Which servers form the cluster; the same on each of them. Secret: mode 0600.\n\
             authorization {{ user: {ROUTE_USER}, password: \"{secret}\", timeout: 5 }}\n\
             routes: [\n{routes}]\n"
        )
    }
}

impl RouteSecret {
    /// Reads the secret of a keys folder (`routes.key`, mode 0600), making it when it is missing.
    ///
    /// Fails with [`LocalServerError::Key`] on a damaged file and with [`LocalServerError::KeyExposed`] on one that
    /// others may read.
    pub fn load_or_create(dir: &Path) -> Result<Self, LocalServerError> {
        files::private_dir(dir)?;
        let path = dir.join("routes.key");
        if !path.exists() {
            let secret: [u8; 32] = rand::random();
            files::write_new(&path, format!("{}\n", URL_SAFE_NO_PAD.encode(secret)).as_bytes())?;
        }
        keys::check_mode(&path)?;
        let text = fs::read_to_string(&path).map_err(LocalServerError::file("read", &path))?;
        let secret = text.trim();
        // It stands in URLs and in quotes, so nothing else may be in it.
        if secret.len() < 32
            || !secret
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        {
            return Err(LocalServerError::Key {
                path,
                reason: "it must hold at least 32 letters, digits, - or _".to_owned(),
            });
        }
        Ok(Self(secret.into()))
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for RouteSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RouteSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_kept_private_and_never_shows() {
        let dir = tempfile::tempdir().unwrap();
        let secret = RouteSecret::load_or_create(dir.path()).unwrap();
        assert_eq!(
            RouteSecret::load_or_create(dir.path()).unwrap().expose(),
            secret.expose()
        );
        assert_eq!(secret.expose().len(), 43);
        assert!(!format!("{secret:?}").contains(secret.expose()));
        let path = dir.path().join("routes.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        fs::write(&path, "short").unwrap();
        let error = RouteSecret::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, LocalServerError::Key { .. }), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = RouteSecret::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, LocalServerError::KeyExposed { .. }), "{error}");
    }
}
