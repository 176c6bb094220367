use bytes::Bytes;
use natterjack_nats_config::tail::Log;

use super::project::{self, Rows};

/// The most frames in a transaction; also how many are asked for at a time. Where few people talk a frame holds a few events, so
/// that a backlog of them is many frames: each transaction costs as much as some hundred events do.
pub(crate) const MAX_FRAMES: usize = 256;
/// The most bytes of frames in a transaction, give or take one frame: some tens of thousands of small events, well
/// under a second of work, so that a clean stop is quick.
pub(crate) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Frames that follow the watermark without a gap, on their way into one transaction.
#[derive(Debug)]
pub(crate) struct Batch {
    after: u64,
    upto: u64,
    frames: usize,
    bytes: usize,
    rows: Rows,
}

/// Where a frame stands, seen from a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The archive or the batch has it already.
    Old,
    /// It is the next one.
    Next,
    /// Frames are missing before it.
    Gap,
}

impl Batch {
    /// An empty batch behind frame `watermark`.
    pub(crate) fn after(watermark: u64) -> Self {
        Self {
            after: watermark,
            upto: watermark,
            frames: 0,
            bytes: 0,
            rows: Rows::default(),
        }
    }

    pub(crate) fn place_of(&self, stream_seq: u64) -> Place {
        match stream_seq.checked_sub(self.upto) {
            None | Some(0) => Place::Old,
            Some(1) => Place::Next,
            Some(_) => Place::Gap,
        }
    }

    /// Takes in the frame behind the last one.
    pub(crate) fn push(&mut self, log: &Log, stream_seq: u64, frame: &Bytes) {
        let rows = project::frame(log, stream_seq, frame);
        self.take(stream_seq, rows);
        self.bytes += frame.len();
    }

    /// Takes in what stands behind the last frame and was not written by a writer.
    pub(crate) fn push_foreign(&mut self, log: &Log, stream_seq: u64, bytes: &Bytes) {
        self.take(stream_seq, project::foreign(log, stream_seq, bytes));
        self.bytes += bytes.len();
    }

    /// Records that the log has nothing between the last frame and `next`.
    pub(crate) fn skip_to(&mut self, log: &Log, next: u64) {
        let rows = project::absent(log, self.next(), next);
        self.take(next.saturating_sub(1), rows);
    }

    /// The frame that must come next.
    pub(crate) fn next(&self) -> u64 {
        self.upto + 1
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.frames >= MAX_FRAMES || self.bytes >= MAX_BYTES
    }

    /// How many events are in it.
    pub(crate) fn events(&self) -> usize {
        self.rows.events.len()
    }

    /// The watermark that the batch stands on.
    pub(crate) fn old_watermark(&self) -> u64 {
        self.after
    }

    /// The watermark once it is stored.
    pub(crate) fn new_watermark(&self) -> u64 {
        self.upto
    }

    pub(crate) fn into_rows(self) -> Rows {
        self.rows
    }

    fn take(&mut self, upto: u64, rows: Rows) {
        self.upto = upto;
        self.frames += 1;
        self.rows.events.extend(rows.events);
        self.rows.quarantined.extend(rows.quarantined);
    }
}

#[cfg(test)]
mod tests {
    use natterjack_nats_config::contract::Subjects;

    use super::*;

    #[test]
    fn frames_are_taken_in_order_and_a_gap_is_seen() {
        let log = Log::first(Subjects::default());
        let mut batch = Batch::after(4);
        for (stream_seq, place) in [(3, Place::Old), (4, Place::Old), (5, Place::Next), (6, Place::Gap)] {
            assert_eq!(batch.place_of(stream_seq), place, "{stream_seq}");
        }
        assert!(batch.is_empty());
        batch.push(&log, 5, &Bytes::new());
        assert_eq!(batch.place_of(6), Place::Next);
        batch.skip_to(&log, 9);
        assert_eq!(batch.place_of(9), Place::Next);
        assert_eq!((batch.old_watermark(), batch.new_watermark()), (4, 8));
        assert_eq!(batch.into_rows().quarantined.len(), 1);
    }

    #[test]
    fn a_batch_is_bounded_by_frames_and_by_bytes() {
        let log = Log::first(Subjects::default());
        let mut many = Batch::after(0);
        let mut large = Batch::after(0);
        let big = Bytes::from(vec![b'x'; MAX_BYTES / 2]);
        for stream_seq in 1..=MAX_FRAMES as u64 {
            assert!(!many.is_full());
            many.push(&log, stream_seq, &Bytes::new());
        }
        assert!(many.is_full());
        large.push(&log, 1, &big);
        assert!(!large.is_full());
        large.push(&log, 2, &big);
        assert!(large.is_full());
    }
}
