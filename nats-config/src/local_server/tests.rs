//! Against the real server: `NATS_SERVER_BIN`, else the PATH. Missing is a failure, not a skip.

mod cluster;
mod lifecycle;
mod permissions;
mod support;
