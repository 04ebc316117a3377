//! What a value must satisfy beyond its type.

use std::ops::RangeInclusive;

use tracing_subscriber::EnvFilter;

use super::{AlertKind, Config, Ha, Mistake, Oidc};
use crate::{access::Anonymous, steer::kubernetes};

const DAY_SECONDS: f64 = 86_400.0;

/// Everything that is wrong with the values of a configuration.
pub(super) fn check(config: &Config) -> Vec<Mistake> {
    let mut checks = Checks::default();
    if config.listen == config.http && config.listen.port() != 0 {
        checks.wrong("http", format!("is the same address as listen ({})", config.listen));
    }
    access(config, &mut checks);
    checks.number("drain_seconds", config.drain_seconds, 0.0..=600.0);
    let ingest = &config.ingest;
    checks.number("ingest.node_lost_seconds", ingest.node_lost_seconds, 0.1..=600.0);
    checks.number("ingest.max_streams", ingest.max_streams as f64, 1.0..=1_000_000.0);
    checks.number("ingest.max_refused", f64::from(ingest.max_refused), 1.0..=1_000_000.0);
    let steer = &config.steer;
    checks.number("steer.cooldown_seconds", steer.cooldown_seconds, 0.0..=DAY_SECONDS);
    checks.number("steer.min_confidence", steer.min_confidence, 0.0..=1.0);
    checks.number("steer.stop_grace_seconds", steer.stop_grace_seconds, 0.0..=3600.0);
    checks.number("steer.stop_timeout_seconds", steer.stop_timeout_seconds, 0.1..=DAY_SECONDS);
    checks.number("steer.start_timeout_seconds", steer.start_timeout_seconds, 0.1..=DAY_SECONDS);
    checks.number("steer.attempts", f64::from(steer.attempts), 1.0..=100.0);
    checks.number("steer.isolate_confidence", steer.isolate_confidence, 0.0..=1.0);
    checks.number("steer.jobs_share", steer.jobs_share, 0.0..=1.0);
    checks.number("steer.nodes_share", steer.nodes_share, 0.0..=1.0);
    checks.number("steer.settle_seconds", steer.settle_seconds, 0.0..=3600.0);
    checks.number("steer.breaker_nodes", f64::from(steer.breaker_nodes), 1.0..=1_000_000.0);
    checks.number("steer.breaker_seconds", steer.breaker_seconds, 1.0..=DAY_SECONDS);
    checks.number("steer.breaker_lost_share", steer.breaker_lost_share, 0.0..=1.0);
    checks.number("steer.watch_seconds", steer.watch_seconds, 0.0..=30.0 * DAY_SECONDS);
    checks.number("steer.job_fault_nodes", f64::from(steer.job_fault_nodes), 2.0..=1_000_000.0);
    checks.number("steer.probation_seconds", steer.probation_seconds, 0.0..=365.0 * DAY_SECONDS);
    checks.number("steer.appear_timeout_seconds", steer.appear_timeout_seconds, 0.1..=DAY_SECONDS);
    checks.number("steer.node_timeout_seconds", steer.node_timeout_seconds, 0.1..=DAY_SECONDS);
    checks.number("steer.check_timeout_seconds", steer.check_timeout_seconds, 0.1..=DAY_SECONDS);
    for (index, window) in steer.maintenance.iter().enumerate() {
        let key = |name: &str| format!("steer.maintenance[{index}].{name}");
        match (window.from, window.until) {
            (None, _) => checks.wrong(&key("from"), "is required".into()),
            (_, None) => checks.wrong(&key("until"), "is required".into()),
            (Some(from), Some(until)) if until <= from => {
                checks.wrong(&key("until"), format!("{until} is not after {from}"));
            }
            _ => {}
        }
    }
    if let Some(hook) = &steer.hook {
        if hook.command.first().is_none_or(String::is_empty) {
            checks.wrong("steer.hook.command", "is required: a program and its arguments".into());
        }
        checks.number("steer.hook.timeout_seconds", hook.timeout_seconds, 0.1..=DAY_SECONDS);
    }
    if let Some(slurm) = &steer.slurm {
        checks.number("steer.slurm.poll_seconds", slurm.poll_seconds, 0.5..=3600.0);
    }
    if let Some(kubernetes) = &steer.kubernetes {
        if kubernetes.namespaces.is_empty() {
            checks.wrong("steer.kubernetes.namespaces", "is required: where the jobs are".into());
        }
        for (index, namespace) in kubernetes.namespaces.iter().enumerate() {
            if kubernetes::label_value(namespace).is_none() {
                let key = format!("steer.kubernetes.namespaces[{index}]");
                checks.wrong(&key, format!("{namespace:?} is no name of a namespace"));
            }
        }
        if steer.slurm.is_some() {
            checks.wrong("steer.kubernetes", "is one scheduler too many beside steer.slurm".into());
        }
    }
    if steer.stop_timeout_seconds <= steer.stop_grace_seconds {
        checks.wrong(
            "steer.stop_timeout_seconds",
            format!(
                "{} must be more than stop_grace_seconds ({}), or no stop could ever succeed",
                steer.stop_timeout_seconds, steer.stop_grace_seconds
            ),
        );
    }
    if let Some(ha) = &config.ha {
        several(ha, &mut checks);
    }
    if let Some(rate) = config.paths.assumed_gbps {
        checks.number("paths.assumed_gbps", rate, 0.001..=1e6);
    }
    checks.number("paths.keep_seconds", config.paths.keep_seconds, 0.0..=DAY_SECONDS);
    match (config.paths.actuator.writes(), &config.paths.export) {
        (true, None) => {
            checks.wrong("paths.export", "is required: a directory for the actuator's files".into())
        }
        (false, Some(_)) => checks.wrong("paths.export", "is of no use: the actuator writes no files".into()),
        _ => {}
    }
    for (index, alert) in config.alerts.iter().enumerate() {
        let key = |name: &str| format!("alerts[{index}].{name}");
        if alert.kind.is_none() {
            checks.wrong(&key("kind"), "is required: alertmanager, json, slack or pagerduty".into());
        }
        match (&alert.url_file, alert.url.is_empty()) {
            (Some(_), false) => checks.wrong(&key("url_file"), "is one address too many beside url".into()),
            (Some(_), true) => {}
            (None, true) if alert.kind == Some(AlertKind::Pagerduty) => {}
            (None, _) => checks.url(&key("url"), &alert.url),
        }
        if alert.kind == Some(AlertKind::Pagerduty) && alert.secret_file.is_none() {
            checks
                .wrong(&key("secret_file"), "is required: the file with PagerDuty's integration key".into());
        }
        if alert.kind == Some(AlertKind::Alertmanager) && alert.secret_file.is_some() {
            checks.wrong(&key("secret_file"), "means nothing to Alertmanager; token_file does".into());
        }
        if alert.kind != Some(AlertKind::Json) && alert.template_file.is_some() {
            checks.wrong(&key("template_file"), "is for receivers of kind json".into());
        }
        checks.number(&key("group_seconds"), alert.group_seconds, 0.0..=600.0);
        checks.number(&key("repeat_seconds"), alert.repeat_seconds, 1.0..=DAY_SECONDS);
        checks.number(&key("timeout_seconds"), alert.timeout_seconds, 0.1..=600.0);
        checks.number(&key("attempts"), f64::from(alert.attempts), 1.0..=1000.0);
        checks.number(&key("queue"), alert.queue as f64, 1.0..=1_000_000.0);
    }
    if let Err(error) = EnvFilter::try_new(&config.log.level) {
        checks.wrong(
            "log.level",
            format!("{:?} is not a level or list of directives: {error}", config.log.level),
        );
    }
    let log = &config.log;
    if let Err(problem) = c4_tls::check_collector(log.otlp.as_deref(), log.otlp_ca.is_some(), config.insecure)
    {
        checks.wrong("log.otlp", problem);
    }
    checks.mistakes
}

