//! What is asked of the kernel: links, addresses, routes over several links, shapers, and rules that lose packets.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::netlink::{CREATE, Message, Netlink, REPLACE, attribute, nest, text};

const NEWLINK: u16 = 16;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const NEWQDISC: u16 = 36;
const INET: u8 = 2;
const IFF_UP: u32 = 1;
/// Ethernet frames: what a shaper counts.
const LINKLAYER_ETHERNET: u8 = 1;

/// `struct ifinfomsg`.
fn ifinfo(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(change.to_ne_bytes());
    bytes
}

/// One end of a cable.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    /// The index the interface is to have.
    pub(super) index: u32,
}

/// Makes a pair of interfaces, one here and one in another namespace, for packets of up to so many bytes.
pub(super) fn cable(
    link: &mut Netlink,
    here: End<'_>,
    there: End<'_>,
    namespace: BorrowedFd<'_>,
    mtu: u32,
) -> io::Result<()> {
    let peer = |bytes: &mut Vec<u8>| {
        bytes.extend(ifinfo(there.index, 0, 0));
        attribute(bytes, 3, &text(there.name));
        attribute(bytes, 4, &mtu.to_ne_bytes());
        attribute(bytes, 28, &namespace.as_raw_fd().to_ne_bytes());
    };
    let message = Message::new(NEWLINK, CREATE, &ifinfo(here.index, 0, 0)).with(3, &text(here.name));
    let message = message.with(4, &mtu.to_ne_bytes());
    link.ask(message.nest(18, |info| {
        attribute(info, 1, b"veth");
        nest(info, 2, |data| nest(data, 1, peer));
    }))
}

/// Takes an interface up or down.
pub(super) fn set_up(link: &mut Netlink, index: u32, up: bool) -> io::Result<()> {
    link.ask(Message::new(NEWLINK, 0, &ifinfo(index, u32::from(up) * IFF_UP, IFF_UP)))
}

