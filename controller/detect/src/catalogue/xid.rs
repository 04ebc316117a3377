//! NVIDIA's XIDs, 1 to 172: the errors its driver writes into the kernel log.
//!
//! Numbers and recommended actions follow NVIDIA's "XID Errors" catalogue for Ampere and later (with the archived one
//! for numbers that only older GPUs use), as of driver R580. Two things weigh more than the number where the driver
//! prints them: the recovery action that XID 154 announces, and whether an NVLink 5 error (144 to 150) was fatal.

use Action::{
    CheckApplication, CheckNvlink, CheckPower, ContactSupport, FollowOther, Nothing, ReplaceGpu,
    ResetAndDiagnose, ResetGpu, RestartApplication, RestartNode, UpdateDriver,
};
use Origin::{Application, Consequence, Driver, Hardware};
use Severity::{Fatal, Info, Warning};

use super::{Action, Effect, Entry, Origin, Part};
use crate::observation::Severity;

/// Highest number in the table.
pub const LAST: u32 = 172;

type Row = (u32, u32, &'static str, Origin, Severity, Action);

const UNUSED: &str = "reported an error number that NVIDIA lists as unused";

/// First and last number, what the GPU did, whose fault, how bad, what to do.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    (1, 4, "got an invalid command stream", Driver, Warning, ContactSupport),
    (5, 5, UNUSED, Driver, Warning, ContactSupport),
    (6, 6, "got an invalid command stream", Driver, Warning, ContactSupport),
    (7, 7, "got a command stream with an invalid address", Driver, Warning, ContactSupport),
    (8, 8, "stopped processing", Driver, Warning, RestartApplication),
    (9, 9, "was programmed wrongly by the driver", Driver, Warning, ContactSupport),
    (10, 10, UNUSED, Driver, Warning, ContactSupport),
    (11, 11, "got an invalid command stream", Application, Info, CheckApplication),
    (12, 12, "raised an exception that the driver could not handle", Driver, Warning, ContactSupport),
    (13, 13, "had an exception in a kernel of the program, such as an access out of bounds", Application, Info, CheckApplication),
    (14, 14, "reported an error that somebody injected", Consequence, Info, Nothing),
    (15, 15, UNUSED, Driver, Warning, ContactSupport),
    (16, 16, "had its display engine hang", Driver, Warning, ContactSupport),
    (17, 17, UNUSED, Driver, Warning, ContactSupport),
    (18, 18, "may no longer master the PCI bus", Hardware, Warning, ContactSupport),
    (19, 19, "had an error in its display engine", Driver, Warning, ContactSupport),
    (20, 22, "got an invalid command stream for video", Driver, Warning, ContactSupport),
    (23, 23, UNUSED, Driver, Warning, ContactSupport),
    (24, 24, "waited too long for a semaphore", Driver, Warning, ContactSupport),
    (25, 25, "got an illegal command stream", Application, Info, CheckApplication),
    (26, 26, "did not get an answer from its memory in time", Hardware, Warning, ContactSupport),
    (27, 29, "had an exception in its video processor", Driver, Warning, ContactSupport),
    (30, 30, "accessed a semaphore wrongly", Driver, Warning, ContactSupport),
    (31, 31, "had a page fault: the program used an invalid address", Application, Info, CheckApplication),
    (32, 32, "got a corrupted command stream, as a bad PCIe connection makes it", Hardware, Warning, RestartApplication),
    (33, 33, "had an error in its micro-controller", Driver, Warning, ContactSupport),
    (34, 36, "had an exception in its video processor", Driver, Warning, ContactSupport),
    (37, 38, "had an error in its firmware", Driver, Info, ContactSupport),
    (39, 41, "had an exception in a copy engine", Driver, Warning, RestartApplication),
    (42, 42, "had an exception in its video processor", Driver, Warning, ContactSupport),
    (43, 43, "stopped the program's work after a fault of the program", Application, Info, CheckApplication),
    (44, 44, "had a fault while it switched contexts", Driver, Warning, ContactSupport),
    (45, 45, "removed the channels of a program that ended or failed", Consequence, Info, FollowOther),
    (46, 46, "stopped processing", Driver, Fatal, ResetGpu),
    (47, 47, "had an exception in its video encoder", Driver, Warning, ContactSupport),
    (48, 48, "had an uncorrectable memory error (double bit)", Hardware, Fatal, ResetAndDiagnose),
    (49, 51, UNUSED, Driver, Warning, ContactSupport),
    (52, 53, "lowered its clocks because of its temperature", Hardware, Warning, ContactSupport),
    (54, 54, "is not connected to auxiliary power", Hardware, Fatal, CheckPower),
    (55, 55, "could not read its temperature", Hardware, Warning, ContactSupport),
    (56, 56, "had an error in its display engine", Driver, Warning, ContactSupport),
    (57, 57, "could not train the link to its memory", Hardware, Fatal, ResetAndDiagnose),
    (58, 58, "has an unstable link to its memory", Hardware, Fatal, ResetAndDiagnose),
    (59, 59, "had an error in its micro-controller", Driver, Warning, ContactSupport),
    (60, 60, "had an exception in its security processor", Driver, Warning, RestartApplication),
    (61, 61, "had its micro-controller stop at a breakpoint", Driver, Warning, ContactSupport),
    (62, 62, "had its micro-controller halt", Hardware, Fatal, ResetAndDiagnose),
    (63, 63, "set a bad row of its memory aside for replacement at the next reset", Hardware, Info, Nothing),
    (64, 64, "could not replace a bad row of its memory", Hardware, Fatal, ReplaceGpu),
    (65, 65, "had an exception in its video encoder", Driver, Warning, ContactSupport),
    (66, 67, "was accessed illegally by the driver", Driver, Info, ContactSupport),
    (68, 68, "had an exception in a video decoder", Driver, Info, RestartApplication),
    (69, 69, "got a command that it does not know from the program", Application, Info, CheckApplication),
    (70, 72, "had an error in a copy engine", Driver, Warning, RestartApplication),
    (73, 73, "had an error in its video encoder", Driver, Warning, ContactSupport),
    (74, 74, "had an NVLink error", Hardware, Fatal, CheckNvlink),
    (75, 77, "had an error in a copy engine", Driver, Warning, RestartApplication),
    (78, 78, "could not start a virtual GPU", Driver, Warning, UpdateDriver),
    (79, 79, "fell off the bus", Hardware, Fatal, RestartNode),
    (80, 80, "got corrupted data", Hardware, Warning, RestartApplication),
    (81, 81, "had an error in its VGA part", Driver, Warning, ContactSupport),
    (82, 82, "had an error in a JPEG decoder", Driver, Warning, RestartApplication),
    (83, 84, "had an error in a video decoder", Driver, Warning, RestartApplication),
    (85, 85, "had an error in a copy engine", Driver, Warning, RestartApplication),
    (86, 86, "had an exception in its optical-flow engine", Driver, Warning, RestartApplication),
    (87, 87, "sent a telemetry report", Consequence, Info, Nothing),
    (88, 89, "had an error in a video decoder", Driver, Warning, RestartApplication),
    (90, 91, UNUSED, Driver, Warning, ContactSupport),
    (92, 92, "has a high rate of correctable memory errors", Hardware, Warning, ContactSupport),
    (93, 93, "has reached the wear limit set for its InfoROM", Driver, Info, ContactSupport),
    (94, 94, "had an uncorrectable memory error that hit one program only", Hardware, Warning, RestartApplication),
    (95, 95, "had an uncorrectable memory error that was not contained", Hardware, Fatal, ResetAndDiagnose),
    (96, 98, "had an error in a video decoder", Driver, Warning, RestartApplication),
    (99, 105, "had an error in a JPEG decoder", Driver, Warning, RestartApplication),
    (106, 107, "sent a test message", Consequence, Info, Nothing),
    (108, 108, "could not translate an address of a peer behind NVLink", Application, Info, CheckApplication),
    (109, 109, "did not switch contexts in time", Driver, Fatal, ResetGpu),
    (110, 110, "had a security fault", Hardware, Fatal, ResetAndDiagnose),
    (111, 118, "had an error in its display engine", Driver, Warning, ContactSupport),
    (119, 119, "had its firmware processor (GSP) stop answering", Driver, Fatal, ResetGpu),
    (120, 120, "had an error in its firmware processor (GSP)", Driver, Fatal, ResetGpu),
    (121, 121, "corrected errors on the link to its Grace CPU", Hardware, Info, ContactSupport),
    (122, 124, "could not reach its flash memory", Driver, Warning, ContactSupport),
    (125, 125, "has an error in its InfoROM", Driver, Warning, ContactSupport),
    (126, 135, "had an error in a copy engine", Driver, Warning, RestartApplication),
    (136, 136, "could not train an NVLink", Hardware, Fatal, CheckNvlink),
    (137, 137, "was denied an access to a peer over NVLink, as an invalid address causes it", Application, Info, CheckApplication),
    (138, 138, "had an error in its deep-learning accelerator", Driver, Warning, ContactSupport),
    (139, 139, "had an exception in its optical-flow engine", Driver, Warning, RestartApplication),
    (140, 140, "had an uncorrectable memory error that it could not recover from", Hardware, Fatal, ResetAndDiagnose),
    (141, 141, "had an error on CUDA's fast path", Driver, Info, ContactSupport),
    (142, 142, "had an error in its video encoder", Driver, Warning, ContactSupport),
    (143, 143, "could not be initialised", Hardware, Fatal, ResetAndDiagnose),
    (144, 150, "had an NVLink error", Hardware, Fatal, CheckNvlink),
    (151, 151, "could not rotate its encryption keys", Driver, Fatal, RestartNode),
    (152, 153, "had an error in its deep-learning accelerator", Driver, Warning, ContactSupport),
    (154, 154, "now needs another recovery action", Consequence, Info, FollowOther),
    (155, 155, "had an NVLink taken down by software", Driver, Warning, ResetGpu),
    (156, 156, "set a failing resource aside", Hardware, Warning, ResetGpu),
    (157, 157, "has no spare left for a failing resource", Hardware, Warning, ReplaceGpu),
    (158, 158, "did not answer in time, for good", Hardware, Fatal, ResetAndDiagnose),
    (159, 159, "had an error on the coherent link to its CPU", Hardware, Fatal, ResetAndDiagnose),
    (160, 160, "set a failing memory channel aside", Hardware, Warning, ContactSupport),
    (161, 161, "could not set a failing memory channel aside", Hardware, Warning, ContactSupport),
    (162, 162, "smooths its power draw again", Consequence, Info, Nothing),
    (163, 163, "no longer smooths its power draw", Hardware, Info, ContactSupport),
    (164, 165, "has worn out, or nearly so, what smooths its power draw", Hardware, Info, ContactSupport),
    (166, 166, "saw traffic on NVLink before encryption was set up", Driver, Warning, ContactSupport),
    (167, 167, "did not answer on PCIe in time, for good", Hardware, Fatal, RestartNode),
    (168, 168, "found errors in protected memory and has less of it", Hardware, Warning, ContactSupport),
    (169, 169, "had its security micro-controller halt", Hardware, Fatal, ResetAndDiagnose),
    (170, 170, "had an unexpected interrupt on encrypted NVLink", Driver, Warning, ContactSupport),
    (171, 171, "had an uncorrectable error in its DRAM", Hardware, Fatal, ResetAndDiagnose),
    (172, 172, "had an uncorrectable error in its SRAM", Hardware, Fatal, ResetAndDiagnose),
];

