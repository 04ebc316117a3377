//! The command line as it is typed. Everything a person reads about it is here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod steering;
mod topology;

pub use steering::{How, Mode, Steer};
pub use topology::{Cabling, Topology};

/// Where a controller listens unless configured otherwise.
pub const DEFAULT_CONTROLLER: &str = "http://127.0.0.1:4400";

const EXIT_CODES: &str = "\
Exit codes:
  0   the command could answer (`findings` exits 0 also when findings are open);
      `analyze`: everything was read and nothing is wrong
  1   `analyze` found something, or part of its input could not be read;
      `plan`, `what-if`: a flow has no path;
      `topology --against`: something differs;
      `alerts test`: a receiver does not take the test;
      `recorder`: a file is not a valid recorder; `explain`, `job`: no such thing;
      `approve`, `release`, …: it cannot be done as things are, or nobody said yes;
      `doctor`: a check fails
  2   the command line is wrong
  64  a setting is wrong (such as C4_CONTROLLER); `plan`, `what-if`, `topology`: a document is
  69  the controller cannot be reached";

/// Says what is wrong with a training job, and why.
#[derive(Debug, Parser)]
#[command(name = "c4ctl", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    /// Controller to ask, or several with commas between them, of which one leads [env: C4_CONTROLLER] [default: that of the current context, or http://127.0.0.1:4400]
    #[arg(long, global = true, value_name = "URL")]
    pub controller: Option<String>,
    /// Ask the controller of this context, as `c4ctl context list` shows them [env: C4_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "controller")]
    pub context: Option<String>,
    /// Whom to believe, and who asks
    #[command(flatten)]
    pub credentials: Credentials,
    /// Print one JSON document instead of text (`events --follow`: one object a line); the same as `-o json`
    #[arg(long, global = true)]
    pub json: bool,
    /// Form of the answer; `wide` has more columns and cuts nothing
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Form::Table)]
    pub output: Form,
    /// Colour the output; `auto`: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub color: Color,
    /// How long to wait for the controller's answer, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What protects the connection to a controller.
#[derive(Clone, Debug, Default, Args)]
pub struct Credentials {
    /// Who signs the controller's certificate (PEM); needed for https://
    #[arg(long, global = true, env = "C4_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Your certificate (PEM)
    #[arg(long, global = true, env = "C4_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, global = true, env = "C4_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// File of your token, instead of a certificate
    #[arg(long, global = true, env = "C4_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The name in the controller's certificate, where its address is another (such as a port-forward's)
    #[arg(long, global = true, env = "C4_SERVER_NAME", value_name = "NAME")]
    pub server_name: Option<String>,
}

impl Cli {
    /// Whether the answer is for a script.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json || self.output == Form::Json
    }
}

/// Forms of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Text that fits the terminal.
    #[default]
    Table,
    /// Text with everything in it.
    Wide,
    /// One JSON document.
    Json,
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What can be asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the controller.
    #[command(flatten)]
    Live(Live),
    /// See and decide what is done.
    #[command(flatten)]
    Steer(Steer),
    /// Look into flight recorders on this machine, without a controller
    Recorder {
        /// What to do with them
        #[command(subcommand)]
        command: Recorder,
    },
    /// Diagnose a job from files alone, without a controller
    Analyze(Analyze),
    /// Plan paths for flows from files alone, without a controller
    Plan(Plan),
    /// What a dead link or a new job would do to the plan: before and after
    WhatIf(WhatIf),
    /// Write the topology that `plan` needs from what hosts and switches see at the ends of their cables, or hold a file
    /// against it
    Topology(Topology),
    /// Check this machine: plugin, NCCL, shared memory, GPUs, NICs, controller, clock; or C4 as a whole
    Doctor(Doctor),
    /// The controllers that you ask, by name
    Context {
        /// What to do with them
        #[command(subcommand)]
        command: Who,
    },
    /// Print a script that completes c4ctl's commands in your shell
    #[command(after_help = "For example: c4ctl completions bash > /etc/bash_completion.d/c4ctl")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write c4ctl's manual pages, one for each command
    Man {
        /// Folder to write them to
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// How often an answer is asked for again.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Watch {
    /// Ask again every so many seconds, until interrupted [default: 2]
    #[arg(short = 'w', long = "watch", value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: Option<u64>,
}

