//! What sensors can report, in one place: what it means, whose fault it is, what a job suffers from it, and what to do.
//!
//! The agent takes severities from here, the detector decides by it whether an event can be the cause of a symptom, and
//! people read its words in sentences and in `c4ctl explain`. XIDs ([`xid`]) and SXIDs ([`sxid`]) follow what NVIDIA
//! documents, in our own words; `signals` holds what C4's own sensors find. An entry is a matter of fact, not of policy:
//! thresholds are the agent's, actions are the operator's.

mod signals;
pub mod sxid;
pub mod xid;

use serde::{Deserialize, Serialize};

use crate::observation::Severity;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The hardware, as far as can be told from outside.
    Hardware,
    /// Driver or firmware, which a reset may cure; broken hardware can look the same.
    Driver,
    /// The program that ran: other hardware would not help.
    Application,
    /// It follows from something else, or is a note: never a cause.
    Consequence,
}

/// What the event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A GPU.
    Gpu,
    /// The way between host and GPU.
    Pcie,
    /// NVLink or an NVSwitch.
    Fabric,
    /// A network interface and its link.
    Nic,
    /// The node.
    Host,
}

/// What becomes of a rank that has to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It stands still or dies.
    Stops,
    /// It goes on, but slower.
    Slows,
    /// Nothing by itself.
    Nothing,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing.
    Nothing,
    /// See [`Action::words`].
    FollowOther,
    /// See [`Action::words`].
    CheckApplication,
    /// See [`Action::words`].
    RestartApplication,
    /// See [`Action::words`].
    ResetGpu,
    /// See [`Action::words`].
    ResetAndDiagnose,
    /// See [`Action::words`].
    ResetFabric,
    /// See [`Action::words`].
    RestartNode,
    /// See [`Action::words`].
    ReplaceGpu,
    /// See [`Action::words`].
    CheckNvlink,
    /// See [`Action::words`].
    CheckPower,
    /// See [`Action::words`].
    CheckCooling,
    /// See [`Action::words`].
    CheckSeating,
    /// See [`Action::words`].
    CheckNetwork,
    /// See [`Action::words`].
    CheckHost,
    /// See [`Action::words`].
    UpdateDriver,
    /// See [`Action::words`].
    ContactSupport,
}

impl Action {
    /// What to do, as a sentence without its full stop.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing needs to be done",
            Self::FollowOther => "act on the event that came with it; by itself it asks for nothing",
            Self::CheckApplication => {
                "look for the mistake in the program (compute-sanitizer finds bad addresses) and restart it; the hardware is not to blame unless other programs fail on it too"
            }
            Self::RestartApplication => {
                "restart the job; if it comes again on the same GPU, drain the node and contact support"
            }
            Self::ResetGpu => "drain the node, reset the GPU and restart the job",
            Self::ResetAndDiagnose => {
                "drain the node, reset the GPU and run the vendor's diagnostics (dcgmi diag -r 3); if it comes again, have the GPU replaced"
            }
            Self::ResetFabric => {
                "drain the node and reset all its GPUs and NVSwitches together, or reboot it"
            }
            Self::RestartNode => {
                "drain the node and reboot it; if it comes again, have seating, power and the GPU itself checked for replacement"
            }
            Self::ReplaceGpu => "drain the node and have the GPU replaced: it cannot repair itself any more",
            Self::CheckNvlink => {
                "drain the node and reset the GPU; if it comes again, find out with nvidia-smi nvlink which end of the link fails and have that replaced"
            }
            Self::CheckPower => "check the power supply and its cables to the GPU",
            Self::CheckCooling => "check fans, air flow or coolant and the temperature of the room",
            Self::CheckSeating => {
                "reseat the card or its riser, and reboot; if it comes again, have it replaced"
            }
            Self::CheckNetwork => {
                "check cable, transceiver and the switch port at the other end, and clean or replace them"
            }
            Self::CheckHost => "find out what else runs on the node, and move it away",
            Self::UpdateDriver => "update driver and firmware to versions that belong together",
            Self::ContactSupport => "note it; if it comes again, contact the vendor's support",
        }
    }
}

/// What is known of one kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What happened, as the end of a sentence that begins with the component: "fell off the bus".
    pub said: &'static str,
    /// Whose fault.
    pub origin: Origin,
    /// What it is about.
    pub part: Part,
    /// What a rank suffers.
    pub effect: Effect,
    /// How bad.
    pub severity: Severity,
    /// What to do.
    pub action: Action,
    /// Whether it happens at a moment; else it is a condition, which lasts until it is taken back.
    pub moment: bool,
}

/// What is known of an event, by its code and the text that came with it (which may say more than the number does).
#[must_use]
pub fn entry(code: &str, detail: &str) -> Option<Entry> {
    if let Some(number) = code.strip_prefix("sxid-") {
        return number.parse().ok().map(|number| sxid::entry(number, detail));
    }
    if let Some(number) = code.strip_prefix("xid-") {
        return number.parse().ok().map(|number| xid::entry(number, detail));
    }
    signals::entry(code)
}

/// Whether healthy components report it now and then for a while, so that it is worth a warning only if it lasts.
#[must_use]
pub fn comes_and_goes(code: &str) -> bool {
    signals::comes_and_goes(code)
}

/// The process that the driver names in the text of an XID: "pid=4711".
#[must_use]
pub fn pid(detail: &str) -> Option<u32> {
    let (_, rest) = detail.split_once("pid=")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// How a code is written in sentences: "XID 79", "SXID 20034"; C4's own codes as they are.
#[must_use]
pub fn title(code: &str) -> String {
    if let Some(number) = code.strip_prefix("sxid-") {
        return format!("SXID {number}");
    }
    match code.strip_prefix("xid-") {
        Some(number) => format!("XID {number}"),
        None => code.to_owned(),
    }
}

#[cfg(test)]
mod tests;
