//! What each call needs. The table is short on purpose: what is not in it is for administrators.

use super::Role;

/// What somebody must be for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: whether this process lives is no secret.
    Nothing,
    /// An agent.
    Agent,
    /// An agent, or an operator.
    AgentOrOperator,
    /// At least this.
    Role(Role),
}

impl Need {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Need::Nothing => "none",
            Need::Agent => "agent",
            Need::AgentOrOperator => "agent or operator",
            Need::Role(role) => role.name(),
        }
    }

    /// Whether such calls are written down, whoever makes them.
    #[must_use]
    pub fn is_privileged(self) -> bool {
        matches!(self, Need::Role(Role::Operator | Role::Admin))
    }
}

/// Prefixes of calls that only look.
const LOOKS: [&str; 3] = ["Get", "List", "Watch"];

/// What a gRPC call needs, by its path (`/c4.v1.Operations/GetJob`).
#[must_use]
pub fn needs(path: &str) -> Need {
    match path.strip_prefix("/c4.v1.").and_then(|rest| rest.split_once('/')) {
        Some(("Telemetry", "Stream")) => Need::Agent,
        Some(("Operations" | "Pictures" | "Steering", call))
            if LOOKS.iter().any(|prefix| call.starts_with(prefix)) =>
        {
            Need::Role(Role::Viewer)
        }
        Some(("Steering", "ReportCheckpoint")) => Need::AgentOrOperator,
        Some(("Steering", "Decide") | ("Alerting", "TestReceivers")) => Need::Role(Role::Operator),
        _ => Need::Role(Role::Admin),
    }
}
