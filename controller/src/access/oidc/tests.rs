//! Tokens of an issuer, and its keys.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{fetch::Source, *};

mod issuer;

use issuer::{Signer, encode};

const ISSUER: &str = "https://id.example/realms/c4";
const KEYS: &str = "https://id.example/keys";

fn config() -> Oidc {
    Oidc {
        issuer: ISSUER.into(),
        audience: "c4".into(),
        algorithms: vec![OidcAlgorithm::Rs256, OidcAlgorithm::Es256],
        roles: BTreeMap::from([("watchers".into(), Role::Viewer), ("on-call".into(), Role::Operator)]),
        ..Oidc::default()
    }
}

/// Seconds since 1970, as the crate under test reads them.
fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "c4", "exp": now() + 600, "sub": "alice", "groups": ["cats", "on-call", "watchers"]})
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

fn published(signers: &[&Signer]) -> Keys {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.published()).collect();
    Keys::parse(json!({ "keys": keys }).to_string().as_bytes()).expect("keys")
}

/// An issuer whose keys are known.
fn knows(config: &Oidc, signers: &[&Signer]) -> Issuer {
    let (issuer, _) = Issuer::over(config, ());
    let state = State { keys: published(signers), asked: None };
    Issuer { state: watch::channel(state).1, ..issuer }
}

#[test]
fn a_token_gives_the_strongest_role_that_its_groups_stand_for() {
    let key = Signer::p256("a");
    let issuer = knows(&config(), &[&key]);
    let alice = issuer.verify(&key.token("ES256", &claims())).expect("it counts");
    assert_eq!((alice.name.as_str(), alice.via, alice.role), ("alice", Via::Oidc, Some(Role::Operator)));
    assert!(!alice.may_speak(), "nobody is an agent by such a token");
    for (groups, role) in [
        (json!("watchers"), Some(Role::Viewer)),
        (json!(["watchers", 7, null]), Some(Role::Viewer)),
        (json!(["on-call "]), None),
        (json!({"on-call": true}), None),
        (json!([]), None),
    ] {
        let somebody =
            issuer.verify(&key.token("ES256", &with("groups", groups.clone()))).expect("it counts");
        assert_eq!(somebody.role, role, "{groups}");
    }
    let audiences = with("aud", json!(["other", "c4"]));
    assert!(issuer.verify(&key.token("ES256", &audiences)).is_ok(), "one of several audiences");
}

#[test]
fn roles_and_names_are_found_where_providers_put_them() {
    let key = Signer::p256("a");
    let said =
        json!({"realm_access": {"roles": ["on-call"]}, "https://c4/groups": ["watchers"], "email": "a@x"});
    let mut claims = claims();
    claims.as_object_mut().unwrap().extend(said.as_object().unwrap().clone());
    for (roles_claim, role) in [
        ("realm_access.roles", Some(Role::Operator)),
        ("https://c4/groups", Some(Role::Viewer)),
        ("realm_access", None),
        ("realm_access.roles.x", None),
    ] {
        let config = Oidc { roles_claim: roles_claim.into(), name_claim: "email".into(), ..config() };
        let somebody = knows(&config, &[&key]).verify(&key.token("ES256", &claims)).expect("it counts");
        assert_eq!((somebody.name.as_str(), somebody.role), ("a@x", role), "{roles_claim}");
    }
}

