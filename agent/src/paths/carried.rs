//! What planned connections carry, by path: the kernel counts the bytes of every TCP connection, and which path its source
//! port takes is known. So what links carry is measured at hosts, and no switch is asked. No I/O, no clock.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{discovery::Hops, knowledge::Seen};

/// A TCP connection as the kernel tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its own end.
    pub from: SocketAddr,
    /// The other.
    pub to: SocketAddr,
    /// Bytes that the other end has acknowledged.
    pub bytes: u64,
}

/// Answers of the kernel that make no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DiagError {
    /// It refuses.
    #[error("the kernel refuses to list sockets: errno {0}")]
    Refused(i32),
    /// Something is cut off.
    #[error("the kernel's list of sockets is damaged: a message of {0} bytes")]
    Damaged(usize),
}

const HEADER: usize = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const DONE: u16 = 3;
const ERROR: u16 = 2;
/// `struct inet_diag_msg`, and where `struct tcp_info` has the bytes that were acknowledged.
const MESSAGE: usize = 72;
const INFO: u16 = 2;
const BYTES_ACKED: usize = 120;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// A bit for the state of connections that are made.
const ESTABLISHED: u32 = 1 << 1;

/// The question: connections of this address family that were made from these ports, with what the kernel counts of them.
#[must_use]
pub fn question(v6: bool, ports: &std::ops::Range<u16>) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend([if v6 { AF_INET6 } else { AF_INET }, IPPROTO_TCP, 1 << (INFO - 1), 0]);
    bytes.extend(ESTABLISHED.to_ne_bytes());
    bytes.resize(bytes.len() + 48, 0);
    // A program for the kernel (`struct inet_diag_bc_op`): source port at least, else to beyond the end; at most, else the same.
    let mut program = Vec::new();
    for (code, no, port) in [(2u8, 20u16, ports.start), (3, 12, ports.end.saturating_sub(1))] {
        program.extend([code, 8]);
        program.extend(no.to_ne_bytes());
        program.extend([0, 0]);
        program.extend(port.to_ne_bytes());
    }
    bytes.extend((4 + program.len() as u16).to_ne_bytes());
    bytes.extend(1u16.to_ne_bytes());
    bytes.extend(program);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    // A request for a dump.
    bytes[6..8].copy_from_slice(&0x301u16.to_ne_bytes());
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads a part of the answer; whether it was the last.
///
/// # Errors
/// When it is an error, or damaged.
pub fn read(mut bytes: &[u8], into: &mut Vec<Connection>) -> Result<bool, DiagError> {
    while !bytes.is_empty() {
        let damaged = DiagError::Damaged(bytes.len());
        let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) else { return Err(damaged) };
        let length = length as usize;
        let Some(message) = bytes.get(HEADER..length) else { return Err(damaged) };
        match kind {
            DONE => return Ok(true),
            ERROR => {
                return Err(DiagError::Refused(
                    u32_at(message, 0).unwrap_or(0).cast_signed().saturating_neg(),
                ));
            }
            _ => into.extend(connection(message)),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// A connection; none where the kernel does not say enough.
fn connection(message: &[u8]) -> Option<Connection> {
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = message.get(at..at + 16)?.try_into().ok()?;
        Some(match message[0] {
            AF_INET => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
            // An IPv4 connection of a socket that can do both is one.
            _ => Ipv6Addr::from(bytes).to_canonical(),
        })
    };
    let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let from = SocketAddr::new(address(8)?, port(4)?);
    let to = SocketAddr::new(address(24)?, port(6)?);
    let mut attributes = message.get(MESSAGE..)?;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(4..length)?;
        if kind == INFO {
            let bytes = value.get(BYTES_ACKED..BYTES_ACKED + 8)?.try_into().ok()?;
            return Some(Connection { from, to, bytes: u64::from_ne_bytes(bytes) });
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// See the module.
#[derive(Debug, Default)]
pub struct Carried {
    before: Option<HashMap<(SocketAddr, SocketAddr), u64>>,
    sums: BTreeMap<Seen, u64>,
}

impl Carried {
    /// Takes in all connections there are; `path` says which one a connection takes, if that is known. What they carried
    /// before the first call does not count.
    pub fn update(&mut self, connections: &[Connection], path: impl Fn(&Connection) -> Option<Hops>) {
        let before = self.before.take();
        for connection in connections {
            let key = (connection.from, connection.to);
            let known = before.as_ref().map(|before| before.get(&key).copied());
            let new = match known {
                None => continue,
                Some(before) => {
                    let before = before.filter(|before| *before <= connection.bytes).unwrap_or(0);
                    connection.bytes - before
                }
            };
            if let Some(hops) = path(connection).filter(|_| new > 0) {
                let seen = Seen { from: connection.from.ip(), to: connection.to.ip(), hops };
                *self.sums.entry(seen).or_insert(0) += new;
            }
        }
        self.before = Some(connections.iter().map(|one| ((one.from, one.to), one.bytes)).collect());
    }

    /// Bytes that went over each path since the first call.
    #[must_use]
    pub fn sums(&self) -> &BTreeMap<Seen, u64> {
        &self.sums
    }

    /// Paths are others now.
    pub fn forget(&mut self) {
        self.sums.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of the kernel with one connection.
    fn answer(acked: u64) -> Vec<u8> {
        let mut message = vec![AF_INET, 1, 0, 0];
        message.extend(20_001u16.to_be_bytes());
        message.extend(30_000u16.to_be_bytes());
        message.extend([10, 0, 0, 1]);
        message.resize(24, 0);
        message.extend([10, 0, 1, 1]);
        message.resize(MESSAGE, 0);
        // Something else first.
        message.extend([5, 0, 8, 0, 1, 0, 0, 0]);
        message.extend((4 + 200u16).to_ne_bytes());
        message.extend(INFO.to_ne_bytes());
        let mut info = vec![0; 200];
        info[BYTES_ACKED..BYTES_ACKED + 8].copy_from_slice(&acked.to_ne_bytes());
        message.extend(info);
        let mut bytes = (HEADER as u32 + message.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(message);
        bytes
    }

    fn done() -> Vec<u8> {
        let mut bytes = 20u32.to_ne_bytes().to_vec();
        bytes.extend(DONE.to_ne_bytes());
        bytes.resize(20, 0);
        bytes
    }

    #[test]
    fn connections_are_read_and_what_is_cut_off_is_refused() {
        let mut found = Vec::new();
        assert_eq!(read(&[answer(700), answer(900)].concat(), &mut found), Ok(false));
        assert_eq!(read(&done(), &mut found), Ok(true));
        let ends = (([10, 0, 0, 1], 20_001).into(), ([10, 0, 1, 1], 30_000).into());
        assert_eq!(found[0], Connection { from: ends.0, to: ends.1, bytes: 700 });
        assert_eq!(found.len(), 2);
        for length in 1..answer(1).len() {
            assert!(read(&answer(1)[..length], &mut Vec::new()).is_err(), "{length}");
        }
        let mut error = done();
        error[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        error[16..20].copy_from_slice(&(-2i32).to_ne_bytes());
        assert_eq!(read(&error, &mut found), Err(DiagError::Refused(2)));
    }

    #[test]
    fn bytes_count_for_the_path_of_their_port() {
        let mut carried = Carried::default();
        let one = |port, bytes| Connection {
            from: ([10, 0, 0, 1], port).into(),
            to: ([10, 0, 1, 1], 30_000).into(),
            bytes,
        };
        let path = |of: &Connection| match of.from.port() {
            1 => Some(vec![[172, 16, 0, 1].into()]),
            2 => Some(vec![[172, 16, 0, 2].into()]),
            _ => None,
        };
        carried.update(&[one(1, 1_000)], path);
        assert!(carried.sums().is_empty(), "it was there before");
        carried.update(&[one(1, 1_500), one(2, 70), one(3, 9)], path);
        // Port 2 belongs to another connection now.
        carried.update(&[one(1, 1_500), one(2, 20)], path);
        assert_eq!(carried.sums().values().copied().collect::<Vec<_>>(), [500, 90]);
    }
}
