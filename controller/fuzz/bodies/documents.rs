//! Any bytes as what a controller is given as a file or fetches: the keys of an issuer of tokens, and a backup, as it is and with the
//! right end after it, so that the fuzzer gets past the checksum. What is taken can be used, and what is not is refused with a reason:
//! a controller that starts from a restored store either says why it does not, or works.

use std::sync::Arc;

use c4_controller::{
    access::oidc::Keys,
    brain::{Brain, Input, Known},
    config::Config,
    findings::Findings,
    ledger::Ledger,
    metrics::Metrics,
    paths::keep::Kept,
    steer::journal::Loaded,
    store::{MemoryStore, Store, backup},
};
use c4_detect::observation::Timestamp;
use ring::digest::{SHA256, digest};

/// Plays one input.
pub fn run(bytes: &[u8]) {
    match Keys::parse(bytes) {
        Ok(keys) => assert!((1..=128).contains(&keys.count())),
        Err(problem) => assert!(!problem.is_empty()),
    }
    restore(bytes);
    let mut sealed = bytes.to_vec();
    if !sealed.ends_with(b"\n") {
        sealed.push(b'\n');
    }
    let rows = sealed.iter().filter(|byte| **byte == b'\n').count() - 1;
    let hash: String = digest(&SHA256, &sealed).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    sealed.extend(format!("{{\"rows\":{rows},\"sha256\":\"{hash}\"}}\n").bytes());
    restore(&sealed);
}

fn restore(bytes: &[u8]) {
    match backup::read(bytes) {
        Ok(tables) => {
            let again = backup::read(&backup::write(&tables, Timestamp(1))).expect("our own file");
            assert!(again == tables, "a row is lost or changed");
            let store = MemoryStore::default();
            backup::restore(&store, tables).expect("an empty store");
            start(&store);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What a controller does with its store when it starts, and its first seconds.
fn start(store: &dyn Store) {
    let (ledger, findings) = (Ledger::load(store).expect("memory"), Findings::load(store).expect("memory"));
    drop(Kept::load(store).expect("memory"));
    match Loaded::read(store) {
        Ok(steer) => {
            let metrics = Arc::new(Metrics::new().expect("metrics"));
            let now = Timestamp(1_700_000_000_000_000);
            let mut brain = Brain::new(Config::default(), Known { steer, ledger, findings }, metrics, now);
            for seconds in [1, 61, 90_000] {
                drop(brain.handle(Input::Tick, now.after(seconds * 1_000_000)));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty(), "a refusal without a reason"),
    }
}