#[test]
fn what_does_not_count_is_refused_and_said_why() {
    let (key, other, rsa) = (Signer::p256("a"), Signer::p256("a"), Signer::rsa("r"));
    let issuer = knows(&config(), &[&key, &rsa]);
    let good = key.token("ES256", &claims());
    let mut parts: Vec<&str> = good.split('.').collect();
    let changed = encode(with("groups", json!(["on-call", "admins"])).to_string());
    parts[1] = &changed;
    let changed = parts.join(".");
    let bare = |header: Value, signature: &str| {
        format!("{}.{}.{signature}", encode(header.to_string()), encode(claims().to_string()))
    };
    let without = |key: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(key);
        claims
    };
    for (what, token, why) in [
        ("nonsense", "a.b.c".to_owned(), Refusal::Malformed),
        ("empty parts", "..".to_owned(), Refusal::Malformed),
        ("unsigned", bare(json!({"alg": "none", "kid": "a"}), ""), Refusal::Malformed),
        ("another's key of that name", other.token("ES256", &claims()), Refusal::Signature),
        ("changed", changed, Refusal::Signature),
        ("no signature", bare(json!({"alg": "ES256", "kid": "a"}), ""), Refusal::Signature),
        ("the public key as a secret", bare(json!({"alg": "HS256", "kid": "r"}), "AAAA"), Refusal::Algorithm),
        ("not allowed here", rsa.token("PS256", &claims()), Refusal::Algorithm),
        ("another kind than the key", bare(json!({"alg": "RS256", "kid": "a"}), "AAAA"), Refusal::Key),
        ("an unknown key", Signer::p256("b").token("ES256", &claims()), Refusal::Key),
        ("no key named, of two", bare(json!({"alg": "RS256", "kid": "x"}), "AAAA"), Refusal::Key),
        ("too late", key.token("ES256", &with("exp", json!(now() - 61))), Refusal::Expired),
        ("too early", key.token("ES256", &with("nbf", json!(now() + 120))), Refusal::Early),
        (
            "another issuer's",
            key.token("ES256", &with("iss", json!("https://evil.example"))),
            Refusal::Issuer,
        ),
        ("for another", key.token("ES256", &with("aud", json!("grafana"))), Refusal::Audience),
        ("for nobody", key.token("ES256", &with("aud", json!([]))), Refusal::Audience),
        ("no end", key.token("ES256", &without("exp")), Refusal::Claims),
        ("an end that is no number", key.token("ES256", &with("exp", json!("never"))), Refusal::Claims),
        ("a beginning that is none", key.token("ES256", &with("nbf", json!("now"))), Refusal::Claims),
        ("no issuer", key.token("ES256", &without("iss")), Refusal::Claims),
        ("no audience", key.token("ES256", &without("aud")), Refusal::Claims),
        ("nobody", key.token("ES256", &without("sub")), Refusal::Claims),
        ("a name with a new line", key.token("ES256", &with("sub", json!("a\nb"))), Refusal::Claims),
        ("a name without end", key.token("ES256", &with("sub", json!("a".repeat(129)))), Refusal::Claims),
    ] {
        assert_eq!(issuer.verify(&token), Err(why), "{what}");
    }
    assert!(issuer.verify(&good).is_ok(), "and it is none of the rest that is refused");
    let lately = with("exp", json!(now() - 30));
    assert!(issuer.verify(&key.token("ES256", &lately)).is_ok(), "clocks differ");
}

#[test]
fn every_algorithm_that_can_be_allowed_is_checked() {
    let signers = [Signer::rsa("r"), Signer::p256("p"), Signer::p384("q"), Signer::ed25519("e")];
    let all: Vec<OidcAlgorithm> = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]
        .map(|name| serde_json::from_value(name.into()).expect("an algorithm"))
        .to_vec();
    let config = Oidc { algorithms: all, ..config() };
    let issuer = knows(&config, &signers.each_ref());
    for (signer, algorithm) in [(0, "RS256"), (0, "PS256"), (1, "ES256"), (2, "ES384"), (3, "EdDSA")] {
        let token = signers[signer].token(algorithm, &claims());
        assert!(issuer.verify(&token).is_ok(), "{algorithm}");
        let (said, signature) = token.rsplit_once('.').unwrap();
        let flipped: String = signature.chars().rev().collect();
        assert!(issuer.verify(&format!("{said}.{flipped}")).is_err(), "{algorithm}");
    }
    for nothing in ["none", "HS256", "ES512", "rs256"] {
        assert!(serde_json::from_value::<OidcAlgorithm>(nothing.into()).is_err(), "{nothing}");
    }
}

