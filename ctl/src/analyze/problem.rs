//! What was wrong with the input, and where. One bad line must not hide the rest of a trace, nor a million bad lines
//! fill the memory: the first ones are kept, all are counted.

use std::{fmt, path::PathBuf, sync::Arc};

use serde_json::{Value, json};

/// How many are kept with their text.
const KEPT: usize = 100;

/// One thing that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: Arc<PathBuf>,
    /// The line, from 1, where there are lines.
    pub line: Option<u64>,
    /// What is wrong and what was expected.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.what),
            None => write!(f, "{}: {}", self.file.display(), self.what),
        }
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    kept: Vec<Problem>,
    total: u64,
}

impl Problems {
    /// Adds one.
    pub fn add(&mut self, file: &Arc<PathBuf>, line: Option<u64>, what: impl Into<String>) {
        self.total += 1;
        if self.kept.len() < KEPT {
            self.kept.push(Problem { file: Arc::clone(file), line, what: what.into() });
        }
    }

    /// Whether everything could be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The first ones.
    #[must_use]
    pub fn kept(&self) -> &[Problem] {
        &self.kept
    }

    /// How many there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// For scripts.
    #[must_use]
    pub fn document(&self) -> Value {
        let kept = self.kept.iter().map(
            |problem| json!({"file": problem.file.display().to_string(), "line": problem.line, "problem": problem.what}),
        );
        kept.collect()
    }
}
