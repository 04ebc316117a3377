//! What the tests of the binary share: running it, and reading what it says.

use std::process::{Command, Output};

/// The real binary, in an environment of its own.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c4ctl"));
    command.args(args).env("C4_CONFIG", "/nowhere/ctl.yaml");
    for name in ["C4_CONTROLLER", "C4_CONTEXT", "C4_RECORDER_DIR", "NCCL_PROFILER_PLUGIN"] {
        command.env_remove(name);
    }
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("utf-8")
}

/// Standard output as JSON, of a command that succeeded.
pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)))
}