/// What others may reach must be closed, unless it was said that it may be open.
fn several(ha: &Ha, checks: &mut Checks) {
    if ha.etcd.is_empty() {
        checks.wrong("ha.etcd", "is required: the addresses of etcd's members".into());
    }
    for address in &ha.etcd {
        let protected = address.starts_with("https://");
        if !protected && !address.starts_with("http://") {
            let problem = format!("{address:?} is no address such as https://etcd-0:2379");
            checks.wrong("ha.etcd", problem);
        } else if protected && ha.tls.is_none() {
            checks.wrong("ha.tls", format!("is required for {address}: whom to believe"));
        } else if !protected && !c4_tls::is_local(address) {
            let problem = format!(
                "{address:?} is another machine: whoever can write there commands the cluster, so it must be https"
            );
            checks.wrong("ha.etcd", problem);
        }
    }
    if let Some(tls) = &ha.tls {
        if tls.ca.as_os_str().is_empty() {
            checks.wrong("ha.tls.ca", "is required".into());
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            checks.wrong("ha.tls.key", "goes with ha.tls.certificate".into());
        }
    }
    if !ha.prefix.starts_with('/') || ha.prefix.len() < 2 || !ha.prefix.chars().all(|c| c.is_ascii_graphic())
    {
        checks.wrong("ha.prefix", format!("{:?} is no path such as /c4", ha.prefix));
    }
    let word =
        |text: &str| !text.is_empty() && text.len() <= 253 && text.chars().all(|c| c.is_ascii_graphic());
    if ha.name.as_deref().is_some_and(|name| !word(name) || name.contains('/')) {
        checks.wrong("ha.name", "is no name of one word without slashes".into());
    }
    if ha.address.as_deref().is_some_and(|address| !word(address) || !address.contains("://")) {
        checks.wrong("ha.address", "is no address such as https://c4-0:4400".into());
    }
    checks.number("ha.lease_seconds", f64::from(ha.lease_seconds), 2.0..=60.0);
}

