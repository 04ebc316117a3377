//! Tokens that an OpenID Connect provider has issued: JSON Web Tokens (RFC 7519), checked here, without asking the provider
//! about each.
//!
//! A token counts if the issuer that is configured has signed it (with one of its published keys, and an algorithm that is
//! allowed here), for this audience, and its time has neither passed nor not come. Then a claim says what somebody is called and
//! another what he may do; agents never have such tokens. The issuer's keys are fetched by a task of their own (`fetch`) and
//! kept while it is away; a token with a key that is not known waits for them to be fetched again, which happens only so often.

use std::{collections::HashSet, time::Duration};

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{Principal, Role, Speaks, Via};
use crate::config::{Oidc, OidcAlgorithm};

mod crypto;
mod fetch;
mod keys;
#[cfg(test)]
mod tests;

pub(crate) use fetch::Fetcher;
pub use fetch::SetupError;
pub use keys::Keys;

/// How long a call waits for the keys.
const WAIT: Duration = Duration::from_secs(5);
/// Keys are asked for no more often than this, whatever tokens name.
const PAUSE: Duration = Duration::from_secs(5);
/// Names in the audit trail are no longer.
const MAX_NAME: usize = 128;

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is not one.
    #[error("this is no token that an issuer signs")]
    Malformed,
    /// Another algorithm.
    #[error("this token is signed in a way that is not allowed here (access.oidc.algorithms)")]
    Algorithm,
    /// Another key.
    #[error("this token is signed with a key that its issuer does not publish")]
    Key,
    /// Somebody else signed it, or it was changed.
    #[error("this token's signature is wrong")]
    Signature,
    /// Too late.
    #[error("this token has expired")]
    Expired,
    /// Too early.
    #[error("this token does not count yet: do the clocks agree?")]
    Early,
    /// Somebody else's.
    #[error("this token is of another issuer (access.oidc.issuer)")]
    Issuer,
    /// For somebody else.
    #[error("this token is not meant for this controller (access.oidc.audience)")]
    Audience,
    /// Something that it must say is not there, or is not what it must be.
    #[error(
        "this token lacks a claim, or one is not what it should be (exp, iss, aud, access.oidc.name_claim)"
    )]
    Claims,
}

/// The keys, and when they were last asked for.
#[derive(Clone, Debug, Default)]
struct State {
    keys: Keys,
    asked: Option<Instant>,
}

/// Checks tokens.
#[derive(Debug)]
pub struct Issuer {
    config: Oidc,
    allowed: HashSet<jsonwebtoken::Algorithm>,
    state: watch::Receiver<State>,
    ask: std::sync::Arc<tokio::sync::Notify>,
}

impl Issuer {
    /// Whether a bearer token may be of an issuer: those of our own have no dots.
    pub(super) fn is_candidate(token: &str) -> bool {
        token.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Waits until the key that a token names is known, or is known not to be.
    pub(super) async fn ready(&self, token: &str) {
        let Ok(header) = decode_header(token) else { return };
        let mut state = self.state.clone();
        {
            let now = state.borrow_and_update();
            let lately = now.asked.is_some_and(|at| at.elapsed() < PAUSE);
            if lately || now.keys.has(header.kid.as_deref()) || !self.allowed.contains(&header.alg) {
                return;
            }
        }
        self.ask.notify_one();
        let _ = timeout(WAIT, state.changed()).await;
    }

    /// Who it is that a token speaks of.
    ///
    /// # Errors
    /// It does not count.
    pub(super) fn verify(&self, token: &str) -> Result<Principal, Refusal> {
        let header = decode_header(token).map_err(|_| Refusal::Malformed)?;
        if !self.allowed.contains(&header.alg) {
            return Err(Refusal::Algorithm);
        }
        let state = self.state.borrow();
        let key = state.keys.find(header.kid.as_deref(), header.alg).ok_or(Refusal::Key)?;
        let mut wanted = Validation::new(header.alg);
        wanted.leeway = self.config.leeway_seconds as u64;
        wanted.validate_nbf = true;
        wanted.set_required_spec_claims(&["exp", "iss", "aud"]);
        wanted.set_issuer(&[&self.config.issuer]);
        wanted.set_audience(&[&self.config.audience]);
        let claims =
            decode::<Map<String, Value>>(token, key, &wanted).map_err(|error| refusal(error.kind()))?;
        self.principal(&claims.claims).ok_or(Refusal::Claims)
    }

    fn principal(&self, claims: &Map<String, Value>) -> Option<Principal> {
        let name = claims.get(&self.config.name_claim)?.as_str()?;
        let is_name =
            !name.is_empty() && name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control);
        is_name.then(|| Principal {
            name: name.to_owned(),
            via: Via::Oidc,
            role: self.role(claims),
            speaks: Speaks::No,
        })
    }

    fn role(&self, claims: &Map<String, Value>) -> Option<Role> {
        // A claim may have dots in its own name, as those that are addresses do.
        let value = claims.get(&self.config.roles_claim).or_else(|| {
            let mut path = self.config.roles_claim.split('.');
            let first = claims.get(path.next()?)?;
            path.try_fold(first, |value, name| value.get(name))
        })?;
        let named = |value: &Value| self.config.roles.get(value.as_str()?).copied();
        match value {
            Value::Array(values) => values.iter().filter_map(named).max(),
            value => named(value),
        }
    }
}

fn refusal(kind: &ErrorKind) -> Refusal {
    match kind {
        ErrorKind::InvalidSignature => Refusal::Signature,
        ErrorKind::ExpiredSignature => Refusal::Expired,
        ErrorKind::ImmatureSignature => Refusal::Early,
        ErrorKind::InvalidIssuer => Refusal::Issuer,
        ErrorKind::InvalidAudience => Refusal::Audience,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Refusal::Algorithm,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Refusal::Claims,
        _ => Refusal::Malformed,
    }
}

fn allowed(config: &Oidc) -> HashSet<jsonwebtoken::Algorithm> {
    use jsonwebtoken::Algorithm as Theirs;
    let theirs = |ours: &OidcAlgorithm| match ours {
        OidcAlgorithm::Rs256 => Theirs::RS256,
        OidcAlgorithm::Rs384 => Theirs::RS384,
        OidcAlgorithm::Rs512 => Theirs::RS512,
        OidcAlgorithm::Ps256 => Theirs::PS256,
        OidcAlgorithm::Ps384 => Theirs::PS384,
        OidcAlgorithm::Ps512 => Theirs::PS512,
        OidcAlgorithm::Es256 => Theirs::ES256,
        OidcAlgorithm::Es384 => Theirs::ES384,
        OidcAlgorithm::EdDsa => Theirs::EdDSA,
    };
    config.algorithms.iter().map(theirs).collect()
}
