//! Somebody who is known.

use c4_detect::observation::{JobId, NodeName};

use super::Role;

/// By what somebody is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By nothing: see `access.anonymous`.
    Nothing,
    /// By a client certificate.
    Certificate,
    /// By a bearer token of ours.
    Token,
    /// By a token of the issuer in `access.oidc`.
    Oidc,
}

impl Via {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Via::Nothing => "nothing",
            Via::Certificate => "certificate",
            Via::Token => "token",
            Via::Oidc => "oidc",
        }
    }
}

/// For whom an agent may speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// For nobody.
    No,
    /// For any node.
    Any,
    /// For any node, but only about one job.
    Job(JobId),
    /// For nodes that have one of these names, or would with the domain after theirs.
    Nodes {
        /// Names in its certificate, in lower case.
        names: Vec<String>,
        /// What may follow a node's name in a certificate.
        domain: Option<String>,
    },
}

/// Somebody who is known, and what it may do. Found in the extensions of every request that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// What to call it: a name in its certificate, or its token's name. Never the token.
    pub name: String,
    /// By what it is known.
    pub via: Via,
    /// What it may do, if it is an operator of any kind.
    pub role: Option<Role>,
    pub(super) speaks: Speaks,
}

impl Principal {
    pub(super) fn nobody() -> Self {
        Self { name: "anonymous".into(), via: Via::Nothing, role: None, speaks: Speaks::No }
    }

    pub(super) fn may_speak(&self) -> bool {
        self.speaks != Speaks::No
    }

    /// Whether it may speak for `node`.
    #[must_use]
    pub fn speaks_for(&self, node: &NodeName) -> bool {
        match &self.speaks {
            Speaks::No => false,
            Speaks::Any | Speaks::Job(_) => true,
            Speaks::Nodes { names, domain } => {
                let node = node.0.to_ascii_lowercase();
                let full = domain.as_ref().map(|domain| format!("{node}.{domain}"));
                names.iter().any(|name| *name == node || Some(name) == full.as_ref())
            }
        }
    }

    /// The only job it may speak about; `None`: any.
    #[must_use]
    pub fn only_job(&self) -> Option<&JobId> {
        match &self.speaks {
            Speaks::Job(job) => Some(job),
            _ => None,
        }
    }
}
