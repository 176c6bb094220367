use bytes::Bytes;

use super::{Event, EventLine, Seq};

/// The most events in a frame: the index has 10 bits of `seq`.
pub const MAX_FRAME_EVENTS: usize = 1024;
/// The largest frame, in bytes: half of `max_payload`, so that headers always fit.
pub const MAX_FRAME_BYTES: usize = 512 * 1024;
/// The largest encoded event, in bytes, at every door.
pub const MAX_EVENT_BYTES: usize = 128 * 1024;

/// A frame that cannot be read. The log holds only what the writer wrote, so this means damage.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A line is no event.
    #[error("frame {stream_seq}, line {line}: {source}")]
    Line {
        /// The frame's stream sequence.
        stream_seq: u64,
        /// The line, from 0.
        line: usize,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// An event whose `seq` is not its place.
    #[error("frame {stream_seq}, line {line}: the event says seq {found}, its place is {expected}")]
    Misplaced {
        /// The frame's stream sequence.
        stream_seq: u64,
        /// The line, from 0.
        line: usize,
        /// The sequence the event carries.
        found: Seq,
        /// The sequence of its place.
        expected: Seq,
    },
}

/// The events of a frame (newline-delimited JSON; empty for a `leader` frame) stored at `stream_seq`.
pub fn events_of(stream_seq: u64, frame: &Bytes) -> Result<Vec<EventLine>, FrameError> {
    let mut lines = Vec::new();
    for (line, text) in frame
        .split(|byte| *byte == b'\n')
        .filter(|text| !text.is_empty())
        .enumerate()
    {
        let event: Event = serde_json::from_slice(text).map_err(|source| FrameError::Line {
            stream_seq,
            line,
            source,
        })?;
        let expected = Seq::of(stream_seq, line);
        if event.seq != expected {
            return Err(FrameError::Misplaced {
                stream_seq,
                line,
                found: event.seq,
                expected,
            });
        }
        lines.push(EventLine {
            event,
            bytes: frame.slice_ref(text),
        });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64) -> String {
        format!(
            r#"{{"v":1,"seq":{seq},"n":1,"prev":0,"id":"x","tenant":"main","room":"lobby","from":"alice","kind":"msg","at":"2026-11-23T06:00:00.123Z","body":{{"text":"hi"}}}}"#
        )
    }

    #[test]
    fn a_frame_gives_its_events_with_their_own_bytes() {
        let frame = Bytes::from(format!("{}\n{}\n", line(42 << 10), line(42 << 10 | 1)));
        let events = events_of(42, &frame).unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(events[1].event.seq, Seq::of(42, 1));
        assert_eq!(events[1].bytes, line(42 << 10 | 1).as_bytes());
    }

    #[test]
    fn an_empty_frame_has_no_events() {
        assert!(events_of(7, &Bytes::new()).unwrap().is_empty());
    }

    #[test]
    fn a_line_that_is_not_at_its_place_is_damage() {
        let frame = Bytes::from(line(41 << 10));
        assert!(matches!(events_of(42, &frame), Err(FrameError::Misplaced { .. })));
    }

    #[test]
    fn a_line_that_is_no_event_is_damage() {
        assert!(matches!(
            events_of(42, &Bytes::from_static(b"{}")),
            Err(FrameError::Line { .. })
        ));
    }
}
