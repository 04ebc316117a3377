//! `cargo +nightly fuzz run brain` in `controller`: see the body.

#![no_main]

#[path = "../bodies/brain.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
