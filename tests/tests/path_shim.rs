//! `libc4-path.so` preloaded into a program that connects: planned ports where there is a plan, and in every other case
//! what would have been without it.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
    thread,
};

use c4_path_table::{ANY_PORT, ANY_RANK, Entry, Key, Table, publish};
use c4_tests::nccl::built;
use serde::Deserialize;
use tempfile::TempDir;

#[derive(Debug, Deserialize)]
struct Said {
    ports: Vec<u16>,
    listening: Vec<u16>,
    echoed: usize,
    errors: Vec<String>,
}

/// Ports below the kernel's ephemeral ones, a range for each test.
fn range(count: u16) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let first = NEXT.fetch_add(count, Ordering::Relaxed);
    (first..first + count).collect()
}

/// An echo server.
fn server(address: &str) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).expect("the loopback can be listened on");
    let own = listener.local_addr().expect("bound");
    thread::spawn(move || {
        // Connections stay open until the client closes them, so that its ports are not in TIME_WAIT.
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                })
                .expect("a thread");
        }
    });
    own
}

fn library() -> PathBuf {
    built::path_shim().expect("the shim is built")
}

struct Scene {
    dir: TempDir,
}

const FOR_EVER: u64 = u64::MAX;

impl Scene {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temporary directory") }
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("paths")
    }

    fn publish(&self, table: &Table, until: u64) {
        publish(&self.table(), &table.encode(until).expect("fits")).expect("written");
    }

    fn run(&self, to: SocketAddr, args: &[&str]) -> Vec<Said> {
        run(&self.table(), to, args)
    }
}

fn run(table: &Path, to: SocketAddr, args: &[&str]) -> Vec<Said> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c4-sockets"));
    command.arg(to.to_string()).args(args).env("LD_PRELOAD", library()).env("C4_PATH_TABLE", table);
    command.env("RANK", "3");
    let output = command.output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let said: Vec<Said> =
        text.lines().map(|line| serde_json::from_str(line).expect("what it says")).collect();
    assert!(!said.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// A table with one entry of two paths.
fn plan(to: IpAddr, port: u16, rank: u32, paths: [&[u16]; 2]) -> Table {
    let paths = paths.map(|ports| ports.to_vec().into()).to_vec();
    let entry = Entry { key: Key::to(to, port, rank), slots: vec![0, 1], paths };
    Table { generation: 1, listen: None, entries: vec![entry] }
}

#[track_caller]
fn untouched(said: &[Said], ports: &[u16]) {
    for said in said {
        assert!(said.errors.is_empty(), "{:?}", said.errors);
        assert!(!said.ports.is_empty() && said.ports.iter().all(|port| !ports.contains(port)), "{said:?}");
        assert_eq!(said.echoed, said.ports.len());
    }
}

#[test]
fn connections_take_their_paths_in_turn_and_another_port_where_one_is_in_use() {
    let (scene, to, ports) = (Scene::new(), server("127.0.0.1"), range(4));
    scene.publish(&plan(to.ip(), ANY_PORT, ANY_RANK, [&ports[..2], &ports[2..]]), FOR_EVER);
    for args in [&["--count=6"][..], &["--count=6", "--nonblocking"], &["--count=6", "--reuse"]] {
        let said = &scene.run(to, args)[0];
        assert!(said.errors.is_empty(), "{:?}", said.errors);
        assert_eq!(said.echoed, 6);
        // What was closed last lingers in TIME_WAIT; this side closed first.
        let fresh = args.len() == 1;
        if fresh {
            assert_eq!(said.ports[..4], [ports[0], ports[2], ports[1], ports[3]]);
        }
        assert!(said.ports[4..].iter().all(|port| !ports.contains(port)), "{said:?}");
    }
}

/// A connection of somebody else, from this port of the loopback.
fn connection_from(port: u16) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("free");
    let to = TcpStream::connect(("127.0.0.1", port)).expect("listened on");
    (listener.accept().expect("connected").0, to)
}

