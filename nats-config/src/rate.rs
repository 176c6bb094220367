//! Rates: how much of something somebody may do. Pure; the time is a parameter.

use std::collections::HashMap;
use std::hash::Hash;

/// So many a second, and so many at once. With none a second there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// How many a second, in the long run; 0: any number.
    pub per_second: u32,
    /// What may be used at once after a pause, in seconds of that: 1 or more.
    pub burst_secs: u32,
}

/// Who has used how much of a rate: the generic cell rate algorithm (GCRA), one number for each.
#[derive(Debug)]
pub struct Rates<K> {
    /// When everybody's allowance is whole again, in microseconds. Who is not here has a whole one.
    whole_at: HashMap<K, i64>,
    most: usize,
}

/// Too much was used; there is some again after so many milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch {
    /// When to try again.
    pub retry_after_ms: u64,
}

/// What is due, if it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Due(Option<i64>);

impl<K: Eq + Hash> Rates<K> {
    /// Remembers at most so many at a time; who comes then has to wait until others have paused.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            whole_at: HashMap::new(),
            most,
        }
    }

    /// Whether one more may be used now (in microseconds of some clock that does not go back); [`take`](Self::take) uses it.
    pub fn look(&mut self, key: &K, rate: Rate, now_us: i64) -> Result<Due, TooMuch> {
        if rate.per_second == 0 {
            return Ok(Due(None));
        }
        if self.whole_at.len() >= self.most && !self.whole_at.contains_key(key) {
            self.whole_at.retain(|_, whole_at| *whole_at > now_us);
            if self.whole_at.len() >= self.most {
                return Err(TooMuch { retry_after_ms: 1000 });
            }
        }
        let whole_at =
            self.whole_at.get(key).copied().unwrap_or(now_us).max(now_us) + 1_000_000 / i64::from(rate.per_second);
        let over_us = whole_at - now_us - 1_000_000 * i64::from(rate.burst_secs.max(1));
        match u64::try_from(over_us) {
            Ok(over_us) if over_us > 0 => Err(TooMuch {
                retry_after_ms: over_us.div_ceil(1000),
            }),
            _ => Ok(Due(Some(whole_at))),
        }
    }

    /// Uses what was looked at.
    pub fn take(&mut self, key: K, Due(due): Due) {
        if let Some(whole_at) = due {
            self.whole_at.insert(key, whole_at);
        }
    }

    /// Uses one more, or none.
    pub fn charge(&mut self, key: K, rate: Rate, now_us: i64) -> Result<(), TooMuch> {
        let due = self.look(&key, rate, now_us)?;
        self.take(key, due);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn so_many_at_once_and_so_many_a_second() {
        let rate = Rate {
            per_second: 10,
            burst_secs: 2,
        };
        let mut rates = Rates::new(10);
        let mut used = |key: &'static str, now_us| rates.charge(key, rate, now_us).map_err(|over| over.retry_after_ms);
        for _ in 0..20 {
            assert_eq!(used("alice", 0), Ok(()));
        }
        assert_eq!(used("alice", 0), Err(100));
        assert_eq!(used("bob", 0), Ok(()), "each has an own one");
        assert_eq!(used("alice", SECOND / 10 - 1), Err(1));
        assert_eq!(used("alice", SECOND / 10), Ok(()));
        assert_eq!(used("alice", SECOND / 10), Err(100));
        let mut in_ten_seconds = 0;
        for tenth in 0..100 {
            for _ in 0..5 {
                in_ten_seconds += u32::from(used("carol", tenth * SECOND / 10).is_ok());
            }
        }
        assert_eq!(in_ten_seconds, 20 + 99);
    }

    #[test]
    fn without_a_rate_there_is_no_limit_and_nothing_is_kept() {
        let mut rates = Rates::new(1);
        for key in 0..1000 {
            rates.charge(key, Rate::default(), 0).unwrap();
        }
        assert!(rates.whole_at.is_empty());
    }

    #[test]
    fn who_is_remembered_is_bounded() {
        let rate = Rate {
            per_second: 1,
            burst_secs: 1,
        };
        let mut rates = Rates::new(2);
        rates.charge(1, rate, 0).unwrap();
        rates.charge(2, rate, 0).unwrap();
        assert!(rates.charge(3, rate, 0).is_err());
        assert!(rates.charge(3, rate, SECOND).is_ok(), "the others have paused");
        assert!(rates.whole_at.len() <= 2);
    }
}
