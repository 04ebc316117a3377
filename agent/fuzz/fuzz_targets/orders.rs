//! `cargo +nightly fuzz run orders` in `agent`: see the body.

#![no_main]

#[path = "../bodies/orders.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
