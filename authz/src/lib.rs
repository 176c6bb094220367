//! Who may do what: the policy, tokens, the NATS auth callout and the end of connections whose rights were taken away.

pub mod policy;
