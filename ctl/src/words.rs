//! Numbers and names in the form people read. Names come from other people's processes and files, so nothing is
//! printed before [`printable`] has taken the control characters out of it: a job's name must not move the cursor.

use std::borrow::Cow;

use jiff::Timestamp;

pub use c4_detect::words::ranks;

/// Text with every control character (and what reorders text on a terminal) replaced, newlines by spaces.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let clean = |c: char| match c {
        '\n' | '\t' => ' ',
        c if harmful(c) => '\u{fffd}',
        c => c,
    };
    Cow::Owned(text.chars().map(clean).collect())
}

/// A duration of microseconds in its two largest fitting words: "1.23 ms", "2 min 5 s".
#[must_use]
pub fn duration_us(us: u64) -> String {
    duration_ns(us.saturating_mul(1_000))
}

/// A duration of nanoseconds, likewise.
#[must_use]
pub fn duration_ns(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", three_digits(ns as f64 / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", three_digits(ns as f64 / 1e6)),
        1_000_000_000..60_000_000_000 => format!("{} s", three_digits(ns as f64 / 1e9)),
        _ if seconds < 3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A duration of seconds as a floating point number; anything that is not a duration is a dash.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    if seconds.is_finite() && seconds >= 0.0 {
        duration_ns((seconds * 1e9).min(1.8e19) as u64)
    } else {
        "–".to_owned()
    }
}

fn three_digits(value: f64) -> String {
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole.to_owned(),
        _ => text,
    }
}

/// Bytes in binary units: "1 MiB".
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// A moment, in RFC 3339 with milliseconds, UTC.
#[must_use]
pub fn moment(unix_us: u64) -> String {
    i64::try_from(unix_us)
        .ok()
        .and_then(|us| Timestamp::from_microsecond(us).ok())
        .map_or_else(|| format!("{unix_us} µs"), |moment| format!("{moment:.3}"))
}

/// A moment and how long before `now_us` it was.
#[must_use]
pub fn moment_ago(unix_us: u64, now_us: u64) -> String {
    match now_us.checked_sub(unix_us) {
        Some(ago) => format!("{} ({} ago)", moment(unix_us), duration_us(ago)),
        None => moment(unix_us),
    }
}

/// "1 rank", "2 ranks".
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(printable("train\x1b[2J\r\nx"), "train\u{fffd}[2J\u{fffd} x");
        assert!(matches!(printable("größe 7"), Cow::Borrowed(_)));
    }

    #[test]
    fn durations_have_one_unit_until_a_minute() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_500, "1.50 µs"),
            (12_345_678, "12.3 ms"),
            (1_000_000_000, "1 s"),
            (99_960_000, "100 ms"),
            (125_000_000_000, "2 min 5 s"),
            (3_723_000_000_000, "1 h 2 min"),
            (90_000_000_000_000, "1 d 1 h"),
        ];
        for (ns, words) in cases {
            assert_eq!(duration_ns(ns), words, "{ns}");
        }
    }

    #[test]
    fn what_is_no_duration_is_a_dash() {
        assert_eq!(seconds(f64::NAN), "–");
        assert_eq!(seconds(-1.0), "–");
        assert_eq!(seconds(0.25), "250 ms");
    }

    #[test]
    fn bytes_and_ranks() {
        assert_eq!(bytes(1 << 20), "1 MiB");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(u64::MAX), "16 EiB");
        assert_eq!(ranks([7, 0, 1, 2, 3, 3]), "0-3,7");
        assert_eq!(ranks([u32::MAX, u32::MAX - 1]), "4294967294-4294967295");
    }

    #[test]
    fn moments_are_utc_with_milliseconds() {
        assert_eq!(moment(1_764_000_000_123_456), "2025-11-24T16:00:00.123Z");
        assert_eq!(
            moment_ago(1_764_000_000_000_000, 1_764_000_002_000_000),
            "2025-11-24T16:00:00.000Z (2 s ago)"
        );
    }
}
