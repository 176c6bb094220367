//! What a run came to, for people and as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::args::Arguments;
use crate::broken::Switch;
use crate::check::{Found, Gap, Verdict, gaps};
use crate::client::Tally;
use crate::history::{History, Ms};
use crate::say;

/// How many notes of one kind are shown.
const NOTES: usize = 20;

/// The counters of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) elapsed_ms: Ms,
    pub(crate) acknowledged: usize,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) retries: u64,
    pub(crate) heard: u64,
    /// Errors that readers were told, by name.
    pub(crate) told: BTreeMap<String, u64>,
}

/// The report.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    seed: u64,
    duration_s: u64,
    quick: bool,
    senders: u16,
    without: Option<String>,
    figures: Figures,
    /// Events in the log.
    events: usize,
    memberships: Memberships,
    faults: usize,
    gaps: BTreeMap<String, Gap>,
    violations: BTreeMap<&'static str, &'a Found>,
    violations_count: u64,
    troubles: Vec<String>,
    ended_by_themselves: Vec<String>,
    kept: Option<PathBuf>,
}

/// How long changes of memberships took until they were `done`.
#[derive(Debug, Default, Serialize)]
struct Memberships {
    changes: usize,
    done: usize,
    median_ms: Ms,
    longest_ms: Ms,
}

impl Memberships {
    fn of(history: &History) -> Self {
        let done = history.changes.iter().filter(|change| change.done);
        let mut took: Vec<Ms> = done.map(|change| change.to - change.from).collect();
        took.sort_unstable();
        Self {
            changes: history.changes.len(),
            done: took.len(),
            median_ms: took.get(took.len() / 2).copied().unwrap_or_default(),
            longest_ms: took.last().copied().unwrap_or_default(),
        }
    }
}

impl Figures {
    pub(crate) fn of(tally: &Tally, elapsed_ms: Ms) -> Self {
        Self {
            elapsed_ms,
            acknowledged: tally.acks(),
            refused: tally.refused.load(Ordering::Relaxed),
            unknown: tally.unknown.load(Ordering::Relaxed),
            retries: tally.retries.load(Ordering::Relaxed),
            heard: tally.heard.load(Ordering::Relaxed),
            told: tally.errors(),
        }
    }
}

impl<'a> Report<'a> {
    pub(crate) fn new(seed: u64, arguments: &Arguments, history: &History, verdict: &'a Verdict) -> Self {
        let violations = verdict.violations.iter();
        Self {
            seed,
            duration_s: arguments.duration.as_secs(),
            quick: arguments.quick,
            senders: arguments.senders,
            without: arguments.switch.map(Switch::name),
            figures: Figures::default(),
            events: history.log.len(),
            memberships: Memberships::of(history),
            faults: history.faults.len(),
            gaps: gaps(history),
            violations: violations.map(|(what, found)| (what.as_str(), found)).collect(),
            violations_count: verdict.count(),
            troubles: Vec::new(),
            ended_by_themselves: Vec::new(),
            kept: None,
        }
    }

    pub(crate) fn with_figures(self, figures: Figures) -> Self {
        Self { figures, ..self }
    }

    pub(crate) fn with_notes(self, troubles: Vec<String>, ended_by_themselves: Vec<String>) -> Self {
        Self {
            troubles,
            ended_by_themselves,
            ..self
        }
    }

    pub(crate) fn kept_in(self, kept: Option<PathBuf>) -> Self {
        Self { kept, ..self }
    }

    /// Prints it.
    pub(crate) fn show(&self) {
        let figures = &self.figures;
        say(&format!(
            "--- seed {}: {} acknowledged, {} refused, {} unknown, {} attempts repeated; {} events in the log, {} heard, \
             {} faults",
            self.seed,
            figures.acknowledged,
            figures.refused,
            figures.unknown,
            figures.retries,
            self.events,
            figures.heard,
            self.faults
        ));
        say(&format!(
            "memberships: {} changes, {} of them done, the median after {} ms, the last after {} ms",
            self.memberships.changes, self.memberships.done, self.memberships.median_ms, self.memberships.longest_ms
        ));
        say("fault            times  ms without an acknowledgement: least, median, most");
        for (kind, gap) in &self.gaps {
            say(&format!(
                "{kind:<16} {:>5}  {:>6} {:>6} {:>6}",
                gap.times, gap.shortest_ms, gap.median_ms, gap.longest_ms
            ));
        }
        let told: Vec<String> = figures
            .told
            .iter()
            .map(|(error, count)| format!("{error} ({count})"))
            .collect();
        notes("readers were told", &told);
        notes("did not go as planned", &self.troubles);
        notes("ended without being asked to", &self.ended_by_themselves);
        for (what, found) in &self.violations {
            say(&format!("VIOLATION {what}: {}", found.count));
            found.examples.iter().for_each(|example| say(&format!("  {example}")));
        }
        say(&format!("{} violations", self.violations_count));
        if let Some(kept) = &self.kept {
            say(&format!("everything is kept in {}", kept.display()));
        }
    }
}

fn notes(title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    say(&format!("{title}: {}", lines.len()));
    lines.iter().take(NOTES).for_each(|line| say(&format!("  {line}")));
}
