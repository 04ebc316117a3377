//! C4's command line for operators.
//!
//! Two halves that share only how they print. The *live* half asks a controller ([`live`]); the *offline* half reads
//! files ([`recorder`], [`analyze`], [`plan`], [`topology`]) and needs no controller at all: when things are at their worst, a directory of
//! flight recorders copied off a node must be enough. Both say the same thing in the same words, because both get their
//! findings from `c4_detect` and print them with the same code ([`finding`]).

use std::process::ExitCode;

use clap::Parser;

pub mod analyze;
mod asked;
pub mod cli;
pub mod client;
pub mod clock;
pub mod contexts;
pub mod convert;
pub mod doctor;
pub mod failure;
pub mod finding;
pub mod live;
pub mod manual;
pub mod output;
pub mod plan;
pub mod recorder;
pub mod steer;
pub mod table;
pub mod topology;
pub mod words;

use cli::{Cli, Command, Form};
use failure::{Exit, Failure};
use output::Output;

/// The whole program: reads the command line, runs the command, says what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Output::stdout(cli.color, cli.output == Form::Wide);
    match run(&cli, &mut out) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("c4ctl: {failure}");
            failure.exit()
        }
    }
}

/// Runs one command.
///
/// # Errors
/// Whatever kept the command from answering, in words that say what to do next.
pub fn run(cli: &Cli, out: &mut Output) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Live(command) => live::run(cli, command, out),
        Command::Steer(command) => steer::run(cli, command, out),
        Command::Recorder { command } => recorder::run(command, cli.is_json(), out),
        Command::Analyze(args) => analyze::run(args, cli.is_json(), out),
        Command::Plan(args) => plan::plan(args, cli.is_json(), out),
        Command::Topology(args) => match &args.lldp {
            Some(directory) => topology::from_lldp(args, directory, cli.is_json(), out),
            None => live::topology(cli, out),
        },
        Command::WhatIf(args) => plan::what_if(args, cli.is_json(), out),
        Command::Doctor(args) => doctor::run(cli, args, out),
        Command::Context { command } => contexts::run(command, &cli.credentials, cli.is_json(), out),
        Command::Completions { shell } => manual::completions(*shell, out),
        Command::Man { dir } => manual::pages(dir, out),
    }
}
