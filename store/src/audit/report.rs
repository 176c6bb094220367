use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{AuditReport, Finding, FindingState};

use super::compare::Faulty;

/// How long a finding that is over is told, in milliseconds.
const TOLD_FOR_MS: i64 = 3_600_000;

/// The findings of this worker's audits.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    /// Notes what is wrong with a copy; what was known of it before is replaced.
    pub(crate) fn note(&mut self, faulty: &Faulty, state: FindingState, now_ms: i64) {
        self.0.retain(|finding| finding.server != faulty.server);
        self.0.push(Finding {
            server: faulty.server.clone(),
            frame: faulty.frame,
            frames: faulty.frames,
            what: faulty.what,
            state,
            since: clock::format_ms(now_ms),
        });
    }

    /// What is being done about a copy, from now on.
    pub(crate) fn becomes(&mut self, server: &str, state: FindingState) {
        for finding in self.0.iter_mut().filter(|finding| finding.server == server) {
            finding.state = state;
        }
    }

    /// A copy was compared where it was wrong, and is well.
    pub(crate) fn is_well(&mut self, server: &str) {
        self.becomes(server, FindingState::Healed);
    }

    /// The frames at which a copy was wrong when it was last compared, if it still counts as wrong.
    pub(crate) fn open(&self) -> Vec<(String, u64)> {
        self.0
            .iter()
            .filter(|finding| finding.state != FindingState::Healed)
            .map(|finding| (finding.server.clone(), finding.frame))
            .collect()
    }

    /// What is told: all that is open, and what was healed within the hour.
    pub(crate) fn told(&mut self, now_ms: i64) -> Vec<Finding> {
        let is_told = |finding: &Finding| {
            finding.state != FindingState::Healed
                || clock::parse_ms(&finding.since).is_some_and(|since| now_ms - since < TOLD_FOR_MS)
        };
        self.0.retain(is_told);
        self.0.clone()
    }
}

/// A report without anything yet.
pub(crate) fn empty(stream: String) -> AuditReport {
    AuditReport {
        at: String::new(),
        stream,
        servers: Vec::new(),
        frames: 0,
        upto: 0,
        unread: Vec::new(),
        findings: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::Fault;

    use super::*;

    #[test]
    fn a_finding_is_told_while_it_is_open_and_for_an_hour_after() {
        let faulty = Faulty {
            server: "n2".to_owned(),
            frame: 7,
            what: Fault::Missing,
            frames: 1,
        };
        let mut findings = Findings::default();
        findings.note(&faulty, FindingState::Open, 0);
        assert_eq!(findings.told(2 * TOLD_FOR_MS).len(), 1);
        assert_eq!(findings.open(), [("n2".to_owned(), 7)]);
        findings.is_well("n2");
        assert!(findings.open().is_empty());
        assert_eq!(findings.told(TOLD_FOR_MS - 1)[0].state, FindingState::Healed);
        assert!(findings.told(TOLD_FOR_MS).is_empty());
    }
}
