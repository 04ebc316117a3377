//! How often a job should leave checkpoints.
//!
//! A checkpoint that takes δ every T costs the share δ/T of the job's time; a failure costs the work since the last one, T/2
//! on average, once in the mean time M between failures: δ/T + T/(2M) is least at T = √(2δM) (Young, 1974).

use c4_detect::observation::Timestamp;

use crate::groups::Checkpoint;

/// Failures and checkpoints below which nothing is recommended: two intervals are no habit, and one failure no rate.
const LEAST_FAILURES: u64 = 2;
const LEAST_CHECKPOINTS: usize = 3;

/// What would lose the least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recommendation {
    /// Time from checkpoint to checkpoint.
    pub interval_seconds: f64,
    /// The same as it is: the median.
    pub present_seconds: f64,
    /// How long one takes.
    pub cost_seconds: f64,
    /// Mean time between failures.
    pub mtbf_seconds: f64,
    /// The share of the job's time that would be saved.
    pub saves_share: f64,
}

/// Recommends an interval from when checkpoints were left, how long they took, and how often the job failed.
pub(super) fn recommend(
    checkpoints: &[Checkpoint],
    failures: u64,
    observed_us: u64,
) -> Option<Recommendation> {
    if failures < LEAST_FAILURES || checkpoints.len() < LEAST_CHECKPOINTS {
        return None;
    }
    let took = checkpoints.iter().filter_map(|checkpoint| checkpoint.took_us);
    let cost = median(took).filter(|us| *us > 0)? as f64 / 1e6;
    let mut times: Vec<Timestamp> = checkpoints.iter().map(|checkpoint| checkpoint.at).collect();
    times.sort_unstable();
    let present = median(times.windows(2).map(|pair| pair[1].micros_since(pair[0])))? as f64 / 1e6;
    let mtbf = observed_us as f64 / 1e6 / failures as f64;
    if present <= 0.0 || mtbf <= 0.0 {
        return None;
    }
    let loss = |interval: f64| cost / interval + interval / (2.0 * mtbf);
    // An interval shorter than the checkpoint itself is none.
    let interval = (2.0 * cost * mtbf).sqrt().max(cost);
    Some(Recommendation {
        interval_seconds: interval,
        present_seconds: present,
        cost_seconds: cost,
        mtbf_seconds: mtbf,
        saves_share: (loss(present) - loss(interval)).max(0.0),
    })
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recommended_interval_loses_least() {
        let left = |seconds: u64, took_us: Option<u64>| {
            let at = |iteration| Timestamp(iteration * seconds * 1_000_000);
            (0..5).map(|n| Checkpoint { iteration: n, at: at(n), took_us }).collect::<Vec<_>>()
        };
        let (day, cost) = (86_400_000_000, Some(30_000_000));
        let every = |seconds| left(seconds, cost);
        // Four failures a day, 30 s a checkpoint: every 19 minutes.
        let advice = recommend(&every(3600), 4, day).expect("enough is known");
        assert!((advice.interval_seconds - 1138.4).abs() < 0.1, "{advice:?}");
        assert!((advice.saves_share - 0.0390).abs() < 0.0005, "{advice:?}");
        // Whoever does so already is told that there is nothing to gain.
        let same = recommend(&every(1138), 4, day).expect("enough is known");
        assert!(same.saves_share < 1e-6, "{same:?}");
        assert_eq!(recommend(&left(3600, None), 4, day), None);
        assert_eq!(recommend(&every(3600), 1, day), None);
        assert_eq!(recommend(&[], 4, day), None);
    }
}
