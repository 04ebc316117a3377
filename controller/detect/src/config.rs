//! Thresholds. Each has a default that needs no tuning; most only bound from below what is learned from the job.

use serde::{Deserialize, Serialize};

/// Thresholds of the detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long the end of a process waits for the ends of its peers before it is called a death, when neither exit
    /// code nor signal says what it was. Default 300: processes of one job that end together do so within some tens
    /// of milliseconds, agents look every 100 ms, and a verdict is due within a second.
    pub death_grace_ms: u64,
    /// How long, in the same case, the detector waits for news from the peers that is younger than the end. Default
    /// 700: late enough for a window sent because of the end, early enough for a verdict within a second.
    pub death_decide_ms: u64,
    /// How far apart the ranks of a job that simply ends may end. Default 10000: interpreters that tear down large
    /// heaps differ by seconds. A rank that ended properly is still named if others turn out to need it.
    pub end_spread_ms: u64,
    /// Least time that ranks wait in a collective before one of them is said to hang, once the job's rhythm is
    /// known. Default 3500: garbage collections, slow reads and small checkpoints stay below it, and with windows of
    /// one second the verdict still comes within five.
    pub hang_floor_ms: u64,
    /// The same where a process that they wait for is stopped by a signal or a debugger. Default 1500: being stopped
    /// is not something a healthy rank does.
    pub stopped_floor_ms: u64,
    /// A wait shorter than this many learned iterations is no hang. Default 3: an iteration that takes twice as long
    /// is slow, not hung.
    pub hang_iterations: f64,
    /// A wait shorter than this many times the longest one that resolved by itself is no hang. Default 2: the next
    /// checkpoint is not twice as long as the last.
    pub pause_margin: f64,
    /// Longest pause that is learned as legal. Default 600000: ten minutes is when NCCL's own watchdog acts.
    pub pause_limit_ms: u64,
    /// Wait allowed for a rank that has not entered and is busy (on a CPU, or in disk wait): what a rank that writes
    /// a checkpoint looks like, and a hung one rarely does. Default 15000; checkpoints that take longer are learned
    /// after the first.
    pub busy_pause_ms: u64,
    /// The hang threshold while the job's rhythm is unknown. Default 60000: ranks compile, load and warm up for
    /// different times.
    pub learning_hang_ms: u64,
    /// Iterations after which the rhythm counts as known. Default 5.
    pub learn_iterations: u64,
    /// Lateness of a rank, as a fraction of the iteration, below which it is not called slow. Default 0.065: healthy
    /// GPUs differ by some five per cent from one to another and with their temperature, which is not worth a restart. From half
    /// of it on it is called slow if it comes later than before since one moment, and the job takes longer since then.
    pub slow_floor: f64,
    /// The same in multiples of the job's own noise in lateness, from iteration to iteration. Default 4.
    pub slow_noise: f64,
    /// Fraction of the iteration lost to stragglers that take turns, from which on the workload is called unbalanced.
    /// Default 0.25: the slowest of many healthy ranks always costs something.
    pub imbalance_floor: f64,
    /// After how long without a window a process is out of sight. Default 3500: windows come every second.
    pub stale_ms: u64,
    /// How long a fatal health event waits for a symptom that it explains before it is reported by itself. Default
    /// 10000: a hang that it causes shows within that time.
    pub health_hold_ms: u64,
    /// How far before the onset of a fault a health event may lie to be joined with it. Default 60000: NCCL retries a
    /// connection for some tens of seconds before anything stands still.
    pub health_join_ms: u64,
    /// Over which time it is averaged how much of it a GPU spends at clocks that heat has lowered. Default 600000, ten
    /// minutes: healthy GPUs under full load report it for some minutes at a time.
    pub health_throttle_window_ms: u64,
    /// Share of that time above which it is a warning, though no rank suffers. Default 0.5; a GPU that is throttled without
    /// a break is told of after 0.7 windows. Shorter reports only become the cause of a rank on that GPU that is slow.
    pub health_throttle_share: f64,
    /// Share of that time below which the warning is over. Default 0.25: 0.7 to 1.4 windows after the end.
    pub health_throttle_clear_share: f64,
    /// How long a job that has ended or has fallen silent is remembered. Default 3600000, an hour.
    pub forget_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            death_grace_ms: 300,
            death_decide_ms: 700,
            end_spread_ms: 10_000,
            hang_floor_ms: 3_500,
            stopped_floor_ms: 1_500,
            hang_iterations: 3.0,
            pause_margin: 2.0,
            pause_limit_ms: 600_000,
            busy_pause_ms: 15_000,
            learning_hang_ms: 60_000,
            learn_iterations: 5,
            slow_floor: 0.065,
            slow_noise: 4.0,
            imbalance_floor: 0.25,
            stale_ms: 3_500,
            health_hold_ms: 10_000,
            health_join_ms: 60_000,
            health_throttle_window_ms: 600_000,
            health_throttle_share: 0.5,
            health_throttle_clear_share: 0.25,
            forget_ms: 3_600_000,
        }
    }
}

