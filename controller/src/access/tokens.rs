//! Bearer tokens: a file of who has one, without the tokens themselves.
//!
//! A line is `GRANT NAME sha256:HEX`, as `c4-controller --new-token` prints it. Tokens are 256 random bits, so a plain
//! hash of one can be neither turned round nor guessed, and whoever reads the file gains nothing. A grant is a role
//! (`viewer`, `operator`, `admin`), `agent`, or `job:NAME`: an agent that may speak about that job only.
//!
//! The file is read again when its bytes change, so a token is taken back by deleting its line. A file that is wrong at
//! that moment keeps the tokens as they were.

use std::{collections::HashMap, fmt, fs, path::Path};

use c4_detect::observation::JobId;
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use thiserror::Error;

use super::{Grant, Principal, Role, Speaks, Via};

/// No file of tokens is larger.
const MAX_BYTES: u64 = 16 << 20;
/// What tokens begin with, so that scanners for leaked secrets can find them.
const PREFIX: &str = "c4_";

type Hash = [u8; 32];

/// What is wrong with a file of tokens. Says the line's number and never what is in it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TokensError {
    /// The file.
    #[error("{path}: {problem}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A line.
    #[error("{path}: line {line}: {problem}")]
    Line {
        /// Path of the file.
        path: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

/// All tokens.
#[derive(Default)]
pub struct Tokens {
    by_hash: HashMap<Hash, Principal>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.by_hash.len())
    }
}

impl Tokens {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// It cannot be read, or is far too large.
    pub fn read(path: &Path) -> Result<Vec<u8>, TokensError> {
        let failed = |problem: String| TokensError::File { path: path.display().to_string(), problem };
        if fs::metadata(path).map_err(|error| failed(error.to_string()))?.len() > MAX_BYTES {
            return Err(failed("is larger than 16 MiB".into()));
        }
        fs::read(path).map_err(|error| failed(error.to_string()))
    }

    /// Takes what a file holds; `path` is for errors.
    ///
    /// # Errors
    /// A line is wrong.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, TokensError> {
        let path = path.display().to_string();
        let text = std::str::from_utf8(bytes)
            .map_err(|_| TokensError::File { path: path.clone(), problem: "is no text".into() })?;
        let mut by_hash = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let wrong = |problem| TokensError::Line { path: path.clone(), line: index + 1, problem };
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [grant, name, hash] = words[..] else {
                return Err(wrong("expected GRANT NAME sha256:HEX"));
            };
            let principal = principal(grant, name)
                .ok_or_else(|| wrong("expected viewer, operator, admin, agent or job:NAME first"))?;
            let hash = hash.strip_prefix("sha256:").and_then(unhex);
            let hash = hash.ok_or_else(|| wrong("expected sha256: and 64 hexadecimal digits last"))?;
            if by_hash.insert(hash, principal).is_some() {
                return Err(wrong("the same token as in a line before"));
            }
        }
        Ok(Self { by_hash })
    }

    /// Whose token it is.
    #[must_use]
    pub(super) fn find(&self, token: &str) -> Option<Principal> {
        self.by_hash.get(&hash(token)).cloned()
    }
}

fn principal(grant: &str, name: &str) -> Option<Principal> {
    let (role, speaks) = match grant {
        "viewer" => (Grant::Viewer.role(), Speaks::No),
        "operator" => (Grant::Operator.role(), Speaks::No),
        "admin" => (Some(Role::Admin), Speaks::No),
        "agent" => (None, Speaks::Any),
        other => (None, Speaks::Job(JobId(other.strip_prefix("job:").filter(|job| !job.is_empty())?.into()))),
    };
    Some(Principal { name: name.to_owned(), via: Via::Token, role, speaks })
}

/// A new token, and its line for the file. `None` when the grant or the name cannot be in one.
///
/// # Errors
/// The system has no random numbers.
pub fn new_token(grant: &str, name: &str) -> Result<Option<(String, String)>, ring::error::Unspecified> {
    let one_word = |text: &str| {
        !text.is_empty() && !text.contains('#') && !text.chars().any(|c| c.is_whitespace() || c.is_control())
    };
    if !one_word(grant) || !one_word(name) || principal(grant, name).is_none() {
        return Ok(None);
    }
    let mut random = [0_u8; 32];
    SystemRandom::new().fill(&mut random)?;
    let token = format!("{PREFIX}{}", hex(&random));
    let line = format!("{grant} {name} sha256:{}", hex(&hash(&token)));
    Ok(Some((token, line)))
}

fn hash(token: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Hash> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}
