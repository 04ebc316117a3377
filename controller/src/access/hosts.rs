//! By which names this controller's pages may be asked for.
//!
//! A browser lets a page talk to wherever the page's own name leads. A site that lets its name lead to 127.0.0.1 for a
//! moment (DNS rebinding) is to the browser the controller's own page, and on a machine where nobody has to sign in it
//! could approve actions. What it cannot change is that its name stands in `Host`. Addresses lead nowhere else, and
//! `localhost` is looked up by nobody; every other name has to be configured. Over TLS the certificate does this.

use std::{collections::BTreeSet, net::IpAddr};

use axum::http::{HeaderMap, header, uri::Authority};

/// See the module.
#[derive(Debug, Default)]
pub struct Hosts(BTreeSet<String>);

impl Hosts {
    /// These names, besides addresses and `localhost`.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| plain(name)).collect())
    }

    /// Whether a request with these headers asks for this controller by a name of its own.
    #[must_use]
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (given.next(), given.next()) else { return false };
        let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
        let Some(authority) = authority.filter(|authority| !authority.as_str().contains('@')) else {
            return false;
        };
        let name = plain(authority.host());
        is_address(&name) || name == "localhost" || name.ends_with(".localhost") || self.0.contains(&name)
    }
}

fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn is_address(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_what_is_configured_are_ours_and_other_names_are_not() {
        let hosts = Hosts::new(&["C4.Example".into()]);
        for (host, ours) in [
            ("127.0.0.1:4401", true),
            ("10.1.2.3", true),
            ("[::1]:4401", true),
            ("localhost:4401", true),
            ("LOCALHOST", true),
            ("c4.localhost:1", true),
            ("c4.example:4401", true),
            ("c4.example.:4401", true),
            ("evil.example:4401", false),
            ("evil.c4.example", false),
            ("c4.example.evil", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1@evil.example", false),
            ("evil@127.0.0.1", false),
            ("", false),
            ("a b", false),
        ] {
            let headers = [(header::HOST, host.parse().expect("a value"))].into_iter().collect();
            assert_eq!(hosts.allows(&headers), ours, "{host:?}");
        }
        assert!(!hosts.allows(&HeaderMap::new()), "none at all");
        let two = ["127.0.0.1", "evil.example"].map(|host| (header::HOST, host.parse().expect("a value")));
        assert!(!hosts.allows(&two.into_iter().fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        })));
    }
}
