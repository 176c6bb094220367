use std::time::Duration;

use async_nats::Client;
use async_nats::service::NATS_SERVICE_ERROR;
use bytes::Bytes;
use natterjack_nats_config::contract::{Event, PAST_VERB, PastPage, PastQuery, Problem};
use natterjack_nats_config::tail::Log;
use tokio::time::{Instant, timeout};

use super::ring::Entry;
use super::{Feed, Page, PastError, Reader};

/// How long the archive has for a page.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Fills a page from the archive, where the log was trimmed, until what follows is in memory, the page is full or the
/// deadline has come (then there is `more`).
pub(super) async fn read(
    (client, log): (&Client, &Log),
    feed: &Feed,
    reader: &Reader,
    page: &mut Page,
    deadline: Instant,
) -> Result<(), PastError> {
    let begun = page.seq;
    loop {
        // No further than memory begins: rights are judged by a view that has read all of this.
        let up_to = feed.floor();
        if page.seq >= up_to {
            return Ok(());
        }
        let query = PastQuery {
            tenant: reader.who.tenant.clone(),
            room: reader.filter.only_room().cloned(),
            after: page.seq,
            up_to,
        };
        let answer = ask(client, log, &query).await?;
        if let Some(earliest) = answer.earliest {
            return Err(PastError::Expired { earliest });
        }
        if answer.passed <= page.seq {
            // As far as the archive has got the log is trimmed, and no further: the rest is there.
            return if page.seq > begun {
                Ok(())
            } else {
                Err(PastError::Lagging)
            };
        }
        let entries = answer.events.iter().map(|event| entry(event.get()));
        let entries: Vec<Entry> = entries.collect::<Result<_, _>>().map_err(PastError::Damaged)?;
        if feed.with_view(|view| entries.iter().any(|entry| page.offer(view, reader, entry).is_break())) {
            return Ok(());
        }
        page.pass(answer.passed);
        if Instant::now() >= deadline {
            page.more = page.seq < up_to;
            return Ok(());
        }
    }
}

async fn ask(client: &Client, log: &Log, query: &PastQuery) -> Result<PastPage, PastError> {
    let payload = serde_json::to_vec(query).map_err(PastError::Damaged)?;
    let asked = client.request(log.subjects.store_service(PAST_VERB), payload.into());
    let answer = match timeout(ANSWERS_WITHIN, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the archive cannot be asked for what was trimmed from the log");
            return Err(PastError::Lagging);
        }
        Err(_) => return Err(PastError::Lagging),
    };
    let headers = answer.headers.as_ref();
    if headers.is_some_and(|headers| headers.get(NATS_SERVICE_ERROR).is_some()) {
        if let Ok(problem) = serde_json::from_slice::<Problem>(&answer.payload) {
            tracing::warn!(%problem, "the archive does not tell what was trimmed from the log");
        }
        return Err(PastError::Lagging);
    }
    serde_json::from_slice(&answer.payload).map_err(PastError::Damaged)
}

fn entry(json: &str) -> Result<Entry, serde_json::Error> {
    Ok(Entry {
        head: serde_json::from_str::<Event>(json)?.head(),
        bytes: Bytes::copy_from_slice(json.as_bytes()),
    })
}
