//! The OpenAPI document in the hands of schemathesis, which makes requests of it that nobody thought of: no answer may be a fault of
//! ours, or one that is not described.

use std::process::{Command, Stdio};

use crate::support::house::House;
use crate::support::tools::{python_with_packages, root};

/// For each operation, besides those at the edges of what is described.
const CASES: &str = "10";
/// What has no end: streams.
const ENDLESS: [&str; 2] = ["/v1/events/stream", "/v1/ws"];
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance";

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_answered_by_a_fault_or_by_what_is_not_described() {
    let house = House::start().await;
    house.room("lobby", &[("bob", "member"), ("admin", "owner")]).await;
    let mut command = schemathesis(&house);
    // What it keeps it keeps there.
    let folder = tempfile::tempdir().unwrap();
    let output = command
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let number = |before: &str, after: char| -> usize {
        let rest = said
            .split(before)
            .nth(1)
            .unwrap_or_else(|| panic!("no {before:?} in {said}"));
        rest.split(after).next().unwrap().trim().parse().unwrap()
    };
    let (selected, tested) = (number("Selected: ", '/'), number("Tested: ", '\n'));
    assert_eq!(tested, selected, "{said}");
    let paths = natterjack_bridge::openapi()["paths"].as_object().unwrap().len();
    assert!(
        tested >= paths - ENDLESS.len(),
        "{tested} operations of {paths} paths: {said}"
    );
}

fn schemathesis(house: &House) -> Command {
    let mut command = python_with_packages();
    command.args(["-m", "schemathesis.cli", "run"]);
    command.arg(format!("{}/openapi.json", house.endpoints.http));
    command
        .arg("--header")
        .arg(format!("Authorization: Bearer {}", house.token("admin")));
    for path in ENDLESS {
        command.args(["--exclude-path", path]);
    }
    command.args([
        "--checks",
        CHECKS,
        "--max-examples",
        CASES,
        "--phases",
        "coverage,fuzzing",
    ]);
    command.args([
        "--seed",
        "1",
        "--no-shrink",
        "--generation-database",
        "none",
        "--no-color",
    ]);
    command.args(["--request-timeout", "60", "--continue-on-failure"]);
    command.env("SCHEMATHESIS_HOOKS", root().join("tests/clients/schemathesis_hooks.py"));
    command
}
