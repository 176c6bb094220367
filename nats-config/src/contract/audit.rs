use serde::{Deserialize, Serialize};

/// The verb of the audit's endpoint: `chat.store.audit`; its request is empty. The worker that audits answers.
pub const AUDIT_VERB: &str = "audit";

/// What the last look at every copy of the log came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// When it ended, RFC 3339.
    pub at: String,
    /// The log's stream.
    pub stream: String,
    /// The copies that were read, by their servers.
    pub servers: Vec<String>,
    /// How many frames of each were compared.
    pub frames: u64,
    /// Up to which frame a whole round has been compared since it began; the next look goes on behind it.
    pub upto: u64,
    /// Copies that could not be read, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
    /// What is wrong, and what was. Healed findings are told for an hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// A copy that is not what the archive, or the other copies, say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The server whose copy it is.
    pub server: String,
    /// The first frame that is wrong.
    pub frame: u64,
    /// How many frames are wrong, of those that were compared.
    pub frames: u64,
    /// What is wrong with it.
    pub what: Fault,
    /// What is being done.
    pub state: FindingState,
    /// Since when, RFC 3339.
    pub since: String,
}

/// What is wrong with a frame of one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It is not there, or cannot be read: nats-server passes over a message whose checksum is wrong.
    Missing,
    /// Its events are not those of the archive.
    NotTheArchives,
    /// It is not what the other copies hold.
    NotTheOthers,
}

/// What is being done about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingState {
    /// It waits for a person.
    Open,
    /// The copy is being made anew from the others.
    Healing,
    /// The copy was made anew, and compared.
    Healed,
}

impl AuditReport {
    /// The findings that are not over.
    pub fn open(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.state != FindingState::Healed)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.what {
            Fault::Missing => "cannot be read",
            Fault::NotTheArchives => "is not what the archive has",
            Fault::NotTheOthers => "is not what the other copies have",
        };
        let state = match self.state {
            FindingState::Open => "needs somebody",
            FindingState::Healing => "is being made anew",
            FindingState::Healed => "was made anew",
        };
        let Self {
            server, frame, frames, ..
        } = self;
        write!(
            f,
            "the copy on {server}: frame {frame} {what} ({frames} in all); it {state}"
        )
    }
}
