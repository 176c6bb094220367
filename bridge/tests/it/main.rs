//! The bridge over real sockets and a real nats-server. The log is written by hand here; the whole house together is
//! tested at the top of the repository.

#[cfg(test)]
mod door;
#[cfg(test)]
mod events;
#[cfg(test)]
mod history;
#[cfg(test)]
mod native;
#[cfg(test)]
mod places;
#[cfg(test)]
mod sending;
#[cfg(test)]
mod smuggling;
#[cfg(test)]
mod support;
