//! Who may do what.
//!
//! Everything that somebody asks for passes [`Gate::admit`]: a call of an operator, a page, an agent's stream. What is
//! not in [`needs`]'s table is for administrators, so a new call is closed until somebody has thought about it. The gate
//! knows a peer by the certificate that it has shown ([`c4_tls::Peer`]) or by its bearer token, and by nothing else;
//! where neither is asked for, it is whatever `access.anonymous` says.
//!
//! The [`Principal`] goes along in the extensions of the request, for whoever has to write down who did something.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use c4_detect::observation::Timestamp;
use c4_tls::Peer;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::Access;

pub mod grpc;
mod hosts;
mod needs;
pub mod oidc;
mod pace;
mod principal;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod web;

pub use hosts::Hosts;
pub use needs::{Need, needs};
use oidc::{Issuer, Refusal};
use pace::Pace;
pub use principal::{Principal, Speaks, Via};
use tokens::Tokens;

/// What somebody may do. Each may do what the ones before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Also act on jobs and nodes: approve, pause, restart.
    Operator,
    /// Everything.
    Admin,
}

/// What a certificate's name or a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// See [`Role::Viewer`].
    Viewer,
    /// See [`Role::Operator`].
    Operator,
    /// See [`Role::Admin`].
    Admin,
    /// An agent, for whatever node it says: for clusters that cannot give each node a certificate of its own.
    Agent,
}

impl Role {
    /// The name used in every interface.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

impl Grant {
    fn role(self) -> Option<Role> {
        match self {
            Grant::Viewer => Some(Role::Viewer),
            Grant::Operator => Some(Role::Operator),
            Grant::Admin => Some(Role::Admin),
            Grant::Agent => None,
        }
    }
}

/// What somebody may do who has shown nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anonymous {
    /// Nothing.
    Nothing,
    /// Look.
    Viewer,
    /// Everything, also as an agent.
    Admin,
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody knows who it is.
    #[error("show a certificate or a token: this controller lets nobody in unknown")]
    Unknown,
    /// The token is not one of ours, or not any more.
    #[error("this token is not known here")]
    BadToken,
    /// It is of an issuer, or pretends to be, and does not count.
    #[error(transparent)]
    Issued(Refusal),
    /// It may do less than that.
    #[error("this needs the role {}", .0.name())]
    Role(Need),
    /// Its browser was led here by a name that is not this controller's.
    #[error("this name is not the controller's: ask for it by its address, or list the name in access.hosts")]
    Host,
    /// Another site's page asks.
    #[error("asked for by another site")]
    Site,
    /// It asks more often than it may.
    #[error("more calls a second than one address may make (access.calls_per_second)")]
    TooFast,
}

impl Denied {
    /// For a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Denied::Unknown => "unknown",
            Denied::BadToken | Denied::Issued(_) => "bad_token",
            Denied::Role(_) => "role",
            Denied::Host => "host",
            Denied::Site => "site",
            Denied::TooFast => "too_fast",
        }
    }
}

/// Lets in, or not.
pub struct Gate {
    certificates: BTreeMap<String, Grant>,
    node_domain: Option<String>,
    anonymous: Anonymous,
    hosts: Hosts,
    tokens: watch::Receiver<Arc<Tokens>>,
    issuer: Option<Issuer>,
    pace: Mutex<Pace>,
}

impl Gate {
    /// A gate by the configuration; `tokens` may change under way.
    #[must_use]
    pub fn new(
        access: &Access,
        anonymous: Anonymous,
        tokens: watch::Receiver<Arc<Tokens>>,
        issuer: Option<Issuer>,
    ) -> Self {
        let certificates =
            access.certificates.iter().map(|(name, grant)| (name.to_ascii_lowercase(), *grant)).collect();
        Self {
            certificates,
            node_domain: access.node_domain.as_ref().map(|domain| domain.to_ascii_lowercase()),
            anonymous,
            hosts: Hosts::new(&access.hosts),
            tokens,
            issuer,
            pace: Mutex::new(Pace::new(access.calls_per_second)),
        }
    }

    /// The issuer that must be asked for its keys before [`admit`](Self::admit) can tell whether a token counts.
    fn issuer_of(&self, token: &str) -> Option<&Issuer> {
        self.issuer.as_ref().filter(|_| Issuer::is_candidate(token))
    }

    /// Who it is, if it may.
    ///
    /// # Errors
    /// It may not.
    pub fn admit(
        &self,
        peer: &Peer,
        token: Option<&str>,
        need: Need,
        now: Timestamp,
    ) -> Result<Principal, Denied> {
        // What runs on this machine is held to its role, not to a pace: a limit by address would be one for all of it.
        if !peer.is_local()
            && !self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(peer.address.ip(), now)
        {
            return Err(Denied::TooFast);
        }
        let known = self.know(peer, token);
        if need == Need::Nothing {
            return Ok(known.unwrap_or_else(|_| Principal::nobody()));
        }
        let principal = known?;
        let enough = match need {
            Need::Nothing => true,
            Need::Agent => principal.may_speak(),
            Need::AgentOrOperator => {
                principal.may_speak() || principal.role.is_some_and(|has| has >= Role::Operator)
            }
            Need::Role(role) => principal.role.is_some_and(|has| has >= role),
        };
        if enough { Ok(principal) } else { Err(Denied::Role(need)) }
    }

    /// By which names its pages may be asked for.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    fn know(&self, peer: &Peer, token: Option<&str>) -> Result<Principal, Denied> {
        // A token says more than a certificate: it was sent on purpose.
        if let Some(token) = token {
            if let Some(issuer) = self.issuer_of(token) {
                return issuer.verify(token).map_err(Denied::Issued);
            }
            return self.tokens.borrow().find(token).ok_or(Denied::BadToken);
        }
        if !peer.names.is_empty() {
            return Ok(self.certified(&peer.names));
        }
        match self.anonymous {
            Anonymous::Nothing => Err(Denied::Unknown),
            Anonymous::Viewer => Ok(Principal { role: Some(Role::Viewer), ..Principal::nobody() }),
            Anonymous::Admin => {
                Ok(Principal { role: Some(Role::Admin), speaks: Speaks::Any, ..Principal::nobody() })
            }
        }
    }

    fn certified(&self, names: &[String]) -> Principal {
        let granted: Vec<_> =
            names.iter().filter_map(|name| Some((name, *self.certificates.get(name)?))).collect();
        let strongest = granted.iter().max_by_key(|(_, grant)| grant.role());
        let name = strongest.map_or_else(|| names.first(), |(name, _)| Some(*name));
        let speaks = if granted.iter().any(|(_, grant)| *grant == Grant::Agent) {
            Speaks::Any
        } else {
            Speaks::Nodes { names: names.to_vec(), domain: self.node_domain.clone() }
        };
        Principal {
            name: name.cloned().unwrap_or_default(),
            via: Via::Certificate,
            role: granted.iter().filter_map(|(_, grant)| grant.role()).max(),
            speaks,
        }
    }
}
