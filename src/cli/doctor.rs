//! `natterjack doctor`: what is well, what is not, and what to do about it.

use std::time::Duration;

use anyhow::bail;
use async_nats::Client;
use futures_util::StreamExt;
use natterjack_nats_config::client::{Login, Seed, connect};
use natterjack_nats_config::contract::{AUDIT_VERB, ArchiveWatermark, AuditReport, WATERMARK_VERB};
use natterjack_nats_config::copies::{Copies, look_for_a_while};
use natterjack_nats_config::lease::{Leases, READING, STANDBY};
use natterjack_nats_config::local_server::{FLOOR, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use crate::config::{Config, Endpoints, Global};
use crate::process::{block_on, say};

/// How long servers and workers have to answer.
const WITHIN: Duration = Duration::from_secs(2);
/// Above this share of its limit the log is said to fill up.
const FILLS_PERCENT: u64 = 80;
/// How far the archive may be behind.
const ARCHIVE_BEHIND: u64 = 10_000;

const NO_ANSWER: &str = "NATS does not answer; see the lines above";

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Print one JSON array instead of lines
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    ok: bool,
    found: String,
    /// What to do, where it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    way_out: Option<&'static str>,
}

/// How a server is set, as it says itself.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    name: String,
    version: String,
    /// Whether it flushes each message before it acknowledges.
    flushes: bool,
}

pub(crate) fn run(global: &Global, doctor: &Doctor) -> anyhow::Result<()> {
    let config = Config::load(global)?;
    let running = Endpoints::read(&config.data);
    let url = match (&global.nats_url, &running) {
        (Some(url), _) => url.clone(),
        (None, Ok(endpoints)) => endpoints.nats_url(),
        (None, Err(_)) => config.nats.url.clone(),
    };
    block_on(async |_| tell(&examine(&config, &url).await?, doctor.json))
}

fn tell(checks: &[Check], json: bool) -> anyhow::Result<()> {
    if json {
        say(serde_json::to_string_pretty(checks)?)?;
    } else {
        checks.iter().try_for_each(print)?;
    }
    match checks.iter().filter(|check| !check.ok).count() {
        0 => Ok(()),
        1 => bail!("one thing is not as it should be"),
        many => bail!("{many} things are not as they should be"),
    }
}

fn print(check: &Check) -> anyhow::Result<()> {
    let mark = if check.ok { "ok  " } else { "BAD " };
    say(format_args!("{mark} {:<9} {}", check.what, check.found))?;
    match check.way_out {
        Some(way_out) => say(format_args!("               {way_out}")),
        None => Ok(()),
    }
}

async fn examine(config: &Config, url: &str) -> anyhow::Result<Vec<Check>> {
    let login = |role: &'static str| {
        let seed = Seed::read(&config.keys_dir().join(format!("{role}.nk")))?;
        anyhow::Ok(Login {
            url: url.to_owned(),
            role,
            seed,
        })
    };
    let client = connect(&login("bridge")?).await?;
    let servers = servers(&connect(&login("sys")?).await?).await?;
    let wanted = url.split(',').count().max(config.nats.servers);
    let mut checks = vec![judge_servers(&servers, wanted)];
    let log = config.log(&client).await;
    let subjects = &log.subjects;
    let lease = format!("KV_{}", subjects.lease_bucket());
    let mut end = None;
    for (what, stream) in [
        ("log", log.stream()),
        ("rooms", subjects.rooms_stream(log.shard)),
        ("leases", lease),
    ] {
        let copies = look_for_a_while(&client, &stream).await;
        if what == "log" {
            end = copies.as_ref().ok().map(|copies| copies.last);
        }
        checks.push(judge_copies(what, copies.map_err(|error| error.to_string()), wanted));
    }
    checks.push(judge_space(space(&client, &log.stream()).await));
    checks.extend(workers(&client, config).await);
    let archived = ask::<ArchiveWatermark>(&client, subjects.store_service(WATERMARK_VERB)).await;
    checks.push(judge_archive(archived.map(|archived| archived.watermark.frame()), end));
    checks.push(judge_audit(ask(&client, subjects.store_service(AUDIT_VERB)).await));
    Ok(checks)
}

/// All servers that answer.
async fn servers(sys: &Client) -> anyhow::Result<Vec<Server>> {
    let inbox = sys.new_inbox();
    let mut answers = sys.subscribe(inbox.clone()).await?;
    sys.publish_with_reply("$SYS.REQ.SERVER.PING.VARZ", inbox, "".into())
        .await?;
    let mut servers = Vec::new();
    let all = async {
        while let Some(answer) = answers.next().await {
            servers.extend(server_of(&answer.payload));
        }
    };
    // There is no last answer, so the time has to run out.
    let _ = timeout(WITHIN, all).await;
    servers.sort_by(|a: &Server, b: &Server| a.name.cmp(&b.name));
    Ok(servers)
}

