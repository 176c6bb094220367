//! The pure writer against the [`Model`](super::model::Model): any requests, retries, lost and landed frames, crashes,
//! changes of the writer and jumps of time.
//!
//! `PROPTEST_CASES=100000 cargo nextest run -p natterjack-store --release -E 'test(the_writer_does_what_the_model_says)'`
//! runs as many cases.

use std::collections::HashMap;

use bytes::Bytes;
use natterjack_nats_config::SendPayload;
use natterjack_nats_config::clock;
use natterjack_nats_config::contract::{Principal, Problem, Receipt, Request, Seq, StateStamp, Vouched, events_of};
use natterjack_nats_config::tail::Frame;
use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use serde_json::{Value, json};

use super::super::admit::{Draft, Now, admit, found_tenant};
use super::super::checkpoint::codec::{decode, encode};
use super::super::state::{STATE_VERSION, State};
use super::super::writer::fold;
use super::model::{Expected, Fact, Model, START_MS};
use super::steps::{Ask, Fate, Step, TENANTS, TakeOver, any_step};
use super::support::id;

/// Cases where the environment does not say how many: some seconds.
const CASES: u32 = 256;

struct Reference;

/// A writer, one that stands by, and the log between them.
struct Writers {
    leader: State,
    standby: State,
    /// Frames, and the stamps of those without events, which tell that a writer began.
    log: Vec<(Bytes, Option<StateStamp>)>,
    /// The receipts of what stands in the log, and of what is being appended.
    receipts: HashMap<Seq, Receipt>,
    /// How many frames, and events in them, were compared with the model: what is in the log does not change.
    compared: (usize, usize),
}

impl ReferenceStateMachine for Reference {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::founded()).boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Step> {
        any_step(model)
    }

    fn apply(mut model: Model, step: &Step) -> Model {
        model.step(step);
        model
    }
}

impl StateMachineTest for Writers {
    type SystemUnderTest = Self;
    type Reference = Reference;

    fn init_test(model: &Model) -> Self {
        let mut writers = Self {
            leader: State::default(),
            standby: State::default(),
            log: Vec::new(),
            receipts: HashMap::new(),
            compared: (0, 0),
        };
        writers.begin_term();
        for tenant in TENANTS {
            let admin = Principal {
                tenant: id(tenant),
                user: id("admin"),
            };
            let mut draft = Draft::after(writers.leader.end());
            let stamp = writers.leader.stamp();
            found_tenant(&mut writers.leader, &mut draft, &admin, &now(START_MS, false)).unwrap();
            writers.leader.close_frame();
            writers.append(draft.bytes.into(), stamp);
        }
        writers.compare_log(model);
        writers
    }

    fn apply(mut self_: Self, model: &Model, step: Step) -> Self {
        match step {
            Step::Change(take_over) => self_.take_over(&take_over),
            Step::Frames {
                asks, fate, log_full, ..
            } => self_.frames(&asks, &fate, &now(clock_before(model, &fate), log_full), model),
        }
        self_.compare_log(model);
        self_
    }

    fn check_invariants(writers: &Self, model: &Model) {
        assert_eq!(writers.leader, writers.standby, "leader and standby");
        assert_eq!(writers.leader.end(), model.end, "the log's end");
        assert_eq!(writers.compared.1, model.facts.len(), "events in the log");
    }

    fn teardown(writers: Self, _: Model) {
        assert_eq!(writers.folded(), writers.leader, "who folds the log from its start");
    }
}

impl Writers {
    /// The second frame is decided before anybody knows what becomes of the first.
    fn frames(&mut self, asks: &[Vec<Ask>; 2], fate: &Fate, now: &Now, model: &Model) {
        let mut expected = model.expected.iter();
        let mut end = self.leader.end();
        let mut landing = Vec::new();
        for asks in asks {
            let mut draft = Draft::after(end);
            // What the leader says of its state before this frame, while neither this one nor the one before has landed.
            let stamp = self.leader.stamp();
            for (ask, (if_last, expected)) in asks.iter().zip(expected.by_ref()) {
                let request = self.request(ask, *if_last);
                let outcome = admit(&mut self.leader, &mut draft, &request, now);
                self.compare(ask, &outcome, expected);
            }
            if draft.events > 0 {
                self.leader.close_frame();
                landing.push((Bytes::from(draft.bytes), stamp));
                end += 1;
            } else {
                landing.push((Bytes::new(), stamp));
            }
        }
        let (landed, take_over) = match fate {
            Fate::Committed => (2, None),
            Fate::LandedAndCrashed(take_over) => (2, Some(take_over)),
            Fate::OnlyTheFirst(take_over) => (1, Some(take_over)),
            Fate::Dropped(take_over) => (0, Some(take_over)),
        };
        let landing = landing.into_iter().take(landed);
        for (bytes, stamp) in landing.filter(|(bytes, _)| !bytes.is_empty()) {
            self.append(bytes, stamp);
        }
        let end = self.log.len() as u64;
        self.receipts.retain(|seq, _| seq.frame() <= end);
        if let Some(take_over) = take_over {
            self.take_over(take_over);
        }
    }

    fn compare(&mut self, ask: &Ask, outcome: &Result<Receipt, Problem>, expected: &Expected) {
        match (outcome, expected) {
            (Ok(receipt), Expected::New { seq, n, at_ms }) => {
                let found = (receipt.seq.0, receipt.n, receipt.at.clone(), receipt.duplicate);
                assert_eq!(found, (*seq, *n, clock::format_ms(*at_ms), false), "{ask:?}");
                self.receipts.insert(receipt.seq, receipt.clone());
            }
            (Ok(receipt), Expected::Again { seq }) => {
                let first = &self.receipts[&Seq(*seq)];
                let again = Receipt {
                    duplicate: true,
                    ..first.clone()
                };
                assert_eq!(receipt, &again, "{ask:?}");
            }
            (Err(problem), Expected::Refused(code)) => assert_eq!(problem.code, *code, "{ask:?}: {problem}"),
            _ => panic!("{ask:?} came to {outcome:?}, expected was {expected:?}"),
        }
    }

