//! Stragglers that take turns: much time is lost, but to another rank each time. That is uneven work, not a fault.

use std::collections::{BTreeMap, VecDeque};

use super::News;
use crate::config::Config;

/// Samples over which turns are looked at.
const TURNS: usize = 48;

/// Who was last in the latest samples, and by how much.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: VecDeque<(u32, f64)>,
    uneven: bool,
}

impl Turns {
    /// Whether stragglers take turns at the moment.
    pub(super) fn uneven(&self) -> bool {
        self.uneven
    }

    /// Whether one rank was last in most samples.
    pub(super) fn dominated_by(&self, comm_rank: u32) -> bool {
        let times = self.last.iter().filter(|(last, _)| *last == comm_rank).count();
        times * 10 >= self.last.len() * 7
    }

    /// A rank was found late: that it was last says nothing of turns.
    pub(super) fn explain(&mut self, comm_rank: u32) {
        self.last.retain(|(last, _)| *last != comm_rank);
    }

    /// Takes in who was last in a sample; `ranks` is how many there are, `someone` whether one of them was found late. Then
    /// it is known why.
    pub(super) fn take(
        &mut self,
        worst: (u32, f64),
        ranks: usize,
        someone: bool,
        config: &Config,
    ) -> Option<News> {
        if someone {
            return None;
        }
        self.last.push_back(worst);
        if self.last.len() > TURNS {
            self.last.pop_front();
        }
        let loss = self.last.iter().map(|(_, x)| x.min(1.0)).sum::<f64>() / self.last.len() as f64;
        if self.uneven && loss < config.imbalance_floor * 0.5 {
            self.uneven = false;
            return Some(News::Even);
        }
        if self.uneven || self.last.len() < TURNS || loss < config.imbalance_floor {
            return None;
        }
        let mut last: BTreeMap<u32, usize> = BTreeMap::new();
        for (comm_rank, _) in &self.last {
            *last.entry(*comm_rank).or_default() += 1;
        }
        let top = last.values().copied().max().unwrap_or(0);
        if top * 10 > self.last.len() * if ranks <= 3 { 7 } else { 5 } {
            return None;
        }
        self.uneven = true;
        Some(News::Turns { loss, last, samples: TURNS })
    }
}
