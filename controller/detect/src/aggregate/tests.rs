use super::*;

fn operation(sequence: u64, count: u64, start_ns: u64, end_ns: u64) -> CompletedOperation {
    CompletedOperation {
        sequence,
        signature: OperationSignature {
            function: "AllReduce".into(),
            count,
            datatype: "ncclFloat32".into(),
            root: 0,
        },
        start_ns,
        end_ns,
        bytes: count * 4,
    }
}

/// Runs `counts` as the operations of one iteration again and again; each operation takes 1 ms and is preceded by
/// 1 ms of compute, the first of an iteration by `lead_ms`.
struct Job {
    aggregator: Aggregator,
    sequence: u64,
    now_ns: u64,
    iterations: Vec<Iteration>,
    blocks: Vec<Block>,
}

impl Job {
    fn new() -> Self {
        Self {
            aggregator: Aggregator::default(),
            sequence: 0,
            now_ns: 0,
            iterations: Vec::new(),
            blocks: Vec::new(),
        }
    }

    fn iterate(&mut self, counts: &[u64], lead_ms: u64, times: usize) {
        for _ in 0..times {
            for (i, count) in counts.iter().enumerate() {
                self.now_ns += if i == 0 { lead_ms } else { 1 } * 1_000_000;
                let start = self.now_ns;
                self.now_ns += 1_000_000;
                self.aggregator.push(&operation(self.sequence, *count, start, self.now_ns));
                self.sequence += 1;
            }
            let (blocks, iterations) = self.aggregator.take();
            self.blocks.extend(blocks);
            self.iterations.extend(iterations);
        }
    }

    fn last_iterations(&self, n: usize) -> Vec<(u32, u64)> {
        self.iterations
            .iter()
            .rev()
            .take(n)
            .map(|iteration| (iteration.operations, iteration.duration_ns / 1_000_000))
            .collect()
    }
}

#[test]
fn blocks_are_aligned_powers_of_two_without_holes() {
    let mut job = Job::new();
    job.iterate(&[1, 2, 3], 1, 5_000);
    let mut next = 0;
    for block in &job.blocks {
        assert_eq!(block.first, next);
        assert!(block.length.is_power_of_two() && block.first % u64::from(block.length) == 0);
        next += u64::from(block.length);
    }
    // 500 operations a second: 64 in a block make eight a second.
    let lengths: Vec<u32> = job.blocks.iter().rev().take(20).map(|block| block.length).collect();
    assert!(lengths.iter().all(|length| *length == 64), "{lengths:?}");
}

#[test]
fn block_length_follows_the_rate_down_again() {
    let mut job = Job::new();
    job.iterate(&[1], 1, 2_000);
    assert!(job.blocks.last().is_some_and(|block| block.length >= 32));
    job.iterate(&[1], 1_999, 200);
    assert_eq!(job.blocks.last().map(|block| block.length), Some(1));
}

#[test]
fn a_block_sums_what_it_covers() {
    let mut aggregator = Aggregator::default();
    aggregator.push(&operation(6, 8, 1_000, 3_000));
    aggregator.push(&operation(7, 8, 5_000, 6_000));
    let (blocks, _) = aggregator.take();
    assert_eq!(blocks.len(), 2);
    assert_eq!((blocks[0].wait_ns, blocks[0].gap_ns, blocks[0].span_ns), (2_000, 0, 2_000));
    assert_eq!((blocks[1].wait_ns, blocks[1].gap_ns, blocks[1].bytes), (1_000, 2_000, 32));
}

#[test]
fn a_jump_drops_the_open_block_and_repeats_are_ignored() {
    let mut job = Job::new();
    job.iterate(&[1], 1, 1_000);
    let mut aggregator = job.aggregator;
    aggregator.push(&operation(5, 1, job.now_ns, job.now_ns + 1));
    assert!(aggregator.take().0.is_empty(), "an old operation is not a new one");
    aggregator.push(&operation(4_097, 1, job.now_ns + 2_000_000, job.now_ns + 3_000_000));
    let (blocks, _) = aggregator.take();
    assert_eq!(blocks.len(), 1);
    assert_eq!((blocks[0].first, blocks[0].length), (4_097, 1));
}

