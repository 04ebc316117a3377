use super::*;

fn mistakes(document: &str) -> Vec<String> {
    match Config::parse(document) {
        Err(ConfigError::Mistakes(mistakes)) => mistakes.0.iter().map(ToString::to_string).collect(),
        Err(error) => panic!("{error}"),
        Ok(_) => Vec::new(),
    }
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_path() {
    let document = "
nodes: gpu-17
controller: 10.0.0.1:4400
recorder_dir: shm/c4
http: 99999
sample_interval_ms: 0
spool: {messages: -1, byte: 5}
sensors:
  nvml: {enabled: maybe}
  host: {steal_percent: 200}
  thermometer: {}
log: {format: xml, filter: '==', otlp: nowhere}
7: seven
";
    let told = mistakes(document);
    let expected = [
        "controller: expected an address",
        "recorder_dir: expected an absolute path",
        "http: expected an address and port",
        "sample_interval_ms: expected a whole number from 10 to 10000, found 0",
        "spool.messages: expected a whole number from 16",
        "spool.byte: unknown key; known here: messages, bytes",
        "sensors.host.steal_percent: expected a number from 0 to 100",
        "sensors.nvml.enabled: expected true or false",
        "sensors.thermometer: unknown key",
        "log.format: expected text or json",
        "log.filter: expected a filter",
        "log.otlp: expected an address such as http://127.0.0.1:4317",
        "nodes: unknown key",
        "7: unknown key",
    ];
    for start in expected {
        assert!(told.iter().any(|mistake| mistake.starts_with(start)), "{start} is not among {told:#?}");
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

#[test]
fn an_empty_document_is_the_defaults() {
    let config = Config::parse("").unwrap();
    assert_eq!(config.sample_interval, Duration::from_millis(100));
    assert_eq!(config.sensors, Config::default().sensors);
}

#[test]
fn after_an_outage_of_any_length_an_agent_is_back_within_ten_seconds() {
    let config = Config::default();
    assert!(config.reconnect.max + config.connect_timeout <= Duration::from_secs(10));
}

#[test]
fn things_can_be_turned_off() {
    let document = "{controller: null, http: null, sensors: {host: {enabled: false}, nvml: {enabled: false}, nic: {enabled: false}, kmsg: {enabled: false}}}";
    let config = Config::parse(document).unwrap();
    assert_eq!((config.controller, config.http), (None, None));
    let sensors = config.sensors;
    assert!(
        sensors.host.is_none() && sensors.nvml.is_none() && sensors.nic.is_none() && sensors.kmsg.is_none()
    );
}

#[test]
fn counters_can_be_changed_added_and_turned_off() {
    let document = "sensors: {nic: {flap: {sticky: true}, counters: {symbol-errors: {more_than: 7}, out-of-sequence: null, efa-drops: {counter: rx_drops, within_s: 10, fatal: true}}}}";
    let nic = Config::parse(document).unwrap().sensors.nic.unwrap();
    assert!(nic.flap.sticky && !nic.counters.contains_key("out-of-sequence"));
    let rule = &nic.counters["symbol-errors"];
    assert_eq!((rule.counter.as_str(), rule.gain.more_than), ("symbol_error", 7));
    assert!(nic.counters["efa-drops"].fatal);
    let wrong = "sensors: {nic: {counters: {mine: {more_than: 1}, other: {counter: ../x}, third: 5}}, nvml: {slowdown: {bad: 10, of: 10}}}";
    let told = mistakes(wrong);
    for start in [
        "sensors.nic.counters.mine.counter: is missing",
        "sensors.nic.counters.other.counter: expected the name",
        "sensors.nic.counters.third: expected keys and values",
        "sensors.nvml.slowdown.bad: less than",
    ] {
        assert!(told.iter().any(|mistake| mistake.starts_with(start)), "{start} is not among {told:#?}");
    }
}

#[test]
fn keys_that_contradict_each_other_are_mistakes() {
    let told =
        mistakes("{sample_interval_ms: 5000, window_ms: 1000, reconnect: {first_ms: 5000, max_ms: 100}}");
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn other_hosts_are_talked_to_under_protection_or_by_request() {
    let tls = "tls: {ca: /ca, certificate: /c, key: /k}";
    for (open, path) in [
        ("controller: http://controller:4400".to_owned(), "controller"),
        ("controller: https://controller:4400".to_owned(), "controller"),
        (format!("controller: http://controller:4400\n{tls}"), "controller"),
        ("http: 0.0.0.0:4402".to_owned(), "http"),
        ("controller: https://c:1\ntls: {ca: /ca}\nhttp: 0.0.0.0:4402".to_owned(), "http"),
        ("controller: https://c:1\ntls: {ca: /ca, key: /k}".to_owned(), "tls.certificate"),
        ("controller: null\ntls: {certificate: /c, key: /k}".to_owned(), "tls.ca"),
    ] {
        let told = mistakes(&open);
        assert!(told.len() == 1 && told[0].starts_with(&format!("{path}: ")), "{open}: {told:?}");
    }
    for good in [
        format!("controller: https://controller:4400\nhttp: 0.0.0.0:4402\n{tls}"),
        "controller: http://controller:4400\nhttp: 0.0.0.0:4402\ninsecure: true".to_owned(),
        "controller: http://[::1]:4400".to_owned(),
    ] {
        assert_eq!(mistakes(&good), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn a_document_that_is_no_mapping_is_one_mistake() {
    assert_eq!(mistakes("[1, 2]"), ["(document): expected keys and values, found a list"]);
    assert_eq!(mistakes("spool: 5"), ["spool: expected keys and values, found a number"]);
}

#[test]
fn broken_yaml_and_missing_files_say_so() {
    assert!(matches!(Config::parse("a: [1"), Err(ConfigError::Syntax(_))));
    assert!(matches!(Config::parse("node: a\nnode: b"), Err(ConfigError::Syntax(_))));
    let error = Config::load(Path::new("/nonexistent/agent.yaml")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/agent.yaml"));
}

#[test]
fn the_sample_configuration_is_valid_and_says_the_defaults() {
    let text = include_str!("../../../deploy/agent.yaml");
    let sample = Config::parse(text).unwrap();
    let default = Config { node: sample.node.clone(), ..Config::default() };
    assert_eq!(format!("{sample:?}"), format!("{default:?}"));
}
