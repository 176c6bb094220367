use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use natterjack_nats_config::contract::{
    Actor, Id, Problem, REACTIONS_VERB, Reacted, ReactedBy, ReactionsPage, ReactionsQuery,
};
use serde::Serialize;
use tokio::time::Instant;

use super::history::{ATTEMPTS, CATCH_UP_WITHIN, ask_store, catch_up, lagging, visible_from};
use super::message::{check_id, none};
use super::{Bridge, Listing};

/// Which page of who reacted to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReactionsAsk {
    pub(crate) room: Id,
    /// The message's id.
    pub(crate) id: String,
    /// Only this reaction.
    pub(crate) emoji: Option<String>,
    pub(crate) limit: Option<u64>,
    /// From the page before.
    pub(crate) next: Option<String>,
}

/// A page of who reacted.
#[derive(Debug, Serialize)]
pub(crate) struct Reactions {
    reactions: Vec<ReactedBy>,
    next: Option<String>,
}

/// Who reacted to a message, from the archive.
///
/// As with history it is handed out only once this bridge has read the log as far as the archive had, and if the caller's
/// rights are still those that were asked with.
pub(crate) async fn reactions(bridge: &Bridge, who: &Actor, ask: ReactionsAsk) -> Result<Reactions, Problem> {
    check_id(&ask.id)?;
    let listing = Listing::new(ask.limit, None)?;
    let after = ask.next.as_deref().filter(|next| !next.is_empty());
    let after = after.map(read_next).transpose()?;
    for _ in 0..ATTEMPTS {
        let from = visible_from(bridge, who, &ask.room)?;
        let query = ReactionsQuery {
            tenant: who.tenant.clone(),
            room: ask.room.clone(),
            id: ask.id.clone(),
            emoji: ask.emoji.clone(),
            after: after.clone(),
            limit: u16::try_from(listing.limit).unwrap_or(u16::MAX),
            visible_from: from,
        };
        query.check()?;
        let page = find(bridge, &query).await?;
        catch_up(bridge, who, page.watermark).await?;
        if visible_from(bridge, who, &ask.room)? == from {
            return if page.found {
                Ok(Reactions {
                    reactions: page.reactions,
                    next: page.next.map(|last| next_of(&last)),
                })
            } else {
                Err(none())
            };
        }
    }
    Err(lagging("the rights in this room are changing; try again"))
}

/// Asks the archive, again if it had not read what this bridge has.
async fn find(bridge: &Bridge, query: &ReactionsQuery) -> Result<ReactionsPage, Problem> {
    let passed = bridge.feed.passed();
    let page: ReactionsPage = ask_store(bridge, REACTIONS_VERB, query).await?;
    if page.found || page.watermark >= passed {
        return Ok(page);
    }
    if !bridge.archive.wait(passed, Instant::now() + CATCH_UP_WITHIN).await {
        return Err(lagging("the archive is behind; try again"));
    }
    ask_store(bridge, REACTIONS_VERB, query).await
}

/// Where a page goes on. Opaque to clients: today the last user and reaction; an id holds no dot.
fn next_of(last: &Reacted) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{}", last.user, last.emoji))
}

fn read_next(next: &str) -> Result<Reacted, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(next).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let parts = text.as_deref().and_then(|text| text.split_once('.'));
    let read = parts.and_then(|(user, emoji)| {
        Some(Reacted {
            user: user.parse().ok()?,
            emoji: emoji.to_owned(),
        })
    });
    read.filter(|read| !read.emoji.contains('\0'))
        .ok_or_else(|| Problem::invalid("`next` is not from the page before; leave it out to start again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_page_goes_on_is_read_as_it_was_made() {
        for emoji in ["👍", "a.b", "."] {
            let last = Reacted {
                emoji: emoji.to_owned(),
                user: "bob".parse().unwrap(),
            };
            assert_eq!(read_next(&next_of(&last)).unwrap(), last);
        }
        for bad in ["!", "", "Ym9i"] {
            assert!(read_next(bad).is_err(), "{bad}");
        }
    }
}
