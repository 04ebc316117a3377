//! Operations that are left without kernel events, since they come thick and fast.

use super::*;

/// One of which is known, once a later one has ended, that it has ended, too.
fn left_out(sequence: u64, enqueued_ms: u64, end_ms: Option<u64>) -> Operation {
    Operation {
        started_ns: None,
        started_on_gpu: false,
        observable: end_ms.is_some(),
        left_out: true,
        ..operation(sequence, enqueued_ms, end_ms)
    }
}

#[test]
fn their_times_are_not_taken_for_true() {
    let mut track = communicator::CommTrack::default();
    let mut collectives = Collectives::default();
    let comm = Communicator { id: 7, size: 2, observable: true, enqueued: 48, ..Communicator::default() };
    // One in the middle is said to have lasted until the next one whose end was seen.
    let mut all: Vec<_> = (0..48).map(|n| operation(n, 10 + 10 * n, Some(15 + 10 * n))).collect();
    all[16..32].iter_mut().for_each(|op| *op = left_out(op.sequence, 10 + 10 * op.sequence, Some(325)));
    track.update(
        &comm,
        &all.iter().collect::<Vec<_>>(),
        &[],
        &Coverage::default(),
        &mut collectives,
        START + 500 * MS,
    );
    let window = track.close(Overdue { floor_ns: 1, factor: 1 }, START + 500 * MS).unwrap();
    let told =
        |first: u64| window.blocks.iter().filter(move |block| (first..first + 16).contains(&block.first));
    assert!(told(0).count() > 0 && told(16).count() == 0 && told(32).count() > 0, "{:?}", window.blocks);
    assert!(window.blocks.iter().all(|block| block.max_wait_ns == 5 * MS), "{:?}", window.blocks);
    let counted: u64 = collectives.iter().map(|(_, _, alike)| alike.times.count()).sum();
    assert_eq!(counted, 32);
}

#[test]
fn how_long_one_has_been_the_last_is_told_and_no_time_by_itself() {
    let table = Table::default();
    table.with("a.c4r", |fake| *fake = rank(0));
    let mut sampler = sampler(&table, &Exits::default());
    let seen = || operation(0, 10, Some(20));
    put(&table, "a.c4r", vec![seen(), operation(1, 30, Some(40))]);
    let told = watch(&mut sampler, 0, 1_000);
    let last = |told: &[(u64, Report)]| windows(told).last().unwrap().1.clone();
    assert!(last(&told).own.is_some() && last(&told).comms[0].unseen_us == 0);
    put(&table, "a.c4r", vec![seen(), left_out(1, 1_100, None), left_out(2, 1_200, None)]);
    let told = watch(&mut sampler, 1_000, 4_000);
    let waits: Vec<_> = windows(&told).iter().map(|(_, window)| window.comms[0].unseen_us / 1_000).collect();
    assert_eq!(waits, [800, 1_800, 2_800], "since the last of them");
    assert!(windows(&told).iter().all(|(_, window)| window.own.is_none()), "nobody knows");
    let comm = &last(&told).comms[0];
    assert_eq!((comm.enqueued, comm.completed, &comm.in_flight), (3, 1, &None));
    // What comes after it is seen.
    let mut after = vec![left_out(1, 1_100, Some(4_100)), left_out(2, 1_200, Some(4_100))];
    after.push(operation(3, 4_100, None));
    put(&table, "a.c4r", after);
    let told = watch(&mut sampler, 4_000, 6_000);
    let comm = &last(&told).comms[0];
    assert_eq!(comm.unseen_us, 0);
    assert_eq!(comm.in_flight.as_ref().map(|op| op.sequence), Some(3));
}
