//! What is wrong with a document, and where. The first ones are kept, all are counted.

use std::fmt;

/// How many are kept with their text.
const KEPT: usize = 100;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: u32,
    /// The field, such as `hosts[3].nics[0].ports[1].gbps`; empty for the whole document.
    pub field: String,
    /// What is wrong and what was expected.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "line {}: {}", self.line, self.what)
        } else {
            write!(f, "line {}: {}: {}", self.line, self.field, self.what)
        }
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    kept: Vec<Problem>,
    total: usize,
}

impl Problems {
    /// Adds one.
    pub fn add(&mut self, line: u32, field: impl fmt::Display, what: impl fmt::Display) {
        self.total += 1;
        if self.kept.len() < KEPT {
            self.kept.push(Problem { line, field: field.to_string(), what: what.to_string() });
        }
    }

    /// A list of one.
    #[must_use]
    pub fn one(line: u32, what: impl fmt::Display) -> Self {
        let mut problems = Self::default();
        problems.add(line, "", what);
        problems
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The first ones, in the order of the document as far as it was read.
    #[must_use]
    pub fn kept(&self) -> &[Problem] {
        &self.kept
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.kept.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        match self.total - self.kept.len() {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

impl std::error::Error for Problems {}
