//! Any bytes as what a controller is given as a file or fetches: the keys of an issuer of tokens, and a backup, as it is and with the
//! right end after it, so that the fuzzer gets past the checksum. What is taken can be used, and what is not is refused with a reason.

use c4_controller::{access::oidc::Keys, store::backup};
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
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
