use std::time::Duration;

use tokio::time::Instant;

/// Frames that are a backlog, and not what is on its way: more than are written in a tenth of a second.
const BACKLOG: u64 = 64;

/// Tells how quickly a backlog was archived, once.
#[derive(Debug)]
pub(super) struct CatchUp {
    from: u64,
    upto: u64,
    events: usize,
    begun: Instant,
    told: bool,
}

/// A backlog that is archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CaughtUp {
    frames: u64,
    events: usize,
    took: Duration,
}

impl CatchUp {
    /// The archive stands at frame `watermark`, the log ends at `last`.
    pub(super) fn begin(watermark: u64, last: u64, now: Instant) -> Self {
        Self {
            from: watermark,
            upto: last,
            events: 0,
            begun: now,
            told: last.saturating_sub(watermark) < BACKLOG,
        }
    }

    /// Logs it, when that was the last of the backlog.
    pub(super) fn tell(&mut self, watermark: u64, events: usize) {
        let Some(caught_up) = self.archived(watermark, events, Instant::now()) else {
            return;
        };
        let CaughtUp { frames, events, took } = caught_up;
        let per_second = caught_up.rate();
        tracing::info!(
            frames,
            events,
            ?took,
            per_second,
            "the archive is level with the log again"
        );
    }

    /// So many events more were archived, up to frame `watermark`; says when that was the last of the backlog.
    fn archived(&mut self, watermark: u64, events: usize, now: Instant) -> Option<CaughtUp> {
        self.events += events;
        if self.told || watermark < self.upto {
            return None;
        }
        self.told = true;
        Some(CaughtUp {
            frames: watermark - self.from,
            events: self.events,
            took: now - self.begun,
        })
    }
}

impl CaughtUp {
    /// Events in a second.
    fn rate(self) -> u64 {
        let millis = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX).max(1);
        (self.events as u64).saturating_mul(1000) / millis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_is_told_once_it_is_gone() {
        let begun = Instant::now();
        let later = |millis| begun + Duration::from_millis(millis);
        let mut catch_up = CatchUp::begin(100, 300, begun);
        assert_eq!(catch_up.archived(164, 500, later(100)), None);
        let caught_up = catch_up.archived(301, 1500, later(500)).unwrap();
        assert_eq!(
            (caught_up.frames, caught_up.events, caught_up.rate()),
            (201, 2000, 4000)
        );
        assert_eq!(catch_up.archived(302, 9, later(600)), None);
        let mut level = CatchUp::begin(100, 100 + BACKLOG - 1, begun);
        assert_eq!(level.archived(300, 500, later(100)), None);
    }
}