fn server_of(answer: &[u8]) -> Option<Server> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let varz = answer.get("data")?;
    let text = |key: &str| Some(varz.get(key)?.as_str()?.to_owned());
    Some(Server {
        name: text("server_name")?,
        version: text("version")?,
        flushes: varz.pointer("/jetstream/config/sync_always").and_then(Value::as_bool) == Some(true),
    })
}

async fn space(client: &Client, stream: &str) -> Option<(u64, u64)> {
    let jetstream = async_nats::jetstream::new(client.clone());
    let stream = jetstream.get_stream(stream).await.ok()?;
    let info = stream.cached_info();
    Some((
        info.state.bytes,
        u64::try_from(info.config.max_bytes).unwrap_or_default(),
    ))
}

async fn workers(client: &Client, config: &Config) -> Vec<Check> {
    let leases = match Leases::join(client, &config.subjects()).await {
        Ok(leases) => leases,
        Err(error) => {
            return vec![Check::bad(
                "workers",
                error.to_string(),
                "see the line above about leases",
            )];
        }
    };
    let mut checks = Vec::new();
    for (what, key, way_out) in [
        (
            "writer",
            "writer.",
            "nobody writes the log: start `natterjack store`, and look into its log",
        ),
        (
            "archiver",
            "archive.",
            "nobody archives: start `natterjack store`, and look into its log",
        ),
        (
            "authz",
            "authz.",
            "nobody lets people in over NATS: start `natterjack authz`, and look into its log",
        ),
    ] {
        checks.push(match leases.holders(key).await {
            Ok(holders) if holders.is_empty() => Check::bad(what, "none".to_owned(), way_out),
            Ok(holders) => Check::ok(what, format!("{} at work", holders.len())),
            Err(error) => Check::bad(what, error.to_string(), NO_ANSWER),
        });
    }
    let (standing, reading) = (leases.holders(STANDBY).await, leases.holders(READING).await);
    checks.push(match (standing, reading) {
        (Ok(standing), Ok(reading)) => judge_standbys(standing.len(), reading.len()),
        (Err(error), _) | (_, Err(error)) => Check::bad("standby", error.to_string(), NO_ANSWER),
    });
    checks
}

/// Stores that could take over, and those that cannot do so yet.
fn judge_standbys(standing: usize, reading: usize) -> Check {
    if reading > 0 {
        let found = format!("{standing} could take over, {reading} still read the log");
        return Check::bad("standby", found, "wait until that is read before you stop the writer");
    }
    let found = match standing {
        0 => "none: while the writer is away, nobody writes".to_owned(),
        many => format!("{many} could take over"),
    };
    Check::ok("standby", found)
}

async fn ask<T: DeserializeOwned>(client: &Client, subject: String) -> Option<T> {
    let answer = timeout(WITHIN, client.request(subject, "".into())).await.ok()?.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}

fn judge_servers(servers: &[Server], wanted: usize) -> Check {
    let old = |server: &&Server| Version::parse(&server.version).is_some_and(|version| version < FLOOR);
    let all: Vec<String> = servers
        .iter()
        .map(|server| {
            let flush = if server.flushes {
                "flushes always"
            } else {
                "DOES NOT FLUSH"
            };
            format!("{} {} {flush}", server.name, server.version)
        })
        .collect();
    let found = format!("{} of {wanted}: {}", servers.len(), all.join(", "));
    if servers.iter().any(|server| !server.flushes) {
        let way_out = "a power cut can lose what was acknowledged: set `sync_interval: always` in its jetstream block";
        return Check::bad("servers", found, way_out);
    }
    if servers.iter().any(|server| old(&server)) {
        return Check::bad(
            "servers",
            found,
            "nats-server must be 2.15.0 or newer: replace it, one server at a time",
        );
    }
    if servers.len() < wanted {
        let way_out = "a server is away or hangs: start it, or look into its log; a removal is not `done` until then";
        return Check::bad("servers", found, way_out);
    }
    Check::ok("servers", found)
}

fn judge_copies(what: &'static str, copies: Result<Copies, String>, servers: usize) -> Check {
    let copies = match copies {
        Ok(copies) => copies,
        Err(error) => {
            let way_out = "start the servers: two of three must run for a stream to have a leader";
            return Check::bad(what, error, way_out);
        }
    };
    let leader = if copies.leader.is_empty() {
        "the one server"
    } else {
        &copies.leader
    };
    let found = format!(
        "{} of {} copies up to date, {leader} leads, frames {} to {}",
        copies.current, copies.wanted, copies.first, copies.last
    );
    if !copies.is_whole() {
        let found = format!("{found}; not up to date: {}", copies.behind.join(", "));
        return Check::bad(
            what,
            found,
            "it catches up by itself once its server runs; do not restart another one before",
        );
    }
    if copies.wanted < servers.min(3) {
        return Check::bad(
            what,
            found,
            "fewer copies than servers: set `nats.replicas = 3` and restart the store",
        );
    }
    Check::ok(what, found)
}

