//! The fault injector: files through which a test job can be told to misbehave, signals, and blocked sockets.
//!
//! Everything goes through one directory (`C4_FAULT_DIR`) that the job's workers share with the injector:
//! `rank-<r>.pid` and `rank-<r>.iteration` are written by the worker, `rank-<r>.json` ([`WorkerFault`]) is read by it
//! once an iteration, and `net-<pid>.json` ([`NetFault`]) is read by the preloaded `libc4_netfault.so`. Files survive a
//! worker's death, so every reader copes with stale ones.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub mod inject;
pub mod sockets;

/// What a worker is to do wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum WorkerFault {
    /// Sleep before the collectives of every iteration.
    Sleep {
        /// How long, in microseconds.
        us: u64,
        /// The last iteration to do so; for ever if absent.
        #[serde(default)]
        until_iteration: Option<u64>,
    },
    /// Leave out one collective.
    Skip {
        /// Only once; else one in every iteration.
        #[serde(default)]
        once: bool,
    },
    /// Do one collective with another size.
    Resize {
        /// Only once; else one in every iteration.
        #[serde(default)]
        once: bool,
    },
    /// Keep the GPU's stream busy before the collectives of every iteration.
    Busy {
        /// How long, in microseconds.
        us: u64,
        /// The last iteration to do so; for ever if absent.
        #[serde(default)]
        until_iteration: Option<u64>,
    },
}

/// What happens to a process's connections to some ports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetFault {
    /// Ports of the peer.
    pub peer_ports: Vec<u16>,
    /// What to do to them.
    pub mode: NetMode,
    /// Rate of all these connections together in mode `slow`.
    #[serde(default)]
    pub bytes_per_second: u64,
    /// Whether receiving suffers too; sending always does.
    #[serde(default)]
    pub receive: bool,
}

/// How connections suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetMode {
    /// Nothing passes.
    Block,
    /// Little passes.
    Slow,
}

/// The directory that worker and injector share.
#[derive(Clone, Debug)]
pub struct FaultDir(pub PathBuf);

impl FaultDir {
    /// File with the fault of a rank.
    #[must_use]
    pub fn fault(&self, rank: u32) -> PathBuf {
        self.0.join(format!("rank-{rank}.json"))
    }

    /// File with the process id of a rank.
    #[must_use]
    pub fn pid(&self, rank: u32) -> PathBuf {
        self.0.join(format!("rank-{rank}.pid"))
    }

    /// File with the iteration of a rank: `iteration unix_us`.
    #[must_use]
    pub fn iteration(&self, rank: u32) -> PathBuf {
        self.0.join(format!("rank-{rank}.iteration"))
    }

    /// File with the socket faults of a process.
    #[must_use]
    pub fn net(&self, pid: u32) -> PathBuf {
        self.0.join(format!("net-{pid}.json"))
    }

    /// The fault a rank is told to have, if any.
    ///
    /// # Errors
    /// When there is one that cannot be understood.
    pub fn read_fault(&self, rank: u32) -> io::Result<Option<WorkerFault>> {
        let content = match fs::read_to_string(self.fault(rank)) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        serde_json::from_str(&content).map(Some).map_err(io::Error::from)
    }

    /// The iteration a rank has come to and when it said so (Unix time in microseconds), if it has said so.
    #[must_use]
    pub fn read_iteration(&self, rank: u32) -> Option<(u64, u64)> {
        let content = fs::read_to_string(self.iteration(rank)).ok()?;
        let (iteration, unix_us) = content.trim().split_once(' ')?;
        Some((iteration.parse().ok()?, unix_us.parse().ok()?))
    }
}

/// Takes a file away, whether or not it is there.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