impl Config {
    /// Everything that is wrong with the values, one sentence each.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let positive = [
            ("hang_floor_ms", self.hang_floor_ms),
            ("stopped_floor_ms", self.stopped_floor_ms),
            ("learning_hang_ms", self.learning_hang_ms),
            ("learn_iterations", self.learn_iterations),
            ("stale_ms", self.stale_ms),
            ("health_throttle_window_ms", self.health_throttle_window_ms),
            ("forget_ms", self.forget_ms),
        ];
        for (name, value) in positive {
            if value == 0 {
                mistakes.push(format!("{name} is 0, expected at least 1"));
            }
        }
        let at_most_a_day = [
            ("death_grace_ms", self.death_grace_ms),
            ("death_decide_ms", self.death_decide_ms),
            ("end_spread_ms", self.end_spread_ms),
            ("pause_limit_ms", self.pause_limit_ms),
            ("busy_pause_ms", self.busy_pause_ms),
            ("health_hold_ms", self.health_hold_ms),
            ("health_join_ms", self.health_join_ms),
            ("health_throttle_window_ms", self.health_throttle_window_ms),
        ];
        for (name, value) in positive.into_iter().take(3).chain(at_most_a_day) {
            if value > 86_400_000 {
                mistakes.push(format!("{name} is {value}, expected at most 86400000, a day"));
            }
        }
        for (name, value, low, high) in [
            ("hang_iterations", self.hang_iterations, 1.0, 1_000.0),
            ("pause_margin", self.pause_margin, 1.0, 100.0),
            ("slow_floor", self.slow_floor, 0.001, 1.0),
            ("slow_noise", self.slow_noise, 1.0, 100.0),
            ("imbalance_floor", self.imbalance_floor, 0.01, 1.0),
            ("health_throttle_share", self.health_throttle_share, 0.01, 0.99),
            ("health_throttle_clear_share", self.health_throttle_clear_share, 0.005, 0.99),
        ] {
            // Written so that NaN is a mistake too.
            if !(low..=high).contains(&value) {
                mistakes.push(format!("{name} is {value}, expected {low} to {high}"));
            }
        }
        if self.health_throttle_clear_share > self.health_throttle_share {
            mistakes.push(format!(
                "health_throttle_clear_share is {}, expected at most health_throttle_share, {}",
                self.health_throttle_clear_share, self.health_throttle_share
            ));
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_right_and_mistakes_are_told_all_at_once() {
        assert_eq!(Config::default().mistakes(), Vec::<String>::new());
        let wrong = Config {
            stale_ms: 0,
            pause_margin: f64::NAN,
            slow_floor: 2.0,
            health_throttle_clear_share: 0.6,
            ..Config::default()
        };
        let mistakes = wrong.mistakes();
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(mistakes.iter().all(|mistake| mistake.contains("expected")));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"hang_floor_ms": 1000}"#).is_ok());
        let error = serde_json::from_str::<Config>(r#"{"hang_flour_ms": 1000}"#).map(|_| ());
        assert!(error.is_err_and(|error| error.to_string().contains("hang_flour_ms")));
    }
}
