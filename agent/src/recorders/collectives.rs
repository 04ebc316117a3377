//! How long collectives take and how fast they move data, by operation and size.
//!
//! Counted here, per process and in place, since ten thousand operations a second are to cost next to nothing; the metrics
//! take the sums after each look. A time is that of one rank, from its start to its end: waiting for ranks that came later is
//! in it, so the bandwidth is what the job got, not what the network can do.

use std::collections::BTreeMap;

use c4_detect::distribution::{Distribution, Scale};

/// A collective, as far as it is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Function {
    /// Sum over all ranks, for all ranks.
    AllReduce,
    /// Everybody's part for all ranks.
    AllGather,
    /// A part of the sum for each rank.
    ReduceScatter,
    /// From one rank to all.
    Broadcast,
    /// Sum over all ranks, for one.
    Reduce,
    /// From each to each.
    AllToAll,
    /// Any other.
    Other,
}

impl Function {
    fn named(name: &str) -> Self {
        match name {
            "AllReduce" => Self::AllReduce,
            "AllGather" => Self::AllGather,
            "ReduceScatter" => Self::ReduceScatter,
            "Broadcast" => Self::Broadcast,
            "Reduce" => Self::Reduce,
            "AlltoAll" | "AllToAll" => Self::AllToAll,
            _ => Self::Other,
        }
    }

    /// The name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::Broadcast => "broadcast",
            Self::Reduce => "reduce",
            Self::AllToAll => "all_to_all",
            Self::Other => "other",
        }
    }

    /// Bytes over each rank's link for each byte that NCCL counts, as nccl-tests counts bus bandwidth: it makes operations and
    /// numbers of ranks comparable. NCCL counts a rank's own part of a gather, a scatter and an all-to-all.
    fn bus_factor(self, ranks: u32) -> f64 {
        let ranks = f64::from(ranks.max(1));
        match self {
            Self::AllReduce => 2.0 * (ranks - 1.0) / ranks,
            Self::AllGather | Self::ReduceScatter | Self::AllToAll => ranks - 1.0,
            Self::Broadcast | Self::Reduce | Self::Other => 1.0,
        }
    }
}

/// Upper bounds of the classes of sizes, and their names.
const SIZES: [(u64, &str); 4] =
    [(64 << 10, "64KiB"), (1 << 20, "1MiB"), (16 << 20, "16MiB"), (256 << 20, "256MiB")];
/// What is above all of them.
const LARGER: &str = "larger";

/// Name of the class of a size.
fn size_label(bytes: u64) -> &'static str {
    SIZES.iter().find(|(most, _)| bytes <= *most).map_or(LARGER, |(_, name)| name)
}

/// Times and bandwidths of collectives that are alike.
#[derive(Clone, Debug)]
pub struct Alike {
    /// In seconds.
    pub times: Distribution,
    /// In bytes a second.
    pub bandwidths: Distribution,
}

impl Default for Alike {
    fn default() -> Self {
        Self {
            times: Distribution::new(Scale::Seconds),
            bandwidths: Distribution::new(Scale::BytesPerSecond),
        }
    }
}

/// Collectives by function and class of size.
#[derive(Clone, Debug, Default)]
pub struct Collectives(BTreeMap<(Function, &'static str), Alike>);

impl Collectives {
    pub(super) fn add(&mut self, function: &str, bytes: u64, ranks: u32, duration_ns: u64) {
        let function = Function::named(function);
        let alike = self.0.entry((function, size_label(bytes))).or_default();
        let seconds = duration_ns as f64 / 1e9;
        alike.times.add(seconds, 1);
        if ranks > 1 && bytes > 0 && duration_ns > 0 {
            alike.bandwidths.add(bytes as f64 * function.bus_factor(ranks) / seconds, 1);
        }
    }

    /// Takes in others.
    pub fn merge(&mut self, other: &Collectives) {
        for (key, alike) in &other.0 {
            let known = self.0.entry(*key).or_default();
            known.times.merge(&alike.times);
            known.bandwidths.merge(&alike.bandwidths);
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Function, &'static str, &Alike)> {
        self.0.iter().map(|((function, size), alike)| (*function, *size, alike))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_bandwidth_is_counted_as_nccl_tests_counts_it() {
        let mut all = Collectives::default();
        // 1 GiB summed over 8 ranks in 10 ms: 107 GB/s of data, 188 GB/s on the bus.
        all.add("AllReduce", 1 << 30, 8, 10_000_000);
        // The same amount of data gathered: each rank gives an eighth and gets the rest.
        all.add("AllGather", 1 << 27, 8, 10_000_000);
        all.add("AllReduce", 4_096, 8, 20_000);
        let of = |function, size| {
            all.iter()
                .find(|(f, s, _)| (*f, *s) == (function, size))
                .map(|(.., alike)| alike.clone())
                .unwrap()
        };
        let reduce = of(Function::AllReduce, LARGER);
        assert!((reduce.bandwidths.sum() / 1e9 - 187.9).abs() < 0.1, "{}", reduce.bandwidths.sum());
        assert!((of(Function::AllGather, "256MiB").bandwidths.sum() / 1e9 - 93.95).abs() < 0.1);
        assert_eq!(of(Function::AllReduce, "64KiB").times.count(), 1);
    }

    #[test]
    fn what_takes_no_time_or_moves_nothing_has_no_bandwidth() {
        let mut all = Collectives::default();
        all.add("Barrier", 0, 8, 5);
        all.add("AllReduce", 8, 1, 5);
        all.add("AllReduce", 8, 2, 0);
        assert!(all.iter().all(|(.., alike)| alike.bandwidths.count() == 0));
        assert_eq!(all.iter().map(|(.., alike)| alike.times.count()).sum::<u64>(), 3);
    }

    #[test]
    fn sizes_are_in_the_class_that_holds_them() {
        assert_eq!(
            [0, 65_536, 65_537, 1 << 20, 1 << 40].map(size_label),
            ["64KiB", "64KiB", "1MiB", "1MiB", LARGER]
        );
    }
}
