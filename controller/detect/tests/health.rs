//! What sensors say, joined with what ranks do: the sentence names the cause, and only a cause that fits.

mod common;

use c4_detect::{
    detector::{Config, Detector},
    finding::{Finding, Kind},
    observation::{HealthEvent, NodeName, Observation, ProcessState, Severity, Timestamp},
};
use common::{EPOCH_US, Fault, Outcome, Shape, Sim, feed};

const S: u64 = 1_000_000;

/// An event `at` µs after the start.
fn event(at: u64, node: usize, code: &str, severity: Severity) -> (u64, HealthEvent) {
    let event = HealthEvent {
        node: NodeName(format!("node-{node}")),
        gpu: None,
        nic: None,
        code: code.into(),
        detail: "as the sensor wrote it".into(),
        severity,
        cleared: false,
        ago_us: 0,
    };
    (at, event)
}

fn on_gpu(gpu: u32, (at, event): (u64, HealthEvent)) -> (u64, HealthEvent) {
    (at, HealthEvent { gpu: Some(gpu), ..event })
}

fn on_nic(nic: &str, (at, event): (u64, HealthEvent)) -> (u64, HealthEvent) {
    (at, HealthEvent { nic: Some(nic.into()), ..event })
}

/// A job of 16 ranks on two nodes, with what sensors say in between.
fn run(seed: u64, fault: Option<Fault>, events: Vec<(u64, HealthEvent)>, duration_us: u64) -> Outcome {
    let mut sim = Sim::new(seed, Shape::new(16, 300_000), fault.into_iter().collect());
    let mut observations = sim.observations(duration_us);
    observations
        .extend(events.into_iter().map(|(at, event)| (Timestamp(EPOCH_US + at), Observation::Health(event))));
    observations.sort_by_key(|(at, _)| *at);
    feed(Detector::new(Config::default()), observations)
}

/// The only finding, in its last form.
fn only(outcome: &Outcome, kind: Kind, rank: u32) -> Finding {
    assert_eq!(outcome.kinds(), vec![kind], "{}", outcome.describe());
    let finding = outcome.last.values().next().cloned().expect("one finding");
    assert_eq!(finding.suspects[0].rank, Some(rank), "{}", finding.summary);
    finding
}

fn stuck(rank: usize) -> Option<Fault> {
    Some(Fault::Stuck { rank, at: 30 * S, until: None, state: ProcessState::Sleeping })
}

fn slow(rank: usize) -> Option<Fault> {
    Some(Fault::Slow { rank, at: 30 * S, until: u64::MAX / 2, us: 100_000 })
}

fn cause(finding: &Finding) -> Option<&str> {
    finding.evidence.get("cause").and_then(|cause| cause["code"].as_str())
}

#[test]
fn a_gpu_that_fell_off_the_bus_is_why_its_rank_hangs() {
    // Told before the hang is seen, and after.
    for at in [29 * S, 50 * S] {
        let told = on_gpu(4, event(at, 1, "xid-79", Severity::Fatal));
        let finding = only(&run(1, stuck(12), vec![told], 60 * S), Kind::NonCommHang, 12);
        assert!(
            finding.summary.starts_with("rank 12, GPU 4 of node-1, fell off the bus at 22:"),
            "{}",
            finding.summary
        );
        assert!(finding.summary.contains("(XID 79): rank 12 ("), "{}", finding.summary);
        assert_eq!(cause(&finding), Some("xid-79"));
        assert!(finding.evidence["recommended_action"].as_str().is_some_and(|what| what.contains("reboot")));
    }
}

