use std::ops::RangeInclusive;

/// Frames at the end of the log that every look compares.
const RECENT: u64 = 1024;
/// Frames that a look compares beyond those, going on where the last one ended.
const FURTHER: u64 = 8192;

/// Goes through the log look by look, round after round.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// The last frame that was compared in this round.
    pub(crate) upto: u64,
}

impl Round {
    /// What this look compares, of the frames `first` to `last` that there are: some further ones, and the most recent.
    pub(crate) fn next(&self, first: u64, last: u64) -> Vec<RangeInclusive<u64>> {
        let first = first.max(1);
        if last < first {
            return Vec::new();
        }
        let from = if self.upto >= last {
            first
        } else {
            first.max(self.upto + 1)
        };
        let further = from..=last.min(from + FURTHER - 1);
        let recent = first.max((last + 1).saturating_sub(RECENT)).max(further.end() + 1)..=last;
        [further, recent]
            .into_iter()
            .filter(|range| !range.is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_log_is_compared_in_turn_and_its_end_always() {
        let rows: &[(u64, u64, u64, &[RangeInclusive<u64>])] = &[
            (0, 1, 0, &[]),
            (0, 1, 10, &[1..=10]),
            (0, 0, 10, &[1..=10]),
            (10, 1, 10, &[1..=10]),
            (10, 1, 12, &[11..=12]),
            (0, 1, 100_000, &[1..=8192, 98_977..=100_000]),
            (8192, 1, 100_000, &[8193..=16_384, 98_977..=100_000]),
            (0, 50_000, 100_000, &[50_000..=58_191, 98_977..=100_000]),
            (0, 1, 8500, &[1..=8192, 8193..=8500]),
        ];
        for (upto, first, last, expected) in rows {
            assert_eq!(
                Round { upto: *upto }.next(*first, *last),
                *expected,
                "{upto} {first} {last}"
            );
        }
    }
}