/// What an XID says, with the text the driver wrote after the number. A number that is not in the table is a warning.
#[must_use]
pub fn entry(number: u32, detail: &str) -> Entry {
    let row = ROWS.iter().find(|(first, last, ..)| (*first..=*last).contains(&number));
    let (said, origin, severity, action) = match row {
        Some((_, _, said, origin, severity, action)) => (*said, *origin, *severity, *action),
        None => ("reported an error that is not in C4's table", Driver, Warning, ContactSupport),
    };
    let mut entry = Entry {
        said,
        origin,
        part: part(number),
        effect: effect(number, origin, severity),
        severity,
        action,
        moment: true,
    };
    let lower = detail.to_ascii_lowercase();
    match number {
        144..=150 if lower.contains("nonfatal") || lower.contains("non-fatal") => {
            entry.said = "had an NVLink error that it recovered from";
            (entry.severity, entry.effect, entry.action) = (Warning, Effect::Slows, ContactSupport);
        }
        154 => announced(&mut entry, &lower),
        _ => {}
    }
    entry
}

/// XID 154 tells which action the driver now asks for, whatever made it necessary.
fn announced(entry: &mut Entry, lower: &str) {
    let to = lower.rsplit_once(" to ").map_or(lower, |(_, to)| to);
    let (said, severity, action) = if to.contains("node reboot required") {
        ("needs its node rebooted, says its driver", Fatal, RestartNode)
    } else if to.contains("gpu reset required") || to.contains("drain and reset") {
        ("needs a reset, says its driver", Fatal, ResetGpu)
    } else if to.contains("drain p2p") {
        ("must not talk to its peers any more, says its driver", Warning, ResetGpu)
    } else {
        return;
    };
    (entry.said, entry.severity, entry.action) = (said, severity, action);
}

fn part(number: u32) -> Part {
    match number {
        18 | 32 | 79 | 80 | 167 => Part::Pcie,
        74 | 108 | 121 | 136 | 137 | 144..=150 | 155 | 166 | 170 => Part::Fabric,
        _ => Part::Gpu,
    }
}

fn effect(number: u32, origin: Origin, severity: Severity) -> Effect {
    match (number, origin) {
        // What is repaired or announced costs time, not the job.
        (52 | 53 | 92 | 155 | 156 | 160, _) => Effect::Slows,
        (_, Application) => Effect::Stops,
        (_, Consequence) => Effect::Nothing,
        _ if severity == Info => Effect::Nothing,
        _ => Effect::Stops,
    }
}