#[test]
fn finds_the_iteration_of_a_plain_data_parallel_job() {
    let mut job = Job::new();
    job.iterate(&[10, 20, 20, 30], 5, 6);
    assert!(!job.iterations.is_empty(), "believed after three repetitions, then seen from begin to end");
    job.iterate(&[10, 20, 20, 30], 5, 1_000);
    // 4 operations of 1 ms, 3 gaps of 1 ms, 5 ms before the first.
    assert!(job.last_iterations(900).iter().all(|i| *i == (4, 12)));
    // The iteration begins after the longest pause.
    assert!(job.iterations.iter().rev().take(900).all(|i| i.first % 4 == 0));
}

#[test]
fn start_up_that_differs_does_not_matter_for_long() {
    let mut job = Job::new();
    job.iterate(&[7, 7, 9, 11, 13], 1, 1);
    job.iterate(&[1, 2, 3, 4, 5, 6], 1, 1);
    job.iterate(&[40, 30, 20], 5, 30);
    assert_eq!(job.last_iterations(1), vec![(3, 10)]);
}

#[test]
fn layers_that_repeat_inside_an_iteration_are_not_the_iteration() {
    // A sharded model: 48 gathers forward, 48 × (gather, scatter) backward.
    let mut counts = vec![1u64; 48];
    counts.extend(std::iter::repeat_n([1u64, 2], 48).flatten());
    let mut job = Job::new();
    job.iterate(&counts, 20, 40);
    assert_eq!(job.last_iterations(20), vec![(144, 307); 20]);
}

#[test]
fn an_evaluation_in_between_is_passed_over() {
    let mut job = Job::new();
    for _ in 0..5 {
        job.iterate(&[10, 20, 30], 5, 300);
        job.iterate(&[99, 98, 99, 97], 1, 3);
    }
    job.iterate(&[10, 20, 30], 5, 4);
    assert_eq!(job.last_iterations(1), vec![(3, 10)]);
    let odd = job.iterations.iter().filter(|i| i.operations != 3).count();
    assert!(odd <= 5, "{odd} odd iterations");
}

#[test]
fn a_checkpoint_every_so_many_iterations_does_not_make_them_one() {
    let mut job = Job::new();
    for _ in 0..20 {
        job.iterate(&[4096, 4096, 1024, 1024, 8], 250, 50);
        job.iterate(&[1, 2, 3, 4], 100, 1);
    }
    job.iterate(&[4096, 4096, 1024, 1024, 8], 250, 10);
    assert_eq!(job.last_iterations(5), [(5, 259); 5]);
    let of_five = job.iterations.iter().filter(|iteration| iteration.operations == 5).count();
    assert!(of_five > 900, "{of_five} of 1010");
}

#[test]
fn slow_layers_that_repeat_inside_an_iteration_are_not_the_iteration_for_long() {
    let forward: Vec<u64> = [7, 9].repeat(40);
    let backward: Vec<u64> = [7, 9, 5].repeat(40);
    let iteration: Vec<u64> = forward.into_iter().chain(backward).chain([3]).collect();
    let mut job = Job::new();
    for _ in 0..40 {
        for count in &iteration {
            job.iterate(&[*count], 120, 1);
        }
    }
    let last: Vec<u32> = job.last_iterations(3).into_iter().map(|(operations, _)| operations).collect();
    assert_eq!(last, [iteration.len() as u32; 3]);
}

#[test]
fn a_longer_sequence_is_a_new_pattern_of_the_same_kind() {
    let mut job = Job::new();
    job.iterate(&[10, 20, 30], 5, 300);
    job.iterate(&[11, 22, 33, 44], 7, 50);
    assert_eq!(job.last_iterations(5), vec![(4, 14); 5]);
}

