//! Finds out which TCP connections lead from one process to another, from /proc: a job does not say.

use std::{collections::BTreeSet, fs, io, path::Path};

/// One TCP socket of a process, by its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    /// Port on this side.
    pub local_port: u16,
    /// Port on the other side, 0 when listening.
    pub peer_port: u16,
    /// Inode, as /proc/PID/fd shows it.
    pub inode: u64,
}

/// Ports of `dst`'s side of the connections between `src` and `dst`, both given by their sockets.
#[must_use]
pub fn peer_ports(src: &[Socket], dst: &[Socket]) -> BTreeSet<u16> {
    let pairs: BTreeSet<(u16, u16)> =
        dst.iter().map(|socket| (socket.peer_port, socket.local_port)).collect();
    src.iter()
        .filter(|socket| pairs.contains(&(socket.local_port, socket.peer_port)))
        .map(|socket| socket.peer_port)
        .collect()
}

/// The TCP sockets of a process.
///
/// # Errors
/// When /proc does not show the process or its sockets.
pub fn of_process(pid: u32) -> io::Result<Vec<Socket>> {
    let proc = Path::new("/proc").join(pid.to_string());
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(proc.join("fd"))? {
        // A descriptor may be closed while the directory is read.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    let mut sockets = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        match fs::read_to_string(proc.join(table)) {
            Ok(content) => sockets.extend(content.lines().skip(1).filter_map(parse_line)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    sockets.retain(|socket| inodes.contains(&socket.inode));
    Ok(sockets)
}

/// One line of /proc/net/tcp: `sl local remote state queues timer retransmits uid timeout inode …`.
fn parse_line(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
    Some(Socket {
        local_port: port(fields.get(1)?)?,
        peer_port: port(fields.get(2)?)?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn finds_the_connection_of_two_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        let port = |stream: &TcpStream| stream.local_addr().expect("address").port();
        let ends = || {
            let own = of_process(std::process::id()).expect("own sockets");
            let side = |local: u16, peer: u16| -> Vec<Socket> {
                own.iter().copied().filter(|s| s.local_port == local && s.peer_port == peer).collect()
            };
            (side(port(&client), port(&server)), side(port(&server), port(&client)))
        };
        // Where other sockets come and go while the kernel's table is read, it may lack one, or tell of one twice.
        let (from, to) =
            (0..50).map(|_| ends()).find(|(from, to)| from.len() == 1 && to.len() == 1).expect("both ends");
        assert_eq!(peer_ports(&from, &to), BTreeSet::from([port(&server)]));
        assert_eq!(peer_ports(&from, &from), BTreeSet::new());
    }

    #[test]
    fn reads_a_line_of_proc() {
        let line = "   1: 0100007F:1130 0100007F:C350 01 00000000:00000000 00:00000000 00000000  0  0 4711 1 0 20 4 30";
        assert_eq!(parse_line(line), Some(Socket { local_port: 4400, peer_port: 50000, inode: 4711 }));
        assert_eq!(parse_line("no socket"), None);
    }
}