#[test]
fn a_gpu_that_is_too_hot_is_why_its_rank_is_late_but_not_why_one_hangs() {
    // A condition: it may have begun long before, or be over by the time the rank is found.
    let hot = on_gpu(4, event(2 * S, 1, "thermal-slowdown", Severity::Warning));
    let brief = on_gpu(4, event(25 * S, 1, "thermal-slowdown", Severity::Warning));
    let over = (31 * S, HealthEvent { cleared: true, ..brief.1.clone() });
    for events in [vec![hot.clone()], vec![brief, over]] {
        let finding = only(&run(2, slow(12), events, 60 * S), Kind::NonCommSlow, 12);
        assert!(finding.summary.starts_with("rank 12, GPU 4 of node-1, is too hot"), "{}", finding.summary);
        assert_eq!(cause(&finding), Some("thermal-slowdown"));
    }

    let outcome = run(3, stuck(12), vec![hot], 60 * S);
    let finding = outcome.last.values().find(|finding| finding.kind == Kind::NonCommHang).expect("a hang");
    assert_eq!(cause(finding), None, "{}", finding.summary);
    assert_eq!(finding.evidence["health"][0]["code"], "thermal-slowdown", "shown, but not blamed");
}

#[test]
fn heat_that_nobody_suffers_from_is_a_warning_only_if_it_lasts() {
    let hot = |at| on_gpu(4, event(at, 1, "thermal-slowdown", Severity::Warning));
    let cold = |at| (at, HealthEvent { cleared: true, ..hot(at).1 });
    let blips = (0..4).flat_map(|n| [hot((60 * n + 10) * S), cold((60 * n + 25) * S)]).collect();
    let outcome = run(11, None, blips, 240 * S);
    assert_eq!(outcome.kinds(), [], "{}", outcome.describe());

    let config = Config { health_throttle_window_ms: 20_000, ..Config::default() };
    let mut observations = Sim::new(12, Shape::new(16, 300_000), Vec::new()).observations(90 * S);
    let events = [hot(10 * S), cold(35 * S), hot(36 * S), cold(40 * S)];
    observations.extend(events.map(|(at, event)| (Timestamp(EPOCH_US + at), Observation::Health(event))));
    observations.sort_by_key(|(at, _)| *at);
    let finding = only(&feed(Detector::new(config), observations), Kind::Health, 12);
    assert!(finding.summary.contains("is too hot and lowered its clocks since"), "{}", finding.summary);
    assert!(finding.cleared.is_some_and(|at| at > Timestamp(EPOCH_US + 50 * S)), "{finding:?}");
}

#[test]
fn a_power_brake_is_told_at_once() {
    let brake = on_gpu(4, event(20 * S, 1, "power-brake", Severity::Warning));
    let finding = only(&run(13, None, vec![brake], 45 * S), Kind::Health, 12);
    assert!(finding.detected < Timestamp(EPOCH_US + 32 * S), "{finding:?}");
}

#[test]
fn another_gpu_or_another_node_is_not_the_cause() {
    let others = vec![
        on_gpu(3, event(29 * S, 1, "xid-79", Severity::Fatal)),
        on_gpu(4, event(29 * S, 0, "xid-79", Severity::Fatal)),
    ];
    let outcome = run(4, stuck(12), others, 45 * S);
    let finding = outcome.last.values().find(|finding| finding.kind == Kind::NonCommHang).expect("a hang");
    assert_eq!((cause(finding), finding.evidence.get("health")), (None, None));
    let warnings = outcome.opened.iter().filter(|finding| finding.kind == Kind::Health).count();
    assert_eq!(warnings, 2, "nobody suffers from them: {}", outcome.describe());
}

#[test]
fn a_fault_of_the_program_accuses_the_program() {
    let fault = |rank, supervised| Some(Fault::Kill { rank, at: 30 * S, supervised });
    // The driver names the process, which need not be the one that died.
    let of = |at: u64, code: &str, pid: u32| {
        let (at, event) = on_gpu(5, event(at, 0, code, Severity::Info));
        (
            at,
            HealthEvent {
                detail: format!("NVRM: Xid (PCI:0000:3b:00): 31, pid={pid}, name=python"),
                ..event
            },
        )
    };
    let death =
        |supervised, events| only(&run(5, fault(5, supervised), events, 60 * S), Kind::ProcessDeath, 5);
    let pid = death(false, Vec::new())
        .summary
        .split_once("pid ")
        .and_then(|(_, rest)| rest.split(')').next()?.parse::<u32>().ok())
        .expect("a pid");
    let finding = death(false, vec![of(29 * S, "xid-31", pid + 1), of(29 * S, "xid-31", pid)]);
    assert_eq!(cause(&finding), Some("xid-31"));
    assert_eq!(finding.evidence["cause"]["origin"], "application");
    assert!(
        finding.evidence["recommended_action"]
            .as_str()
            .is_some_and(|what| what.contains("hardware is not to blame"))
    );
    // Another process, the cleaning up after a death, and what a kill leaves behind.
    let after = 30 * S + 20_000;
    for not_it in [of(29 * S, "xid-31", pid + 1), of(after, "xid-31", pid), of(29 * S, "xid-45", pid)] {
        assert_eq!(cause(&death(false, vec![not_it.clone()])), None, "{not_it:?}");
    }
    assert_eq!(cause(&death(true, vec![of(29 * S, "xid-31", pid)])), None, "it was killed by signal 9");
}

