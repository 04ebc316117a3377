//! SXIDs: errors of NVSwitches. What matters is the class, which NVIDIA's Fabric Manager guide gives for each number.
//!
//! The driver says "Fatal" or "Non-fatal" beside the number; where it says so, that weighs more than the table.

use crate::observation::Severity;

use super::{Action, Effect, Entry, Origin, Part};

/// How far the trouble reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The switch corrects it, or only slows down.
    NonFatal,
    /// The GPUs that use this port are cut off.
    Fatal,
    /// The whole fabric of the node is down.
    AlwaysFatal,
}

type Row = (&'static [u32], &'static str, Class);

const ROWS: &[Row] = &[
    (
        &[
            11012, 11021, 11022, 11023, 12021, 12023, 15008, 15011, 19049, 19055, 19057, 19059, 19062, 19065,
            19068, 19071, 24001, 24002, 24003,
        ],
        "corrected a single-bit error",
        Class::NonFatal,
    ),
    (&[20001], "sent NVLink packets again", Class::NonFatal),
    (&[20009], "saw short bursts of receive errors on an NVLink", Class::NonFatal),
    (&[20012, 22012], "saw an NVLink break or be shut down from one side", Class::NonFatal),
    (&[22013], "was interrupted by an NVLink for no reason that matters", Class::NonFatal),
    (&[19084], "missed heartbeats of an NVLink", Class::NonFatal),
    (&[10004], "became too hot and lowered its links", Class::NonFatal),
    (&[10005], "is no longer too hot", Class::NonFatal),
    (&[11004], "refused traffic because its partition is configured wrongly", Class::Fatal),
    (&[12028], "refused an access for want of privilege, and holds up a GPU", Class::Fatal),
    (&[11009, 12002, 12026, 12027, 12032], "could not route a packet", Class::Fatal),
    (
        &[
            11013, 11018, 11019, 12022, 12024, 15009, 15012, 19047, 19048, 19054, 19056, 19058, 19060, 19061,
            19063, 19064, 19066, 19067, 19069, 19070, 24004, 24005, 24006,
        ],
        "had an uncorrectable error in its buffers",
        Class::Fatal,
    ),
    (&[11020, 12030, 12031, 15010, 15013], "had a parity error", Class::Fatal),
    (&[12001, 12025, 15001, 15006], "had a buffer overflow", Class::Fatal),
    (&[14017, 24007], "waited too long for an answer", Class::Fatal),
    (&[20034], "lost an NVLink", Class::Fatal),
    (&[10002], "could not be reached by its host in time", Class::Fatal),
    (&[10003], "raised an interrupt that nobody handled", Class::AlwaysFatal),
    (&[22003, 22011], "had its link controller halt", Class::AlwaysFatal),
    (
        &[
            23001, 23002, 23003, 23004, 23005, 23006, 23007, 23008, 23009, 23010, 23011, 23012, 23013, 23014,
            23015, 23016, 23017,
        ],
        "had a fatal error in its crossbar",
        Class::AlwaysFatal,
    ),
];

/// The class of a number, where it is known.
#[must_use]
pub fn class(number: u32) -> Option<Class> {
    ROWS.iter().find(|(numbers, ..)| numbers.contains(&number)).map(|(_, _, class)| *class)
}

/// What an SXID says, with the text the driver wrote after the number.
#[must_use]
pub fn entry(number: u32, detail: &str) -> Entry {
    let row = ROWS.iter().find(|(numbers, ..)| numbers.contains(&number));
    let said = row.map_or("reported an error that is not in C4's table", |(_, said, _)| said);
    let lower = detail.to_ascii_lowercase();
    let harmless = lower.contains("non-fatal") || lower.contains("nonfatal");
    let class = match row.map(|(_, _, class)| *class) {
        Some(Class::AlwaysFatal) => Class::AlwaysFatal,
        _ if harmless => Class::NonFatal,
        Some(class) => class,
        None if lower.contains("fatal") => Class::Fatal,
        None => Class::NonFatal,
    };
    let (effect, severity, action) = match class {
        Class::NonFatal => (Effect::Slows, Severity::Info, Action::ContactSupport),
        Class::Fatal => (Effect::Stops, Severity::Fatal, Action::CheckNvlink),
        Class::AlwaysFatal => (Effect::Stops, Severity::Fatal, Action::ResetFabric),
    };
    Entry { said, origin: Origin::Hardware, part: Part::Fabric, effect, severity, action, moment: true }
}
