//! `cargo +nightly fuzz run documents` in `controller`: see the body.

#![no_main]

#[path = "../bodies/documents.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
