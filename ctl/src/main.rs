//! `c4ctl`: see [`c4ctl::cli`] for the commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    c4ctl::main()
}
