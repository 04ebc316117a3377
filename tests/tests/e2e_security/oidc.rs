//! A provider of tokens as sites have one: HTTPS, discovery, keys that change, tokens signed with them. Tokens are put together from
//! the RFCs, without what reads them.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use c4_tests::{
    authority::{Authority, Identity, write_secret},
    cluster::wait_for,
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};

use crate::{
    get,
    site::{LIMIT, Site, said},
};

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The key that signs, and its name.
struct Signing {
    id: String,
    pair: EcdsaKeyPair,
}

impl Signing {
    fn new(id: &str) -> Self {
        let (how, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(how, &random).expect("a key");
        Self { id: id.into(), pair: EcdsaKeyPair::from_pkcs8(how, key.as_ref(), &random).expect("the key") }
    }

    fn published(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({"keys": [{"kty": "EC", "use": "sig", "crv": "P-256", "kid": self.id, "x": encode(x), "y": encode(y)}]})
    }
}

/// The provider.
struct Provider {
    address: String,
    signing: Arc<Mutex<Signing>>,
}

impl Provider {
    /// Answers until the test ends.
    fn start(own: &Identity) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate = CertificateDer::from_pem_file(&own.certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
        let tls = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("TLS");
        let tls = Arc::new(tls);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("https://localhost:{}", listener.local_addr().expect("bound").port());
        let signing = Arc::new(Mutex::new(Signing::new("first")));
        let (says, keys) = (address.clone(), signing.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let connection = ServerConnection::new(tls.clone()).expect("TLS");
                let mut stream = StreamOwned::new(connection, socket.expect("a connection"));
                let mut head = BufReader::new(&mut stream);
                let mut line = String::new();
                if head.read_line(&mut line).is_err() {
                    continue;
                }
                let mut rest = String::new();
                while head.read_line(&mut rest).is_ok_and(|read| read > 2) {
                    rest.clear();
                }
                let body = match line.split(' ').nth(1) {
                    Some("/.well-known/openid-configuration") => {
                        json!({"issuer": says, "jwks_uri": format!("{says}/keys")})
                    }
                    Some("/keys") => keys.lock().unwrap_or_else(PoisonError::into_inner).published(),
                    _ => Value::Null,
                }
                .to_string();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.conn.send_close_notify();
                let _ = stream.flush();
                let _ = stream.sock.shutdown(std::net::Shutdown::Write);
                let _ = stream.sock.read(&mut [0]);
            }
        });
        Self { address, signing }
    }

    /// From now on signs with another key, and publishes that one only.
    fn rotate(&self, id: &str) {
        *self.signing.lock().unwrap_or_else(PoisonError::into_inner) = Signing::new(id);
    }

    /// A token for somebody in a group that counts for so many seconds.
    #[expect(clippy::disallowed_methods, reason = "tokens are of today")]
    fn token(&self, audience: &str, group: &str, seconds: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        let until = now.saturating_add_signed(seconds);
        let signing = self.signing.lock().unwrap_or_else(PoisonError::into_inner);
        let header = json!({"typ": "JWT", "alg": "ES256", "kid": signing.id});
        let claims = json!({"iss": self.address, "aud": audience, "exp": until, "sub": "7", "email": "eve@c4.example", "groups": [group]});
        let text = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = signing.pair.sign(&SystemRandom::new(), text.as_bytes()).expect("signed");
        format!("{text}.{}", encode(signature))
    }
}

/// A file with a token.
fn file(site: &Site, name: &str, token: &str) -> PathBuf {
    let path = site.dir.path().join(name);
    write_secret(&path, token);
    path
}

#[test]
fn a_providers_tokens_count_for_what_their_groups_may_also_after_its_keys_have_changed() {
    let outside = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(outside.path());
    let provider = Provider::start(&authority.issue("provider", &["localhost"], 1));
    let site = Site::new(&format!(
        "  oidc:\n    issuer: {}\n    audience: c4\n    ca: {}\n    name_claim: email\n    roles: {{on-call: operator, watchers: viewer}}\n",
        provider.address,
        authority.ca().display(),
    ));
    let ca = site.authority.ca();
    let ask = |token: &str, command: &[&str]| {
        site.ctl(&[("--ca", &ca), ("--token-file", &file(&site, "oidc.token", token))], command)
    };
    let viewer = provider.token("c4", "watchers", 600);
    let seen = ask(&viewer, &["status"]);
    assert!(seen.status.success(), "the first call waits for the keys: {}", said(&seen));
    assert_eq!(get(&site, "/metrics", Some(&viewer)).0, 200, "pages, too");

    // What a role may not, and what does not count at all.
    let pause = ["pause", "--why", "a test", "--yes"];
    let refused = ask(&viewer, &pause);
    assert!(said(&refused).contains("needs the role operator"), "{}", said(&refused));
    let refused = ask(&provider.token("c4", "cats", 600), &["status"]);
    assert!(said(&refused).contains("needs the role viewer"), "{}", said(&refused));
    let (claims, signature) =
        (provider.token("c4", "on-call", 600), viewer.rsplit('.').next().expect("a part"));
    let forged = format!("{}.{signature}", claims.rsplit_once('.').expect("parts").0);
    for (token, why) in [
        (provider.token("grafana", "on-call", 600), "not meant for this controller"),
        (provider.token("c4", "on-call", -600), "has expired"),
        (forged, "signature is wrong"),
    ] {
        let refused = ask(&token, &["status"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains(why), "{why}: {}", said(&refused));
    }
    let paused = ask(&provider.token("c4", "on-call", 600), &pause);
    assert!(paused.status.success(), "{}", said(&paused));
    let written = |words: &[&str]| {
        let holds = |line: &str| line.contains("c4::audit") && words.iter().all(|word| line.contains(word));
        wait_for("the audit trail", LIMIT, || Ok(site.log().lines().any(holds).then_some(())))
            .unwrap_or_else(|error| panic!("{words:?}: {error:#}"));
    };
    written(&["allowed", "eve@c4.example", "oidc", "from=127.0.0.1", "Steering/Decide"]);
    written(&["WARN", "denied", "from=127.0.0.1", "Steering/Decide"]);

    provider.rotate("second");
    wait_for("the new key", LIMIT, || {
        Ok(ask(&provider.token("c4", "watchers", 600), &["status"]).status.success().then_some(()))
    })
    .expect("it is asked for when a token names it");
    let gone = ask(&viewer, &["status"]);
    assert!(said(&gone).contains("does not publish"), "{}", said(&gone));
    let log = fs::read_to_string(site.dir.path().join("controller.log")).expect("a log");
    for secret in viewer.split('.').skip(1) {
        assert!(!log.contains(secret), "a token is in the log");
    }
}
