use super::*;

/// How long an iteration of eight operations takes.
const WALL_NS: u64 = 1_000_000_000;

/// Who of a communicator is found late within 100 iterations, where ranks work by themselves for such shares of one, and those elsewhere
/// who do the same for `elsewhere`.
fn found(works: &[f64], elsewhere: Option<f64>) -> Vec<u32> {
    let mut slowness = Slowness::default();
    let classes = BTreeMap::new();
    let per_operation = |share: f64| (share * WALL_NS as f64 / 8.0) as f32;
    let setting = Setting {
        members: works.len(),
        shape: Some(crate::rhythm::Shape { operations: 8, duration_us: WALL_NS / 1_000 }),
        iteration_us: WALL_NS / 1_000,
        judged: true,
        first: None,
        elsewhere: Counts::default(),
        work_elsewhere: elsewhere.map(|share| [per_operation(share); 2]),
        classes: &classes,
    };
    for n in 0..100 {
        for (rank, share) in (0u32..).zip(works) {
            let own_ns = (share * WALL_NS as f64) as u64;
            let block = Block {
                first: 8 * n,
                length: 8,
                signature: 1,
                wait_ns: WALL_NS - own_ns,
                min_wait_ns: 1,
                max_wait_ns: (WALL_NS - own_ns) / 8,
                span_ns: WALL_NS,
                gap_ns: own_ns,
                bytes: 8,
                own_ns: Some(own_ns),
                silent_ns: Some(own_ns),
                longest_own_ns: Some(own_ns / 8),
                beside: 0,
                awaited: 8,
            };
            slowness.take(rank, &[block], &setting, &Config::default(), Timestamp(n * WALL_NS / 1_000));
        }
    }
    let late = |news: &News| if let News::Late(rank, _) = news { Some(*rank) } else { None };
    slowness.news.iter().filter_map(late).collect()
}

#[test]
fn of_two_that_drift_apart_neither_is_late_and_a_slow_one_is() {
    // One is five per cent slower than usual, the other five per cent faster.
    let apart = [0.75, 0.85];
    assert_eq!(found(&apart, None), [1], "from the two alone nobody can tell");
    assert!(found(&apart, Some(0.8)).is_empty());
    assert_eq!(found(&[0.8, 0.92], Some(0.8)), [1]);
    assert_eq!(found(&[0.72, 0.92], Some(0.8)), [1]);
    assert_eq!(found(&[0.78, 0.78, 0.92], Some(0.79)), [2]);
}
