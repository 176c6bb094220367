//! Erasing what was said, for good, and what became of it.

use std::time::Duration;

use natterjack_authz::policy::{Permission, may_in_tenant};
use natterjack_nats_config::contract::{
    Actor, ERASABLE_VERB, ERASURES_VERB, Erasable, ErasableQuery, EraseBody, Erasure, ErasuresPage, ErasuresQuery, Id,
    Kind, MAX_ERASURES, Problem, ProblemCode, Receipt, Request, SendPayload, Seq, Vouched,
};
use serde::Deserialize;
use serde_json::value::to_raw_value;
use tokio::time::Instant;
use uuid::Uuid;

use super::Bridge;
use super::history::{ATTEMPTS, ask_store, catch_up, lagging, visible_from};
use super::message::{check_id, none};
use super::rooms::with_key;
use super::tenant_room;

/// How long the archive has to get as far as this bridge, and to get the erasure.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(10);

/// What is to be erased: all that a `user` wrote, or in a `room` the `message` of an id.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EraseAsk {
    #[serde(default)]
    user: Option<Id>,
    #[serde(default)]
    room: Option<Id>,
    #[serde(default)]
    message: Option<String>,
    /// For the audit; who hears of the erasure reads it.
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    key: Option<String>,
}

impl EraseAsk {
    /// The key that is given elsewhere.
    pub(crate) fn set_key(&mut self, key: String) {
        self.key = Some(key);
    }
}

/// Erases, and gives the receipt once the archive has the event: from then on nobody is shown it any more.
pub(crate) async fn erase(bridge: &Bridge, who: &Actor, mut ask: EraseAsk) -> Result<Erasure, Problem> {
    match (&ask.user, &ask.room, &ask.message) {
        (Some(_), None, None) => {}
        (None, Some(_), Some(id)) => check_id(id)?,
        _ => {
            return Err(Problem::invalid(
                "name a `user`, or a `room` and the id of a `message` in it",
            ));
        }
    }
    // One key for all attempts, so that it is written once.
    ask.key = Some(ask.key.unwrap_or_else(|| Uuid::now_v7().to_string()));
    for _ in 0..ATTEMPTS {
        let found = look(bridge, who, &ask).await?;
        match write(bridge, who, &ask, found).await {
            // A hold was put or ended meanwhile.
            Err(problem) if problem.code == ProblemCode::StoreLagging => {}
            Err(problem) => return Err(problem),
            Ok(receipt) => return receipt_of(bridge, who, receipt.seq).await,
        }
    }
    Err(lagging("legal holds are changing; try again"))
}

/// Receipts of the tenant's erasures, the newest first, and what to ask next as `before`: all for who may erase or audit, else
/// one's own.
pub(crate) async fn erasures(
    bridge: &Bridge,
    who: &Actor,
    (seq, before): (Option<Seq>, Option<Seq>),
) -> Result<(Vec<Erasure>, Option<Seq>), Problem> {
    let may_see_all = || {
        bridge.look(|view| {
            let may = |permission| may_in_tenant(view, who, permission);
            Ok(may(Permission::TenantErase)
                .or_else(|_| may(Permission::TenantAudit))
                .is_ok())
        })
    };
    may_see_all()?;
    let query = ErasuresQuery {
        tenant: who.tenant.clone(),
        seq,
        before,
    };
    let mut page: ErasuresPage = ask_store(bridge, ERASURES_VERB, &query).await?;
    catch_up(bridge, who, page.watermark).await?;
    let is_whole = page.erasures.len() as u64 == MAX_ERASURES;
    let next = page.erasures.last().map(|last| last.seq).filter(|_| is_whole);
    if !may_see_all()? {
        page.erasures.retain(|erasure| erasure.by == who.user.as_str());
    }
    Ok((page.erasures, next))
}

/// One receipt.
pub(crate) async fn erasure(bridge: &Bridge, who: &Actor, seq: Seq) -> Result<Erasure, Problem> {
    let (found, _) = erasures(bridge, who, (Some(seq), None)).await?;
    let none = || Problem::new(ProblemCode::NotFound, "there is no such erasure, or it is not yours");
    found.into_iter().next().ok_or_else(none)
}

/// Looks in the archive whether it can be erased, as of all that this bridge has read.
async fn look(bridge: &Bridge, who: &Actor, ask: &EraseAsk) -> Result<Erasable, Problem> {
    let may_any = may_any(bridge, who, ask)?;
    if !may_any && let Some(room) = &ask.room {
        visible_from(bridge, who, room)?;
    }
    let passed = bridge.feed.passed();
    if !bridge.archive.wait(passed, Instant::now() + ARCHIVED_WITHIN).await {
        return Err(lagging("the archive is behind; try again with the same key"));
    }
    let query = ErasableQuery {
        tenant: who.tenant.clone(),
        user: ask.user.clone(),
        room: ask.room.clone(),
        message: ask.message.clone(),
    };
    let found: Erasable = ask_store(bridge, ERASABLE_VERB, &query).await?;
    if ask.message.is_some() && found.seq.is_none() {
        return Err(none());
    }
    if !may_any && found.from.as_ref().is_some_and(|from| *from != who.user) {
        self::may_any(
            bridge,
            who,
            &EraseAsk {
                user: found.from.clone(),
                ..ask.clone()
            },
        )?;
    }
    if found.held {
        let detail = "a legal hold covers it, or some of it; it can be erased once that has ended";
        return Err(Problem::new(ProblemCode::LegalHold, detail));
    }
    Ok(found)
}

/// Whether the caller may erase anybody's; an error if not even their own, or if it is not theirs.
fn may_any(bridge: &Bridge, who: &Actor, ask: &EraseAsk) -> Result<bool, Problem> {
    bridge.look(|view| {
        let Err(denied) = may_in_tenant(view, who, Permission::TenantErase) else {
            return Ok(true);
        };
        let is_own = ask.user.as_ref().is_none_or(|user| *user == who.user);
        if is_own && may_in_tenant(view, who, Permission::TenantEraseOwn).is_ok() {
            return Ok(false);
        }
        Err(denied.into())
    })
}

async fn write(bridge: &Bridge, who: &Actor, ask: &EraseAsk, found: Erasable) -> Result<Receipt, Problem> {
    let body = EraseBody {
        user: ask.user.clone(),
        upto: Some(found.watermark),
        reason: ask.reason.clone(),
    };
    let raw = to_raw_value(&body).map_err(|error| Problem::invalid(error.to_string()))?;
    let payload = SendPayload {
        target: ask.message.clone(),
        ..with_key(SendPayload::of_body(raw), ask.key.clone())?
    };
    let from = ask.user.clone().or(found.from);
    let vouched = Vouched {
        seq: found.seq.unwrap_or(found.watermark),
        from: from.ok_or_else(none)?,
    };
    let room = match &ask.room {
        Some(room) => room.clone(),
        None => tenant_room()?,
    };
    let request = Request {
        principal: who.principal.clone(),
        by: who.by.clone(),
        room,
        kind: Kind::Erase,
        payload,
        vouched: Some(vouched),
    };
    bridge.sending.ask(request)?.outcome().await
}

/// The receipt of what stands in the log.
async fn receipt_of(bridge: &Bridge, who: &Actor, seq: Seq) -> Result<Erasure, Problem> {
    if !bridge.archive.wait(seq, Instant::now() + ARCHIVED_WITHIN).await {
        let detail = format!(
            "the erasure stands in the log as seq {seq}, but the archive has not got there; ask for its receipt"
        );
        return Err(lagging(&detail));
    }
    erasure(bridge, who, seq).await
}
