//! Flows as processes: a sender in its host's namespace, a receiver in the other's, and how fast each one is.
//!
//! Senders are programs of their own, so that `libc4-path.so` can be preloaded into them as into any job; they choose
//! nothing themselves. Told by a line on standard input they make a new connection, as a job does at its next chance.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};

use super::{Fabric, host_address};
use crate::ringjob::clock;

/// Where receivers listen.
pub const PORT: u16 = 5001;
/// What is written at once.
const CHUNK: usize = 64 << 10;
/// How long all flows may take to come up.
const COME_UP: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A flow of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Leaf and place of the sending host.
    pub from: (usize, usize),
    /// Leaf and place of the receiving host.
    pub to: (usize, usize),
}

impl Flow {
    /// Where its packets come from.
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        host_address(self.from.0, self.from.1)
    }

    /// Where its packets go.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        (host_address(self.to.0, self.to.1), PORT).into()
    }
}

/// What has come from one source, and by which port.
#[derive(Debug, Default)]
struct Meter {
    bytes: AtomicU64,
    port: AtomicU64,
}

type Meters = Arc<Mutex<HashMap<(usize, usize), Arc<Meter>>>>;

/// Receivers on all hosts.
#[derive(Debug)]
pub struct Receivers {
    meters: Meters,
    ended: Arc<AtomicBool>,
}

impl Receivers {
    /// Starts a receiver on each host.
    ///
    /// # Errors
    /// When a port cannot be listened on.
    pub fn start(fabric: &Fabric) -> anyhow::Result<Self> {
        let receivers = Self { meters: Meters::default(), ended: Arc::default() };
        for leaf in 0..fabric.shape().leaves {
            for host in 0..fabric.shape().hosts {
                let listener =
                    fabric.host(leaf, host).run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))?;
                let listener = listener.context("cannot listen")?;
                listener.set_nonblocking(true)?;
                let (meters, ended) = (receivers.meters.clone(), receivers.ended.clone());
                thread::spawn(move || accept(&listener, &meters, &ended));
            }
        }
        Ok(receivers)
    }

    fn meter(&self, flow: &Flow) -> Arc<Meter> {
        meter(&self.meters, flow.from)
    }

    /// The source port that a flow has at the moment; none before it is connected.
    #[must_use]
    pub fn port(&self, flow: &Flow) -> Option<u16> {
        u16::try_from(self.meter(flow).port.load(Ordering::Relaxed)).ok().filter(|port| *port != 0)
    }

    /// Forgets which ports flows had.
    pub fn forget_ports(&self, flows: &[Flow]) {
        for flow in flows {
            self.meter(flow).port.store(0, Ordering::Relaxed);
        }
    }

    /// Waits until all flows are connected.
    ///
    /// # Errors
    /// When one is not in time.
    pub fn wait(&self, flows: &[Flow]) -> anyhow::Result<()> {
        let deadline = clock::now() + COME_UP;
        while let Some(flow) = flows.iter().find(|flow| self.port(flow).is_none()) {
            ensure!(clock::now() < deadline, "the flow {flow:?} does not come up");
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// How many Mbit/s each flow gets, over some time from now on.
    #[must_use]
    pub fn measure(&self, flows: &[Flow], time: Duration) -> Vec<f64> {
        let bytes =
            || flows.iter().map(|flow| self.meter(flow).bytes.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let (start, before) = (clock::now(), bytes());
        thread::sleep(time);
        let (elapsed, after) = (start.elapsed().as_secs_f64(), bytes());
        let rate = |(before, after): (u64, u64)| (after - before) as f64 * 8e-6 / elapsed;
        before.into_iter().zip(after).map(rate).collect()
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn meter(meters: &Meters, from: (usize, usize)) -> Arc<Meter> {
    meters.lock().unwrap_or_else(PoisonError::into_inner).entry(from).or_default().clone()
}

fn accept(listener: &TcpListener, meters: &Meters, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        let Ok((stream, SocketAddr::V4(peer))) = listener.accept() else {
            thread::sleep(LOOK_AGAIN);
            continue;
        };
        let [_, leaf, host, _] = peer.ip().octets();
        let meter = meter(meters, (leaf.into(), host.into()));
        meter.port.store(peer.port().into(), Ordering::Relaxed);
        thread::spawn(move || receive(stream, &meter));
    }
}

fn receive(mut stream: TcpStream, meter: &Meter) {
    let mut buffer = vec![0; CHUNK];
    // Whether a socket that is accepted blocks is not the same everywhere.
    if stream.set_nonblocking(false).is_err() {
        return;
    }
    while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
        meter.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A sender; it ends when this is dropped.
#[derive(Debug)]
pub struct Sender {
    child: Child,
    commands: Option<ChildStdin>,
}

impl Sender {
    /// Starts a sender for a flow; with a table it has `libc4-path.so` preloaded.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(fabric: &Fabric, flow: &Flow, table: Option<(&Path, &Path)>) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let mut command = Command::new(own);
        command.arg("send").arg(flow.destination().to_string()).stdin(Stdio::piped());
        if let Some((library, table)) = table {
            command.env("LD_PRELOAD", library).env("C4_PATH_TABLE", table);
        }
        fabric.host(flow.from.0, flow.from.1).hold(&mut command);
        let mut child = command.spawn().context("cannot start a sender")?;
        let commands = child.stdin.take();
        Ok(Self { child, commands })
    }

    /// Has it make a new connection.
    ///
    /// # Errors
    /// When it has ended.
    pub fn reconnect(&mut self) -> anyhow::Result<()> {
        let commands = self.commands.as_mut().context("a sender without commands")?;
        commands.write_all(b"\n").context("a sender has ended")
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the sender's process does: send as fast as it goes, on a new connection after each line on standard input.
///
/// # Errors
/// When the receiver cannot be reached or is gone.
pub fn send(to: SocketAddr) -> anyhow::Result<()> {
    let again = Arc::new(AtomicBool::new(false));
    let told = again.clone();
    thread::spawn(move || {
        for _ in BufReader::new(std::io::stdin()).lines().map_while(Result::ok) {
            told.store(true, Ordering::Relaxed);
        }
    });
    let chunk = vec![0; CHUNK];
    loop {
        let mut stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
        // Ports of connections that are over must be free for the next.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        while !again.swap(false, Ordering::Relaxed) {
            stream.write_all(&chunk).context("the receiver is gone")?;
        }
    }
}
