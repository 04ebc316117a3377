//! Which counters are watched, and how much of each is too much.

use std::{collections::BTreeMap, time::Duration};

use crate::sensors::limits::GainLimit;

/// A counter, and when it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterRule {
    /// Name of its file: below `counters/` or `hw_counters/` of an RDMA port, or `statistics/` of an interface.
    pub counter: String,
    /// What it may gain.
    pub gain: GainLimit,
    /// Whether the port then counts as broken; else it is a warning.
    pub fatal: bool,
}

/// Name, counter, gain allowed, within seconds, fatal.
type Default = (&'static str, &'static str, u64, u64, bool);

/// The limits are those in common use. For the first ones any gain is a fault of the hardware; a link at its specified bit
/// error rate has a hundred symbol errors an hour at most; the others happen on healthy networks, but not so fast.
const DEFAULTS: [Default; 12] = [
    ("link-integrity", "local_link_integrity_errors", 0, 60, true),
    ("buffer-overrun", "excessive_buffer_overrun_errors", 0, 60, true),
    ("rnr-retry-exceeded", "rnr_nak_retry_err", 0, 60, true),
    ("symbol-errors-hourly", "symbol_error", 120, 3_600, true),
    ("symbol-errors", "symbol_error", 100, 10, false),
    ("link-error-recovery", "link_error_recovery", 5, 60, false),
    ("receive-errors", "port_rcv_errors", 100, 10, false),
    ("transmit-discards", "port_xmit_discards", 1_000, 10, false),
    ("ack-timeouts", "local_ack_timeout_err", 10, 10, false),
    ("out-of-sequence", "out_of_sequence", 10_000, 10, false),
    ("roce-slow-restart", "roce_slow_restart", 100, 10, false),
    ("interface-errors", "rx_errors", 100, 10, false),
];

pub(super) fn defaults() -> BTreeMap<String, CounterRule> {
    let rule = |(name, counter, more_than, seconds, fatal): Default| {
        let gain = GainLimit { more_than, within: Duration::from_secs(seconds) };
        (name.to_owned(), CounterRule { counter: counter.to_owned(), gain, fatal })
    };
    DEFAULTS.into_iter().map(rule).collect()
}
