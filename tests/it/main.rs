//! End-to-end tests: the real program, a real nats-server, real clients. Each test starts a house of its own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::large_futures,
    reason = "a test fails by a panic, what it prints is read by people, and its futures live once"
)]

mod abuse;
mod api_keys;
mod audit;
mod backlog;
mod backup;
mod bad_input;
mod browser;
mod changes;
mod claims;
mod clients;
mod cluster;
mod commands;
mod conformance;
mod databases;
mod described;
mod devices;
mod ephemera;
mod erasure;
mod fan_out;
mod gateways;
mod holds;
mod hooks;
mod hostile;
mod issuers;
mod journey;
mod keys;
mod limits;
mod membership;
mod outage;
mod people;
mod permissions;
mod policy;
mod proxies;
mod rates;
mod repair;
mod restart;
mod revocations;
mod revoke_load;
mod roll;
mod schemathesis;
mod search;
mod sending;
mod sockets;
mod strangers;
mod streams;
mod support;
mod sync;
mod threads;
mod tickets;
mod tidy;
mod tls;
mod tls_native;
mod tokens;
mod tools;
mod trimmed;
mod unread;
