//! What a connection costs with `libc4-path.so`: the library's `connect` called on fresh sockets towards a port of the
//! loopback where nobody listens, beside libc's own. Printed are medians over many connections; no figure passes or fails.
//!
//! `cargo bench -p c4-tests --bench path_shim`

use std::{ffi::c_int, mem::zeroed, net::IpAddr, time::Instant};

use c4_path_table::{ANY_PORT, ANY_RANK, Entry, Key, Table, publish};
use c4_tests::nccl::built;

type Connect = unsafe extern "C" fn(c_int, *const libc::sockaddr, libc::socklen_t) -> c_int;

const CONNECTIONS: usize = 20_000;

/// Median time of a call, in nanoseconds.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn median(connect: Connect, to: [u8; 4], planned: Option<&[u16]>) -> u128 {
    // SAFETY: consists of integers.
    let mut address: libc::sockaddr_in = unsafe { zeroed() };
    address.sin_family = libc::AF_INET as libc::sa_family_t;
    address.sin_port = 9u16.to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes(to);
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    let mut times: Vec<u128> = (0..CONNECTIONS)
        .map(|_| {
            // SAFETY: the socket is this loop's own, the address valid.
            unsafe {
                let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
                let start = Instant::now();
                connect(socket, (&raw const address).cast(), length);
                let time = start.elapsed().as_nanos();
                if let Some(ports) = planned {
                    let mut own: libc::sockaddr_in = zeroed();
                    let mut size = length;
                    libc::getsockname(socket, (&raw mut own).cast(), &mut size);
                    assert!(ports.contains(&u16::from_be(own.sin_port)), "not planned");
                }
                libc::close(socket);
                time
            }
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("paths");
    let ports: Vec<u16> = (20_000..20_016).collect();
    // A table as large as one of a host with a thousand peers.
    let entry = |n: u32| Entry {
        key: Key::to(IpAddr::from((0x7f00_0000 + n).to_be_bytes()), ANY_PORT, ANY_RANK),
        slots: vec![0],
        paths: vec![ports.clone().into()],
    };
    let table = Table { generation: 1, listen: None, entries: (1..1000).map(entry).collect() };
    // SAFETY: this program has one thread; the library reads its environment when it is loaded.
    unsafe { std::env::set_var("C4_PATH_TABLE", &path) };
    // SAFETY: the library's constructors only read the environment and look symbols up.
    let library = unsafe { libloading::Library::new(built::path_shim().expect("built")) }.expect("loads");
    // SAFETY: the symbol has libc's signature.
    let shim: Connect = *unsafe { library.get::<Connect>(b"connect\0") }.expect("exported");
    let (peer, stranger) = ([127, 0, 0, 1], [127, 1, 0, 1]);
    println!("libc alone                 {:>6} ns", median(libc::connect, peer, None));
    println!("no table                   {:>6} ns", median(shim, peer, None));
    publish(&path, &table.encode(u64::MAX).expect("fits")).expect("written");
    println!("a destination not planned  {:>6} ns", median(shim, stranger, None));
    println!("a planned destination      {:>6} ns", median(shim, peer, Some(&ports)));
}
