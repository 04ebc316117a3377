//! The side that connects.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use tonic::{
    codegen::http::Uri,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, ClientTlsConfig, Identity},
};

use crate::files::{FileError, certificates, read, read_secret};

/// Most bytes of a token: those of OpenID Connect name all of somebody's groups.
const MAX_TOKEN: usize = 8000;

/// Whom a client believes, and what it shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Who signs the controller's certificate (PEM).
    pub ca: PathBuf,
    /// The client's own certificate and private key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name that the controller's certificate must have. `None`: the host in its address.
    pub server_name: Option<String>,
}

impl ClientFiles {
    /// Reads the files as they are now.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn load(&self) -> Result<ClientTlsConfig, FileError> {
        certificates(&self.ca)?;
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&self.ca)?));
        if let Some((certificate, key)) = &self.identity {
            certificates(certificate)?;
            config = config.identity(Identity::from_pem(read(certificate)?, read_secret(key)?));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

/// Reads a bearer token from a file, as the value of the `authorization` header. It is marked as sensitive: nothing
/// prints it.
///
/// # Errors
/// It cannot be read, everybody could read it, or it cannot be a token.
pub fn bearer(path: &Path) -> Result<MetadataValue<Ascii>, FileError> {
    let bytes = read_secret(path)?;
    let token = bytes.trim_ascii();
    if token.is_empty() || token.len() > MAX_TOKEN || !token.iter().all(u8::is_ascii_graphic) {
        return Err(FileError::new(
            path,
            "holds no token (one word of at most 8000 letters, digits and signs)",
        ));
    }
    let value = format!("Bearer {}", String::from_utf8_lossy(token));
    let mut value =
        MetadataValue::try_from(value).map_err(|_| FileError::new(path, "cannot be sent as a token"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether an address (`http://127.0.0.1:4400`) is on this machine by what it says: names are not looked up, but for
/// `localhost`.
#[must_use]
pub fn is_local(address: &str) -> bool {
    let Ok(uri) = address.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether spans may be sent to a collector: what is in the clear stays on this machine, unless `insecure` says that it need not.
///
/// # Errors
/// They may not: why, and what to do about it.
pub fn check_collector(address: Option<&str>, ca: bool, insecure: bool) -> Result<(), String> {
    let Some(address) = address else {
        return if ca { Err("is missing beside `otlp_ca`".to_owned()) } else { Ok(()) };
    };
    let uri = address.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
    match (uri.as_ref().and_then(Uri::scheme_str), ca) {
        (Some("https"), true) => Ok(()),
        (Some("https"), false) => Err("https:// needs `otlp_ca`: whom to believe".to_owned()),
        (Some("http"), true) => Err("`otlp_ca` is given, so the address must begin with https://".to_owned()),
        (Some("http"), false) if insecure || is_local(address) => Ok(()),
        (Some("http"), false) => Err(format!(
            "{address} is on another machine: use https:// and `otlp_ca`, or say `insecure: true`"
        )),
        _ => Err(format!("expected an address such as http://127.0.0.1:4317, found {address:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn this_machine_is_told_by_its_address() {
        for (address, local) in [
            ("http://127.0.0.1:4400", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:4400", true),
            ("http://LocalHost:1", true),
            ("http://10.0.0.1:4400", false),
            ("http://localhost.evil.example", false),
            ("http://127.0.0.1.evil.example", false),
            ("http://0.0.0.0:1", false),
            ("", false),
        ] {
            assert_eq!(is_local(address), local, "{address}");
        }
    }

    #[test]
    fn spans_leave_this_machine_under_tls_or_because_somebody_said_so() {
        for (address, ca, insecure, may) in [
            (None, false, false, true),
            (None, true, false, false),
            (Some("http://127.0.0.1:4317"), false, false, true),
            (Some("http://collector:4317"), false, false, false),
            (Some("http://collector:4317"), false, true, true),
            (Some("http://127.0.0.1:4317"), true, false, false),
            (Some("https://collector:4317"), true, false, true),
            (Some("https://collector:4317"), false, true, false),
            (Some("collector:4317"), false, true, false),
            (Some("grpc://collector"), false, true, false),
            (Some(""), false, true, false),
        ] {
            let told = check_collector(address, ca, insecure);
            assert_eq!(told.is_ok(), may, "{address:?} {ca} {insecure}: {told:?}");
        }
    }

    #[test]
    fn a_token_is_one_word_that_not_everybody_can_read_and_nothing_prints_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let written = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            bearer(&path)
        };
        let good = written("c4_abc\n", 0o600).unwrap();
        assert_eq!(good.to_str().unwrap(), "Bearer c4_abc");
        assert!(!format!("{good:?}").contains("abc"));
        for (text, mode) in [("c4_abc\n", 0o604), ("", 0o600), ("a b", 0o600), ("ä", 0o600)] {
            let error = written(text, mode).unwrap_err().to_string();
            assert!(!error.contains("abc"), "{error}");
        }
    }
}
