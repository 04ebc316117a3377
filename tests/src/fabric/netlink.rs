//! Netlink by hand: the few messages that a fabric needs. The usual crates know no shapers and no packet filter, so this
//! is less than what would have to be added to them.

use std::io;

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
    },
};

/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST: u16 = 0x1 | 0x4;
/// Make what is not there.
pub(super) const CREATE: u16 = 0x400;
/// Replace what is there.
pub(super) const REPLACE: u16 = 0x100;
const HEADER: usize = 16;
const ERROR: u16 = 2;
/// A flag of attributes that hold attributes.
const NESTED: u16 = 0x8000;

/// A request.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request that is acknowledged, with the structure that follows the header.
    pub(super) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend(body);
        Self { bytes }
    }

    /// Takes back that it is to be acknowledged: what stands at the ends of a batch is not.
    pub(super) fn unacknowledged(mut self) -> Self {
        self.bytes[6] &= !0x4;
        self
    }

    /// Adds an attribute.
    #[must_use]
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.bytes, kind, value);
        self
    }

    /// Adds an attribute that holds others.
    #[must_use]
    pub(super) fn nest(mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) -> Self {
        nest(&mut self.bytes, kind, fill);
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// Adds an attribute to a list of them.
pub(super) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Adds an attribute that holds what is filled in.
pub(super) fn nest(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend((kind | NESTED).to_ne_bytes());
    fill(bytes);
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// A name as the kernel takes it.
pub(super) fn text(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// A netlink socket, in the network namespace it was opened in.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// To the part of the kernel that has links, addresses, routes and shapers.
    pub(super) fn route() -> io::Result<Self> {
        // Its number is 0, as that of no protocol in particular.
        Self::open(None)
    }

    /// To the packet filter.
    pub(super) fn filter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Has something done.
    pub(super) fn ask(&mut self, message: Message) -> io::Result<()> {
        self.batch(vec![message], 1)
    }

    /// Has several things done at once, so many of which are acknowledged.
    pub(super) fn batch(&mut self, messages: Vec<Message>, answers: usize) -> io::Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence += 1;
            bytes.extend(message.finish(self.sequence));
        }
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut seen = 0;
        let mut buffer = [0u8; 16384];
        while seen < answers {
            let (got, _) = recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            let mut rest = &buffer[..got];
            while rest.len() >= HEADER + 4 {
                let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if u16::from_ne_bytes([rest[4], rest[5]]) == ERROR {
                    let error = i32::from_ne_bytes([rest[16], rest[17], rest[18], rest[19]]);
                    if error != 0 {
                        return Err(io::Error::from_raw_os_error(-error));
                    }
                    seen += 1;
                }
                rest = rest.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }
}