#[test]
fn memory_that_ran_out_is_why_a_process_was_killed() {
    let fault = Some(Fault::Kill { rank: 5, at: 30 * S, supervised: true });
    let told = event(30 * S + S / 2, 0, "oom-kill", Severity::Warning);
    let finding = only(&run(6, fault, vec![told], 60 * S), Kind::ProcessDeath, 5);
    assert!(
        finding.summary.starts_with("node-0, where rank 5 runs, ran out of memory"),
        "{}",
        finding.summary
    );
}

#[test]
fn a_nic_without_a_link_is_named_at_either_end_of_the_connection() {
    let link = |rank| Some(Fault::Link { src: rank, at: 30 * S });
    for (node, rank, end) in [(0, 7, 7), (1, 7, 8)] {
        let down = on_nic("mlx5_3:1", event(31 * S, node, "link-down", Severity::Fatal));
        let finding = only(&run(7, link(rank), vec![down], 60 * S), Kind::CommHang, end);
        let suspect = &finding.suspects[0];
        assert_eq!(suspect.nic.as_deref(), Some("mlx5_3:1"), "{}", finding.summary);
        assert_eq!(
            suspect.link.as_ref().map(|link| (link.src.as_str(), link.dst.as_str())),
            Some(("rank 7", "rank 8"))
        );
        assert!(
            finding.summary.contains(&format!("NIC mlx5_3:1 of node-{node}, has its link down")),
            "{}",
            finding.summary
        );
    }
}

#[test]
fn a_link_that_came_back_is_still_the_cause() {
    let lost = on_nic("mlx5_3:1", event(29 * S, 0, "link-lost", Severity::Warning));
    let (_, back) = lost.clone();
    let events = vec![lost, (32 * S, HealthEvent { cleared: true, ..back })];
    let finding = only(&run(8, Some(Fault::Link { src: 7, at: 30 * S }), events, 60 * S), Kind::CommHang, 7);
    assert_eq!(cause(&finding), Some("link-lost"), "{}", finding.summary);
}

#[test]
fn what_nobody_suffers_from_is_a_warning_with_advice() {
    let events = vec![
        on_gpu(2, event(20 * S, 0, "row-remap-pending", Severity::Warning)),
        // Hosts that are busy, programs with mistakes, corrected errors: everyday.
        event(20 * S, 0, "load-high", Severity::Warning),
        on_gpu(3, event(20 * S, 0, "xid-13", Severity::Info)),
        on_gpu(3, event(20 * S, 0, "xid-63", Severity::Info)),
    ];
    let finding = only(&run(9, None, events, 60 * S), Kind::Health, 2);
    assert!(finding.summary.ends_with("the job does not suffer from it so far"), "{}", finding.summary);
    assert!(
        finding.evidence["recommended_action"].as_str().is_some_and(|what| what.contains("reset the GPU"))
    );
}

#[test]
fn an_error_that_is_written_again_and_again_is_one() {
    let events =
        (0..500).map(|i| on_gpu(4, event(20 * S + i * 20_000, 1, "xid-95", Severity::Fatal))).collect();
    let outcome = run(10, None, events, 90 * S);
    assert_eq!(outcome.kinds(), vec![Kind::Health], "{}", outcome.describe());
}
