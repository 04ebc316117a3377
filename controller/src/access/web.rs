//! The gate before every page.
//!
//! The page's files are open to everybody, as this program is; it signs in with a token of its own accord, and asks with it
//! for what is not. A browser by itself cannot send a bearer token, so one is also taken as the password of HTTP's basic
//! authentication, whatever the user's name. Browsers send that, and certificates, along with requests that other sites
//! make them send; so what changes something must come from this site (`Sec-Fetch-Site`, or `Origin` where a browser is
//! too old for it), and without TLS everything must be asked for by a name of this controller ([`Hosts`](super::Hosts)).

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use c4_tls::Peer;

use super::{Denied, Need, Role, grpc::GateLayer};

/// Longest credentials that are looked at.
const MAX_CREDENTIALS: usize = 8192;

/// The token in `Authorization: Bearer …`, or the password in `Authorization: Basic …`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if rest.len() > MAX_CREDENTIALS {
        return None;
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(rest.trim()).ok()?).ok()?;
    Some(decoded.split_once(':')?.1.to_owned())
}

fn is_look(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// What orchestrators ask for, by whatever name they know a machine.
fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/leaderz")
}

fn need(method: &Method, path: &str) -> Need {
    match path {
        _ if is_probe(path) => Need::Nothing,
        // The page's code, and who it is that asks: nothing that anybody could not know.
        "/" | "/api/page/you" if is_look(method) => Need::Nothing,
        _ if path.starts_with("/page/") && is_look(method) => Need::Nothing,
        _ if is_look(method) => Need::Role(Role::Viewer),
        _ => Need::Role(Role::Operator),
    }
}

/// Whether a request that changes something was made by a page of ours, or by no browser at all.
fn from_here(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match (text("sec-fetch-site"), text("origin"), text("host")) {
        (Some(site), _, _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin), Some(host)) => {
            origin.split_once("://").is_some_and(|(_, at)| at.eq_ignore_ascii_case(host))
        }
        (None, Some(_), None) => false,
        (None, None, _) => true,
    }
}

/// Lets a request in, or answers that it may not.
pub async fn gate(State(layer): State<GateLayer>, mut request: Request, next: Next) -> Response {
    let need = need(request.method(), request.uri().path());
    let admitted = match from_a_page_of_ours(&layer, &request, need) {
        Ok(()) => {
            layer.prepare(request.headers()).await;
            layer.admit(&mut request, need)
        }
        Err(denied) => {
            layer.metrics.denied.with_label_values(&[denied.name()]).inc();
            let (call, why) = (request.uri().path(), denied.name());
            tracing::warn!(target: "c4::audit", call, why, "denied");
            Err(denied)
        }
    };
    match admitted {
        Ok(()) => next.run(request).await,
        Err(denied) => refuse(denied, request.uri().path()),
    }
}

/// Whether no other site's page is behind a request.
fn from_a_page_of_ours(layer: &GateLayer, request: &Request, need: Need) -> Result<(), Denied> {
    let encrypted = request.extensions().get::<Peer>().is_some_and(|peer| peer.encrypted);
    if !encrypted && !is_probe(request.uri().path()) && !layer.gate.hosts().allows(request.headers()) {
        return Err(Denied::Host);
    }
    if need.is_privileged() && !from_here(request.headers()) {
        return Err(Denied::Site);
    }
    Ok(())
}

fn refuse(denied: Denied, path: &str) -> Response {
    let status = match denied {
        Denied::Unknown | Denied::BadToken | Denied::Issued(_) => StatusCode::UNAUTHORIZED,
        Denied::Role(_) | Denied::Host | Denied::Site => StatusCode::FORBIDDEN,
        Denied::TooFast => StatusCode::TOO_MANY_REQUESTS,
    };
    let mut response = (status, format!("{denied}\n")).into_response();
    if status == StatusCode::UNAUTHORIZED {
        // The page has a form of its own, over which no browser should put another.
        let ask = if path.starts_with("/api/") {
            HeaderValue::from_static("Bearer realm=\"c4\"")
        } else {
            HeaderValue::from_static("Basic realm=\"c4: a token as the password\", charset=\"UTF-8\"")
        };
        response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn tokens_are_taken_from_either_scheme_and_nonsense_from_neither() {
        let token = |value: &str| bearer(&headers(&[("authorization", value)]));
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("basic YW55Ym9keTphOmM=").as_deref(), Some("a:c"), "a password may hold colons");
        for nonsense in ["", "Bearer", "Basic", "Basic !!!", "Basic YWJj", "Digest abc"] {
            assert_eq!(token(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(token(&format!("Bearer {}", "a".repeat(10_000))), None);
    }

    #[test]
    fn another_site_cannot_have_anything_changed() {
        for (case, may) in [
            (&[][..], true),
            (&[("sec-fetch-site", "same-origin"), ("origin", "https://evil")], true),
            (&[("sec-fetch-site", "cross-site"), ("host", "c4:4401")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("origin", "https://c4:4401"), ("host", "c4:4401")], true),
            (&[("origin", "https://evil"), ("host", "c4:4401")], false),
            (&[("origin", "null"), ("host", "c4:4401")], false),
        ] {
            assert_eq!(from_here(&headers(case)), may, "{case:?}");
        }
    }

    #[test]
    fn pages_are_for_those_who_may_look_and_changes_for_operators() {
        assert_eq!(need(&Method::GET, "/healthz"), Need::Nothing);
        assert_eq!(need(&Method::GET, "/metrics"), Need::Role(Role::Viewer));
        for public in ["/", "/page/main.js", "/api/page/you"] {
            assert_eq!(need(&Method::GET, public), Need::Nothing, "{public}");
            assert_eq!(need(&Method::POST, public), Need::Role(Role::Operator), "{public}");
        }
        for closed in ["/api/page", "/api/page/live", "/api/page/you/x", "/pages", "//"] {
            assert_eq!(need(&Method::GET, closed), Need::Role(Role::Viewer), "{closed}");
        }
        assert_eq!(need(&Method::POST, "/api/page/decide"), Need::Role(Role::Operator));
        assert_eq!(need(&Method::POST, "/healthz/x"), Need::Role(Role::Operator));
        assert_eq!(need(&Method::DELETE, "/api/findings"), Need::Role(Role::Operator));
    }
}