#[test]
fn a_port_that_somebody_else_has_is_passed_over() {
    for args in [&["--count=3"][..], &["--count=3", "--nonblocking"], &["--count=3", "--reuse"]] {
        let (scene, to, ports) = (Scene::new(), server("127.0.0.1"), range(6));
        scene.publish(&plan(to.ip(), ANY_PORT, ANY_RANK, [&ports[..3], &ports[3..]]), FOR_EVER);
        let _here = TcpListener::bind(("127.0.0.1", ports[0])).expect("free");
        let _connected = connection_from(ports[1]);
        let _everywhere = TcpListener::bind(("0.0.0.0", ports[3])).expect("free");
        let _connected_too = connection_from(ports[4]);
        let said = &scene.run(to, args)[0];
        assert!(said.errors.is_empty(), "{:?}", said.errors);
        assert_eq!((said.echoed, &said.ports[..2]), (3, &[ports[2], ports[5]][..]), "{args:?}");
        assert!(!ports.contains(&said.ports[2]), "no port of its path is left: {said:?}");
    }
}

#[test]
fn where_others_have_all_planned_ports_connections_have_any() {
    let (scene, to, ports) = (Scene::new(), server("127.0.0.1"), range(4));
    scene.publish(&plan(to.ip(), ANY_PORT, ANY_RANK, [&ports[..2], &ports[2..]]), FOR_EVER);
    let _taken: Vec<TcpListener> =
        ports.iter().map(|port| TcpListener::bind(("127.0.0.1", *port)).expect("free")).collect();
    for args in [&["--count=3"][..], &["--count=3", "--nonblocking"], &["--count=3", "--reuse"]] {
        untouched(&scene.run(to, args), &ports);
    }
}

#[test]
fn entries_for_this_port_and_rank_come_first() {
    let (scene, to, ports) = (Scene::new(), server("127.0.0.1"), range(8));
    let mut table = plan(to.ip(), ANY_PORT, ANY_RANK, [&ports[..1], &ports[1..2]]);
    table.entries.extend(plan(to.ip(), to.port(), ANY_RANK, [&ports[2..3], &ports[3..4]]).entries);
    table.entries.extend(plan(to.ip(), to.port(), 3, [&ports[4..5], &ports[5..6]]).entries);
    table.entries.extend(plan(to.ip(), to.port(), 4, [&ports[6..7], &ports[7..8]]).entries);
    scene.publish(&table, FOR_EVER);
    assert_eq!(scene.run(to, &["--count=2"])[0].ports, ports[4..6]);
    table.entries.remove(2);
    scene.publish(&table, FOR_EVER);
    assert_eq!(scene.run(to, &["--count=2"])[0].ports, ports[2..4]);
}

#[test]
fn ipv6_and_mapped_ipv4() {
    let (scene, ports) = (Scene::new(), range(4));
    let v4 = server("127.0.0.1");
    scene.publish(&plan(v4.ip(), ANY_PORT, ANY_RANK, [&ports[..1], &ports[1..2]]), FOR_EVER);
    assert_eq!(scene.run(v4, &["--count=2", "--mapped"])[0].ports, ports[..2]);
    if TcpListener::bind("[::1]:0").is_err() {
        println!("no IPv6 on this machine");
        return;
    }
    let v6 = server("::1");
    scene.publish(&plan(v6.ip(), ANY_PORT, ANY_RANK, [&ports[2..3], &ports[3..]]), FOR_EVER);
    assert_eq!(scene.run(v6, &["--count=2"])[0].ports, ports[2..]);
}

