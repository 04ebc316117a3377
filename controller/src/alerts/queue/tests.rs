use c4_detect::{
    finding::{Finding, Kind},
    observation::JobId,
};
use proptest::prelude::*;

use super::*;

const LIMITS: Limits =
    Limits { repeat_us: Some(60_000_000), group_us: 0, together: 100, attempts: 3, entries: 2, seed: 7 };
const AGAIN: Failed = Failed { retry: true, after_us: None };
const NEVER: Failed = Failed { retry: false, after_us: None };

fn at(us: u64) -> Timestamp {
    Timestamp(1_000_000_000 + us)
}

fn notice(id: &str, summary: &str, cleared: bool) -> Notice {
    Notice {
        finding: Finding {
            id: FindingId(id.into()),
            job: JobId("j".into()),
            incarnation: 0,
            kind: Kind::CommHang,
            suspects: Vec::new(),
            confidence: 1.0,
            since: at(0),
            detected: at(0),
            cleared: cleared.then(|| at(5)),
            summary: summary.into(),
            evidence: BTreeMap::new(),
            explains: Vec::new(),
            refuted_by: String::new(),
        },
        actions: Vec::new(),
    }
}

fn deliver(queue: &Queue, now: Timestamp) -> Delivery {
    match queue.next(now) {
        Next::Deliver(delivery) => *delivery,
        other => panic!("nothing to deliver: {other:?}"),
    }
}

#[test]
fn the_same_form_is_told_once_then_repeated_then_cleared() {
    let mut queue = Queue::new(LIMITS);
    assert_eq!(queue.offer(notice("f", "hang", false), at(0)), Offered::Queued);
    let first = deliver(&queue, at(0));
    assert_eq!(first.items[0].event, "opened");
    queue.delivered(&first, at(0));
    let mut moved = notice("f", "hang", false);
    moved.finding.confidence = 0.5;
    assert_eq!(queue.offer(moved, at(1)), Offered::Known);
    assert_eq!(queue.next(at(1)), Next::Wait(at(60_000_000)));
    assert_eq!(deliver(&queue, at(60_000_000)).items[0].event, "repeated");

    queue.offer(Notice { actions: vec!["restarted".into()], ..notice("f", "hang", false) }, at(2));
    let update = deliver(&queue, at(2));
    assert_eq!(update.items[0].event, "updated");
    queue.delivered(&update, at(2));
    queue.offer(notice("f", "hang", true), at(3));
    let end = deliver(&queue, at(3));
    assert_eq!(end.items[0].event, "cleared");
    queue.delivered(&end, at(3));
    assert_eq!(queue.next(at(u64::MAX / 2)), Next::Idle);
}

#[test]
fn failures_are_tried_again_ever_later_and_then_given_up() {
    let mut queue = Queue::new(Limits { repeat_us: None, ..LIMITS });
    queue.offer(notice("f", "hang", false), at(0));
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..2 {
        let delivery = deliver(&queue, now);
        assert_eq!(queue.failed(&delivery, AGAIN, now), []);
        let Next::Wait(due) = queue.next(now) else { panic!("should wait") };
        pauses.push(due.micros_since(now));
        now = due;
    }
    assert!((375_000..625_000).contains(&pauses[0]), "{pauses:?}");
    assert!((750_000..1_250_000).contains(&pauses[1]), "{pauses:?}");
    assert_eq!(
        queue.failed(&deliver(&queue, now), AGAIN, now),
        [FindingId("f".into())],
        "given up after three"
    );
    assert_eq!(queue.next(now), Next::Idle);
    // What comes next is told all the same.
    queue.offer(notice("f", "hang", true), now);
    assert_eq!(deliver(&queue, now).items[0].event, "cleared");
}

#[test]
fn what_cannot_succeed_is_given_up_at_once() {
    let mut queue = Queue::new(Limits { repeat_us: None, ..LIMITS });
    queue.offer(notice("f", "hang", false), at(0));
    assert_eq!(queue.failed(&deliver(&queue, at(0)), NEVER, at(0)).len(), 1);
}

