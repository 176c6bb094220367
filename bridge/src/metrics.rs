//! What `GET /metrics` shows: queues and their caps, sizes and latencies. No label names a user, a room or a tenant.

use std::time::Duration;

use natterjack_nats_config::contract::Problem;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// From a tenth of a millisecond to the longest poll.
const SECONDS: [f64; 14] = [
    0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0, 30.0, 60.0,
];
/// Up to what a frame may hold.
const COUNTS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// Up to what a message of NATS may hold.
const BYTES: [f64; 8] = [
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
];

/// Everything that is counted at this bridge.
pub(crate) struct Metrics {
    registry: Registry,
    /// Open HTTP connections, sockets included.
    connections: Gauge,
    /// Connections for which there was no place.
    pub(crate) turned_away: Counter,
    /// Connections and requests of addresses that had all the places that one may have.
    pub(crate) address_turned_away: Counter,
    /// HTTP/2 streams that were cut because their client took nothing.
    pub(crate) streams_cut: Counter,
    /// Streams and sockets under way.
    streams: Family<Kind, Gauge>,
    requests: Family<Answered, Counter>,
    request_seconds: Family<Route, Histogram, fn() -> Histogram>,
    /// Polls and streams that lost their place to a younger one.
    pub(crate) superseded: Counter,
    /// Requests of native clients that were dropped, because no service import made their reply subject.
    pub(crate) native_dropped: Counter,
    limited: Family<Limiter, Counter>,
    bundle_requests: Histogram,
    bundle_bytes: Histogram,
    bundle_seconds: Histogram,
    /// Bundles that nobody answered in time.
    pub(crate) bundles_unanswered: Counter,
    log_read: Gauge,
    frame_events: Histogram,
    frame_bytes: Histogram,
    used: Family<Queue, Gauge>,
}

/// How full a queue is, read off when somebody asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    /// Which.
    pub(crate) queue: &'static str,
    /// What is in it.
    pub(crate) used: usize,
}

/// The largest that a queue may get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cap {
    /// Which.
    pub(crate) queue: &'static str,
    /// The most.
    pub(crate) most: usize,
}

/// `sse` or `websocket`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limiter {
    limiter: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: &'static str,
}

/// Something under way; it is counted as long as this is here.
pub(crate) struct UnderWay(Gauge);

