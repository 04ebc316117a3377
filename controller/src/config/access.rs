//! Who may connect, and what for.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use c4_tls::ServerFiles;
use serde::{Deserialize, Serialize};

use super::{Config, Oidc};
use crate::access::{Anonymous, Grant};

/// How often files of certificates and tokens are looked at. Rotations leave hours; people who take a token back wait.
pub const REREAD: Duration = Duration::from_secs(2);

/// The files that connections are protected with. All are read again when they change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The controller's certificate, with intermediate ones (PEM). Required.
    pub certificate: PathBuf,
    /// Its private key (PEM). Required.
    pub key: PathBuf,
    /// Who signs the certificates of agents and operators (PEM). Default: nobody, so that only tokens count.
    pub client_ca: Option<PathBuf>,
    /// Certificates that no longer count: a revocation list of that authority (PEM). Default: none.
    pub revoked: Option<PathBuf>,
}

impl Tls {
    /// The same as the listeners take it.
    #[must_use]
    pub fn files(&self) -> ServerFiles {
        ServerFiles {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            client_ca: self.client_ca.clone(),
            revoked: self.revoked.clone(),
        }
    }
}

/// Who may do what, and how much of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// File of bearer tokens, as `c4-controller --new-token` prints its lines. Default: none.
    pub tokens: Option<PathBuf>,
    /// Whose signed tokens count besides. Default: nobody's.
    pub oidc: Option<Oidc>,
    /// What names in certificates stand for, beside agents whose certificate has the name of their node.
    pub certificates: BTreeMap<String, Grant>,
    /// What may follow a node's name in its certificate: with `cluster.example`, `gpu-17.cluster.example` is gpu-17's.
    pub node_domain: Option<String>,
    /// What somebody may do who shows nothing. Default: everything as long as there is neither `tls` nor `tokens` nor `oidc`,
    /// since then only this machine can connect; else nothing.
    pub anonymous: Option<Anonymous>,
    /// Names, such as `c4.example`, by which pages and metrics may be asked for without `tls`, besides the controller's
    /// addresses and `localhost`. Default: none. Over TLS the certificate says which names are right.
    pub hosts: Vec<String>,
    /// Calls and pages a second from one address, this machine's own aside. Default 50: a page that refreshes each
    /// second, scripts, and many people behind one address.
    pub calls_per_second: f64,
    /// Messages a second of one agent's stream; a faster one is read more slowly, and nothing is lost. Default 2000: an
    /// agent of eight ranks sends some ten, and has a spool of 10,000 to deliver after an outage.
    pub messages_per_second: f64,
    /// Connections at once, gRPC and pages together. Default 30,000: an agent for each of 20,000 nodes, and people.
    pub connections: usize,
    /// Connections at once from one address, this machine's own aside. Default 256: a node has one for its agent and
    /// one for each job under `c4-agent run`; raise it where many nodes share an address.
    pub connections_per_address: usize,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            tokens: None,
            oidc: None,
            certificates: BTreeMap::new(),
            node_domain: None,
            anonymous: None,
            hosts: Vec::new(),
            calls_per_second: 50.0,
            messages_per_second: 2000.0,
            connections: 30_000,
            connections_per_address: 256,
        }
    }
}

impl Config {
    /// What somebody may do who shows nothing.
    #[must_use]
    pub fn anonymous(&self) -> Anonymous {
        self.access.anonymous.unwrap_or(match (&self.tls, &self.access.tokens, &self.access.oidc) {
            (None, None, None) => Anonymous::Admin,
            _ => Anonymous::Nothing,
        })
    }
}