#[test]
fn sizes_that_follow_the_data_do_not_hide_the_iteration() {
    let mut job = Job::new();
    let mut x = 7_u64;
    let mut iterate = |job: &mut Job, times: usize| {
        for _ in 0..times {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (length, now_ns) = (x >> 40, job.now_ns);
            job.now_ns = now_ns + 200_000_000;
            for (i, datatype) in ["ncclBfloat16", "ncclBfloat16", "ncclFloat32"].into_iter().enumerate() {
                let mut operation =
                    operation(job.sequence, length * (i as u64 + 1), job.now_ns, job.now_ns + 1_000_000);
                operation.signature.datatype = datatype.into();
                job.aggregator.push(&operation);
                (job.sequence, job.now_ns) = (job.sequence + 1, job.now_ns + 2_000_000);
            }
            job.iterations.extend(job.aggregator.take().1);
        }
    };
    iterate(&mut job, 1_000);
    assert!(job.iterations.is_empty(), "nothing repeats");
    iterate(&mut job, 1_500);
    assert_eq!(job.last_iterations(100), vec![(3, 206); 100]);
}

#[test]
fn accumulated_gradients_are_one_iteration() {
    let micro: Vec<u64> = [5].repeat(12).into_iter().chain([6].repeat(12)).collect();
    for steps in [2, 8, 20] {
        let iteration: Vec<u64> = micro.repeat(steps).into_iter().chain([9, 3]).collect();
        let mut job = Job::new();
        for _ in 0..(40_000 / iteration.len()).max(20) {
            job.iterate(&iteration, 30, 1);
        }
        assert_eq!(job.last_iterations(1)[0].0 as usize, iteration.len(), "{steps} steps");
    }
}

#[test]
fn short_iterations_are_told_several_at_a_time() {
    let mut job = Job::new();
    job.iterate(&[10, 20], 1, 400);
    for _ in 0..10 {
        // A second of iterations of 4 ms, taken at once as an agent does.
        for _ in 0..250 {
            for count in [10, 20] {
                let start = job.now_ns + 1_000_000;
                job.now_ns = start + 1_000_000;
                job.aggregator.push(&operation(job.sequence, count, start, job.now_ns));
                job.sequence += 1;
            }
        }
        let (_, iterations) = job.aggregator.take();
        assert!((7..=9).contains(&iterations.len()), "{}", iterations.len());
        assert!((240..=260).contains(&iterations.iter().map(|i| i.count).sum::<u32>()));
        assert!(iterations.iter().all(|i| i.operations == 2 && i.duration_ns == 4_000_000));
    }
}

#[test]
fn pauses_tell_iterations_when_all_operations_are_alike() {
    let mut job = Job::new();
    job.iterate(&[10; 5], 30, 100);
    assert_eq!(job.last_iterations(50), vec![(5, 39); 50]);
    let mut job = Job::new();
    job.iterate(&[10], 9, 100);
    assert_eq!(job.last_iterations(50), vec![(1, 10); 50]);
}

/// The iterations of a communicator whose operations are all alike, `operations` in each, before which a rank waits elsewhere
/// `short` times, and `long` times before the first. Every fortieth begins with a checkpoint.
fn beside_others(operations: usize, short: usize, long: usize) -> Vec<Iteration> {
    let (mut aggregator, mut coverage) = (Aggregator::default(), Coverage::default());
    let (mut now_ns, mut sequence) = (0, 0);
    let mut told = Vec::new();
    let mut run = |coverage: &mut Coverage, pause_ms: u64| {
        let start_ns = now_ns + pause_ms * 1_000_000;
        now_ns = start_ns + 1_000_000;
        coverage.add(start_ns, now_ns, false);
        start_ns
    };
    for iteration in 0..400 {
        for i in 0..operations {
            let elsewhere = if i == 0 { long } else { short };
            (0..elsewhere).for_each(|_| _ = run(&mut coverage, 40));
            let pause_ms = if i == 0 && iteration % 40 == 39 { 9_000 } else { 45 };
            let start_ns = run(&mut coverage, pause_ms);
            aggregator.push_within(&operation(sequence, 2, start_ns, start_ns + 1_000_000), &coverage);
            sequence += 1;
        }
        told.extend(aggregator.take().1);
    }
    told
}

