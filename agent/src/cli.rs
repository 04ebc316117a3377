//! The command line.

use std::{ffi::OsString, net::SocketAddr, ops::RangeInclusive, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// Most processes one agent starts; a node has some ten GPUs.
const MAX_RANKS: u32 = 1024;

/// C4's node agent: reads flight recorders and sensors, streams them to the controller, supervises job processes.
#[derive(Debug, Parser)]
#[command(name = "c4-agent", version)]
pub struct Cli {
    /// Configuration file (YAML).
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Only check the configuration: exit code 0 if it is good, 64 if not.
    #[arg(long, global = true)]
    pub check_config: bool,
    /// What to do instead of running as the node's daemon.
    #[command(subcommand)]
    pub command: Option<Verb>,
}

/// See [`Cli`].
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a job's processes under an agent of their own, which ends with them.
    Run(Box<Run>),
    /// Copy the profiler plugin into a directory, such as a volume of a job's pod, and exit.
    InstallPlugin {
        /// The directory
        directory: PathBuf,
    },
    /// Check this node as before an isolated one comes back: exit code 0 if all is well, 1 if not.
    Check {
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Address of the controller, such as https://controller:4400. Whom to believe there is in the configuration (`tls`).
    /// Without one here or in a configuration file, what is wrong is found out on this node alone and written to standard
    /// error at the end.
    #[arg(long, value_name = "URL", conflicts_with = "no_controller", value_parser = address)]
    pub controller: Option<String>,
    /// File of the token by which the controller knows this run.
    #[arg(long, value_name = "FILE", env = "C4_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Talk to a controller on another machine without protection.
    #[arg(long)]
    pub insecure: bool,
    /// Report to nobody, whatever the configuration file says.
    #[arg(long)]
    pub no_controller: bool,
    /// Name of this node.
    #[arg(long)]
    pub node: Option<String>,
    /// Name of the job. All its nodes must give the same one. Default: from C4_JOB, Slurm or torchrun, else made up.
    #[arg(long)]
    pub job: Option<String>,
    /// Start one process for each of these ranks, such as 0-7, with RANK, LOCAL_RANK and WORLD_SIZE set.
    #[arg(long, value_name = "A-B", requires = "world_size", value_parser = ranks)]
    pub ranks: Option<RangeInclusive<u32>>,
    /// Ranks in the whole job.
    #[arg(long, value_name = "N")]
    pub world_size: Option<u32>,
    /// Ranks that the job can do with: without a spare node, it is restarted with fewer. Default: all of them.
    #[arg(long, value_name = "N", requires = "ranks")]
    pub least_world_size: Option<u32>,
    /// Start nothing, and stand by until the controller gives this node a part of the job.
    #[arg(long, requires = "job", conflicts_with_all = ["ranks", "no_controller"])]
    pub spare: bool,
    /// C4 is to take no action on this job: why.
    #[arg(long, value_name = "WHY", env = "C4_LEAVE_ALONE")]
    pub leave_alone: Option<String>,
    /// Where flight recorders are kept. Default: a directory of this run's own in /dev/shm, removed at its end.
    #[arg(long, value_name = "DIR")]
    pub recorder_dir: Option<PathBuf>,
    /// File in which the job leaves the iteration of its newest checkpoint.
    #[arg(long, value_name = "FILE")]
    pub checkpoint_marker: Option<PathBuf>,
    /// The profiler plugin. Default: libnccl-profiler-c4.so beside this program.
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Write the processes' output to files in this directory.
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// Serve /metrics and /healthz here (off by default: several runs share a node).
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

impl Run {
    /// Mistakes that clap cannot see.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        match (&self.ranks, self.world_size) {
            (_, Some(0)) => Err("--world-size must be at least 1".to_owned()),
            (Some(ranks), Some(size)) if *ranks.end() >= size => Err(format!(
                "--ranks ends at {}, but ranks of a world of {size} end at {}",
                ranks.end(),
                size - 1
            )),
            _ => Ok(()),
        }
    }
}

fn address(text: &str) -> Result<String, String> {
    crate::config::check_address(text)
        .map(|()| text.to_owned())
        .map_err(|expected| format!("expected {expected}"))
}

fn ranks(text: &str) -> Result<RangeInclusive<u32>, String> {
    let expected = || format!("expected ranks such as 0-7, no more than {MAX_RANKS}");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: u32 = first.trim().parse().map_err(|_| expected())?;
    let last: u32 = last.trim().parse().map_err(|_| expected())?;
    if first > last || last - first >= MAX_RANKS { Err(expected()) } else { Ok(first..=last) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ranks_are_ranges_or_one() {
        assert_eq!(ranks("0-7"), Ok(0..=7));
        assert_eq!(ranks("5"), Ok(5..=5));
        for bad in ["", "7-0", "a-b", "-1", "0-5000", "1-"] {
            assert!(ranks(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_rank_outside_its_world_is_refused() {
        let parse = |arguments: &[&str]| {
            let Some(Verb::Run(run)) = Cli::try_parse_from(arguments).unwrap().command else {
                panic!("not run")
            };
            run.check()
        };
        assert!(parse(&["c4-agent", "run", "--ranks", "0-3", "--world-size", "4", "--", "true"]).is_ok());
        let error =
            parse(&["c4-agent", "run", "--ranks", "4-7", "--world-size", "7", "--", "true"]).unwrap_err();
        assert!(error.contains("ranks of a world of 7 end at 6"), "{error}");
        assert!(Cli::try_parse_from(["c4-agent", "run", "--ranks", "0-3", "--", "true"]).is_err());
        assert!(Cli::try_parse_from(["c4-agent", "run", "--controller", "nonsense", "--", "true"]).is_err());
    }
}
