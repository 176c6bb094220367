//! Checkpoints in a real bucket, and writers that begin with them.

use std::time::Duration;

use async_nats::{Client, jetstream};
use natterjack_authz::begin_view;
use natterjack_nats_config::checkpoint::{BeginError, Checkpoints, Kept};
use natterjack_nats_config::contract::{Kind, Manifest, Outcome, Part, Piece, Receipt, Request, TENANT_ROOM};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::support::{Bus, LONG, ask, by, id, log, make_lobby, request, send};
use crate::log::WriterError;
use crate::log::checkpoint::codec::encode;
use crate::log::checkpoint::{self, CheckpointConfig, keep_checkpoints};
use crate::log::state::{Head, State};
use crate::log::writer::fold;

/// What makes checkpoints beside a writer.
struct Keeper {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Bus {
    async fn keeper(&self, every_frames: u64) -> Keeper {
        let config = CheckpointConfig {
            log: log(),
            worker: "keeper".to_owned(),
            replicas: 1,
            every_frames,
            every_bytes: u64::MAX,
        };
        let stop = CancellationToken::new();
        let (_, leading) = watch::channel(false);
        let task = tokio::spawn(keep_checkpoints(self.store().await, config, leading, stop.clone()));
        Keeper { stop, task }
    }

    /// A lobby with alice's text in it, one frame each, and as many checkpoints as are wanted.
    async fn with_checkpoints(&self, wanted: usize) -> Vec<Kept> {
        let bridge = self.bridge().await;
        make_lobby(&bridge).await;
        let keeper = self.keeper(16).await;
        let store = self.store().await;
        let mut sent = 0;
        let kept = loop {
            let kept = all(&store).await;
            if kept.len() >= wanted {
                break kept;
            }
            let end = kept.first().map_or(0, |newest| newest.manifest.end);
            // Enough for the next one, and not for two at once.
            while log().end(&store).await.unwrap() < end + 33 {
                send(&bridge, &format!("m{sent}")).await;
                sent += 1;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        keeper.stop().await;
        kept
    }
}

impl Keeper {
    async fn stop(self) {
        self.stop.cancel();
        timeout(LONG, self.task).await.expect("it never stopped").unwrap();
    }
}

async fn bucket(store: &Client) -> Checkpoints {
    Checkpoints::open(store, &log(), 1).await.unwrap()
}

/// Every checkpoint that counts, the newest first.
async fn all(store: &Client) -> Vec<Kept> {
    bucket(store).await.list().await.unwrap()
}

/// Removes what stands before a frame.
async fn trim(store: &Client, first: u64) {
    let stream = jetstream::new(store.clone()).get_stream(log().stream()).await.unwrap();
    stream.purge().sequence(first).await.unwrap();
    assert_eq!(log().bounds(store).await.unwrap().first, first);
}

async fn ask_one(client: &Client, request: Request) -> Outcome {
    ask(client, &[request]).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_checkpoint_a_trimmed_log_is_as_good_as_a_whole_one() {
    let bus = Bus::start().await;
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let (bridge, store) = (bus.bridge().await, bus.store().await);
    make_lobby(&bridge).await;
    let member = json!({"key": "bob", "body": {"user": "bob", "role": "member"}});
    let added = ask_one(&bridge, request(Kind::Member, &member)).await;
    let old = send(&bridge, "old").await;
    let kept = bus.with_checkpoints(2).await;
    let last = send(&bridge, "last").await;
    trim(&store, kept[0].manifest.end).await;

    // One stands by that never saw the beginning, and takes over.
    let second = bus.writer("second").await;
    first.stop().await;
    let mut second = second;
    second.is_leading().await;
    let again = |receipt: &Receipt| Receipt {
        duplicate: true,
        ..receipt.clone()
    };
    assert_eq!(
        send(&bridge, "old").await,
        again(&old),
        "a key is known across a take-over"
    );
    assert_eq!(send(&bridge, "more").await.n, last.n + 1, "the room counts on");

    // Then everything starts anew on what there is.
    second.stop().await;
    let mut third = bus.writer("third").await;
    third.is_leading().await;
    assert_eq!(
        send(&bridge, "old").await,
        again(&old),
        "a key is known across a restart"
    );
    assert!(matches!(
        (added, ask_one(&bridge, request(Kind::Member, &member)).await),
        (Outcome::Receipt(added), Outcome::Receipt(repeated)) if repeated == again(&added)
    ));
    let message = json!({"body": {"text": "hello"}});
    assert!(matches!(
        ask_one(&bridge, by("bob", request(Kind::Msg, &message))).await,
        Outcome::Receipt(receipt) if receipt.n == last.n + 2
    ));
    assert!(matches!(
        ask_one(&bridge, by("erin", request(Kind::Msg, &message))).await,
        Outcome::Problem(_)
    ));
    let view = begin_view(&bridge, &log()).await.unwrap();
    assert!(view.membership(&id("main"), &id("lobby"), &id("bob")).is_some());
    third.stop().await;
    bus.server.shutdown().await;
}

/// Where writers and readers of rights begin now.
async fn beginnings(store: &Client) -> (u64, u64) {
    let state = checkpoint::begin(store, &log()).await.unwrap();
    let view = begin_view(store, &log()).await.unwrap();
    (state.end(), view.seq().frame())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_checkpoint_is_passed_over() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let store = bus.store().await;
    let kept = bus.with_checkpoints(2).await;
    let ends: Vec<u64> = kept.iter().map(|kept| kept.manifest.end).collect();
    assert_eq!(beginnings(&store).await, (ends[0], ends[0]));
    let bucket = bucket(&store).await;

    // Of the newest, the writer's part is damaged: writers take the one before, readers of rights need not.
    let mut bytes = bucket.read(&kept[0], Part::Writer).await.unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bucket.put(kept[0].slot, Part::Writer, &bytes).await.unwrap();
    assert_eq!(beginnings(&store).await, (ends[1], ends[0]));

    // Its manifest is of a version that nobody here knows.
    let unknown = Manifest {
        v: 99,
        ..kept[0].manifest.clone()
    };
    bucket.confirm(kept[0].slot, &unknown).await.unwrap();
    assert_eq!(beginnings(&store).await, (ends[1], ends[1]));

    // The next one is cut off, with a manifest that says so.
    let cut = bucket.read(&kept[1], Part::Policy).await.unwrap();
    let cut = &cut[..cut.len() / 2];
    bucket.put(kept[1].slot, Part::Policy, cut).await.unwrap();
    let lying = Manifest {
        policy: Piece::of(cut),
        ..kept[1].manifest.clone()
    };
    bucket.confirm(kept[1].slot, &lying).await.unwrap();
    assert_eq!(beginnings(&store).await, (0, 0), "the whole log is still there");
    writer.stop().await;
    bus.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sound_checkpoint_nobody_begins_on_a_trimmed_log() {
    let bus = Bus::start().await;
    let mut writer = bus.writer("writer").await;
    writer.is_leading().await;
    let store = bus.store().await;
    let kept = bus.with_checkpoints(1).await.remove(0);
    writer.stop().await;
    let other = Manifest {
        frame_id: "of another log".to_owned(),
        ..kept.manifest.clone()
    };
    bucket(&store).await.confirm(kept.slot, &other).await.unwrap();
    trim(&store, kept.manifest.end).await;
    let lost = bus.writer("lost").await.task;
    let ended = timeout(LONG, lost)
        .await
        .expect("it goes on without a beginning")
        .unwrap();
    assert!(
        matches!(ended, Err(WriterError::Begin(BeginError::Lost { first, found: 1, .. })) if first == kept.manifest.end),
        "{ended:?}"
    );
    bus.server.shutdown().await;
}

/// The state at the log's end, as anyone folds it.
async fn at_the_end(store: &Client) -> State {
    let mut state = checkpoint::begin(store, &log()).await.unwrap();
    let end = log().end(store).await.unwrap();
    let mut tail = log().tail(store, state.end());
    while state.end() < end {
        fold(&mut state, &tail.next().await.unwrap()).unwrap();
    }
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_whose_state_is_not_the_writer_s_raises_the_alarm_and_never_leads() {
    let bus = Bus::start().await;
    let mut first = bus.writer("first").await;
    first.is_leading().await;
    let (bridge, store) = (bus.bridge().await, bus.store().await);
    let kept = bus.with_checkpoints(1).await;

    // A checkpoint that is whole and wrong: the number of a room in which nothing will happen is off by one.
    let state = at_the_end(&store).await;
    let (end, time) = (state.end(), state.time());
    let mut wrong = state;
    let quiet = id(TENANT_ROOM);
    let head = wrong.head(&id("main"), &quiet);
    wrong.put_head(&id("main"), &quiet, Head { n: head.n + 1, ..head });
    let wrong = wrong.restored(end, time);
    let encoded = encode(&wrong).unwrap();
    let manifest = Manifest {
        end,
        at_ms: time.at_ms,
        frame_id: log().frame_id(&store, end).await.unwrap().unwrap(),
        hash: wrong.stamp().hash,
        policy: Piece::of(&encoded.policy),
        writer: Piece::of(&encoded.writer),
        ..kept[0].manifest.clone()
    };
    let bucket = bucket(&store).await;
    bucket.put(3, Part::Policy, &encoded.policy).await.unwrap();
    bucket.put(3, Part::Writer, &encoded.writer).await.unwrap();
    bucket.confirm(3, &manifest).await.unwrap();

    let mut second = bus.writer("second").await;
    // The writer tells its hash in every sixteenth frame.
    for i in 0..16 {
        send(&bridge, &format!("after {i}")).await;
    }
    timeout(LONG, second.diverged.wait_for(|diverged| *diverged))
        .await
        .expect("it did not notice")
        .unwrap();
    first.stop().await;
    // The lease is free now. Whoever began from a sound checkpoint takes it, the second never does.
    bucket.clear(3).await.unwrap();
    let mut third = bus.writer("third").await;
    third.is_leading().await;
    assert!(!*second.leading.borrow());
    send(&bridge, "the third writes").await;
    third.stop().await;
    second.stop().await;
    bus.server.shutdown().await;
}

/// Measures; run it optimised: see docs/reliability.md.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute and a gigabyte"]
async fn starting_with_a_million_rooms() {
    measure::run().await;
}

mod measure;
