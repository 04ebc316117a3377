//! Several controllers.

use std::path::PathBuf;

use c4_tls::ClientFiles;
use serde::{Deserialize, Serialize};

/// Several controllers share an etcd: one leads, the others stand by. They have the same configuration but for their names
/// and addresses. What must survive them is in etcd, and `state` is not used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ha {
    /// Members of etcd (3.4 or later), such as `https://etcd-0:2379`. Required.
    pub etcd: Vec<String>,
    /// How to connect to `https://` members. Default: not over TLS, and then only to this machine.
    pub tls: Option<EtcdTls>,
    /// Where in etcd everything is kept. Default `/c4`; to be different for each cluster that shares an etcd.
    pub prefix: String,
    /// Name of this controller. Default: the name of its machine.
    pub name: Option<String>,
    /// Where the others, agents and operators reach this one, such as `https://c4-0:4400`. Default: where it listens.
    pub address: Option<String>,
    /// The lead is lost when the lease was not renewed for so long. Default 3: a machine that dies is replaced in four
    /// seconds, and a disk of etcd that stalls for two does no harm.
    pub lease_seconds: u16,
}

/// The files that connections to etcd are protected with. All are read again for each connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdTls {
    /// Who signs etcd's certificates (PEM). Required.
    pub ca: PathBuf,
    /// The controller's certificate for etcd (PEM), whose name etcd may give rights to. Default: none.
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM). Goes with it.
    pub key: Option<PathBuf>,
}

impl EtcdTls {
    /// The same as connections take it.
    #[must_use]
    pub fn files(&self) -> ClientFiles {
        let identity = self.certificate.clone().zip(self.key.clone());
        ClientFiles { ca: self.ca.clone(), identity, server_name: None }
    }
}

impl Default for Ha {
    fn default() -> Self {
        Self {
            etcd: Vec::new(),
            tls: None,
            prefix: "/c4".into(),
            name: None,
            address: None,
            lease_seconds: 3,
        }
    }
}
