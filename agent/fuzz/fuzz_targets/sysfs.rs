//! `cargo +nightly fuzz run sysfs` in `agent`: see the body.

#![no_main]

#[path = "../bodies/sysfs.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
