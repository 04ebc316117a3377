//! `cargo +nightly fuzz run kmsg` in `agent`: see the body.

#![no_main]

#[path = "../bodies/kmsg.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
