//! Who may do what: the policy, tokens, the NATS auth callout and the end of connections whose rights were taken away.

mod begin;
mod callout;
pub mod claimed;
mod follow;
pub mod policy;
pub mod refused;
pub mod revoke;
pub mod token;
mod worker;

pub use begin::begin_view;
pub use worker::{AuthzConfig, AuthzError, run};
