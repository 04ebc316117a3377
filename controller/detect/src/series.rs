//! How long iterations took, for a chart: the latest one by one, and the whole life of the job in a bounded number of
//! points, which stand for more and more iterations as it goes on.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::observation::Timestamp;

/// Points of the whole life: a chart has about as many pixels.
const WHOLE: usize = 512;
/// Iterations remembered one by one.
const RECENT: usize = 256;

/// Iterations that followed each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When the first of them began.
    pub at: Timestamp,
    /// How many there were.
    pub iterations: u64,
    /// The shortest.
    pub least_us: u64,
    /// The mean.
    pub mean_us: u64,
    /// The longest.
    pub most_us: u64,
}

impl Point {
    fn join(&mut self, other: &Point) {
        let total = self.iterations.saturating_add(other.iterations).max(1);
        let share = other.iterations as f64 / total as f64;
        self.mean_us =
            (self.mean_us as f64 + (other.mean_us as f64 - self.mean_us as f64) * share).round() as u64;
        self.iterations = total;
        self.least_us = self.least_us.min(other.least_us);
        self.most_us = self.most_us.max(other.most_us);
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    whole: Vec<Point>,
    /// Iterations that one point of the whole stands for.
    stride: u64,
    recent: VecDeque<Point>,
}

impl Default for Series {
    fn default() -> Self {
        Self { whole: Vec::new(), stride: 1, recent: VecDeque::new() }
    }
}

impl Series {
    /// `count` iterations of `duration_us` each began at `at`, as well as can be told: none is drawn before another that came
    /// earlier.
    pub(crate) fn push(&mut self, at: Timestamp, duration_us: u64, count: u64) {
        let at = self.recent.back().map_or(at, |last| at.max(last.at));
        let point = Point {
            at,
            iterations: count.max(1),
            least_us: duration_us,
            mean_us: duration_us,
            most_us: duration_us,
        };
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(point);
        match self.whole.last_mut() {
            Some(last) if last.iterations.saturating_add(point.iterations) <= self.stride => {
                last.join(&point)
            }
            _ => self.whole.push(point),
        }
        if self.whole.len() >= WHOLE {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.stride = self.stride.saturating_mul(2);
        let pairs = self.whole.chunks(2).map(|pair| {
            let mut point = pair[0];
            pair.iter().skip(1).for_each(|other| point.join(other));
            point
        });
        self.whole = pairs.collect();
    }

    /// Everything in order: the whole life up to where the latest begin, and those one by one.
    pub(crate) fn points(&self) -> Vec<Point> {
        let from = self.recent.front().map_or(Timestamp(u64::MAX), |point| point.at);
        let earlier = self.whole.iter().filter(|point| point.at < from);
        earlier.chain(&self.recent).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_life_keeps_its_extremes_and_its_mean_in_bounded_room() {
        let mut series = Series::default();
        for n in 0..1_000_000_u64 {
            series.push(Timestamp(n * 10), if n == 1234 { 900 } else { 10 + n % 3 }, 1);
        }
        let points = series.points();
        assert!(points.len() <= WHOLE + RECENT, "{}", points.len());
        assert!(points.is_sorted_by_key(|point| point.at));
        assert_eq!(points.iter().map(|point| point.most_us).max(), Some(900));
        assert!(points.iter().all(|point| (10..=12).contains(&point.mean_us)), "means are kept");
        assert!(points.iter().rev().take(RECENT).all(|point| point.iterations == 1));
    }
}
