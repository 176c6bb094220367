use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::Kind;

/// A fault that is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) kind: Kind,
    /// How long it lasts.
    pub(crate) hold: Duration,
    /// How long the house is left alone behind it.
    pub(crate) pause: Duration,
    /// For its own choices.
    pub(crate) seed: u64,
}

/// Which faults come, in which order and for how long: the same seed gives the same. Every kind comes once before one comes
/// twice. `quick` bounds each to a few seconds.
pub(crate) fn schedule(seed: u64, kinds: &[Kind], whole: Duration, quick: bool) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut planned = Vec::new();
    let mut length = Duration::ZERO;
    while length < whole && !kinds.is_empty() {
        let mut round = kinds.to_vec();
        round.shuffle(&mut rng);
        for kind in round {
            let one = Planned {
                kind,
                hold: hold(&mut rng, quick),
                pause: pause(&mut rng, quick),
                seed: rng.random(),
            };
            length += one.hold + one.pause;
            planned.push(one);
        }
    }
    planned
}

/// Mostly longer than a lease, sometimes longer than everything that waits for an answer.
fn hold(rng: &mut StdRng, quick: bool) -> Duration {
    let ms = match rng.random_range(0..10) {
        _ if quick => rng.random_range(1000..4500),
        0 => 35_000,
        1..4 => rng.random_range(8_000..20_000),
        _ => rng.random_range(3_000..8_000),
    };
    Duration::from_millis(ms)
}

fn pause(rng: &mut StdRng, quick: bool) -> Duration {
    let ms = if quick { 2000..4000 } else { 4000..9000 };
    Duration::from_millis(rng.random_range(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let kinds = [Kind::KillServer, Kind::StopWriter, Kind::CutBridge];
        let first = schedule(7, &kinds, MINUTE, false);
        assert_eq!(first, schedule(7, &kinds, MINUTE, false));
        assert_ne!(first, schedule(8, &kinds, MINUTE, false));
        let length: Duration = first.iter().map(|one| one.hold + one.pause).sum();
        assert!(length >= MINUTE, "{length:?}");
    }

    #[test]
    fn every_kind_comes_before_one_comes_twice() {
        let kinds = [Kind::KillServer, Kind::StopWriter, Kind::CutBridge];
        for round in schedule(3, &kinds, MINUTE, true).chunks(kinds.len()) {
            let mut seen: Vec<Kind> = round.iter().map(|one| one.kind).collect();
            seen.sort();
            assert_eq!(seen, kinds);
            assert!(round.iter().all(|one| one.hold < Duration::from_secs(5)));
        }
        assert!(schedule(3, &[], MINUTE, true).is_empty());
    }
}
