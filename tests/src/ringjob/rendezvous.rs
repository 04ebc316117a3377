//! How ranks find each other: each writes its address into a directory, connects to the next rank and is connected to
//! by the previous one, once a channel.
//!
//! A directory outlives the processes that wrote into it, so everything in it may be stale: the names carry the
//! incarnation of the job, an entry of a process that is gone is passed over, and both ends of a connection say which
//! communicator they mean before they use it.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{args::Args, checkpoint::replace_file, clock};

/// How long to wait before looking into the directory again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long the other end of a fresh connection may take to say who it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// A ring that is connected.
#[derive(Debug)]
pub struct Ring {
    /// Identity of the communicator, the same on all ranks.
    pub comm_id: u64,
    /// Iterations that are already done, the same on all ranks.
    pub start_iteration: u64,
    /// Connections, by channel.
    pub links: Vec<Link>,
}

/// One channel's connections.
#[derive(Debug)]
pub struct Link {
    /// To the next rank.
    pub next: TcpStream,
    /// From the previous rank.
    pub previous: TcpStream,
}

/// What a rank writes into the directory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    pid: u32,
    start_ticks: u64,
    address: SocketAddr,
    /// Only rank 0's counts.
    comm_id: u64,
    /// Only rank 0's counts.
    start_iteration: u64,
}

/// First bytes on a connection, from the one who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Greeting {
    comm_id: u64,
    rank: u32,
    channel: u32,
}

impl Greeting {
    const BYTES: usize = 16;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.comm_id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.rank.to_le_bytes());
        bytes[12..].copy_from_slice(&self.channel.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { comm_id: u64::from(word(0)) | u64::from(word(4)) << 32, rank: word(8), channel: word(12) }
    }
}

/// Meets the other ranks and connects to the neighbours.
///
/// # Errors
/// When the directory or a socket fails, or somebody is missing at the deadline; the message says who.
pub fn meet(args: &Args, start_iteration: u64) -> anyhow::Result<Ring> {
    let deadline = clock::now() + Duration::from_secs(args.rendezvous_timeout);
    let dir = args.rendezvous.join(format!("incarnation-{}", args.incarnation));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let listener =
        TcpListener::bind((args.listen, 0)).with_context(|| format!("cannot listen on {}", args.listen))?;
    let own = Entry {
        pid: std::process::id(),
        start_ticks: start_ticks(std::process::id()).unwrap_or(0),
        address: listener.local_addr().context("the listener has no address")?,
        comm_id: super::mix(&[args.seed, u64::from(std::process::id()), clock::unix_us()]),
        start_iteration,
    };
    let path = entry_path(&dir, args.rank);
    replace_file(&path, &serde_json::to_string(&own)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let root = if args.rank == 0 { own } else { wait_for(&dir, 0, deadline)? };
    let links = if args.world_size == 1 {
        Vec::new()
    } else {
        connect(args, &dir, &listener, root.comm_id, deadline)?
    };
    Ok(Ring { comm_id: root.comm_id, start_iteration: root.start_iteration, links })
}

fn connect(
    args: &Args,
    dir: &Path,
    listener: &TcpListener,
    comm_id: u64,
    deadline: Instant,
) -> anyhow::Result<Vec<Link>> {
    let next_rank = (args.rank + 1) % args.world_size;
    let previous_rank = (args.rank + args.world_size - 1) % args.world_size;
    let mut next = Vec::new();
    let entry = wait_for(dir, next_rank, deadline)?;
    for channel in 0..args.channels as u32 {
        let mut stream = TcpStream::connect(entry.address)
            .with_context(|| format!("cannot connect to rank {next_rank} at {}", entry.address))?;
        stream.write_all(&Greeting { comm_id, rank: args.rank, channel }.to_bytes())?;
        next.push(stream);
    }
    let mut previous: Vec<Option<TcpStream>> = (0..args.channels).map(|_| None).collect();
    listener.set_nonblocking(true)?;
    while previous.iter().any(Option::is_none) {
        let (mut stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(clock::now() < deadline, "rank {previous_rank} did not connect in time");
                std::thread::sleep(LOOK_AGAIN);
                continue;
            }
            Err(error) => return Err(error).context("cannot accept a connection"),
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
        let mut bytes = [0; Greeting::BYTES];
        let greeting = stream.read_exact(&mut bytes).map(|()| Greeting::from_bytes(bytes));
        match greeting {
            Ok(greeting) if greeting.comm_id == comm_id && greeting.rank == previous_rank => {
                let slot = previous.get_mut(greeting.channel as usize);
                let Some(slot @ None) = slot else {
                    bail!("rank {previous_rank} connected for channel {} twice or wrongly", greeting.channel);
                };
                *slot = Some(stream);
            }
            Ok(other) => eprintln!("ringjob rank {}: turned away {from}: {other:?}", args.rank),
            Err(error) => eprintln!("ringjob rank {}: turned away {from}: {error}", args.rank),
        }
    }
    let links = next.into_iter().zip(previous.into_iter().flatten());
    let links: Vec<Link> = links.map(|(next, previous)| Link { next, previous }).collect();
    for link in &links {
        link.next.set_nodelay(true)?;
        link.next.set_nonblocking(true)?;
        link.previous.set_nonblocking(true)?;
    }
    Ok(links)
}

fn entry_path(dir: &Path, rank: u32) -> PathBuf {
    dir.join(format!("rank-{rank}.json"))
}

/// Waits until `rank` has written an entry and lives.
fn wait_for(dir: &Path, rank: u32, deadline: Instant) -> anyhow::Result<Entry> {
    let path = entry_path(dir, rank);
    loop {
        let entry: Option<Entry> =
            fs::read_to_string(&path).ok().and_then(|content| serde_json::from_str(&content).ok());
        if let Some(entry) = entry
            && start_ticks(entry.pid) == Some(entry.start_ticks)
        {
            return Ok(entry);
        }
        ensure!(clock::now() < deadline, "rank {rank} did not come in time ({})", path.display());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Start time of a process in clock ticks since boot: with the pid it names a process for ever.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_survives_the_wire() {
        let greeting = Greeting { comm_id: 0x0123_4567_89ab_cdef, rank: 7, channel: 3 };
        assert_eq!(Greeting::from_bytes(greeting.to_bytes()), greeting);
    }

    #[test]
    fn entries_of_dead_processes_are_passed_over() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let own = start_ticks(std::process::id()).expect("this process lives");
        let mut entry = Entry {
            pid: std::process::id(),
            start_ticks: own + 1,
            address: "127.0.0.1:1".parse().expect("an address"),
            comm_id: 1,
            start_iteration: 0,
        };
        let write = |entry: &Entry| {
            let content = serde_json::to_string(entry).expect("serialisable");
            replace_file(&entry_path(dir.path(), 0), &content).expect("written");
        };
        write(&entry);
        let error = wait_for(dir.path(), 0, clock::now()).expect_err("started at another time").to_string();
        assert!(error.contains("rank 0"), "{error}");
        entry.start_ticks = own;
        write(&entry);
        assert_eq!(wait_for(dir.path(), 0, clock::now()).expect("alive"), entry);
    }
}