/// Questions to the controller.
#[derive(Debug, Subcommand)]
pub enum Live {
    /// The controller and its nodes
    Status {
        /// Repetition
        #[command(flatten)]
        watch: Watch,
    },
    /// All jobs
    Jobs {
        /// Repetition
        #[command(flatten)]
        watch: Watch,
    },
    /// One job: its ranks, open findings and downtime
    Job {
        /// Name of the job
        job: String,
        /// Repetition
        #[command(flatten)]
        watch: Watch,
    },
    /// Jobs and suspects live on the whole terminal
    Top,
    /// One job in one HTML file for a ticket: sentences, pictures, numbers
    Report {
        /// Name of the job
        job: String,
        /// File to write [default: c4-report-JOB.html]
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Everything that the controller must not forget, in one file that `c4-controller --restore` takes
    Backup {
        /// File to write; one that is there is not overwritten
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// All evidence of a finding in one archive (tar.gz), without secrets
    Bundle {
        /// Id of the finding, as `findings` prints it
        id: String,
        /// File to write [default: c4-bundle-ID.tar.gz]
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// What is wrong now
    Findings {
        /// Repetition
        #[command(flatten)]
        watch: Watch,
        /// Also what has been cleared
        #[arg(long)]
        all: bool,
        /// Only this job's
        #[arg(long, value_name = "JOB")]
        job: Option<String>,
    },
    /// One finding: the sentence, the numbers it rests on, what would refute it, what was done
    Explain {
        /// Id of the finding, as `findings` prints it
        id: String,
    },
    /// The controller's receivers of alerts
    Alerts {
        /// What to do with them
        #[command(subcommand)]
        command: Alerts,
    },
    /// Planned paths: links, jobs, and what agents know
    Paths {
        /// Repetition
        #[command(flatten)]
        watch: Watch,
        /// Only this job, with the paths of its flows
        #[arg(long, value_name = "JOB")]
        job: Option<String>,
    },
    /// What has happened
    Events {
        /// Go on as things happen
        #[arg(long, short)]
        follow: bool,
        /// How many past events to print first
        #[arg(long, value_name = "N", default_value_t = 100)]
        history: u32,
    },
}

/// What can be done with receivers of alerts.
#[derive(Debug, Subcommand)]
pub enum Alerts {
    /// Tell every receiver of a finding that says it is a test, and take it back
    Test,
}

impl Live {
    /// How often it is to be asked again.
    #[must_use]
    pub fn watch(&self) -> Option<u64> {
        match self {
            Live::Status { watch }
            | Live::Jobs { watch }
            | Live::Job { watch, .. }
            | Live::Paths { watch, .. }
            | Live::Findings { watch, .. } => watch.seconds,
            _ => None,
        }
    }
}

/// What can be done with contexts.
#[derive(Debug, Subcommand)]
pub enum Who {
    /// All contexts
    List,
    /// Make one the current one
    Use {
        /// Its name
        name: String,
    },
    /// Make or change one
    Set {
        /// Its name
        name: String,
        /// Address of its controller
        controller: String,
    },
    /// Forget one
    Delete {
        /// Its name
        name: String,
    },
}

/// What to check on this machine.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Check the controller and all that it knows of its agents instead of this machine
    #[arg(long, conflicts_with_all = ["nccl"])]
    pub cluster: bool,
    /// The profiler plugin [default: where packages put it, or else /usr/local/lib/libnccl-profiler-c4.so]
    #[arg(long, env = "NCCL_PROFILER_PLUGIN", value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// The NCCL library that jobs load [default: looked for where it usually is]
    #[arg(long, value_name = "FILE")]
    pub nccl: Option<PathBuf>,
    /// Where flight recorders are kept
    #[arg(long, env = "C4_RECORDER_DIR", value_name = "DIR", default_value = "/dev/shm/c4")]
    pub recorders: PathBuf,
}

/// What can be done with flight recorders.
#[derive(Debug, Subcommand)]
pub enum Recorder {
    /// Print one flight recorder
    Show {
        /// The recorder's file
        file: PathBuf,
        /// How many of the last operations to print (text only; JSON has all)
        #[arg(long, value_name = "N", default_value_t = 10)]
        operations: usize,
    },
    /// List the flight recorders of a directory
    List {
        /// The directory
        #[arg(env = "C4_RECORDER_DIR", default_value = "/dev/shm/c4")]
        dir: PathBuf,
    },
}

/// Offline diagnosis.
#[derive(Debug, Args)]
#[command(after_help = "\
All paths together are one job: flight recorders (files or their directory), operation traces (JSON lines), or dumps \
of PyTorch's Flight Recorder (pickle or JSON, one file a rank; the file's name tells the rank); plain, gzip or zstd. \
Pickles are read as data, nothing in them is run. Dumps beside recorders or a trace, and what `ncclras -f json` printed \
beside any of them, are taken as corroboration. A recorder that a living process holds is a moment in time; recorders that nobody holds are judged as \
what is left after the job's end, or as copies, and what cannot be claimed from them is not claimed.")]
pub struct Analyze {
    /// Files, or one directory
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// What the files are; `auto` looks into them
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub format: Format,
    /// Also draw who waited for whom, as an SVG image
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Formats that `analyze` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Told from the content.
    #[default]
    Auto,
    /// JSON lines, one operation a line.
    OperationTrace,
    /// PyTorch's Flight Recorder dump.
    FlightRecorder,
    /// C4's own flight recorders.
    Recorder,
}

/// Offline planning.
#[derive(Debug, Args)]
pub struct Plan {
    /// Hosts, switches and links (YAML)
    #[arg(long, value_name = "FILE")]
    pub topology: PathBuf,
    /// Who sends how much to whom (JSON)
    #[arg(long, value_name = "FILE")]
    pub flows: PathBuf,
    /// The plan so far (JSON, as `--json` prints it); what need not move stays
    #[arg(long, value_name = "FILE")]
    pub previous: Option<PathBuf>,
    /// Also write what agents are to do (JSON): the plan in addresses, which the topology must have
    #[arg(long, value_name = "FILE")]
    pub orders: Option<PathBuf>,
    /// Also write, into this folder, a file for each leaf: policy routes that take the planned paths. The topology must have
    /// the addresses of NIC ports and of links (`a_address`, `b_address`)
    #[arg(long, value_name = "DIR")]
    pub routes: Option<PathBuf>,
    /// In whose words: `ip -4 -batch FILE` (and -6), or FRR's `vtysh -f FILE`
    #[arg(long, value_name = "WORDS", default_value = "iproute", requires = "routes")]
    pub routes_for: RoutesFor,
    /// Also show what flows would get otherwise: hashed over 1, 2 or 16 queue pairs, split by Ethereal, sprayed ideally
    #[arg(long)]
    pub compare: bool,
}

/// Who takes policy routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RoutesFor {
    /// iproute2, on Linux.
    Iproute,
    /// FRR's pbrd.
    Frr,
}

