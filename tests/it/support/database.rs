use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A database server that a test may stop, kill and freeze: `scripts/database` does it.
pub(crate) struct DatabaseServer {
    engine: &'static str,
    dir: TempDir,
    pub(crate) url: String,
}

impl DatabaseServer {
    /// Starts `postgres` or `mariadb` in a folder of its own.
    pub(crate) fn start(engine: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("natterjack-it-").tempdir().unwrap();
        // Run by root, the engine is another user.
        set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let mut server = Self {
            engine,
            dir,
            url: String::new(),
        };
        server.act("start").trim().clone_into(&mut server.url);
        server
    }

    /// `start`, `stop`, `kill`, `freeze`, `thaw`.
    pub(crate) fn act(&self, action: &str) -> String {
        let output = Command::new(script())
            .args([self.engine, action])
            .arg(self.dir.path().join("db"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {action}: {error}", self.engine);
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new(script())
                .args([self.engine, "kill"])
                .arg(self.dir.path().join("db"))
                .output();
        } else {
            self.act("stop");
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/database")
}
