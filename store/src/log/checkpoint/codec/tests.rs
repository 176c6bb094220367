use natterjack_nats_config::SendPayload;
use natterjack_nats_config::contract::{Kind, Principal, Request, events_of};
use natterjack_nats_config::tail::Frame;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::log::admit::{Draft, Now, admit, found_tenant};
use crate::log::writer::fold;

const START_MS: i64 = 1_795_413_600_000;

/// What is asked of the writer; few names, so that the same ones meet often.
#[derive(Debug, Clone)]
struct Ask {
    user: usize,
    room: usize,
    what: What,
    /// Whether a frame ends here.
    ends: bool,
    /// How much later than the one before, in milliseconds.
    later_ms: i64,
}

#[derive(Debug, Clone)]
enum What {
    Room,
    Member(usize, Option<&'static str>),
    Msg(Option<usize>, u8),
    Admin(usize),
    /// A change of the so-many-eth event from the end.
    Edit(usize),
    Delete(usize),
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let role = prop::option::of(prop_oneof![Just("owner"), Just("member"), Just("reader")]);
    let what = prop_oneof![
        2 => Just(What::Room),
        2 => (0usize..4, role).prop_map(|(user, role)| What::Member(user, role)),
        6 => (prop::option::of(0usize..5), any::<u8>()).prop_map(|(key, text)| What::Msg(key, text % 2)),
        1 => (0usize..4).prop_map(What::Admin),
        1 => (0usize..6).prop_map(What::Edit),
        1 => (0usize..6).prop_map(What::Delete),
    ];
    // Mostly moments apart, sometimes longer than keys are remembered.
    let later = prop_oneof![9 => 0i64..1000, 1 => Just(11 * 60 * 1000)];
    let ask = (0usize..4, 0usize..3, what, any::<bool>(), later);
    let ask = ask.prop_map(|(user, room, what, ends, later_ms)| Ask {
        user,
        room,
        what,
        ends,
        later_ms,
    });
    prop::collection::vec(ask, 0..80)
}

fn request(ask: &Ask, said: &[(usize, String)]) -> Request {
    let target = |back: usize| said.iter().rev().nth(back).map_or_else(new_id, |(_, id)| id.clone());
    let room_of = |back: usize| said.iter().rev().nth(back).map_or(ask.room, |(room, _)| *room);
    let room = match ask.what {
        What::Edit(back) | What::Delete(back) => room_of(back),
        _ => ask.room,
    };
    let (kind, payload) = match &ask.what {
        What::Room => (Kind::Room, json!({"key": "made", "body": {"title": "T"}})),
        What::Member(user, role) => (
            Kind::Member,
            json!({"body": {"user": format!("u{user}"), "role": role}}),
        ),
        What::Msg(key, text) => (
            Kind::Msg,
            json!({"key": key.map(|key| key.to_string()), "body": {"text": text}}),
        ),
        What::Admin(user) => (
            Kind::User,
            json!({"body": {"user": format!("u{user}"), "role": "auditor"}}),
        ),
        What::Edit(back) => (Kind::Edit, json!({"target": target(*back), "body": {"text": "x"}})),
        What::Delete(back) => (Kind::Delete, json!({"target": target(*back), "body": {}})),
    };
    let is_admin = matches!(ask.what, What::Admin(_));
    Request {
        by: natterjack_nats_config::contract::By::default(),
        principal: Principal {
            tenant: "main".parse().unwrap(),
            user: if is_admin {
                "admin".to_owned()
            } else {
                format!("u{}", ask.user)
            }
            .parse()
            .unwrap(),
        },
        room: if is_admin { "_".to_owned() } else { format!("r{room}") }
            .parse()
            .unwrap(),
        kind,
        payload: SendPayload::from_json(payload.to_string().as_bytes()).unwrap(),
        vouched: None,
    }
}

fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The frames that a writer makes of what it is asked, each with what it says of its state before, and its state after all.
fn write(asks: &[Ask]) -> (Vec<Frame>, State) {
    let mut state = State::default();
    let mut frames = Vec::new();
    let mut at_ms = START_MS;
    let mut draft = Draft::after(0);
    let mut said = Vec::new();
    let admin = Principal {
        tenant: "main".parse().unwrap(),
        user: "admin".parse().unwrap(),
    };
    let now = |at_ms| Now {
        at_ms,
        wall_ms: at_ms,
        new_id,
        log_full: false,
    };
    found_tenant(&mut state, &mut draft, &admin, &now(at_ms)).unwrap();
    close(&mut state, &mut draft, &mut frames);
    for ask in asks {
        at_ms += ask.later_ms;
        let request = request(ask, &said);
        if let Ok(receipt) = admit(&mut state, &mut draft, &request, &now(at_ms))
            && request.kind == Kind::Msg
        {
            said.push((ask.room, receipt.id));
        }
        if ask.ends {
            close(&mut state, &mut draft, &mut frames);
        }
    }
    close(&mut state, &mut draft, &mut frames);
    (frames, state)
}

fn close(state: &mut State, draft: &mut Draft, frames: &mut Vec<Frame>) {
    let stream_seq = state.end() + 1;
    // Told after the events of the frame were taken in, and still of the state before them.
    let stamp = Some(state.stamp());
    let bytes = bytes::Bytes::from(std::mem::take(&mut draft.bytes));
    frames.push(Frame {
        stream_seq,
        events: events_of(stream_seq, &bytes).unwrap(),
        stamp,
    });
    state.pass_frame(stream_seq);
    if bytes.is_empty() {
        state.begin_term(Some(STATE_VERSION));
    }
    *draft = Draft::after(stream_seq);
}

fn follow(mut state: State, frames: &[Frame]) -> State {
    let end = state.end();
    for frame in frames.iter().filter(|frame| frame.stream_seq > end) {
        fold(&mut state, frame).unwrap();
    }
    state
}

proptest! {
    #[test]
    fn the_writer_a_standby_and_whoever_begins_from_a_checkpoint_come_to_the_same(
        asks in asks(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (frames, writer) = write(&asks);
        let standby = follow(State::default(), &frames);
        prop_assert_eq!(standby.stamp(), writer.stamp());
        prop_assert_eq!(encode(&standby).unwrap(), encode(&writer).unwrap());

        let half = follow(State::default(), &frames[..=cut.index(frames.len())]);
        let begun = decode(&encode(&half).unwrap()).unwrap();
        prop_assert_eq!(begun.stamp(), half.stamp(), "the hash made anew is the one that was kept");
        let begun = follow(begun, &frames);
        prop_assert_eq!(begun.stamp(), writer.stamp());
        prop_assert_eq!(encode(&begun).unwrap(), encode(&writer).unwrap());
    }

    #[test]
    fn cut_off_and_damaged_bytes_do_no_harm(asks in asks(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let (_, state) = write(&asks);
        let good = encode(&state).unwrap();
        let at = at.index(good.writer.len());
        let cut = Encoded { writer: good.writer[..at].to_vec(), ..good.clone() };
        prop_assert!(decode(&cut).is_err(), "cut off at {}", at);
        let mut flipped = good.clone();
        flipped.writer[at] ^= flip;
        // A SHA-256 stands beside the bytes, so this is never asked; were it, the hash would tell.
        if let Ok(other) = decode(&flipped) {
            prop_assert_ne!(other.stamp(), state.stamp());
        }
    }
}

#[test]
fn a_state_that_differs_in_anything_is_seen_at_the_next_frame() {
    let said = |user, key| Ask {
        user,
        room: 0,
        what: What::Msg(Some(key), 0),
        ends: true,
        later_ms: 1,
    };
    let make = Ask {
        what: What::Room,
        ..said(0, 0)
    };
    let (frames, _) = write(&[make, said(0, 1), said(0, 2)]);
    let (last, before) = frames.split_last().unwrap();
    let (tenant, room): (Id, Id) = ("main".parse().unwrap(), "r0".parse().unwrap());
    let good = follow(State::default(), before);
    assert!(good.compare(last.stream_seq, last.stamp.as_ref()).is_ok());

    let mut wrong = follow(State::default(), before);
    let head = wrong.head(&tenant, &room);
    wrong.put_head(&tenant, &room, Head { n: head.n + 1, ..head });
    let (end, time) = (wrong.end(), wrong.time());
    let mut wrong = wrong.restored(end, time);
    assert!(fold(&mut wrong, last).is_err(), "a room's number");

    let at_ms = time.at_ms + 1;
    let late = follow(State::default(), before).restored(end, Time { at_ms, ..time });
    assert!(late.compare(last.stream_seq, last.stamp.as_ref()).is_err(), "log time");

    // One flipped bit pattern turns a number's sign.
    let at_ms = -time.at_ms;
    let negative = follow(State::default(), before).restored(end, Time { at_ms, ..time });
    assert!(
        negative.compare(last.stream_seq, last.stamp.as_ref()).is_err(),
        "its sign"
    );

    // What another version says is no judgement.
    let mut stamp = last.stamp.clone().unwrap();
    stamp.version += 1;
    assert!(late.compare(last.stream_seq, Some(&stamp)).is_ok());
}

#[test]
fn parts_of_two_checkpoints_do_not_go_together() {
    let ask = Ask {
        user: 0,
        room: 0,
        what: What::Room,
        ends: true,
        later_ms: 1,
    };
    let (one, two) = (write(&[]).1, write(&[ask]).1);
    let mixed = Encoded {
        policy: encode(&one).unwrap().policy,
        writer: encode(&two).unwrap().writer,
    };
    assert!(matches!(decode(&mixed), Err(CodecError::Apart { .. })));
}

#[test]
fn a_state_of_the_version_before_is_read_and_remembers_nothing() {
    let (_, mut state) = write(&[Ask {
        user: 0,
        room: 0,
        what: What::Room,
        ends: true,
        later_ms: 1,
    }]);
    // As its writers left it, who did not remember.
    state.begin_term(None);
    let end = state.end();
    state.pass_frame(end);
    let mut before = encode(&state).unwrap();
    let version = postcard::to_allocvec(&STATE_VERSION).unwrap();
    assert_eq!(before.writer[8..8 + version.len()], version);
    before
        .writer
        .splice(8..8 + version.len(), postcard::to_allocvec(&101u16).unwrap());
    // Its view's version was 1, and but for that number the same, as long as no token is revoked.
    assert_eq!(before.policy[8], 5);
    before.policy[8] = 1;
    let read = decode(&before).unwrap();
    assert_eq!(read.stamp().hash, state.stamp().hash);
    assert!(!read.recent.is_on());
    let mut second = encode(&state).unwrap();
    second
        .writer
        .splice(8..8 + version.len(), postcard::to_allocvec(&202u16).unwrap());
    second.policy[8] = 2;
    assert_eq!(decode(&second).unwrap().stamp().hash, state.stamp().hash);
    let mut newer = encode(&state).unwrap();
    newer
        .writer
        .splice(8..8 + version.len(), postcard::to_allocvec(&301u16).unwrap());
    assert!(matches!(decode(&newer), Err(CodecError::Version(301))));
}