/// Offline planning of what is not yet so.
#[derive(Debug, Args)]
pub struct WhatIf {
    /// Hosts, switches and links (YAML)
    #[arg(long, value_name = "FILE")]
    pub topology: PathBuf,
    /// Who sends how much to whom (JSON)
    #[arg(long, value_name = "FILE")]
    pub flows: PathBuf,
    /// Links that die: all between two switches, or one of them; may be repeated
    #[arg(long, value_name = "A-B[:INDEX]")]
    pub down: Vec<String>,
    /// Flows that come on top (JSON); may be repeated
    #[arg(long, value_name = "FILE")]
    pub add: Vec<PathBuf>,
    /// Also show what flows would get otherwise, before and after: hashed, split by Ethereal, sprayed ideally
    #[arg(long)]
    pub compare: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli = Cli::try_parse_from(["c4ctl", "findings", "--all", "--json", "--controller", "http://x:1"])
            .expect("parses");
        assert!(cli.json);
        assert_eq!(cli.controller.as_deref(), Some("http://x:1"));
        assert!(matches!(cli.command, Command::Live(Live::Findings { all: true, job: None, .. })));
    }

    #[test]
    fn watching_has_a_usual_pace_and_does_not_swallow_arguments() {
        let seconds = |args: &[&str]| match Cli::try_parse_from(args).expect("parses").command {
            Command::Live(live) => live.watch(),
            _ => None,
        };
        assert_eq!(seconds(&["c4ctl", "job", "--watch", "llm"]), Some(2));
        assert_eq!(seconds(&["c4ctl", "jobs", "-w=5"]), Some(5));
        assert_eq!(seconds(&["c4ctl", "jobs"]), None);
    }

    #[test]
    fn analyze_needs_a_path() {
        assert!(Cli::try_parse_from(["c4ctl", "analyze"]).is_err());
    }
}
