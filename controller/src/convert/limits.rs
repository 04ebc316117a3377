//! How large anything in a message may be. Each is far above what real agents send and far below what would hurt.

use super::Invalid;

/// Ranks of a job or a communicator.
pub(crate) const RANKS: u64 = 1 << 20;
/// Index of a GPU.
pub(crate) const GPUS: u64 = 1023;
/// Times a job was restarted.
pub(crate) const INCARNATIONS: u64 = 1 << 20;
/// Positions, events, messages: at a billion a second, two years.
pub(crate) const COUNT: u64 = 1 << 56;
/// Bytes and elements.
pub(crate) const BYTES: u64 = 1 << 62;
/// Any age: a year.
pub(crate) const AGE_US: u64 = 366 * 24 * 3600 * 1_000_000;
/// Any duration in nanoseconds, summed over a block: a year for each of 2^16 operations still fits 64 bits at 2^62.
pub(crate) const SPAN_NS: u64 = 1 << 62;
/// Windows in a message.
pub(crate) const WINDOWS: u64 = 1024;
/// Communicators in a window.
pub(crate) const COMMS: u64 = 4096;
/// Blocks, iterations or edges of a communicator in a window.
pub(crate) const ENTRIES: u64 = 16_384;
/// Operations in a block.
pub(crate) const BLOCK: u64 = 1 << 24;
/// NCCL channels.
pub(crate) const CHANNELS: u64 = 1023;
/// Ranks of one process group.
pub(crate) const GROUP_RANKS: u64 = 4096;
/// Peers in a message about traffic.
pub(crate) const PEERS: u64 = 16_384;
/// Paths in a report on paths.
pub(crate) const SEEN_PATHS: u64 = 16_384;
/// Ports of a node's NICs.
pub(crate) const NIC_PORTS: u64 = 256;
/// Switches on one path.
pub(crate) const HOPS: u64 = 8;
/// Sensors of an agent.
pub(crate) const SENSORS: u64 = 64;
/// Blind spots of a process.
pub(crate) const BLIND_SPOTS: u64 = 64;
/// Labels of a process.
pub(crate) const LABELS: u64 = 256;
/// Bytes in a name.
pub(crate) const NAME_BYTES: usize = 256;
/// Bytes in a text for people.
pub(crate) const TEXT_BYTES: usize = 4096;

/// `value`, if it is at most `most`.
#[inline]
pub(crate) fn at_most(field: &str, value: u64, most: u64) -> Result<u64, Invalid> {
    if value > most {
        Err(Invalid::new(field, format!("is {value}, at most {most} is believed")))
    } else {
        Ok(value)
    }
}

/// `value`, if it is from `least` to `most`.
#[inline]
pub(crate) fn between(field: &str, value: u64, least: u64, most: u64) -> Result<u64, Invalid> {
    if value < least {
        return Err(Invalid::new(field, format!("is {value}, expected {least} or more")));
    }
    at_most(field, value, most)
}

/// A name: not empty, short, nothing that could forge a line of a log.
pub(crate) fn name(field: &str, value: String) -> Result<String, Invalid> {
    if value.trim().is_empty() {
        return Err(Invalid::new(field, "is empty"));
    }
    flat(field, value)
}

/// A name that may be empty.
pub(crate) fn flat(field: &str, value: String) -> Result<String, Invalid> {
    if value.len() > NAME_BYTES {
        return Err(Invalid::new(
            field,
            format!("has {} bytes, at most {NAME_BYTES} are taken", value.len()),
        ));
    }
    if value.chars().any(char::is_control) {
        return Err(Invalid::new(field, format!("has control characters: {value:?}")));
    }
    Ok(value)
}

/// A text for people. Control characters become spaces: a driver's message with a line break is no crime.
pub(crate) fn text(field: &str, value: String) -> Result<String, Invalid> {
    if value.len() > TEXT_BYTES {
        return Err(Invalid::new(
            field,
            format!("has {} bytes, at most {TEXT_BYTES} are taken", value.len()),
        ));
    }
    if value.chars().any(char::is_control) {
        return Ok(value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect());
    }
    Ok(value)
}