fn access(config: &Config, checks: &mut Checks) {
    for (key, address) in [("listen", config.listen), ("http", config.http)] {
        let open = !address.ip().to_canonical().is_loopback() && !config.insecure;
        if open && config.tls.is_none() {
            checks.wrong(
                key,
                format!("{address} can be reached from other machines: give `tls`, or say `insecure: true`"),
            );
        } else if open && config.anonymous() == Anonymous::Admin {
            checks.wrong(
                "access.anonymous",
                format!("admin would let anybody who reaches {key} ({address}) do anything"),
            );
        }
    }
    if let Some(tls) = &config.tls {
        for (key, path) in [("tls.certificate", &tls.certificate), ("tls.key", &tls.key)] {
            if path.as_os_str().is_empty() {
                checks.wrong(key, "is required: a file".into());
            }
        }
        if tls.revoked.is_some() && tls.client_ca.is_none() {
            checks.wrong("tls.revoked", "says nothing without `client_ca`".into());
        }
    }
    let access = &config.access;
    if !access.certificates.is_empty() && config.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) {
        checks.wrong("access.certificates", "nobody can show one without `tls.client_ca`".into());
    }
    if let Some(issuer) = &access.oidc {
        oidc(issuer, checks);
    }
    for (index, name) in access.hosts.iter().enumerate() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(is_name) {
            let problem = format!("{name:?} is no host name: give it alone, without http:// and port");
            checks.wrong(&format!("access.hosts[{index}]"), problem);
        }
    }
    checks.number("access.calls_per_second", access.calls_per_second, 1.0..=1e6);
    checks.number("access.messages_per_second", access.messages_per_second, 10.0..=1e6);
    checks.number("access.connections", access.connections as f64, 10.0..=1e6);
    checks.number("access.connections_per_address", access.connections_per_address as f64, 1.0..=1e6);
}

/// Whose tokens count besides.
fn oidc(oidc: &Oidc, checks: &mut Checks) {
    let issuer = &oidc.issuer;
    checks.url("access.oidc.issuer", issuer);
    if issuer.starts_with("http://") && !c4_tls::is_local(issuer) {
        let problem = format!(
            "{issuer:?} is another machine: whoever answers in its place could let anybody in, so it must be https"
        );
        checks.wrong("access.oidc.issuer", problem);
    }
    if issuer.contains(['?', '#']) {
        checks.wrong("access.oidc.issuer", format!("{issuer:?} must have neither a query nor a fragment"));
    }
    for (key, value) in [
        ("access.oidc.audience", &oidc.audience),
        ("access.oidc.name_claim", &oidc.name_claim),
        ("access.oidc.roles_claim", &oidc.roles_claim),
    ] {
        if value.is_empty() {
            checks.wrong(key, "is required".into());
        }
    }
    if oidc.algorithms.is_empty() {
        checks.wrong("access.oidc.algorithms", "no token can be signed with none of them".into());
    }
    if oidc.roles.is_empty() {
        let problem = "is required: values of roles_claim, and viewer, operator or admin for each";
        checks.wrong("access.oidc.roles", problem.into());
    }
    checks.number("access.oidc.leeway_seconds", oidc.leeway_seconds, 0.0..=600.0);
    checks.number("access.oidc.refresh_seconds", oidc.refresh_seconds, 10.0..=DAY_SECONDS);
}

#[derive(Default)]
struct Checks {
    mistakes: Vec<Mistake>,
}

impl Checks {
    fn wrong(&mut self, path: &str, problem: String) {
        self.mistakes.push(Mistake { path: path.to_owned(), problem });
    }

    fn number(&mut self, path: &str, value: f64, range: RangeInclusive<f64>) {
        if !range.contains(&value) {
            self.wrong(path, format!("{value} is not between {} and {}", range.start(), range.end()));
        }
    }

    fn url(&mut self, path: &str, url: &str) {
        if url.is_empty() {
            return self.wrong(path, "is required: an http:// or https:// address".into());
        }
        match reqwest::Url::parse(url) {
            Ok(parsed) if !matches!(parsed.scheme(), "http" | "https") => {
                self.wrong(path, format!("{url:?} must begin with http:// or https://"));
            }
            Ok(_) => {}
            Err(error) => self.wrong(path, format!("{url:?} is not a URL: {error}")),
        }
    }
}
