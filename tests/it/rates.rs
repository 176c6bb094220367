//! Durable sends over HTTP against single JetStream publishes on the same server, in one run.

use crate::support::house::House;

/// What is promised; the measurement of a debug build is only printed.
const RATIO: f64 = 3.0;

#[tokio::test(flavor = "multi_thread")]
async fn http_senders_are_faster_than_single_publishes() {
    let house = House::start().await;
    let bench = [
        "bench",
        "send",
        "--connections",
        "64",
        "--in-flight",
        "256",
        "--secs",
        "3",
        "--turns",
        "2",
    ];
    let text = house.run(&bench);
    println!("{text}");
    let lines: Vec<&str> = text.lines().collect();
    for measured in [
        "JetStream, 256 publishes in flight: ",
        "bare frames, 64 HTTP connections: ",
        "Natterjack, 64 HTTP connections: ",
    ] {
        assert_eq!(
            lines.iter().filter(|line| line.starts_with(measured)).count(),
            1,
            "{text}"
        );
    }
    let ratios = lines.last().unwrap().strip_prefix("ratio at 64: ").unwrap();
    let ratio: f64 = ratios.split_once(" to JetStream").unwrap().0.parse().unwrap();
    assert!(ratio > 0.0, "{text}");
    if !cfg!(debug_assertions) {
        assert!(ratio >= RATIO, "{RATIO} was promised: {text}");
    }
}
