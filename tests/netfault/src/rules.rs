//! What is held back, and by how much: the file of rules, looked at now and then, and a bucket of bytes for the rate.

use std::{
    ffi::c_int,
    fs, mem,
    path::PathBuf,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use serde::Deserialize;

/// How often the file is looked at, in milliseconds.
pub const LOOK_EVERY_MS: u64 = 20;
/// Most that a rate lets pass at once, in milliseconds of the rate.
const BURST_MS: u64 = 20;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may move that many bytes.
    Pass(usize),
    /// It may not move any now.
    Hold,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Block,
    Slow,
}

/// The file's content; `c4_tests::faults::NetFault` is the writer's side.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Rules {
    peer_ports: Vec<u16>,
    mode: Mode,
    #[serde(default)]
    bytes_per_second: u64,
    #[serde(default)]
    receive: bool,
}

#[derive(Debug, Default)]
struct State {
    rules: Option<Rules>,
    /// Bytes that may pass now, and when that was reckoned.
    allowance: f64,
    reckoned_ms: u64,
}

/// Whether there are rules: the only thing most calls look at.
static ACTIVE: AtomicBool = AtomicBool::new(false);
static LOOKED_MS: AtomicU64 = AtomicU64::new(0);
static STATE: Mutex<State> = Mutex::new(State { rules: None, allowance: 0.0, reckoned_ms: 0 });

/// Decides about a call that would move `bytes` on `fd`.
pub fn judge(fd: c_int, bytes: usize, receiving: bool) -> Verdict {
    let now_ms = now_ms();
    let looked_ms = LOOKED_MS.load(Ordering::Relaxed);
    if now_ms.wrapping_sub(looked_ms) >= LOOK_EVERY_MS
        && LOOKED_MS.compare_exchange(looked_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    {
        look();
    }
    if !ACTIVE.load(Ordering::Relaxed) {
        return Verdict::Pass(bytes);
    }
    let Some(port) = peer_port(fd) else { return Verdict::Pass(bytes) };
    let Ok(mut state) = STATE.lock() else { return Verdict::Pass(bytes) };
    state.judge(port, bytes, receiving, now_ms)
}

impl State {
    fn judge(&mut self, port: u16, bytes: usize, receiving: bool, now_ms: u64) -> Verdict {
        let Some(rules) = &self.rules else { return Verdict::Pass(bytes) };
        if (receiving && !rules.receive) || !rules.peer_ports.contains(&port) {
            return Verdict::Pass(bytes);
        }
        if rules.mode == Mode::Block {
            return Verdict::Hold;
        }
        let per_ms = rules.bytes_per_second as f64 / 1000.0;
        let elapsed_ms = now_ms.saturating_sub(self.reckoned_ms);
        self.allowance = (self.allowance + per_ms * elapsed_ms as f64).min(per_ms * BURST_MS as f64).max(0.0);
        self.reckoned_ms = now_ms;
        if self.allowance < 1.0 {
            return Verdict::Hold;
        }
        let passed = bytes.min(self.allowance as usize);
        self.allowance -= passed as f64;
        Verdict::Pass(passed)
    }
}

/// Reads the file anew. The calls it makes come back through this library's own `read`, so it must not hold the lock
/// and must not look again, which the time stamp sees to.
fn look() {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(dir) = DIR.get_or_init(|| std::env::var_os("C4_FAULT_DIR").map(PathBuf::from)) else { return };
    // A forked child has a file of its own.
    let path = dir.join(format!("net-{}.json", std::process::id()));
    // A file that is not there, or not to be understood, means no fault.
    let rules = fs::read(path).ok().and_then(|content| serde_json::from_slice::<Rules>(&content).ok());
    let active = rules.is_some();
    if let Ok(mut state) = STATE.lock()
        && state.rules != rules
    {
        *state = State { rules, allowance: 0.0, reckoned_ms: now_ms() };
    }
    ACTIVE.store(active, Ordering::Relaxed);
}

fn now_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    (time.tv_sec as u64) * 1000 + (time.tv_nsec as u64) / 1_000_000
}

/// Port of the other end, if `fd` is a connected IP socket.
fn peer_port(fd: c_int) -> Option<u16> {
    // SAFETY: an address of zeros is a value.
    let mut address: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut size = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointers are valid for the call and `size` is the size of what the first points at.
    let result = unsafe { libc::getpeername(fd, (&raw mut address).cast(), &mut size) };
    if result != 0 {
        return None;
    }
    match c_int::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is what the kernel wrote.
            Some(u16::from_be(unsafe { (*(&raw const address).cast::<libc::sockaddr_in>()).sin_port }))
        }
        libc::AF_INET6 => {
            // SAFETY: likewise.
            Some(u16::from_be(unsafe { (*(&raw const address).cast::<libc::sockaddr_in6>()).sin6_port }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(text: &str) -> State {
        State { rules: Some(serde_json::from_str(text).expect("rules")), allowance: 0.0, reckoned_ms: 1000 }
    }

    #[test]
    fn blocks_sending_to_the_named_ports_only() {
        let mut state = state(r#"{"peer_ports":[7,8],"mode":"block"}"#);
        assert_eq!(state.judge(7, 100, false, 1000), Verdict::Hold);
        assert_eq!(state.judge(9, 100, false, 1000), Verdict::Pass(100));
        assert_eq!(state.judge(7, 100, true, 1000), Verdict::Pass(100), "receiving goes on");
    }

    #[test]
    fn a_rate_lets_its_bytes_pass() {
        let mut state = state(r#"{"peer_ports":[7],"mode":"slow","bytes_per_second":10000,"receive":true}"#);
        assert_eq!(state.judge(7, 100, false, 1000), Verdict::Hold, "nothing saved up");
        assert_eq!(state.judge(7, 100, true, 1005), Verdict::Pass(50));
        assert_eq!(state.judge(7, 100, false, 1005), Verdict::Hold);
        assert_eq!(
            state.judge(7, 1000, false, 9000),
            Verdict::Pass(200),
            "a pause saves up one burst, no more"
        );
        let passed: usize = (1..=1000)
            .map(|ms| match state.judge(7, 1000, false, 9000 + ms) {
                Verdict::Pass(bytes) => bytes,
                Verdict::Hold => 0,
            })
            .sum();
        assert!((9_900..=10_000).contains(&passed), "{passed} bytes in a second at 10000 a second");
    }
}
