//! What is erased, for those who hand out what the log still has; and up to where legal holds are known.

use std::borrow::Cow;
use std::collections::HashMap;

use natterjack_nats_config::contract::{Covered, Erased, Event, EventHead, Id, Seq};

use super::view::{Hashed, Tenant};
use super::{Fact, View};

// The kinds of facts in the hash: see `role`.
const LAST: u8 = 21;
const OF_USER: u8 = 22;
const MESSAGE: u8 = 23;
/// Erasures are known, whatever they are.
pub(super) const KEEPS_ERASURES: u8 = 24;

/// What there is for tenants without any.
static NOTHING: Erased = Erased {
    users: std::collections::BTreeMap::new(),
    messages: std::collections::BTreeMap::new(),
    last: Seq::ZERO,
};

impl View {
    /// What is erased in a tenant.
    #[must_use]
    pub fn erased(&self, tenant: &Id) -> &Erased {
        self.tenants.get(tenant).map_or(&NOTHING, |tenant| &tenant.erased)
    }

    /// What is erased in each tenant where something is.
    #[must_use]
    pub fn all_erased(&self) -> HashMap<Id, Erased> {
        let tenants = self.tenants.iter();
        tenants
            .filter(|(_, tenant)| !tenant.erased.is_empty())
            .map(|(name, tenant)| (name.clone(), tenant.erased.clone()))
            .collect()
    }

    /// The last event that put a legal hold on something of a tenant or ended one; 0 where there is none since this is noted.
    #[must_use]
    pub fn last_hold(&self, tenant: &Id) -> Seq {
        self.tenants.get(tenant).map_or(Seq::ZERO, |tenant| tenant.last_hold)
    }

    /// What may be handed out of an event's line.
    #[must_use]
    pub fn without_erased<'a>(&self, head: &EventHead, line: &'a [u8]) -> Cow<'a, [u8]> {
        let erased = self.erased(&head.tenant);
        // What comes behind all erasures is not parsed, which is nearly everything; but for edits, which may be of what is erased.
        if erased.is_empty() || (head.seq > erased.last && !head.is_edit) {
            return Cow::Borrowed(line);
        }
        erased.redact(line).map_or(Cow::Borrowed(line), Cow::Owned)
    }
}

impl Tenant {
    pub(super) fn apply_erase(&mut self, hashed: &mut Hashed<'_>, event: &Event) {
        let last = (self.erased.last, self.last_hold);
        let Some(covered) = self.erased.take(event) else {
            return;
        };
        match covered {
            Covered::Message(None) => {}
            Covered::Message(Some(target)) => hashed.hash.add(&message_fact(hashed.tenant, target, event.seq)),
            Covered::User(user, upto) => hashed.hash.add(&user_fact(hashed.tenant, &user, (upto, event.seq))),
        }
        self.tell_last(hashed, last);
    }

    pub(super) fn apply_hold(&mut self, hashed: &mut Hashed<'_>, event: &Event) {
        let last = (self.erased.last, self.last_hold);
        self.last_hold = event.seq;
        self.tell_last(hashed, last);
    }

    /// Puts in what a checkpoint says.
    pub(super) fn put_last(&mut self, hashed: &mut Hashed<'_>, (last, hold): (Seq, Seq)) {
        let before = (self.erased.last, self.last_hold);
        (self.erased.last, self.last_hold) = (last, hold);
        self.tell_last(hashed, before);
    }

    pub(super) fn put_erased_user(&mut self, hashed: &mut Hashed<'_>, user: Id, erasure: (Seq, Seq)) {
        hashed.hash.add(&user_fact(hashed.tenant, &user, erasure));
        self.erased.users.entry(user).or_default().push(erasure);
    }

    pub(super) fn put_erased_message(&mut self, hashed: &mut Hashed<'_>, seq: Seq, by: Seq) {
        hashed.hash.add(&message_fact(hashed.tenant, seq, by));
        self.erased.messages.insert(seq, by);
    }

    /// As one knows who does not note any of this.
    pub(super) fn forget_erasures(&mut self, hashed: &mut Hashed<'_>) {
        let last = (self.erased.last, self.last_hold);
        for (user, erasures) in &self.erased.users {
            for erasure in erasures {
                hashed.hash.remove(&user_fact(hashed.tenant, user, *erasure));
            }
        }
        for (seq, by) in &self.erased.messages {
            hashed.hash.remove(&message_fact(hashed.tenant, *seq, *by));
        }
        (self.erased, self.last_hold) = (Erased::default(), Seq::ZERO);
        self.tell_last(hashed, last);
    }

    fn tell_last(&self, hashed: &mut Hashed<'_>, before: (Seq, Seq)) {
        if before != (Seq::ZERO, Seq::ZERO) {
            hashed.hash.remove(&last_fact(hashed.tenant, before));
        }
        let now = (self.erased.last, self.last_hold);
        if now != (Seq::ZERO, Seq::ZERO) {
            hashed.hash.add(&last_fact(hashed.tenant, now));
        }
    }
}

fn last_fact(tenant: &Id, (last, hold): (Seq, Seq)) -> Fact {
    Fact::new(LAST).text(tenant.as_str()).number(last.0).number(hold.0)
}

fn user_fact(tenant: &Id, user: &Id, (upto, by): (Seq, Seq)) -> Fact {
    Fact::new(OF_USER)
        .text(tenant.as_str())
        .text(user.as_str())
        .number(upto.0)
        .number(by.0)
}

fn message_fact(tenant: &Id, seq: Seq, by: Seq) -> Fact {
    Fact::new(MESSAGE).text(tenant.as_str()).number(seq.0).number(by.0)
}
