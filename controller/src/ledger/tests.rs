use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn job() -> JobId {
    JobId("j".into())
}

fn finding(id: &str, incarnation: u32, since: u64, detected: u64) -> Finding {
    Finding {
        id: FindingId(id.into()),
        job: job(),
        incarnation,
        kind: Kind::ProcessDeath,
        suspects: Vec::new(),
        confidence: 1.0,
        since: Timestamp(since),
        detected: Timestamp(detected),
        cleared: None,
        summary: String::new(),
        evidence: BTreeMap::new(),
        explains: Vec::new(),
        refuted_by: String::new(),
    }
}

#[test]
fn jobs_that_are_gone_are_forgotten_unless_they_lost_something() {
    let mut ledger = Ledger::default();
    let named = |name: &str| JobId(name.into());
    for name in ["gone", "here"] {
        ledger.seen(&named(name), Timestamp(0));
    }
    ledger.fault(&finding("f", 0, 1000, 1300), Timestamp(1300));
    let is_there = |job: &JobId| job.0 == "here";
    assert!(ledger.prune(is_there, Timestamp(IDLE_US)).is_empty());
    assert_eq!(ledger.prune(is_there, Timestamp(IDLE_US + 1)), [Write::remove(TABLE, "gone")]);
    assert_eq!(ledger.accounts(|_| true).into_keys().collect::<Vec<_>>(), [named("here"), job()]);
    // Those that lost something are many at most, and the oldest go first.
    for n in 0..MAX_ACCOUNTS {
        ledger.seen(&JobId(format!("k{n}")), Timestamp(IDLE_US + n as u64));
    }
    assert_eq!(ledger.prune(is_there, Timestamp(IDLE_US + 2)).len(), 2);
    assert!(ledger.jobs.contains_key(&named("here")) && !ledger.jobs.contains_key(&job()));
}

#[test]
fn an_outage_has_the_four_parts() {
    let mut ledger = Ledger::default();
    ledger.checkpoint(&job(), Checkpoint { iteration: 10, at: Timestamp(500), took_us: Some(40) });
    ledger.checkpoint(&job(), Checkpoint { iteration: 20, at: Timestamp(900), took_us: Some(40) });
    ledger.fault(&finding("f", 0, 1000, 1300), Timestamp(1300));
    ledger.fault(&finding("g", 0, 1050, 1400), Timestamp(1400));
    ledger.stopped(&job(), 0, Timestamp(2000));
    assert!(
        ledger.progress(&job(), 0, Timestamp(2100)).is_empty(),
        "the old incarnation's progress ends nothing"
    );
    assert_eq!(ledger.progress(&job(), 1, Timestamp(5000)).len(), 1);
    let (outages, sum) = ledger.of(&job(), Timestamp(9999));
    assert_eq!(outages.len(), 1, "two findings, one outage");
    assert!(outages[0].complete());
    assert_eq!(
        sum,
        Parts {
            post_checkpoint_us: 100,
            detection_us: 300,
            diagnosis_isolation_us: 700,
            reinitialisation_us: 3000,
        }
    );
    assert_eq!(ledger.newest_checkpoint(&job()), Some(20));
}

#[test]
fn a_restart_by_somebody_else_counts_too() {
    let mut ledger = Ledger::default();
    ledger.fault(&finding("f", 3, 1000, 1300), Timestamp(1300));
    ledger.stopped(&job(), 3, Timestamp(2000));
    ledger.stopped(&job(), 3, Timestamp(2500));
    assert_eq!(ledger.progress(&job(), 4, Timestamp(3000))[0].parts(Timestamp(0)).reinitialisation_us, 1000);
}

#[test]
fn a_cause_that_goes_away_by_itself_loses_no_work() {
    let mut ledger = Ledger::default();
    ledger.checkpoint(&job(), Checkpoint { iteration: 1, at: Timestamp(1), took_us: Some(40) });
    ledger.fault(&finding("f", 0, 1000, 1300), Timestamp(1300));
    assert_eq!(ledger.cleared(&job(), &FindingId("f".into()), Timestamp(1500)).len(), 1);
    let (_, sum) = ledger.of(&job(), Timestamp(9999));
    assert_eq!((sum.post_checkpoint_us, sum.wall_us()), (0, 500));
}

#[test]
fn a_fault_that_stops_nothing_has_no_entry() {
    let mut ledger = Ledger::default();
    ledger.fault(&Finding { kind: Kind::NonCommSlow, ..finding("f", 0, 1, 2) }, Timestamp(3));
    assert!(ledger.of(&job(), Timestamp(9)).0.is_empty());
}

#[test]
fn old_outages_are_folded_into_the_sum() {
    let mut ledger = Ledger::default();
    for incarnation in 0..1500_u32 {
        let start = u64::from(incarnation) * 100;
        ledger
            .fault(&finding(&incarnation.to_string(), incarnation, start, start + 10), Timestamp(start + 10));
        ledger.stopped(&job(), incarnation, Timestamp(start + 30));
        ledger.progress(&job(), incarnation + 1, Timestamp(start + 60));
    }
    let (outages, sum) = ledger.of(&job(), Timestamp(u64::MAX));
    assert_eq!(outages.len(), MAX_ENTRIES);
    assert_eq!(sum.wall_us(), 1500 * 60);
}

proptest! {
    /// Whatever is told in whatever order, the parts add up to the wall time from fault to progress (or now).
    #[test]
    fn parts_add_up_to_wall_time(
        since in 0..10_000_u64, detected in 0..10_000_u64, now in 0..30_000_u64,
        checkpoint in proptest::option::of(0..10_000_u64),
        steps in proptest::collection::vec((0..3_u8, 0..20_000_u64), 0..6),
    ) {
        let mut ledger = Ledger::default();
        if let Some(at) = checkpoint {
            ledger.checkpoint(&job(), Checkpoint { iteration: 1, at: Timestamp(at), took_us: Some(40) });
        }
        ledger.fault(&finding("f", 0, since, detected), Timestamp(detected));
        for (what, at) in steps {
            match what {
                0 => ledger.stopped(&job(), 0, Timestamp(at)),
                1 => { ledger.progress(&job(), 1, Timestamp(at)); }
                _ => { ledger.cleared(&job(), &FindingId("f".into()), Timestamp(at)); }
            }
        }
        let (outages, sum) = ledger.of(&job(), Timestamp(now));
        let outage = &outages[0];
        let begin = outage.detected.max(outage.fault);
        let end = outage.progress.unwrap_or(Timestamp(now)).max(begin);
        prop_assert_eq!(sum.wall_us(), end.micros_since(outage.fault));
        prop_assert_eq!(sum, outage.parts(Timestamp(now)));
        if let Some(checkpoint) = outage.checkpoint {
            prop_assert!(checkpoint.at <= outage.fault);
        }
    }
}