#[test]
fn a_pause_in_which_as_little_goes_on_elsewhere_as_in_others_begins_no_iteration() {
    let is_each_of = |told: &[Iteration], operations| {
        told.len() >= 300
            && told[told.len() - 300..].iter().all(|iteration| iteration.operations == operations)
    };
    for elsewhere in [1, 3, 20] {
        let told = beside_others(1, elsewhere, elsewhere);
        assert!(is_each_of(&told, 1), "{elsewhere}");
    }
    for (short, long) in [(0, 3), (1, 6), (4, 20)] {
        let told = beside_others(6, short, long);
        assert!(is_each_of(&told, 6), "{short}, {long}");
    }
}

#[test]
fn memory_stays_bounded_without_any_pattern() {
    let mut aggregator = Aggregator::default();
    let mut x = 1u64;
    for sequence in 0..50_000u64 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        aggregator.push(&operation(sequence, x >> 20, sequence * 1_000, sequence * 1_000 + 500));
    }
    let (blocks, iterations) = aggregator.take();
    assert!(blocks.len() <= MAX_UNTAKEN && iterations.is_empty());
}

#[test]
fn a_check_that_looks_like_a_part_of_an_iteration_is_passed_over() {
    for lead_ms in [28, 110] {
        let mut job = Job::new();
        for _ in 0..40 {
            let before = job.iterations.len();
            job.iterate(&[40, 40, 5, 5, 1], lead_ms, 50);
            // It takes no longer than its operations do.
            job.iterate(&[40, 40, 5, 5], 1, 1);
            let seen = job.iterations[before..].iter().filter(|i| i.operations == 5).count();
            assert!(seen >= 45, "{seen} of 50 iterations with {lead_ms} ms of computation");
        }
        assert!(job.iterations.iter().all(|i| i.operations == 5), "nothing else is taken for an iteration");
    }
}

#[test]
fn ranks_of_large_jobs_tell_of_fewer_blocks() {
    let told = |ranks: Option<u32>| {
        let mut aggregator = Aggregator::in_job_of(ranks);
        // 200 collectives a second, for a while until the length is found, then for ten seconds.
        let mut push = |operations: std::ops::Range<u64>| {
            for n in operations {
                let start_ns = n * 5_000_000;
                aggregator.push(&operation(n, 8, start_ns, start_ns + 1_000_000));
            }
            aggregator.take().0
        };
        push(0..8_192);
        let blocks = push(8_192..10_240);
        let whole: u64 = blocks.iter().map(|block| u64::from(block.length)).sum();
        assert!(blocks.iter().all(|block| block.length == blocks[0].length), "{blocks:?}");
        assert_eq!(whole, 2_048, "none is left out");
        blocks.len() as f64 / 10.24
    };
    let few = told(Some(64));
    assert!((3.5..=8.0).contains(&few), "{few} a second");
    assert_eq!((told(None), told(Some(4_096))), (few, few), "as many where nobody knows");
    let rates = [10_000, 32_768, 100_000, u32::MAX].map(|ranks| told(Some(ranks)));
    assert!(rates.is_sorted_by(|a, b| a >= b) && rates[0] < 5.2 && rates[2] < 1.7, "{rates:?}");
    assert!(rates[3] >= 0.35, "{rates:?}");
}

#[test]
fn ranks_of_large_jobs_tell_more_short_iterations_together() {
    let told = |ranks: u32| {
        let mut aggregator = Aggregator::in_job_of(Some(ranks));
        // An iteration of 20 operations in 100 ms, and a window a second.
        let mut windows = Vec::new();
        for n in 0..20_000 {
            let start_ns = n * 5_000_000;
            aggregator.push(&operation(n, 8 + n % 20, start_ns, start_ns + 1_000_000));
            if n % 200 == 199 {
                windows.push(aggregator.take().1);
            }
        }
        let last = windows.split_off(20);
        let iterations: u32 = last.iter().flatten().map(|iteration| iteration.count).sum();
        assert!((790..=800).contains(&iterations), "{iterations} of {ranks} ranks");
        assert!(last.iter().flatten().all(|iteration| iteration.duration_ns == 100_000_000));
        last.iter().map(Vec::len).sum::<usize>() as f64 / last.len() as f64
    };
    assert_eq!(told(4_096), 5.0);
    assert_eq!(told(100_000), 2.0);
}
