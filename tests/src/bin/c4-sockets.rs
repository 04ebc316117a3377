//! Makes TCP connections by libc's calls, as NCCL's socket transport does, and says which ports they have: what is
//! preloaded into it shows in what it says. Each connection sends a byte and waits for its echo.

use std::{
    ffi::c_int,
    io::{self, Read, Write},
    mem::zeroed,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::ExitCode,
};

use clap::Parser;
use serde::Serialize;

#[derive(Debug, Parser)]
struct Args {
    /// Where to connect to.
    to: SocketAddr,
    /// How many connections, all open at the same time.
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// Connect without blocking, then wait.
    #[arg(long)]
    nonblocking: bool,
    /// Bind to this port first.
    #[arg(long)]
    bound: Option<u16>,
    /// Set SO_REUSEADDR first.
    #[arg(long)]
    reuse: bool,
    /// Connect to an IPv4 address by an IPv6 socket.
    #[arg(long)]
    mapped: bool,
    /// Use UDP: connect and name the port, no more.
    #[arg(long)]
    udp: bool,
    /// Have a child connect as often after the first connections, and say its ports in a line of its own.
    #[arg(long)]
    fork: bool,
    /// Also have so many sockets listen on any port of the loopback.
    #[arg(long, default_value_t = 0)]
    listen: usize,
}

#[derive(Debug, Default, Serialize)]
struct Said {
    /// Source ports.
    ports: Vec<u16>,
    /// Ports that are listened on.
    listening: Vec<u16>,
    /// Connections over which the byte came back.
    echoed: usize,
    /// What failed.
    errors: Vec<String>,
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An address as the kernel takes it.
fn raw(address: SocketAddr, mapped: bool) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: consists of integers.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    let length = match address {
        SocketAddr::V4(v4) if !mapped => {
            // SAFETY: the storage is aligned for, and larger than, any address.
            let to = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = v4.port().to_be();
            to.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            size_of::<libc::sockaddr_in>()
        }
        other => {
            let ip = match other {
                SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped(),
                SocketAddr::V6(v6) => *v6.ip(),
            };
            // SAFETY: as above.
            let to = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = other.port().to_be();
            to.sin6_addr.s6_addr = ip.octets();
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

fn open(args: &Args) -> io::Result<TcpStream> {
    let (to, length) = raw(args.to, args.mapped);
    let kind = if args.udp { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
    let flags = if args.nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: the calls are given valid pointers with their lengths; the descriptor is owned from here on.
    unsafe {
        let socket = checked(libc::socket(c_int::from(to.ss_family), kind | flags, 0))?;
        let stream = TcpStream::from(OwnedFd::from_raw_fd(socket));
        if args.reuse {
            let (one, size) = (1 as c_int, size_of::<c_int>() as libc::socklen_t);
            let one = (&raw const one).cast();
            checked(libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, one, size))?;
        }
        if let Some(port) = args.bound {
            let any = if args.to.is_ipv4() && !args.mapped { "0.0.0.0" } else { "::" };
            let own = SocketAddr::new(any.parse().map_err(io::Error::other)?, port);
            let (own, length) = raw(own, false);
            checked(libc::bind(socket, (&raw const own).cast(), length))?;
        }
        let result = libc::connect(socket, (&raw const to).cast(), length);
        if result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINPROGRESS) {
            let mut wait = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
            checked(libc::poll(&mut wait, 1, 10_000))?;
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        } else {
            checked(result)?;
        }
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

fn listen() -> io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind("127.0.0.1:0")
}

fn connect(args: &Args) -> Said {
    let mut said = Said::default();
    let mut open_ones = Vec::new();
    for _ in 0..args.count {
        let opened = open(args).and_then(|stream| Ok((stream.local_addr()?.port(), stream)));
        match opened {
            Ok((port, stream)) => {
                said.ports.push(port);
                open_ones.push(stream);
            }
            Err(error) => said.errors.push(error.to_string()),
        }
    }
    for stream in open_ones.iter_mut().filter(|_| !args.udp) {
        let mut byte = [0];
        let echoed = stream.write_all(b"c").and_then(|()| stream.read_exact(&mut byte));
        match echoed {
            Ok(()) => said.echoed += usize::from(byte == *b"c"),
            Err(error) => said.errors.push(error.to_string()),
        }
    }
    let listeners: Vec<_> = (0..args.listen).map(|_| listen()).collect();
    for listener in &listeners {
        match listener.as_ref().map(std::net::TcpListener::local_addr) {
            Ok(Ok(address)) => said.listening.push(address.port()),
            Ok(Err(error)) => said.errors.push(error.to_string()),
            Err(error) => said.errors.push(error.to_string()),
        }
    }
    // Everything stays open until the child has said its part, too.
    if args.fork {
        // SAFETY: this program has one thread.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let again = Args { fork: false, ..*args };
            println!("{}", serde_json::to_string(&connect(&again)).unwrap_or_default());
            std::process::exit(0);
        }
        // SAFETY: the child is this process's; its status is not wanted.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    }
    said
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is valid for both calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    let said = connect(&args);
    println!("{}", serde_json::to_string(&said).unwrap_or_default());
    if said.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
