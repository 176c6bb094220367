//! The writer: its pure part against a model, and the whole against a real nats-server.

mod checkpoint;
mod holes;
mod leases;
mod model;
mod outcome;
mod property;
mod proxy;
mod rooms;
mod steps;
mod support;
mod take_over;