    fn request(&self, ask: &Ask, if_last: Option<u64>) -> Request {
        let mut payload = json!({ "body": ask.body.asked() });
        let fields = [
            ("key", json!(ask.key)),
            ("reply_to", json!(ask.reply_to)),
            ("target", json!(ask.target.map(|seq| self.id_of(seq)))),
            ("if_last", json!(if_last)),
        ];
        for (field, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
            payload[field] = value;
        }
        Request {
            by: natterjack_nats_config::contract::By::default(),
            principal: Principal {
                tenant: id(ask.tenant),
                user: id(ask.user),
            },
            room: id(ask.room),
            kind: ask.kind,
            payload: SendPayload::from_json(payload.to_string().as_bytes()).unwrap(),
            vouched: ask.vouched.zip(ask.target).map(|(from, seq)| Vouched {
                seq: Seq(seq),
                from: id(from),
            }),
        }
    }

    /// The id of the event at a place, or one that nothing has.
    fn id_of(&self, seq: u64) -> String {
        let known = self.receipts.get(&Seq(seq)).map(|receipt| receipt.id.clone());
        known.unwrap_or_else(|| uuid::Uuid::from_u128(u128::from(seq)).to_string())
    }

    /// A frame of the leader lands.
    fn append(&mut self, bytes: Bytes, stamp: StateStamp) {
        let kept = bytes.is_empty().then(|| stamp.clone());
        self.log.push((bytes, kept));
        let stream_seq = self.log.len() as u64;
        self.leader.move_end(stream_seq);
        let frame = Frame {
            stamp: Some(stamp),
            ..self.frame_at(stream_seq)
        };
        fold(&mut self.standby, &frame).unwrap();
    }

    /// The leader is gone. Its successor knows what the log says, and nothing else. A cold one begins from a checkpoint.
    fn take_over(&mut self, take_over: &TakeOver) {
        let folded = self.folded();
        let cold = decode(&encode(&folded).unwrap()).unwrap();
        assert_eq!(cold, folded, "who begins from a checkpoint");
        self.leader = if take_over.cold {
            cold
        } else {
            std::mem::replace(&mut self.standby, cold)
        };
        self.begin_term();
    }

    fn begin_term(&mut self) {
        let stamp = self.leader.stamp();
        self.append(Bytes::new(), stamp);
        self.leader.begin_term(Some(STATE_VERSION));
    }

    fn folded(&self) -> State {
        let mut state = State::default();
        for stream_seq in 1..=self.log.len() as u64 {
            fold(&mut state, &self.frame_at(stream_seq)).unwrap();
        }
        state
    }

    fn frame_at(&self, stream_seq: u64) -> Frame {
        let (bytes, stamp) = &self.log[usize::try_from(stream_seq).unwrap() - 1];
        Frame {
            stream_seq,
            events: events_of(stream_seq, bytes).unwrap(),
            stamp: stamp.clone(),
        }
    }

    /// Every new line of the log is what the model says.
    fn compare_log(&mut self, model: &Model) {
        let (frames, mut events) = self.compared;
        let new = self.log[frames..]
            .iter()
            .flat_map(|(frame, _)| frame.split(|byte| *byte == b'\n'));
        for line in new.filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap();
            let fact = &model.facts[events];
            assert_eq!(line, written(fact, &line));
            if let Some(seq) = fact.ask.target {
                assert_eq!(line["target"]["id"], json!(self.id_of(seq)));
            }
            events += 1;
        }
        self.compared = (self.log.len(), events);
    }
}

/// The clock as it was when the frames were decided: the model has passed them, and may have changed the writer since.
fn clock_before(model: &Model, fate: &Fate) -> i64 {
    match fate {
        Fate::Committed => model.clock_ms,
        Fate::LandedAndCrashed(take_over) | Fate::OnlyTheFirst(take_over) | Fate::Dropped(take_over) => {
            model.clock_ms - take_over.gap_ms
        }
    }
}

fn now(at_ms: i64, log_full: bool) -> Now {
    Now {
        at_ms,
        wall_ms: at_ms,
        new_id: || uuid::Uuid::now_v7().to_string(),
        log_full,
    }
}

/// The line that must stand in the log for a fact; the id is taken from the line.
fn written(fact: &Fact, line: &Value) -> Value {
    let mut event = json!({
        "v": 1, "seq": fact.seq, "n": fact.n, "prev": fact.prev, "id": line["id"], "tenant": fact.ask.tenant,
        "room": fact.ask.lands_in(), "from": fact.ask.user, "kind": fact.ask.kind.as_str(),
        "at": clock::format_ms(fact.at_ms), "body": fact.body,
    });
    let fields = [("key", fact.ask.key), ("reply_to", fact.ask.reply_to)];
    for (field, value) in fields.into_iter().filter_map(|(field, value)| Some((field, value?))) {
        event[field] = json!(value);
    }
    if let Some(seq) = fact.ask.target {
        event["target"] = json!({"id": line["target"]["id"], "seq": seq});
    }
    event
}

fn config() -> Config {
    let default = Config::default();
    Config {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() {
            default.cases
        } else {
            CASES
        },
        failure_persistence: None,
        ..default
    }
}

prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn the_writer_does_what_the_model_says(sequential 1..40 => Writers);
}
