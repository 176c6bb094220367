//! The doors: they find out who asks and what for, and put the answer into their own form. Nothing is decided here.

mod auth;
mod hook;
mod http;
mod nats;
mod ticket;

pub(crate) use auth::Auth;
pub(crate) use hook::Hooks;
pub(crate) use http::{HttpDoor, Origins, document, subjects_document};
pub(crate) use nats::NativeDoor;
pub(crate) use ticket::Tickets;
