//! The one place that asks the machine for the time and the date; everything else takes them as parameters.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The wall clock, in milliseconds since 1970 (UTC).
#[must_use]
pub fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC with milliseconds, as in an event's `at`.
#[must_use]
pub fn format_ms(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|at| at.format(MILLISECONDS).ok())
        .unwrap_or_default()
}

/// The milliseconds since 1970 of an event's `at`.
#[must_use]
pub fn parse_ms(at: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_survive_text() {
        assert_eq!(format_ms(1_795_413_600_123), "2026-11-23T06:00:00.123Z");
        assert_eq!(parse_ms("2026-11-23T06:00:00.123Z"), Some(1_795_413_600_123));
        assert_eq!(parse_ms("yesterday"), None);
    }
}
