use std::time::Duration;

use anyhow::bail;
use hyper::Method;
use rand::Rng;
use rand::rngs::StdRng;
use serde::Deserialize;

use super::http::{Answer, Http};
use super::setting::Setting;
use crate::history::{Change, Ms, Name};
use crate::house::{ADMIN, House};

/// How long a change of a membership is tried for.
const GIVE_UP: Ms = 60_000;
const PAUSE: Duration = Duration::from_millis(150);
/// The pause between two changes, in milliseconds.
const BETWEEN_MS: std::ops::Range<u64> = 300..3000;

/// Takes a member in and puts it out again, for ever.
pub(crate) struct Flapper {
    pub(crate) bridges: Vec<Http>,
    pub(crate) user: Name,
    pub(crate) room: Name,
    pub(crate) rng: StdRng,
}

#[derive(Deserialize)]
struct Changed {
    seq: u64,
    state: String,
}

/// Makes the rooms with all their members; asks again until each is there.
pub(crate) async fn set_up(house: &House, rooms: &[Name], members: &[Name]) -> anyhow::Result<()> {
    let Some(bridge) = house.bridges.first() else {
        bail!("there is no bridge");
    };
    let mut admin = Http::new(*bridge, house.token(ADMIN)?);
    for room in rooms {
        put(&mut admin, &format!("/v1/rooms/{room}"), r#"{"title":"faults"}"#).await?;
        for user in members {
            let path = format!("/v1/rooms/{room}/members/{user}");
            put(&mut admin, &path, r#"{"role":"member"}"#).await?;
        }
    }
    Ok(())
}

async fn put(admin: &mut Http, path: &str, body: &str) -> anyhow::Result<()> {
    let mut last = String::new();
    for _ in 0..100 {
        match admin
            .call_with_key(Method::PUT, path, body, Some(&format!("set-up {path}")))
            .await
        {
            Ok(Answer { status: 200 | 201, .. }) => return Ok(()),
            other => last = format!("{other:?}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("PUT {path} did not succeed: {last}")
}

impl Flapper {
    /// Changes the membership until the senders are told to stop; the user is a member before and in the end.
    pub(crate) async fn run(mut self, setting: Setting) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut member = true;
        while !setting.abandoned.is_cancelled() && (!setting.stop_sending.is_cancelled() || !member) {
            let pause = self.rng.random_range(BETWEEN_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let alone = setting.quiet.read().await;
            member = !member;
            let change = self.change(&setting, member, changes.len()).await;
            changes.push(change);
            drop(alone);
        }
        changes
    }

    /// Asks until the change stands and is settled. The same key each time, so it is one change.
    async fn change(&mut self, setting: &Setting, member: bool, number: usize) -> Change {
        let path = format!("/v1/rooms/{}/members/{}", self.room, self.user);
        let key = format!("flap-{}-{number}", self.user);
        let (method, body) = if member {
            (Method::PUT, r#"{"role":"member"}"#)
        } else {
            (Method::DELETE, "")
        };
        let mut change = Change {
            user: self.user.clone(),
            room: self.room.clone(),
            member,
            from: setting.clock.ms(),
            to: Ms::MAX,
            seq: None,
            done: false,
        };
        let mut turn = number;
        while setting.clock.ms() < change.from + GIVE_UP && !change.done && !setting.abandoned.is_cancelled() {
            turn += 1;
            let bridges = self.bridges.len().max(1);
            let Some(http) = self.bridges.get_mut(turn % bridges) else {
                break;
            };
            let answer = http.call_with_key(method.clone(), &path, body, Some(&key)).await;
            match answer.ok().and_then(|answer| changed(&answer)) {
                Some(changed) => {
                    change.seq = Some(changed.seq);
                    change.done = changed.state == "done";
                    change.to = setting.clock.ms();
                }
                None => tokio::time::sleep(PAUSE).await,
            }
        }
        change
    }
}

fn changed(answer: &Answer) -> Option<Changed> {
    (answer.status == 200)
        .then(|| serde_json::from_slice(&answer.body).ok())
        .flatten()
}
