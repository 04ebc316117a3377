//! Writes a table of planned source ports that is valid for ever: what `libc4-path.so` is tried with where there is no
//! agent to plan for.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, process::ExitCode};

use c4_path_table::{ANY_PORT, ANY_RANK, Entry, Key, Table, publish};
use clap::Parser;

#[derive(Debug, Parser)]
struct Args {
    /// The file.
    #[arg(long)]
    table: PathBuf,
    /// The address that connections go to.
    #[arg(long)]
    to: IpAddr,
    /// The source ports of a path, FIRST-LAST; once for each path, which connections take in turn.
    #[arg(long = "path", value_name = "FIRST-LAST", value_parser = ports, required = true)]
    paths: Vec<RangeInclusive<u16>>,
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    range
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "expected two ports, such as 20000-20511".to_owned())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let slots = (0..args.paths.len()).map(|path| u16::try_from(path).unwrap_or(u16::MAX)).collect();
    let paths = args.paths.iter().map(|ports| ports.clone().collect::<Vec<u16>>().into()).collect();
    let entry = Entry { key: Key::to(args.to, ANY_PORT, ANY_RANK), slots, paths };
    let table = Table { generation: 1, listen: None, entries: vec![entry] };
    let written = table
        .encode(u64::MAX)
        .map_err(|error| error.to_string())
        .and_then(|bytes| publish(&args.table, &bytes).map_err(|error| error.to_string()));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", args.table.display());
            ExitCode::FAILURE
        }
    }
}
