//! What the fuzz targets do with one input, done with every input of their corpora and with a few hundred that are made from those, always
//! the same ones. No fuzzer is needed for it; `cargo +nightly fuzz run TARGET` in the crates goes on from there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Inputs made for each target.
const MADE: usize = 300;
/// What mutations put in place of what is there: ends of ranges, and what formats are made of.
const WORDS: [&[u8]; 14] = [
    b"",
    b"\0",
    b"\xff",
    b"\x7f",
    b"\n",
    b"{",
    b"}",
    b"[",
    b"\"",
    b":",
    b"-1",
    b"1e999",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"null",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The corpus of a target of a crate.
fn corpus(crate_dir: &str, target: &str) -> Vec<Vec<u8>> {
    let dir = repository().join(crate_dir).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files.iter().map(|file| fs::read(file).expect("an input")).collect()
}

/// One input made of others: some places changed, cut out, said twice, or taken from another.
fn made(corpus: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let one = |random: &mut ChaCha8Rng| corpus[random.random_range(0..corpus.len())].clone();
    let mut input = one(random);
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=input.len());
        let end = (at + random.random_range(0..=16)).min(input.len());
        match random.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 => drop(input.drain(at..end)),
            2 => {
                let again = input[at..end].to_vec();
                drop(input.splice(at..at, again));
            }
            3 => input.truncate(at),
            4 => {
                let other = one(random);
                let from = random.random_range(0..=other.len());
                input.truncate(at);
                input.extend(&other[from..]);
            }
            _ => drop(input.splice(at..end, WORDS[random.random_range(0..WORDS.len())].iter().copied())),
        }
    }
    input
}

fn play(crate_dir: &str, target: &str, run: impl Fn(&[u8])) {
    let corpus = corpus(crate_dir, target);
    corpus.iter().for_each(|input| run(input));
    run(&[]);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..MADE {
        run(&made(&corpus, &mut random));
    }
}

macro_rules! targets {
    ($($name:ident: $crate_dir:literal $target:literal $path:literal;)*) => {
        $(
            #[path = $path]
            mod $name;

            #[test]
            fn $name() {
                play($crate_dir, $target, $name::run);
            }
        )*
        const TARGETS: &[(&str, &str)] = &[$(($crate_dir, $target)),*];
    };
}

targets! {
    agent_config: "agent" "config" "../../agent/fuzz/bodies/config.rs";
    agent_discovery: "agent" "discovery" "../../agent/fuzz/bodies/discovery.rs";
    agent_kmsg: "agent" "kmsg" "../../agent/fuzz/bodies/kmsg.rs";
    agent_nics: "agent" "nics" "../../agent/fuzz/bodies/nics.rs";
    agent_orders: "agent" "orders" "../../agent/fuzz/bodies/orders.rs";
    agent_sysfs: "agent" "sysfs" "../../agent/fuzz/bodies/sysfs.rs";
    agent_table: "agent" "table" "../../agent/fuzz/bodies/table.rs";
    recorder_reader: "agent/recorder" "reader" "../../agent/recorder/fuzz/bodies/reader.rs";
    controller_brain: "controller" "brain" "../../controller/fuzz/bodies/brain.rs";
    controller_config: "controller" "config" "../../controller/fuzz/bodies/config.rs";
    controller_documents: "controller" "documents" "../../controller/fuzz/bodies/documents.rs";
    controller_messages: "controller" "messages" "../../controller/fuzz/bodies/messages.rs";
    traffic_plan: "controller/traffic" "plan" "../../controller/traffic/fuzz/bodies/plan.rs";
    ctl_dump: "ctl" "dump" "../../ctl/fuzz/bodies/dump.rs";
    ctl_pickle: "ctl" "pickle" "../../ctl/fuzz/bodies/pickle.rs";
    ctl_ras: "ctl" "ras" "../../ctl/fuzz/bodies/ras.rs";
    ctl_trace: "ctl" "trace" "../../ctl/fuzz/bodies/trace.rs";
}

#[test]
fn no_target_is_left_out() {
    let mut there = BTreeSet::new();
    for crate_dir in ["agent", "agent/recorder", "controller", "controller/traffic", "ctl"] {
        for entry in fs::read_dir(repository().join(crate_dir).join("fuzz/fuzz_targets")).expect("targets") {
            let target =
                entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned();
            there.insert((crate_dir, target));
        }
    }
    let played: BTreeSet<_> =
        TARGETS.iter().map(|(crate_dir, target)| (*crate_dir, (*target).to_owned())).collect();
    assert_eq!(there, played);
}
