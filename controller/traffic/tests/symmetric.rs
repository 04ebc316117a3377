//! On symmetric fabrics the plan is the optimum, which is known without computing it.

mod common;

use c4_traffic::plan;
use common::{Dice, LeafSpine, ThreeTier, flows};

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

/// A permutation of all NICs at line rate fills a non-blocking fabric to the brim, and only perfect plans do it.
#[test]
fn permutations_fill_a_leaf_spine_fabric_exactly() {
    for (leaves, spines, nics) in [(4, 4, 4), (8, 8, 8), (16, 6, 6), (9, 3, 3), (32, 16, 16)] {
        for seed in 0..6 {
            let fabric = LeafSpine {
                leaves,
                spines,
                nics_per_leaf: nics,
                nic_gbps: 100.0,
                link_gbps: 100.0,
                parallel: 1,
            };
            let topology = fabric.build();
            let mut dice = Dice(seed);
            let mut order: Vec<usize> = (0..leaves * nics).collect();
            dice.shuffle(&mut order);
            let list: Vec<_> =
                order.iter().enumerate().filter(|(a, b)| a != *b).map(|(a, b)| (a, *b, 100.0, 1)).collect();
            let flows = flows(&topology, &list);
            let plan = plan(&topology, &flows, None);
            assert!(
                near(plan.max_link_utilisation, 1.0),
                "{leaves} {spines} {seed}: {}",
                plan.max_link_utilisation
            );
            assert!(plan.max_fabric_utilisation <= 1.0 + 1e-9);
        }
    }
}

#[test]
fn permutations_fill_a_three_tier_fabric_exactly() {
    for (pods, leaves, spines, cores) in [(2, 2, 2, 2), (4, 4, 4, 4), (4, 3, 3, 3), (8, 4, 4, 4)] {
        for seed in 0..6 {
            let topology = ThreeTier {
                pods,
                leaves,
                spines,
                cores_per_spine: cores,
                nics_per_leaf: spines,
                gbps: 100.0,
            }
            .build();
            let mut dice = Dice(seed);
            let mut order: Vec<usize> = (0..pods * leaves * spines).collect();
            dice.shuffle(&mut order);
            let list: Vec<_> =
                order.iter().enumerate().filter(|(a, b)| a != *b).map(|(a, b)| (a, *b, 100.0, 1)).collect();
            let flows = flows(&topology, &list);
            let plan = plan(&topology, &flows, None);
            assert!(
                near(plan.max_link_utilisation, 1.0),
                "{pods} {leaves} {spines} {seed}: {}",
                plan.max_link_utilisation
            );
        }
    }
}

/// Of n equal flows over s paths, n mod s are left over and cut.
#[test]
fn left_over_flows_are_cut_as_little_as_can_be() {
    for (n, s) in [(5, 3), (6, 4), (7, 4), (1, 4), (3, 8), (9, 8), (10, 4)] {
        let fabric = LeafSpine {
            leaves: 2,
            spines: s,
            nics_per_leaf: n,
            nic_gbps: 400.0,
            link_gbps: 400.0,
            parallel: 1,
        };
        let topology = fabric.build();
        let list: Vec<_> = (0..n).map(|i| (i, n + i, 100.0, 64)).collect();
        let flows = flows(&topology, &list);
        let plan = plan(&topology, &flows, None);
        let best = n as f64 * 100.0 / (s as f64 * 400.0);
        assert!(
            near(plan.max_fabric_utilisation, best),
            "{n} over {s}: {} {best}",
            plan.max_fabric_utilisation
        );
        let pieces: usize = plan.flows.iter().map(|flow| flow.pieces.len()).sum();
        let gcd = |mut a: usize, mut b: usize| {
            while b > 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let left = n % s;
        let ethereal = if left == 0 { n } else { n - left + left * s / gcd(left, s) };
        println!("{n} over {s}: {pieces} pieces, Ethereal {ethereal}");
        assert!(pieces <= ethereal, "{n} over {s}: {pieces} pieces, Ethereal has {ethereal}");
    }
}
