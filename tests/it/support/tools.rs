//! Programs that the tests need and that `scripts/test` puts in place. One that is missing fails the test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The nats-server that houses start: `NATS_SERVER_BIN`, else the one on the PATH.
pub(crate) fn nats_server() -> PathBuf {
    if let Some(named) = std::env::var_os("NATS_SERVER_BIN") {
        let named = PathBuf::from(named);
        assert!(
            named.is_file(),
            "NATS_SERVER_BIN names {}, which is no file",
            named.display()
        );
        return named;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("nats-server"))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("there is no nats-server: run scripts/test, or set NATS_SERVER_BIN"))
}

/// A Python that has the packages of `tests/clients/requirements.txt`.
pub(crate) fn python(script: &str) -> Command {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let (venv, site) = (tests.join(".tools/venv/bin/python"), tests.join(".tools/site"));
    let mut command = if venv.is_file() {
        Command::new(venv)
    } else {
        assert!(
            site.is_dir(),
            "the clients of the tests are not installed: run scripts/test once"
        );
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", site);
        command
    };
    command.arg("-u").arg(tests.join("clients").join(script));
    command
}