impl Metrics {
    pub(crate) fn new(caps: &[Cap]) -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("natterjack"),
            connections: Gauge::default(),
            turned_away: Counter::default(),
            address_turned_away: Counter::default(),
            streams_cut: Counter::default(),
            streams: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            superseded: Counter::default(),
            native_dropped: Counter::default(),
            limited: Family::default(),
            bundle_requests: Histogram::new(COUNTS),
            bundle_bytes: Histogram::new(BYTES),
            bundle_seconds: Histogram::new(SECONDS),
            bundles_unanswered: Counter::default(),
            log_read: Gauge::default(),
            frame_events: Histogram::new(COUNTS),
            frame_bytes: Histogram::new(BYTES),
            used: Family::default(),
        };
        metrics.register(caps)
    }

    fn register(mut self, caps: &[Cap]) -> Self {
        let all = &mut self.registry;
        all.register("http_connections", "Open connections", self.connections.clone());
        all.register(
            "http_turned_away",
            "Connections for which there was no place",
            self.turned_away.clone(),
        );
        let help =
            "Connections, and requests through a trusted proxy, of addresses that had all the places that one may have";
        all.register("http_address_turned_away", help, self.address_turned_away.clone());
        let help = "HTTP/2 streams that were cut because their client took nothing";
        all.register("http_streams_cut", help, self.streams_cut.clone());
        all.register("http_streams", "Streams under way", self.streams.clone());
        all.register("http_requests", "Answered requests", self.requests.clone());
        let help = "Time to the head of the answer; of polls the waiting too";
        all.register_with_unit("http_request", help, Unit::Seconds, self.request_seconds.clone());
        let help = "Polls and streams that gave their place to a younger one of the same user";
        all.register("superseded", help, self.superseded.clone());
        let help = "Requests of native clients without a reply subject of a service import";
        all.register("native_dropped", help, self.native_dropped.clone());
        let help = "Requests that a limit refused, by the limiter";
        all.register("limited", help, self.limited.clone());
        let help = "Requests in a bundle to the writer";
        all.register("bundle_requests", help, self.bundle_requests.clone());
        let help = "Size of a bundle to the writer";
        all.register_with_unit("bundle", help, Unit::Bytes, self.bundle_bytes.clone());
        let help = "Time until the writer has answered a bundle";
        all.register_with_unit("bundle", help, Unit::Seconds, self.bundle_seconds.clone());
        let help = "Bundles that the writer did not answer in time";
        all.register("bundles_unanswered", help, self.bundles_unanswered.clone());
        let help = "The stream sequence up to which the log is read";
        all.register("log_read_sequence", help, self.log_read.clone());
        all.register(
            "frame_events",
            "Events in a frame of the log",
            self.frame_events.clone(),
        );
        let help = "Size of a frame's events";
        all.register_with_unit("frame", help, Unit::Bytes, self.frame_bytes.clone());
        all.register(
            "used",
            "What is in a queue, a store or a set of places",
            self.used.clone(),
        );
        let most = Family::<Queue, Gauge>::default();
        for Cap { queue, most: limit } in caps {
            most.get_or_create(&Queue { queue }).set(as_gauge(*limit));
        }
        all.register("cap", "The most that may be in it", most);
        self
    }

    /// Counts an answered request. `route` is the pattern of the path, so that there are only so many.
    pub(crate) fn answered(&self, method: &str, route: Option<&str>, status: u16, took: Duration) {
        let route = route.unwrap_or("none").to_owned();
        let seconds = self.request_seconds.get_or_create(&Route { route: route.clone() });
        seconds.observe(took.as_secs_f64());
        let answered = Answered {
            method: method.to_owned(),
            route,
            status,
        };
        self.requests.get_or_create(&answered).inc();
    }

    /// Counts what a limit refused; there are only so many limiters.
    pub(crate) fn limited(&self, problem: &Problem) {
        if let Some(limiter) = &problem.limiter {
            let limiter = limiter.to_string();
            self.limited.get_or_create(&Limiter { limiter }).inc();
        }
    }

    /// Counts a connection as long as what this gives is kept.
    pub(crate) fn connected(&self) -> UnderWay {
        self.connections.inc();
        UnderWay(self.connections.clone())
    }

    /// Counts a stream as long as what this gives is kept.
    pub(crate) fn streaming(&self, kind: &'static str) -> UnderWay {
        let gauge = self.streams.get_or_create(&Kind { kind }).clone();
        gauge.inc();
        UnderWay(gauge)
    }

    /// Counts a bundle and what became of it.
    pub(crate) fn bundle(&self, requests: usize, bytes: usize, took: Duration) {
        self.bundle_requests.observe(as_float(requests));
        self.bundle_bytes.observe(as_float(bytes));
        self.bundle_seconds.observe(took.as_secs_f64());
    }

    /// Counts something that is under way as long as what this gives is kept.
    pub(crate) fn busy(&self, queue: &'static str) -> UnderWay {
        let gauge = self.used.get_or_create(&Queue { queue }).clone();
        gauge.inc();
        UnderWay(gauge)
    }

    /// Counts a frame of the log, with its stream sequence.
    pub(crate) fn frame(&self, stream_seq: u64, events: usize, bytes: usize) {
        self.log_read.set(i64::try_from(stream_seq).unwrap_or(i64::MAX));
        self.frame_events.observe(as_float(events));
        self.frame_bytes.observe(as_float(bytes));
    }

    /// Everything, in a text format that Prometheus reads.
    pub(crate) fn text(&self, levels: &[Level]) -> Result<String, std::fmt::Error> {
        for Level { queue, used } in levels {
            self.used.get_or_create(&Queue { queue }).set(as_gauge(*used));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn as_gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn as_float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown_with_units_and_without_names_of_people() {
        let metrics = Metrics::new(&[Cap {
            queue: "sends",
            most: 7,
        }]);
        metrics.answered("GET", Some("/v1/rooms/{room}"), 200, Duration::from_millis(2));
        metrics.bundle(3, 700, Duration::from_millis(1));
        metrics.frame(9, 3, 600);
        let stream = metrics.streaming("sse");
        let level = Level {
            queue: "sends",
            used: 2,
        };
        let text = metrics.text(&[level]).unwrap();
        for line in [
            "natterjack_http_requests_total{method=\"GET\",route=\"/v1/rooms/{room}\",status=\"200\"} 1",
            "natterjack_http_request_seconds_bucket{le=\"0.003\",route=\"/v1/rooms/{room}\"} 1",
            "natterjack_bundle_requests_sum 3.0",
            "natterjack_bundle_bytes_sum 700.0",
            "natterjack_frame_events_count 1",
            "natterjack_log_read_sequence 9",
            "natterjack_http_streams{kind=\"sse\"} 1",
            "natterjack_used{queue=\"sends\"} 2",
            "natterjack_cap{queue=\"sends\"} 7",
            "# EOF",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in {text}");
        }
        drop(stream);
        assert!(
            metrics
                .text(&[])
                .unwrap()
                .contains("natterjack_http_streams{kind=\"sse\"} 0\n")
        );
    }
}
