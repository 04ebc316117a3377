//! An etcd that talks to nobody without a certificate of its authority.

use std::{path::Path, time::Duration};

use c4_tests::{
    authority::{Authority, Identity},
    etcd::{Etcd, Protection, lasting_ports},
};
use tokio::{
    process::Child,
    time::{sleep, timeout},
};

use super::support::{PATIENCE, program};

/// Starts a controller that shows this certificate, if any; it and its pages.
async fn controller(
    dir: &Path,
    name: &str,
    etcd: &Etcd,
    ca: &Path,
    own: Option<&Identity>,
) -> (Child, String) {
    let members: Vec<String> = (0..3).map(|index| format!("'{}'", etcd.url(index))).collect();
    let own = own.map_or_else(String::new, |own| {
        format!(", certificate: {}, key: {}", own.certificate.display(), own.key.display())
    });
    let config = dir.join(format!("{name}.yaml"));
    let [port] = lasting_ports().expect("a port");
    let http = format!("127.0.0.1:{port}");
    let text = format!(
        "listen: 127.0.0.1:0\nhttp: {http}\n\
         ha: {{etcd: [{}], tls: {{ca: {}{own}}}, name: {name}, lease_seconds: 2}}\n",
        members.join(", "),
        ca.display(),
    );
    std::fs::write(&config, text).expect("written");
    (program(&config, None).await.0, http)
}

async fn page(http: &str, path: &str) -> String {
    super::support::get(http.parse().expect("an address"), path).await.1
}

/// Waits until a page says this.
async fn says(http: &str, path: &str, wanted: &str) {
    let wait = async {
        while !page(http, path).await.contains(wanted) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(PATIENCE, wait).await.is_err() {
        panic!("{path} does not say {wanted:?}: {}", page(http, path).await);
    }
}

#[tokio::test]
async fn who_has_a_certificate_leads_and_nobody_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(&dir.path().join("authority"));
    let member = authority.issue("member", &["127.0.0.1", "localhost"], 1);
    let own = authority.issue("c4", &["c4"], 2);
    let protection = Protection { ca: authority.ca(), member, operator: own.clone() };
    let etcd = Etcd::start(0, Some(protection)).expect("etcd");

    // Without a certificate, with one of another authority, and with one to which etcd's own means nothing.
    let other = Authority::new(&dir.path().join("other"));
    let foreign = other.issue("c4", &["c4"], 3);
    let bare = controller(dir.path(), "bare", &etcd, &authority.ca(), None).await;
    let stranger = controller(dir.path(), "stranger", &etcd, &authority.ca(), Some(&foreign)).await;
    let doubter = controller(dir.path(), "doubter", &etcd, &other.ca(), Some(&own)).await;
    for (_, http) in [&bare, &stranger, &doubter] {
        says(http, "/readyz", "nobody is known to lead").await;
    }
    let leader = || etcd.ctl(&["get", "--print-value-only", "/c4/leader"]).expect("runs").expect("an answer");
    assert_eq!(leader(), "", "nobody could");

    let known = controller(dir.path(), "known", &etcd, &authority.ca(), Some(&own)).await;
    says(&known.1, "/readyz", "ready: leads").await;
    assert!(leader().contains("\"known\""), "{}", leader());
    assert!(etcd.rows("c4").expect("an answer").contains_key("schema"), "it has written");
    for (_, http) in [&bare, &stranger, &doubter] {
        assert!(page(http, "/readyz").await.contains("nobody is known to lead"));
    }
}