#[test]
fn a_newer_form_replaces_one_that_is_under_way() {
    let mut queue = Queue::new(LIMITS);
    queue.offer(notice("f", "hang", false), at(0));
    let first = deliver(&queue, at(0));
    queue.offer(notice("f", "hang", true), at(1));
    queue.delivered(&first, at(2));
    let second = deliver(&queue, at(2));
    assert_eq!(second.items[0].event, "cleared");
    assert_eq!(queue.failed(&first, AGAIN, at(3)), [], "an old failure does not touch the newer form");
    queue.delivered(&second, at(4));
    assert_eq!(queue.next(at(4)), Next::Idle);
}

#[test]
fn news_of_one_job_is_told_together() {
    let mut queue = Queue::new(Limits { group_us: 1_000_000, entries: 9, together: 3, ..LIMITS });
    queue.offer(notice("a", "x", false), at(0));
    assert_eq!(queue.next(at(0)), Next::Wait(at(1_000_000)), "others may come");
    for (id, late_us) in [("b", 300_000), ("c", 900_000), ("d", 900_000)] {
        queue.offer(notice(id, "x", false), at(late_us));
    }
    let mut elsewhere = notice("e", "x", false);
    elsewhere.finding.job = JobId("another".into());
    queue.offer(elsewhere, at(900_000));
    let ids = |delivery: &Delivery| -> Vec<String> {
        delivery.items.iter().map(|item| item.notice.finding.id.0.clone()).collect()
    };
    let first = deliver(&queue, at(1_000_000));
    assert_eq!(ids(&first), ["a", "b", "c"], "so many at most, and of one job");
    assert_eq!(queue.failed(&first, AGAIN, at(1_000_000)), []);
    queue.delivered(&first, at(1_500_000));
    let mut rest = Vec::new();
    while let Next::Deliver(delivery) = queue.next(at(2_000_000)) {
        rest.push(ids(&delivery));
        queue.delivered(&delivery, at(2_000_000));
    }
    rest.sort();
    assert_eq!(rest, [["d"], ["e"]]);
}

#[test]
fn a_receiver_that_says_when_is_asked_then() {
    let mut queue = Queue::new(LIMITS);
    queue.offer(notice("f", "hang", false), at(0));
    queue.failed(&deliver(&queue, at(0)), Failed { retry: true, after_us: Some(30_000_000) }, at(0));
    assert_eq!(queue.next(at(0)), Next::Wait(at(30_000_000)));
    queue.failed(&deliver(&queue, at(30_000_000)), Failed { retry: true, after_us: Some(u64::MAX) }, at(0));
    assert_eq!(queue.next(at(0)), Next::Wait(at(600_000_000)), "but not next year");
}

#[test]
fn it_is_bounded() {
    let mut queue = Queue::new(LIMITS);
    queue.offer(notice("a", "x", false), at(0));
    queue.offer(notice("b", "x", false), at(0));
    assert_eq!(queue.offer(notice("c", "x", false), at(0)), Offered::Full);
    assert_eq!(queue.offer(notice("a", "y", false), at(0)), Offered::Queued);
}

proptest! {
    /// However deliveries fail, the receiver's last word about a finding is its newest form, once it accepts again.
    #[test]
    fn nothing_is_lost_while_attempts_last(fates in proptest::collection::vec((any::<bool>(), 0..3_u8), 0..40)) {
        let mut queue = Queue::new(Limits { attempts: 1000, ..LIMITS });
        let mut now = at(0);
        let mut summary = 0;
        let mut heard: Option<String> = None;
        queue.offer(notice("f", "0", false), now);
        for (ok, what) in fates {
            if what == 0 {
                summary += 1;
                queue.offer(notice("f", &summary.to_string(), false), now);
            }
            match queue.next(now) {
                Next::Deliver(delivery) if ok => {
                    heard = Some(delivery.items[0].notice.finding.summary.clone());
                    queue.delivered(&delivery, now);
                }
                Next::Deliver(delivery) => { queue.failed(&delivery, AGAIN, now); }
                Next::Wait(due) => now = due,
                Next::Idle => prop_assert!(false, "an open finding is never forgotten"),
            }
        }
        for _ in 0..3 {
            match queue.next(now) {
                Next::Deliver(delivery) => {
                    heard = Some(delivery.items[0].notice.finding.summary.clone());
                    queue.delivered(&delivery, now);
                    break;
                }
                Next::Wait(due) => now = due,
                Next::Idle => prop_assert!(false),
            }
        }
        let newest = summary.to_string();
        prop_assert_eq!(heard.as_deref(), Some(newest.as_str()));
    }
}