#[test]
fn what_is_not_planned_stays_as_it_is() {
    let (scene, to, ports) = (Scene::new(), server("127.0.0.1"), range(5));
    let other = "127.0.0.2".parse().expect("an address");
    scene.publish(&plan(other, ANY_PORT, ANY_RANK, [&ports[..2], &ports[2..4]]), FOR_EVER);
    untouched(&scene.run(to, &["--count=2"]), &ports);
    scene.publish(&plan(to.ip(), ANY_PORT, ANY_RANK, [&ports[..2], &ports[2..4]]), FOR_EVER);
    // Bound by the program itself.
    let own = format!("--bound={}", ports[4]);
    assert_eq!(scene.run(to, &[&own])[0].ports, [ports[4]]);
    let udp = &scene.run(to, &["--udp"])[0];
    assert!(!ports.contains(&udp.ports[0]));
}

#[test]
fn no_table_no_agent_no_sense_no_change() {
    let (scene, to, ports) = (Scene::new(), server("127.0.0.1"), range(4));
    untouched(&scene.run(to, &["--count=2"]), &ports);
    let table = plan(to.ip(), ANY_PORT, ANY_RANK, [&ports[..2], &ports[2..]]);
    // The agent died: nobody renewed the lease, which ended a nanosecond after boot.
    scene.publish(&table, 1);
    untouched(&scene.run(to, &["--count=2"]), &ports);
    let whole = table.encode(FOR_EVER).expect("fits");
    for torn in [&whole[..0], &whole[..40], &whole[..64], &whole[..whole.len() - 1]] {
        fs::write(scene.table(), torn).expect("written");
        untouched(&scene.run(to, &["--count=2"]), &ports);
    }
    // A new header above old records.
    let mut mixed = Table { generation: 2, ..table }.encode(FOR_EVER).expect("fits");
    mixed[64..].copy_from_slice(&whole[64..]);
    fs::write(scene.table(), mixed).expect("written");
    untouched(&scene.run(to, &["--count=2"]), &ports);
    untouched(&run(Path::new("/dev/zero"), to, &["--count=2"]), &ports);
    untouched(&run(scene.dir.path(), to, &["--count=2"]), &ports);
    let fifo = scene.dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("runs").success());
    untouched(&run(&fifo, to, &["--count=2"]), &ports);
}

#[test]
fn a_forked_child_goes_on() {
    let (scene, to, ports) = (Scene::new(), server("127.0.0.1"), range(8));
    scene.publish(&plan(to.ip(), ANY_PORT, ANY_RANK, [&ports[..4], &ports[4..]]), FOR_EVER);
    let said = scene.run(to, &["--count=4", "--fork"]);
    let all: BTreeSet<u16> = said.iter().flat_map(|said| said.ports.clone()).collect();
    assert_eq!(all, ports.into_iter().collect());
    assert!(said.iter().all(|said| said.echoed == 4));
}

#[test]
fn thousands_of_connections() {
    let (scene, to, ports) = (Scene::new(), server("127.0.0.1"), range(600));
    scene.publish(&plan(to.ip(), ANY_PORT, ANY_RANK, [&ports[..300], &ports[300..]]), FOR_EVER);
    let said = &scene.run(to, &["--count=2000"])[0];
    assert!(said.errors.is_empty(), "{:?}", said.errors);
    assert_eq!(said.echoed, 2000);
    // Planned as long as there are ports, and then just connected.
    let planned = said.ports.iter().filter(|port| ports.contains(port)).count();
    assert_eq!(planned, 600);
    assert!(said.ports[..600].iter().all(|port| ports.contains(port)));
}

#[test]
fn listening_on_any_port_is_listening_on_one_of_few() {
    let (scene, to, ports) = (Scene::new(), server("127.0.0.1"), range(3));
    let listen = Some(ports[0]..ports[2] + 1);
    scene.publish(&Table { generation: 1, listen, entries: Vec::new() }, FOR_EVER);
    let said = &scene.run(to, &["--listen=5"])[0];
    assert!(said.errors.is_empty(), "{:?}", said.errors);
    let few: BTreeSet<u16> = said.listening.iter().copied().filter(|port| ports.contains(port)).collect();
    assert_eq!(few.len(), 3);
    assert_eq!(said.listening.len(), 5);
    // The program's own connections need no port from there.
    assert!(said.ports.iter().all(|port| !ports.contains(port)));
}
