//! Secrets of receivers: kept in files, read each time they are used, so that they can be changed while the controller
//! runs, and never written anywhere.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use c4_detect::observation::Timestamp;
use ring::hmac;

/// Bytes of a secret; a file that is longer is the wrong file.
const LONGEST: u64 = 4_096;

/// A secret that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the secret in {}: {source}", .path.display())]
pub struct SecretError {
    path: PathBuf,
    source: io::Error,
}

/// What was in the file, without white space around it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Reads it.
    ///
    /// # Errors
    /// There is no such file, everybody can read it, or what it holds is empty, too long or no text.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let failed = |source| SecretError { path: path.to_owned(), source };
        let mut text = String::new();
        let file = fs::File::open(path).map_err(failed)?;
        let everybody = file.metadata().map_err(failed)?.permissions().mode() & 0o007 != 0;
        file.take(LONGEST + 1).read_to_string(&mut text).map_err(failed)?;
        let wrong = |why| failed(io::Error::new(io::ErrorKind::InvalidData, why));
        if everybody {
            return Err(wrong("every user of this machine may use it: chmod o= it"));
        }
        match text.trim() {
            "" => Err(wrong("it is empty")),
            _ if text.len() as u64 > LONGEST => Err(wrong("it is too long for a secret")),
            secret if secret.chars().any(char::is_control) => Err(wrong("it has more than one line")),
            secret => Ok(Self(secret.to_owned())),
        }
    }

    /// For the request that it is sent with.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Signature of a body sent at a time: HMAC-SHA256 over the seconds of Unix time, a dot and the body, in hexadecimal digits. The
    /// time is in it so that a request that somebody kept is of no use later.
    #[must_use]
    pub fn sign(&self, at: Timestamp, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{}.", at.0 / 1_000_000).as_bytes());
        context.update(body);
        context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn a_signature_is_what_openssl_says() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac topsecret
        let secret = Secret::read(file("topsecret\n").path()).unwrap();
        let signed = secret.sign(Timestamp(1_700_000_000_999_999), br#"{"a":1}"#);
        assert_eq!(signed, "6a939b0c71853d606167625a15168ee9188c6a511c773ef4f42d307f3849e50f");
    }

    #[test]
    fn what_is_no_secret_is_refused_and_none_is_shown() {
        for content in ["", " \n", "two\nlines", &"x".repeat(5_000)] {
            let file = file(content);
            let error = Secret::read(file.path()).unwrap_err().to_string();
            assert!(error.contains(&file.path().display().to_string()), "{error}");
        }
        let open = file("topsecret");
        fs::set_permissions(open.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Secret::read(open.path()).unwrap_err().to_string().contains("chmod"));
        assert!(Secret::read(Path::new("/nonexistent")).is_err());
        assert!(!format!("{:?}", Secret::read(file("topsecret").path()).unwrap()).contains("topsecret"));
    }
}
