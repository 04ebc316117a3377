//! Asks the kernel for connections and what they have carried (`NETLINK_SOCK_DIAG`, as `ss -i` does): no privilege is
//! needed. Those of its own network namespace only, which is where jobs are that use the host's network.

use std::{io, ops::Range, os::fd::AsRawFd};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
            sockopt,
        },
        time::TimeVal,
    },
};

use super::carried::{Connection, question, read};

/// The kernel answers at once; if not, it will not.
const PATIENCE: TimeVal = TimeVal::new(2, 0);

/// Connections made from these ports.
///
/// # Errors
/// When the kernel does not tell.
pub fn connections(ports: &Range<u16>) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for v6 in [false, true] {
        match ask(&question(v6, ports), &mut found) {
            // A kernel without IPv6 has no such connections.
            Err(error) if v6 && error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            other => other?,
        }
    }
    Ok(found)
}

fn ask(question: &[u8], found: &mut Vec<Connection>) -> io::Result<()> {
    let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag);
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    setsockopt(&kernel, sockopt::ReceiveTimeout, &PATIENCE)?;
    send(kernel.as_raw_fd(), question, MsgFlags::empty())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(kernel.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if length == 0 || read(&buffer[..length], found).map_err(io::Error::other)? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn what_a_connection_has_sent_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (mut server, _) = listener.accept().expect("comes");
        client.write_all(&[7; 5_000]).expect("sends");
        let mut bytes = [0; 5_000];
        server.read_exact(&mut bytes).expect("comes");
        let (from, to) = (client.local_addr().expect("bound"), client.peer_addr().expect("connected"));
        // None where the kernel has no figures to give.
        let own = || {
            let all = connections(&(from.port()..from.port() + 1)).ok()?;
            assert!(all.iter().all(|one| one.from.port() == from.port()), "{all:?}");
            Some(all.into_iter().find(|one| (one.from, one.to) == (from, to)).map(|one| one.bytes))
        };
        // The acknowledgement may be on its way.
        loop {
            match own() {
                None => return println!("sockets cannot be listed here"),
                // Some kernels count the byte of the handshake.
                Some(Some(5_000 | 5_001)) => break,
                Some(Some(fewer)) if fewer < 5_000 => std::thread::yield_now(),
                other => panic!("{other:?}"),
            }
        }
    }
}
