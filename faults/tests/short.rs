//! A short run with a fixed seed, over faults that need no rights and no time.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_short_run_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let faults = "kill-writer,stop-writer,kill-bridge,stop-bridge,kill-authz";
    let output = Command::new(env!("CARGO_BIN_EXE_natterjack-faults"))
        .args(["--seed", "1", "--quick", "--duration", "25s", "--faults", faults])
        .args(["--senders", "4", "--pause", "10", "--slack", "4", "--json"])
        .arg(&json)
        .arg("--dir")
        .arg(dir.path())
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let count = |what: &str| report[what].as_u64().unwrap_or_else(|| panic!("{what}: {report}"));
    assert_eq!(count("violations_count"), 0, "{told}");
    assert!(count("faults") >= 4, "{told}");
    assert!(report["figures"]["acknowledged"].as_u64().unwrap() > 500, "{told}");
    assert_eq!(report["troubles"], serde_json::json!([]), "{told}");
}

#[test]
fn it_says_what_it_can_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_natterjack-faults"))
        .arg("--list")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("kill-writer") && told.contains("power-cut"),
        "{told}"
    );
}
