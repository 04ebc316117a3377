//! Hashed against planned paths on a leaf–spine fabric of network namespaces; see `c4_tests::fabric`.

use std::{net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use c4_tests::{
    fabric::{
        Shape, acquire_rights,
        experiment::{Outcome, Trial, run},
        jobs::{self, JobsCut, JobsLossy, JobsTrial},
        traffic,
    },
    nccl::built,
};
use clap::{Parser, Subcommand};
use serde_json::json;

/// Builds a leaf–spine fabric of network namespaces, with the kernel's own layer-4 ECMP and rate-limited links, and lets
/// TCP flows cross it: first with the ports the kernel gives them, then with planned ones (paths learned by probes, the
/// plan by C4's planner, ports by libc4-path.so). Needs root or an unprivileged user namespace.
#[derive(Debug, Parser)]
#[command(name = "c4-fabric", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Hidden>,
    /// Leaves.
    #[arg(long, default_value_t = 2)]
    leaves: usize,
    /// Spines.
    #[arg(long, default_value_t = 4)]
    spines: usize,
    /// Flows, each between two hosts under different leaves.
    #[arg(long, default_value_t = 4)]
    flows: usize,
    /// Hosts under each leaf; as many as spines if absent.
    #[arg(long)]
    hosts: Option<usize>,
    /// Rate of each link in Mbit/s.
    #[arg(long, default_value_t = 100)]
    mbit: u32,
    /// So many spines, the last ones, have links of half that rate.
    #[arg(long, default_value_t = 0)]
    slow_spines: usize,
    /// Least time between two ICMP errors of a switch to one host, in milliseconds.
    #[arg(long, default_value_t = 50)]
    icmp_every_ms: u32,
    /// Seconds over which rates are measured.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Also cut a link that flows are on, and plan again.
    #[arg(long)]
    cut: bool,
    /// Instead of bare flows, let so many jobs (ringjob) arrive one after the other, with c4-agent on each of their hosts and
    /// a controller that plans, and compare their iteration times.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// With --jobs, have the first spine answer no probe.
    #[arg(long)]
    silent: bool,
    /// With --jobs, give the controller no topology: it has to learn it from what agents' probes see.
    #[arg(long, requires = "jobs", conflicts_with_all = ["cut", "lose_one_in"])]
    learned: bool,
    /// With --jobs, give the controller a file with a link that is not there: leaf0–spine0.
    #[arg(long, requires = "jobs", conflicts_with = "learned")]
    wrong_file: bool,
    /// With --jobs, also have a link lose one in so many packets until that is found out, and mend it.
    #[arg(long)]
    lose_one_in: Option<u32>,
    /// Ranks of each job, each on a host of its own.
    #[arg(long, default_value_t = 4)]
    ranks: usize,
    /// Seed of the flows' ends; the first one with --repeat.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to try, one after the other, each in a new fabric.
    #[arg(long, default_value_t = 1)]
    repeat: u64,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    /// A sender's process.
    #[command(hide = true)]
    Send { to: SocketAddr },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.command {
        Some(Hidden::Send { to }) => traffic::send(to),
        None => acquire_rights().and_then(|()| experiments(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("c4-fabric: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn experiments(args: &Args) -> anyhow::Result<()> {
    let shim = built::path_shim()?;
    let hosts = args.hosts.unwrap_or(args.spines);
    let (leaves, spines, mbit, icmp_every_ms) = (args.leaves, args.spines, args.mbit, args.icmp_every_ms);
    let shape = Shape { leaves, spines, hosts, mbit, slow: args.slow_spines, icmp_every_ms };
    let measure = Duration::try_from_secs_f64(args.seconds)?;
    if args.jobs > 0 {
        return all_jobs(args, shape, measure, &shim);
    }
    let mut outcomes = Vec::new();
    for seed in args.seed..args.seed + args.repeat {
        let trial = Trial { shape, flows: args.flows, seed, measure, cut: args.cut };
        let outcome = run(&trial, &shim)?;
        if !args.json {
            say(&outcome);
        }
        outcomes.push(outcome);
    }
    let of_ideal = median(outcomes.iter().map(|outcome| outcome.planned.slowest / outcome.ideal));
    let gain = median(outcomes.iter().map(|outcome| outcome.planned.slowest / outcome.hashed.slowest));
    let after_cut = outcomes.iter().filter_map(|outcome| outcome.cut.as_ref());
    let cut_of_ideal = median(after_cut.clone().map(|cut| cut.planned.slowest / cut.ideal));
    let cut_of_fresh = median(after_cut.clone().map(|cut| cut.planned.slowest / cut.fresh.slowest));
    let cut_seconds = after_cut.map(|cut| cut.seconds).fold(0.0, f64::max);
    if args.json {
        let mut summary = json!({"slowest_of_ideal_median": of_ideal, "planned_over_hashed_median": gain});
        if args.cut {
            summary["cut_slowest_of_ideal_median"] = json!(cut_of_ideal);
            summary["cut_slowest_of_fresh_median"] = json!(cut_of_fresh);
            summary["cut_seconds_worst"] = json!(cut_seconds);
        }
        let shape = json!({"leaves": leaves, "spines": spines, "hosts": hosts, "slow_spines": args.slow_spines, "flows": args.flows, "mbit": mbit});
        println!("{}", json!({"shape": shape, "summary": summary, "trials": outcomes}));
    } else {
        println!("median: slowest flow planned {of_ideal:.2} of ideal, {gain:.2} times hashed");
        if args.cut {
            println!(
                "a link died: median {cut_of_ideal:.2} of ideal, {cut_of_fresh:.2} of the same paths with all connections new; on new \
                 paths after {cut_seconds:.1} s at most"
            );
        }
    }
    Ok(())
}

fn all_jobs(args: &Args, shape: Shape, measure: Duration, shim: &Path) -> anyhow::Result<()> {
    let mut outcomes = Vec::new();
    for seed in args.seed..args.seed + args.repeat {
        let trial = JobsTrial {
            shape,
            jobs: args.jobs,
            ranks: args.ranks,
            seed,
            measure,
            cut: args.cut,
            lose: args.lose_one_in,
            silent: args.silent,
            learned: args.learned,
            wrong_file: args.wrong_file,
        };
        let outcome = jobs::run(&trial, shim)?;
        if !args.json {
            println!(
                "seed {seed}: iteration of the slowest job {:.3} s hashed, {:.3} planned, {:.3} alone, {:.3} at the rate of the wire; paths known {:.1} s \
                 after each job's third iteration at most; {} moves",
                outcome.hashed_slowest,
                outcome.planned_slowest,
                outcome.alone,
                outcome.wire,
                outcome.seconds,
                outcome.moves
            );
            for mistake in &outcome.mistakes {
                println!("    {mistake}");
            }
            if let Some(learned) = &outcome.learned {
                println!(
                    "    learned {:.1} s after the start: {} leaves, {} spines, {} links",
                    learned.seconds, learned.leaves, learned.spines, learned.links
                );
            }
            if let Some(lossy) = &outcome.lossy {
                println!(
                    "    leaf{}–spine{} lost one packet in {}: {:.3} s; named ({}) after {:.1} s, avoided after {:.1}, then {:.3} s, \
                     {:.3} ideal; cleared {:.1} s after it was mended; {} findings of other links",
                    lossy.link.0,
                    lossy.link.1,
                    lossy.one_in,
                    lossy.lossy_slowest,
                    lossy.named.join(", "),
                    lossy.found,
                    lossy.seconds,
                    lossy.planned_slowest,
                    lossy.ideal,
                    lossy.cleared,
                    lossy.innocent
                );
            }
            if let Some(cut) = &outcome.cut {
                println!(
                    "    leaf{}–spine{} died: {:.3} s by routing alone, new paths known after {:.1} s and taken after {:.1}, then \
                     {:.3}, {:.3} ideal",
                    cut.link.0,
                    cut.link.1,
                    cut.routed_slowest,
                    cut.seconds,
                    cut.back,
                    cut.planned_slowest,
                    cut.ideal
                );
            }
        }
        outcomes.push(outcome);
    }
    let of_ideal = median(outcomes.iter().map(|outcome| outcome.ideal / outcome.planned_slowest));
    let gain = median(outcomes.iter().map(|outcome| outcome.hashed_slowest / outcome.planned_slowest));
    let cuts: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.cut.as_ref()).collect();
    let cut_of_ideal = median(cuts.iter().map(|cut| cut.ideal / cut.planned_slowest));
    let worst = |seconds: fn(&JobsCut) -> f64| cuts.iter().map(|cut| seconds(cut)).fold(0.0, f64::max);
    let (known, back) = (worst(|cut| cut.seconds), worst(|cut| cut.back));
    let lossy: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.lossy.as_ref()).collect();
    let lossy_median = |seconds: fn(&JobsLossy) -> f64| median(lossy.iter().map(|lossy| seconds(lossy)));
    let lossy_worst =
        |seconds: fn(&JobsLossy) -> f64| lossy.iter().map(|lossy| seconds(lossy)).fold(0.0, f64::max);
    let (found, cleared) = (lossy_median(|lossy| lossy.found), lossy_median(|lossy| lossy.cleared));
    let (found_worst, cleared_worst) = (lossy_worst(|lossy| lossy.found), lossy_worst(|lossy| lossy.cleared));
    if args.json {
        let mut summary = json!({"ideal_over_planned_median": of_ideal, "hashed_over_planned_median": gain});
        if args.cut {
            summary["cut_ideal_over_planned_median"] = json!(cut_of_ideal);
            summary["cut_seconds_worst"] = json!(known);
            summary["cut_back_worst"] = json!(back);
        }
        if !lossy.is_empty() {
            summary["lossy_found_median"] = json!(found);
            summary["lossy_found_worst"] = json!(found_worst);
            summary["lossy_cleared_median"] = json!(cleared);
            summary["lossy_cleared_worst"] = json!(cleared_worst);
        }
        println!("{}", json!({"summary": summary, "trials": outcomes}));
    } else {
        println!("median: iterations planned {gain:.2} times as fast as hashed, {of_ideal:.2} of ideal");
        if args.cut {
            println!(
                "a link died: median {cut_of_ideal:.2} of ideal; new paths known after {known:.1} s at most, taken after {back:.1}"
            );
        }
        if !lossy.is_empty() {
            println!(
                "a link lost packets: named after {found:.1} s (median; {found_worst:.1} at most), cleared {cleared:.1} s after it was \
                 mended ({cleared_worst:.1} at most)"
            );
        }
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn say(outcome: &Outcome) {
    let (hashed, planned, learned) = (&outcome.hashed, &outcome.planned, &outcome.learned);
    println!(
        "seed {}: slowest flow {:.1} Mbit/s hashed, {:.1} planned, {:.1} ideal; sum {:.0} and {:.0}; {} of {} paths \
         learned by {} ports and {} probes in {:.1} s",
        outcome.seed,
        hashed.slowest,
        planned.slowest,
        outcome.ideal,
        hashed.sum,
        planned.sum,
        learned.paths,
        learned.paths_there,
        learned.ports_tried,
        learned.probes,
        learned.seconds
    );
    if let Some(cut) = &outcome.cut {
        println!(
            "    leaf{}–spine{} died: slowest {:.1} by routing alone, {:.1} planned anew after {:.1} s ({} moves), {:.1} with all \
             connections new, {:.1} ideal",
            cut.link.0,
            cut.link.1,
            cut.routed.slowest,
            cut.planned.slowest,
            cut.seconds,
            cut.moves,
            cut.fresh.slowest,
            cut.ideal
        );
    }
}
