//! The clients: real ones over HTTP, NATS and MQTT, who send, read and are added and removed while faults happen, and note what
//! they saw.

mod admin;
mod door;
mod http;
mod live;
mod mqtt;
mod poll;
mod sender;
mod setting;
mod tap;
mod wire;

pub(crate) use admin::{Flapper, set_up};
pub(crate) use door::{Attempt, Door, HttpDoor, Message, NatsDoor, inbound, native};
pub(crate) use http::Http;
pub(crate) use live::{Live, connect_user};
pub(crate) use mqtt::Mqtt;
pub(crate) use poll::Poll;
pub(crate) use sender::Sender;
pub(crate) use setting::{Clock, Setting, Tally};
pub(crate) use tap::Tap;
pub(crate) use wire::entry_of;
