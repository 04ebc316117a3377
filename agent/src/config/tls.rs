//! How the connection to the controller, and the one to this agent's metrics, are protected.

use std::path::PathBuf;

use c4_tls::ClientFiles;

use super::{
    Config,
    fields::{Fields, Mistake, or_null, path, text},
};

/// Reads the section. Certificates come in pairs: one without its key is a mistake.
pub(super) fn tls(mut section: Fields, mistakes: &mut Vec<Mistake>) -> Option<ClientFiles> {
    let mut files = ClientFiles::default();
    let (mut ca, mut certificate, mut key): (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>) =
        (None, None, None);
    section.value("ca", &mut ca, mistakes, or_null(path));
    section.value("certificate", &mut certificate, mistakes, or_null(path));
    section.value("key", &mut key, mistakes, or_null(path));
    section.value("server_name", &mut files.server_name, mistakes, or_null(text));
    section.finish(mistakes);
    let mut wrong = |key: &str, what: &str| {
        mistakes.push(Mistake { path: format!("tls.{key}"), what: what.to_owned() });
    };
    match (certificate, key) {
        (Some(certificate), Some(key)) => files.identity = Some((certificate, key)),
        (Some(_), None) => wrong("key", "expected the file of the certificate's key"),
        (None, Some(_)) => wrong("certificate", "expected the file of the key's certificate"),
        (None, None) => {}
    }
    match ca {
        Some(ca) => files.ca = ca,
        None if files == ClientFiles::default() => return None,
        None => wrong("ca", "expected the file of who signs the controller's certificate"),
    }
    Some(files)
}

/// What goes beyond this machine must be protected, unless it was said that it need not be.
pub(super) fn check(config: &Config, mistakes: &mut Vec<Mistake>) {
    let mut wrong = |path: &str, what: String| mistakes.push(Mistake { path: path.to_owned(), what });
    if let Some(address) = &config.controller
        && let Err(what) = check_protection(address, config.tls.is_some(), config.insecure)
    {
        wrong("controller", what);
    }
    if let Err(what) =
        c4_tls::check_collector(config.otlp.as_deref(), config.otlp_ca.is_some(), config.insecure)
    {
        wrong("log.otlp", what);
    }
    let Some(http) = config.http.filter(|http| !http.ip().to_canonical().is_loopback()) else { return };
    let identified = config.tls.as_ref().is_some_and(|tls| tls.identity.is_some());
    if !identified && !config.insecure {
        let what = format!("{http} can be reached from other machines: give `tls`, or say `insecure: true`");
        wrong("http", what);
    }
}

/// Whether the controllers of a list may be talked to.
///
/// # Errors
/// It may not: what to do about it.
pub fn check_protection(list: &str, tls: bool, insecure: bool) -> Result<(), String> {
    super::addresses(list).try_for_each(|address| check_one(address, tls, insecure))
}

fn check_one(address: &str, tls: bool, insecure: bool) -> Result<(), String> {
    match (address.starts_with("https://"), tls) {
        (true, true) => Ok(()),
        (true, false) => Err("https:// needs `tls.ca`: whom to believe".to_owned()),
        (false, true) => Err("`tls` is given, so the address must begin with https://".to_owned()),
        (false, false) if insecure || c4_tls::is_local(address) => Ok(()),
        (false, false) => {
            Err(format!("{address} is on another machine: use https:// and `tls`, or say `insecure: true`"))
        }
    }
}
