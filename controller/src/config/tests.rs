use c4_detect::finding::Kind;

use super::*;
use crate::access::Anonymous;

fn mistakes(text: &str) -> Vec<String> {
    Config::parse(text).expect_err("should be refused").iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_means_every_default() {
    assert_eq!(Config::parse("").unwrap(), Config::default());
    assert_eq!(Config::parse("# only a comment\n").unwrap(), Config::default());
    assert_eq!(Config::parse("steer:\nalerts:\nrecord: null\n").unwrap(), Config::default());
}

#[test]
fn values_arrive() {
    let config = Config::parse(
        "listen: 127.0.0.1:0\nrecord: /tmp/x\nsteer: {mode: auto, restart_on: [desync]}\n\
         alerts: [{kind: json, url: 'http://h/x'}, {kind: alertmanager, url: 'http://a:9093', attempts: 2}]\n",
    )
    .unwrap();
    assert_eq!(config.listen.port(), 0);
    assert_eq!(config.steer.mode, Mode::Auto);
    assert_eq!(config.steer.restart_on, [Kind::Desync]);
    assert_eq!(config.alerts.len(), 2);
    assert_eq!(config.alerts[1].attempts, 2);
    assert_eq!(config.alerts[0].attempts, Alert::default().attempts);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_path() {
    let found = mistakes(
        "lissten: 1\nlisten: nowhere\nhttp: 127.0.0.1:4401\nsteer:\n  mode: sometimes\n  max_restarts: -1\n  \
         restart_on: [process_death, bad_luck]\n  min_confidence: 7\nalerts:\n  - kind: pigeon\n    url: ftp://x\n  \
         - {kind: json, urll: http://x}\nlog: {level: 'a=b=c'}\n3: 4\n",
    );
    for (path, words) in [
        ("lissten", "unknown field"),
        ("listen", "socket address"),
        ("steer.mode", "unknown variant `sometimes`"),
        ("steer.max_restarts", "-1"),
        ("steer.restart_on", "unknown variant `bad_luck`"),
        ("steer.min_confidence", "7 is not between 0 and 1"),
        ("alerts[0].kind", "unknown variant `pigeon`"),
        ("alerts[0].url", "must begin with http"),
        ("alerts[1].urll", "unknown field"),
        ("alerts[1].url", "is required"),
        ("log.level", "is not a level"),
        ("3", ""),
    ] {
        let hits = found.iter().filter(|m| m.starts_with(&format!("{path}: ")) && m.contains(words)).count();
        assert_eq!(hits, 1, "{path} … {words} in {found:#?}");
    }
    assert_eq!(found.len(), 12, "{found:#?}");
}

#[test]
fn what_others_can_reach_must_be_closed() {
    let tls = "tls: {certificate: /c, key: /k}";
    for (open, path) in [
        ("listen: 0.0.0.0:4400", "listen"),
        ("http: '[::]:4401'", "http"),
        ("listen: 10.0.0.1:4400\naccess: {tokens: /t}", "listen"),
        (&format!("listen: 10.0.0.1:4400\n{tls}\naccess: {{anonymous: admin}}"), "access.anonymous"),
        ("tls: {certificate: /c}", "tls.key"),
        ("log: {otlp: 'http://10.0.0.1:4317'}", "log.otlp"),
        ("log: {otlp: 'https://10.0.0.1:4317'}", "log.otlp"),
        ("log: {otlp_ca: /ca}", "log.otlp"),
        ("tls: {certificate: /c, key: /k, revoked: /r}", "tls.revoked"),
        ("access: {certificates: {alice: admin}}", "access.certificates"),
    ] {
        let found = mistakes(open);
        assert!(found.len() == 1 && found[0].starts_with(&format!("{path}: ")), "{open}: {found:#?}");
    }
    for (wrong, path) in [
        ("{audience: c4, roles: {a: viewer}}", "access.oidc.issuer"),
        ("{issuer: 'http://id.example', audience: c4, roles: {a: viewer}}", "access.oidc.issuer"),
        ("{issuer: 'https://id.example?x', audience: c4, roles: {a: viewer}}", "access.oidc.issuer"),
        ("{issuer: 'https://id.example', roles: {a: viewer}}", "access.oidc.audience"),
        ("{issuer: 'https://id.example', audience: c4}", "access.oidc.roles"),
        ("{issuer: 'https://id.example', audience: c4, roles: {a: agent}}", "access.oidc.roles.a"),
        (
            "{issuer: 'https://id.example', audience: c4, roles: {a: viewer}, algorithms: [HS256]}",
            "access.oidc.algorithms",
        ),
        (
            "{issuer: 'https://id.example', audience: c4, roles: {a: viewer}, refresh_seconds: 1}",
            "access.oidc.refresh_seconds",
        ),
    ] {
        let found = mistakes(&format!("access: {{oidc: {wrong}}}"));
        assert!(found.iter().any(|mistake| mistake.starts_with(&format!("{path}: "))), "{wrong}: {found:#?}");
    }
    let closed =
        Config::parse("access: {oidc: {issuer: 'http://127.0.0.1:1', audience: c4, roles: {a: viewer}}}");
    assert_eq!(closed.expect("this machine's").anonymous(), Anonymous::Nothing);
    for closed in [
        format!("listen: 0.0.0.0:4400\n{tls}"),
        "listen: 0.0.0.0:4400\ninsecure: true".to_owned(),
        "listen: 127.0.0.2:4400\nhttp: '[::1]:1'".to_owned(),
    ] {
        Config::parse(&closed).unwrap_or_else(|wrong| panic!("{closed}: {wrong:#?}"));
    }
    let anonymous = |text: &str| Config::parse(text).unwrap().anonymous();
    assert_eq!(anonymous(""), Anonymous::Admin, "on this machine, as long as nobody set up anything");
    assert_eq!(anonymous(tls), Anonymous::Nothing);
    assert_eq!(anonymous("access: {tokens: /t}"), Anonymous::Nothing);
    assert_eq!(anonymous("access: {tokens: /t, anonymous: viewer}"), Anonymous::Viewer);
}

#[test]
fn detector_keys_are_checked_too() {
    assert_eq!(mistakes("detect: {no_such_threshold: 1}\n").len(), 1);
}

#[test]
fn what_is_not_yaml_or_not_a_mapping_says_so() {
    assert!(mistakes("a: [\n")[0].contains("not valid YAML"));
    assert!(mistakes("- a\n")[0].contains("expected keys and values"));
    assert!(mistakes("listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n")[0].contains("duplicate"));
}

#[test]
fn not_a_number_is_not_a_duration() {
    assert!(mistakes("drain_seconds: .nan\n")[0].starts_with("drain_seconds: NaN is not between"));
    assert!(mistakes("steer: {cooldown_seconds: .inf}\n")[0].starts_with("steer.cooldown_seconds: inf"));
}

#[test]
fn a_stop_must_be_able_to_succeed() {
    assert!(mistakes("steer: {stop_timeout_seconds: 3}\n")[0].contains("more than stop_grace_seconds"));
}

#[test]
fn the_sample_is_valid_and_changes_nothing() {
    let sample = include_str!("../../../deploy/controller.yaml");
    assert_eq!(Config::parse(sample).unwrap(), Config::default());
}

/// The sample shows every key with its default, commented out: with the marks removed it must read as the defaults.
#[test]
fn the_sample_shows_every_key() {
    let sample = include_str!("../../../deploy/controller.yaml");
    let shown: String =
        sample.lines().filter_map(|line| line.strip_prefix("# ")).map(|line| format!("{line}\n")).collect();
    let config = Config::parse(&shown).unwrap_or_else(|m| panic!("{m:#?}\n{shown}"));
    assert_eq!(config.alerts.len(), 4);
    let document: serde_yaml::Value = serde_yaml::from_str(&shown).unwrap();
    let defaults = Config { alerts: config.alerts, ..Config::default() };
    let wrong = differences("", &serde_yaml::to_value(defaults).unwrap(), &document);
    assert!(wrong.is_empty(), "deploy/controller.yaml does not show the defaults: {wrong:#?}");
}

/// What the sample shows otherwise than it is. The receivers of alerts have no defaults of their own.
fn differences(path: &str, defaults: &serde_yaml::Value, shown: &serde_yaml::Value) -> Vec<String> {
    let Some(mapping) = defaults.as_mapping() else {
        let same = defaults == shown || path == "alerts";
        return if same {
            Vec::new()
        } else {
            vec![format!("{path}: shows {shown:?}, the default is {defaults:?}")]
        };
    };
    let mut wrong = Vec::new();
    for (key, value) in mapping {
        let path = format!("{path}{}{}", if path.is_empty() { "" } else { "." }, key.as_str().unwrap());
        match shown.get(key) {
            None => wrong.push(format!("{path}: is not shown")),
            Some(shown) => wrong.extend(differences(&path, value, shown)),
        }
    }
    wrong
}

#[test]
fn a_key_that_is_gone_says_what_to_do() {
    let found = mistakes("paths: {state: /var/lib/c4/paths.redb, keep_seconds: 5}");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("paths.state: is no setting any more"), "{found:#?}");
    assert!(found[0].contains("`state`") && found[0].contains("paths.redb"), "{found:#?}");
}

#[test]
fn an_actuator_that_writes_files_needs_a_place_for_them() {
    for (text, word) in [("{actuator: frr}", "required"), ("{export: /tmp/x}", "of no use")] {
        let found = mistakes(&format!("paths: {text}"));
        assert!(
            found.len() == 1 && found[0].starts_with("paths.export: ") && found[0].contains(word),
            "{found:#?}"
        );
    }
    assert!(mistakes("paths: {actuator: srv6}")[0].starts_with("paths.actuator: "));
    Config::parse("paths: {actuator: export, export: /var/lib/c4/plans}").unwrap();
}