fn judge_space(space: Option<(u64, u64)>) -> Check {
    let Some((used, limit)) = space else {
        return Check::bad("space", "not known".to_owned(), "see the line about the log");
    };
    let found = format!("the log takes {} of {} MiB", used >> 20, limit >> 20);
    if limit > 0 && used > limit / 100 * FILLS_PERCENT {
        let way_out = "above 90% messages are refused: raise `store.log_max_bytes` and restart the store";
        return Check::bad("space", found, way_out);
    }
    Check::ok("space", found)
}

fn judge_archive(archived: Option<u64>, end: Option<u64>) -> Check {
    let (Some(archived), Some(end)) = (archived, end) else {
        let way_out = "history is not served: look into the store's log, and at its database";
        return Check::bad("archive", "it does not say how far it is".to_owned(), way_out);
    };
    let behind = end.saturating_sub(archived);
    let found = format!("up to frame {archived}, {behind} behind the log");
    if behind > ARCHIVE_BEHIND {
        return Check::bad(
            "archive",
            found,
            "look at the database: is it slow or full? the backlog waits in the log",
        );
    }
    Check::ok("archive", found)
}

fn judge_audit(report: Option<AuditReport>) -> Check {
    let Some(report) = report else {
        let found = "no report yet (the first comes within `store.audit_every`)".to_owned();
        return Check::ok("audit", found);
    };
    let mut found = format!(
        "{}: {} frames of {} copies compared with the archive, up to frame {}",
        report.at,
        report.frames,
        report.servers.len(),
        report.upto
    );
    for told in report
        .findings
        .iter()
        .map(ToString::to_string)
        .chain(report.unread.clone())
    {
        found.push_str("; ");
        found.push_str(&told);
    }
    if report.open().next().is_some() {
        let way_out = "if it is not being made anew by itself: docs/cluster.md, \"Making a copy anew\"";
        return Check::bad("audit", found, way_out);
    }
    if !report.unread.is_empty() {
        return Check::bad("audit", found, "a copy that is not up to date is compared once it is");
    }
    Check::ok("audit", found)
}

impl Check {
    fn ok(what: &'static str, found: String) -> Self {
        Self {
            what,
            ok: true,
            found,
            way_out: None,
        }
    }

    fn bad(what: &'static str, found: String, way_out: &'static str) -> Self {
        Self {
            what,
            ok: false,
            found,
            way_out: Some(way_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, version: &str, flushes: bool) -> Server {
        Server {
            name: name.to_owned(),
            version: version.to_owned(),
            flushes,
        }
    }

    #[test]
    fn servers_are_judged_by_number_version_and_flush() {
        let good = || server("n1", "2.15.1", true);
        for (servers, wanted, ok) in [
            (vec![good()], 1, true),
            (vec![good(), good()], 3, false),
            (vec![good(), server("n2", "2.14.9", true)], 2, false),
            (vec![good(), server("n2", "2.15.1", false)], 2, false),
        ] {
            let check = judge_servers(&servers, wanted);
            assert_eq!((check.ok, check.way_out.is_none()), (ok, ok), "{check:?}");
        }
    }

    #[test]
    fn the_log_and_the_archive_have_their_limits() {
        assert!(judge_space(Some((10, 100))).ok && judge_space(Some((10, 0))).ok);
        assert!(!judge_space(Some((8100, 10_000))).ok && !judge_space(None).ok);
        assert!(judge_archive(Some(5), Some(7)).ok);
        assert!(!judge_archive(Some(5), Some(50_000)).ok && !judge_archive(None, Some(1)).ok);
    }

    #[test]
    fn a_store_that_still_reads_the_log_is_waited_for() {
        for (standing, reading, ok) in [(0, 0, true), (1, 0, true), (0, 1, false), (1, 1, false)] {
            let check = judge_standbys(standing, reading);
            assert_eq!((check.ok, check.way_out.is_none()), (ok, ok), "{check:?}");
        }
    }

    #[test]
    fn how_a_server_flushes_is_read_from_its_own_words() {
        let answer = |config: &str| {
            format!(
                r#"{{"server":{{}},"data":{{"server_name":"n1","version":"2.15.1","jetstream":{{"config":{config}}}}}}}"#
            )
        };
        let always = server_of(answer(r#"{"sync_interval":120000000000,"sync_always":true}"#).as_bytes());
        assert_eq!(always, Some(server("n1", "2.15.1", true)));
        let lazy = server_of(answer(r#"{"sync_interval":120000000000}"#).as_bytes());
        assert_eq!(lazy, Some(server("n1", "2.15.1", false)));
        assert_eq!(server_of(b"{}"), None);
    }
}