/// Gives an interface an address.
pub(super) fn address(link: &mut Netlink, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mut body = vec![INET, prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    let octets = address.octets();
    link.ask(Message::new(NEWADDR, CREATE | REPLACE, &body).with(2, &octets).with(1, &octets))
}

/// Sends what goes to a network over some next hops: by a hash where there are several, nowhere where there are none.
pub(super) fn route(
    link: &mut Netlink,
    (to, prefix): (Ipv4Addr, u8),
    hops: &[(u32, Ipv4Addr)],
) -> io::Result<()> {
    // Main table, made at boot (so nobody takes it for a routing daemon's), everywhere, unicast.
    let body = [INET, prefix, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    let (kind, flags) = if hops.is_empty() { (DELROUTE, 0) } else { (NEWROUTE, CREATE | REPLACE) };
    let mut message = Message::new(kind, flags, &body);
    if prefix > 0 {
        message = message.with(1, &to.octets());
    }
    let done = match hops {
        [] => link.ask(message),
        [(index, gateway)] => link.ask(message.with(4, &index.to_ne_bytes()).with(5, &gateway.octets())),
        several => link.ask(message.nest(9, |list| {
            for (index, gateway) in several {
                // `struct rtnexthop` and its one attribute.
                list.extend(16u16.to_ne_bytes());
                list.extend([0, 0]);
                list.extend(index.to_ne_bytes());
                attribute(list, 5, &gateway.octets());
            }
        })),
    };
    match done {
        // What is to be gone is gone.
        Err(error) if hops.is_empty() && error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// Shapes what leaves an interface: a token bucket.
pub(super) fn shape(
    link: &mut Netlink,
    index: u32,
    bytes_per_second: u32,
    burst: u32,
    queue: u32,
) -> io::Result<()> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(0x1_0000u32.to_ne_bytes());
    // At the root.
    body.extend(u32::MAX.to_ne_bytes());
    body.extend([0; 4]);
    // `struct tc_tbf_qopt`: the rate, no peak rate, the queue's length.
    let mut options = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    options.extend(bytes_per_second.to_ne_bytes());
    options.extend([0; 12]);
    options.extend(queue.to_ne_bytes());
    options.extend([0; 8]);
    let message = Message::new(NEWQDISC, CREATE | REPLACE, &body).with(1, b"tbf\0");
    link.ask(message.nest(2, |nested| {
        attribute(nested, 1, &options);
        attribute(nested, 6, &burst.to_ne_bytes());
    }))
}

/// The packet filter's messages: its subsystem is 10.
const NFT: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// `struct nfgenmsg` for IPv4.
const NFT_INET: [u8; 4] = [INET, 0, 0, 0];

/// An expression of a rule.
fn expression(list: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    nest(list, 1, |element| {
        attribute(element, 1, &text(name));
        nest(element, 2, data);
    });
}

fn number(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(bytes, kind, &value.to_be_bytes());
}

/// Compares register 1 with a value.
fn equals(list: &mut Vec<u8>, value: &[u8]) {
    expression(list, "cmp", |data| {
        number(data, 1, 1);
        number(data, 2, 0);
        nest(data, 3, |nested| attribute(nested, 1, value));
    });
}

fn batch(kind: u16) -> Message {
    Message::new(kind, 0, &[0, 0, 0, 10]).unacknowledged()
}

/// A table, and in it a chain of rules for what passes a hook.
fn chain(name: &str, hook: u32) -> [Message; 2] {
    let table = Message::new(NFT, CREATE, &NFT_INET).with(1, &text("c4"));
    let chain = Message::new(NFT | 3, CREATE, &NFT_INET).with(1, &text("c4")).with(3, &text(name));
    let chain = chain.nest(4, |at| {
        number(at, 1, hook);
        number(at, 2, 0);
    });
    [table, chain.with(7, &text("filter"))]
}

fn rule(chain: &str, expressions: impl FnOnce(&mut Vec<u8>)) -> Message {
    let rule = Message::new(NFT | 6, CREATE | 0x800, &NFT_INET);
    rule.with(1, &text("c4")).with(2, &text(chain)).nest(4, expressions)
}

/// Compares what is known of a packet with a value.
fn is(list: &mut Vec<u8>, key: u32, value: &[u8]) {
    expression(list, "meta", |data| {
        number(data, 1, 1);
        number(data, 2, key);
    });
    equals(list, value);
}

fn drop_it(list: &mut Vec<u8>) {
    expression(list, "immediate", |data| {
        number(data, 1, 0);
        nest(data, 2, |verdict| nest(verdict, 2, |code| number(code, 1, 0)));
    });
}

/// Loses one in `one_in` of the packets that are forwarded out of an interface, or came in by it.
pub(super) fn lose(filter: &mut Netlink, index: u32, one_in: u32) -> io::Result<()> {
    let mut messages = vec![batch(BATCH_BEGIN)];
    messages.extend(chain("forward", 2));
    // Incoming and outgoing interface.
    for key in [4, 5] {
        messages.push(rule("forward", |list| {
            is(list, key, &index.to_ne_bytes());
            expression(list, "numgen", |data| {
                number(data, 1, 1);
                number(data, 2, one_in);
                number(data, 3, 1);
            });
            equals(list, &[0; 4]);
            drop_it(list);
        }));
    }
    messages.push(batch(BATCH_END));
    filter.batch(messages, 4)
}

/// Takes back what [`lose`] did, for all interfaces.
pub(super) fn lose_nothing(filter: &mut Netlink) -> io::Result<()> {
    let delete = Message::new(NFT | 2, 0, &NFT_INET).with(1, &text("c4"));
    filter.batch(vec![batch(BATCH_BEGIN), delete, batch(BATCH_END)], 1)
}

/// Has nobody hear anything by ICMP from here.
pub(super) fn hush(filter: &mut Netlink) -> io::Result<()> {
    let mut messages = vec![batch(BATCH_BEGIN)];
    messages.extend(chain("output", 3));
    messages.push(rule("output", |list| {
        // The protocol: ICMP.
        is(list, 16, &[1]);
        drop_it(list);
    }));
    messages.push(batch(BATCH_END));
    filter.batch(messages, 3)
}
