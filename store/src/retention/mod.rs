//! How long what was said is kept: messages that are older than their room's settings or the configuration say are removed from
//! the archive, with all that was made of them; what is under a legal hold never is. Policy stays.
//!
//! A room's row in `retention` is the recorded reason of what is missing (I4): everything of a kind that is removed, of before
//! its `horizon`. `plan` and `rules` are pure.

mod horizon;
mod plan;
mod remove;
mod rules;

#[cfg(test)]
mod tests;

pub(crate) use horizon::{Horizons, Removed, carry_over, forgive, of_room, of_tenant};
pub use remove::{RetentionConfig, keep_retention};
pub(crate) use rules::{Rules, holds, store};
