//! The archive's tables as they are now.
#![expect(
    unreachable_pub,
    reason = "sea-orm's derives need public items; only the archive sees this module"
)]

pub(crate) mod audit;
pub(crate) mod changed;
pub(crate) mod edit;
pub(crate) mod erasure;
pub(crate) mod event;
pub(crate) mod hold;
pub(crate) mod member;
pub(crate) mod quarantine;
pub(crate) mod reaction;
pub(crate) mod read_mark;
pub(crate) mod reply;
pub(crate) mod retention;
pub(crate) mod room;
pub(crate) mod search_mark;
pub(crate) mod watermark;
