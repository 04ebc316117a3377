//! How a command can end. Scripts branch on the number, people read the sentence, so both are decided in one place.

use std::{path::PathBuf, process::ExitCode};

/// How a command that could do its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Answered; for `analyze` also: nothing is wrong.
    Fine,
    /// Something was found, or part of the input could not be read.
    Found,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Fine => ExitCode::SUCCESS,
            Exit::Found => ExitCode::from(1),
        }
    }
}

/// What kept a command from its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The thing asked for does not exist or is not valid.
    #[error("{0}")]
    Check(String),
    /// A file cannot be used.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what was expected.
        problem: String,
    },
    /// The command line is well-formed but asks for what does not go together.
    #[error("{0}")]
    Usage(String),
    /// A setting is wrong.
    #[error("{0}")]
    Configuration(String),
    /// The controller does not answer.
    #[error("cannot reach the controller at {url}: {cause}; {hint}")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What happened.
        cause: String,
        /// What to try.
        hint: &'static str,
    },
    /// The answer could not be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// The number a script sees.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Failure::Check(_) | Failure::File { .. } | Failure::Output(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Configuration(_) => 64,
            Failure::Unreachable { .. } => 69,
        }
    }

    /// The same as an exit code.
    #[must_use]
    pub fn exit(&self) -> ExitCode {
        ExitCode::from(self.code())
    }
}