#[test]
fn keys_that_are_not_for_signatures_or_not_understood_are_left_out() {
    let (a, b) = (Signer::p256("a"), Signer::rsa("b"));
    let mut only = b.published();
    only["alg"] = "RS512".into();
    let mut encrypts = a.published();
    (encrypts["use"], encrypts["kid"]) = ("enc".into(), "c".into());
    let set = json!({"keys": [
        a.published(), only, encrypts, {"kty": "oct", "k": "AAAA", "kid": "d", "alg": "HS256"}, {"kty": "new"}, 7, null,
        {"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "e"},
    ], "more": true});
    let keys = Keys::parse(set.to_string().as_bytes()).expect("some can be used");
    assert_eq!(keys.count(), 2);
    use jsonwebtoken::Algorithm::{ES256, HS256, RS256, RS512};
    assert!(keys.find(Some("a"), ES256).is_some() && keys.find(Some("b"), RS512).is_some());
    assert!(keys.find(None, ES256).is_some(), "there is but one of that kind");
    for (id, algorithm) in [("a", RS256), ("b", RS256), ("c", ES256), ("d", HS256)] {
        assert!(keys.find(Some(id), algorithm).is_none(), "{id}");
    }
    let twice = json!({"keys": [a.published(), Signer::p256("z").published()]});
    assert!(
        Keys::parse(twice.to_string().as_bytes()).unwrap().find(None, ES256).is_none(),
        "which of the two?"
    );
    for nonsense in
        ["", "[]", "{}", r#"{"keys": 1}"#, r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#]
    {
        assert!(Keys::parse(nonsense.as_bytes()).is_err(), "{nonsense}");
    }
}

/// An issuer that answers as it is told to, and counts how often its keys were asked for.
#[derive(Clone, Default)]
struct Double {
    documents: Arc<Mutex<BTreeMap<String, String>>>,
    asked: Arc<AtomicUsize>,
}

impl Double {
    fn new(issuer: &str, keys_at: &str) -> Self {
        let double = Self::default();
        let discovery = json!({"issuer": issuer, "jwks_uri": keys_at}).to_string();
        double.publish(&format!("{ISSUER}/.well-known/openid-configuration"), &discovery);
        double
    }

    fn publish(&self, at: &str, document: &str) {
        self.documents.lock().unwrap().insert(at.into(), document.into());
    }

    fn has(&self, signer: &Signer) {
        self.publish(KEYS, &json!({"keys": [signer.published()]}).to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Source for Double {
    async fn get(&self, address: &str) -> Result<Vec<u8>, String> {
        self.asked.fetch_add(usize::from(address == KEYS), Ordering::SeqCst);
        let found = self.documents.lock().unwrap().get(address).cloned();
        found.map(String::into_bytes).ok_or_else(|| format!("{address}: it answered 503"))
    }
}

async fn counts(issuer: &Issuer, token: &str) -> Result<Principal, Refusal> {
    issuer.ready(token).await;
    issuer.verify(token)
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_when_a_token_names_a_new_one_but_only_so_often() {
    let (a, b) = (Signer::p256("a"), Signer::p256("b"));
    let double = Double::new(ISSUER, KEYS);
    double.has(&a);
    let (issuer, fetcher) = Issuer::over(&config(), double.clone());
    let (cancel, signed) = (CancellationToken::new(), |key: &Signer| key.token("ES256", &claims()));
    let task = tokio::spawn(fetcher.follow(cancel.clone()));
    assert!(counts(&issuer, &signed(&a)).await.is_ok(), "the first token waits for the first fetch");
    assert_eq!(double.asked(), 1);
    // Whoever invents names of keys has them fetched once in a while, and is not waited for in between.
    for _ in 0..100 {
        assert_eq!(counts(&issuer, &signed(&b)).await, Err(Refusal::Key));
    }
    assert_eq!(double.asked(), 1);
    // A rotation.
    double.has(&b);
    tokio::time::sleep(PAUSE).await;
    assert!(counts(&issuer, &signed(&b)).await.is_ok(), "the keys are asked for at once");
    assert_eq!(
        counts(&issuer, &signed(&a)).await,
        Err(Refusal::Key),
        "what is published no more counts no more"
    );
    assert_eq!(double.asked(), 2);
    // The issuer is away.
    double.documents.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(counts(&issuer, &signed(&b)).await.is_ok(), "keys stay for a while");
    tokio::time::sleep(Duration::from_secs(25 * 3600)).await;
    assert_eq!(counts(&issuer, &signed(&b)).await, Err(Refusal::Key), "but not for ever");
    cancel.cancel();
    task.await.expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn another_issuers_document_and_keys_in_the_clear_are_not_taken() {
    let key = Signer::p256("a");
    for double in [Double::new("https://evil.example", KEYS), Double::new(ISSUER, "http://id.example/keys")] {
        double.has(&key);
        double.publish("http://id.example/keys", &json!({"keys": [key.published()]}).to_string());
        let (issuer, fetcher) = Issuer::over(&config(), double.clone());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(fetcher.follow(cancel.clone()));
        assert_eq!(counts(&issuer, &key.token("ES256", &claims())).await, Err(Refusal::Key));
        assert_eq!(double.asked(), 0);
        cancel.cancel();
        task.await.expect("it ends");
    }
}
