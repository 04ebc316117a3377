//! An issuer's keys: a JSON Web Key Set (RFC 7517).
//!
//! What is not meant for signatures, cannot be used here or is not understood is left out: providers publish keys of all kinds
//! beside each other. Symmetric keys are never taken: whoever could read one could sign with it.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;

/// No issuer has more keys.
const MAX_KEYS: usize = 128;

/// A key for signatures.
#[derive(Clone, Debug)]
struct Key {
    id: Option<String>,
    /// The algorithms that it may be used with.
    algorithms: &'static [Algorithm],
    key: DecodingKey,
}

/// An issuer's keys.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

impl Keys {
    /// Takes what an issuer has published.
    ///
    /// # Errors
    /// It is no set of keys, or none of it can be used.
    pub fn parse(document: &[u8]) -> Result<Self, &'static str> {
        let set: Set = serde_json::from_slice(document).map_err(|_| "is no JSON object with `keys`")?;
        if set.keys.len() > MAX_KEYS {
            return Err("holds more than 128 keys");
        }
        let keys: Vec<Key> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() {
            Err("holds no key for signatures that can be used here")
        } else {
            Ok(Self { keys })
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// The key that a token names, for the algorithm that it names. A token may name none where there is but one.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|key| key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id));
        let found = fitting.next()?;
        fitting.next().is_none().then_some(&found.key)
    }

    /// Whether there is a key of that name, for whatever algorithm.
    pub(super) fn has(&self, id: Option<&str>) -> bool {
        self.keys.iter().any(|key| id.is_none() || key.id.as_deref() == id)
    }
}

fn usable(value: serde_json::Value) -> Option<Key> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|what| *what != PublicKeyUse::Signature) {
        return None;
    }
    let fitting: &'static [Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        _ => return None,
    };
    let algorithms = match jwk.common.key_algorithm {
        None => fitting,
        // A key that says what it is for is for nothing else.
        Some(only) => {
            let at = fitting.iter().position(|algorithm| KeyAlgorithm::from(*algorithm) == only)?;
            fitting.get(at..=at)?
        }
    };
    Some(Key { key: DecodingKey::from_jwk(&jwk).ok()?, id: jwk.common.key_id, algorithms })
}
