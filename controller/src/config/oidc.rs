//! Whose tokens count, of those that an OpenID Connect provider issues.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::access::Role;

/// An issuer of tokens (Keycloak, Dex, Okta, Entra ID, Kubernetes…), and what its claims stand for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Oidc {
    /// Its address, exactly as tokens have it in `iss`. Where its keys are is asked for there. Required.
    pub issuer: String,
    /// What tokens must have in `aud`: they may be meant for somebody else. Required.
    pub audience: String,
    /// Who signs its certificate (PEM). Default: whom this machine believes.
    pub ca: Option<PathBuf>,
    /// How tokens may be signed. Default: RS256 and ES256, which are what providers use.
    pub algorithms: Vec<Algorithm>,
    /// How far its clock and this machine's may differ. Default 60 s.
    pub leeway_seconds: f64,
    /// The claim that says what to call somebody, in the audit trail. Default `sub`, the only one that a provider must not
    /// give to another person later; `email` and `preferred_username` are easier to read.
    pub name_claim: String,
    /// The claim whose values `roles` knows; inside other objects, with dots: `realm_access.roles`. Default `groups`.
    pub roles_claim: String,
    /// What a value of that claim stands for. Of several, the strongest counts; who has none may do nothing. Required.
    pub roles: BTreeMap<String, Role>,
    /// How often its keys are asked for. A key that is not known is asked for at once. Default 300 s.
    pub refresh_seconds: f64,
}

impl Default for Oidc {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            ca: None,
            algorithms: vec![Algorithm::Rs256, Algorithm::Es256],
            leeway_seconds: 60.0,
            name_claim: "sub".into(),
            roles_claim: "groups".into(),
            roles: BTreeMap::new(),
            refresh_seconds: 300.0,
        }
    }
}

/// How a token may be signed (RFC 7518): with a key that only the issuer has. There is neither `none` nor anything symmetric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Algorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    Rs256,
    /// RSA, PKCS #1 v1.5, SHA-384.
    Rs384,
    /// RSA, PKCS #1 v1.5, SHA-512.
    Rs512,
    /// RSA-PSS, SHA-256.
    Ps256,
    /// RSA-PSS, SHA-384.
    Ps384,
    /// RSA-PSS, SHA-512.
    Ps512,
    /// ECDSA on P-256.
    Es256,
    /// ECDSA on P-384.
    Es384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}
