//! What an XID means for the GPU, after NVIDIA's catalogue: is the hardware (or the driver below us) broken, or did the
//! program do something wrong?

use c4_detect::observation::Severity;

/// How bad an XID is. The number alone tells; anything unknown is a warning.
#[must_use]
pub fn severity(xid: u64) -> Severity {
    match xid {
        // Uncorrectable memory errors, failed row remap, NVLink, fallen off the bus, GSP time-outs, unrecovered ECC.
        48 | 54 | 62 | 64 | 69 | 74 | 79 | 95 | 109 | 110 | 119 | 120 | 136 | 140 | 143 | 149 | 151 => {
            Severity::Fatal
        }
        // Faults a program makes itself: bad addresses, aborted or preempted channels.
        13 | 31 | 43 | 45 | 68 | 137 => Severity::Info,
        _ => Severity::Warning,
    }
}

/// A short name, where it is well known.
#[must_use]
pub(super) fn name(xid: u64) -> &'static str {
    match xid {
        13 => "graphics engine exception",
        31 => "GPU memory page fault",
        43 => "GPU stopped processing",
        45 => "preemptive channel removal",
        48 => "double-bit ECC error",
        62 => "internal micro-controller halt",
        63 => "row remapping event",
        64 => "row remapping failure",
        74 => "NVLink error",
        79 => "GPU has fallen off the bus",
        92 => "high single-bit ECC error rate",
        94 => "contained memory error",
        95 => "uncontained memory error",
        119 => "GSP RPC time-out",
        120 => "GSP error",
        140 => "unrecovered ECC error",
        149 => "NVLink error",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_is_fatal_programs_are_not() {
        assert_eq!(severity(79), Severity::Fatal);
        assert_eq!(severity(31), Severity::Info);
        assert_eq!(severity(94), Severity::Warning);
        assert_eq!(severity(u64::MAX), Severity::Warning);
    }
}
