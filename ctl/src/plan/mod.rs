//! `c4ctl plan` and `c4ctl what-if`: paths for flows, from files alone.
//!
//! The planner is the controller's own (`c4_traffic`), so what these commands say is what a controller with the same
//! topology and flows would do. `what-if` plans twice, the second time from the first plan, as the controller would when
//! the link dies or the job arrives.

use std::path::Path;

use c4_traffic::{
    Flows, Plan, Previous, Topology,
    actuators::{
        self, Actuator, Failed,
        policy::{PolicyRoutes, Words},
    },
    compare::{Gain, Line, compare},
    document,
    orders::{self, Unknown},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    cli,
    failure::{Exit, Failure},
    output::Output,
};

mod change;
pub(crate) mod input;
mod print;

/// Runs `c4ctl plan`.
///
/// # Errors
/// When the documents are wrong, with every mistake on standard error.
pub fn plan(args: &cli::Plan, json: bool, out: &mut Output) -> Result<Exit, Failure> {
    let (topology, flows) = input::documents(&args.topology, &args.flows)?;
    let previous = match &args.previous {
        Some(path) => Some(input::read(path, |text| document::parse_previous(text, &topology))?),
        None => None,
    };
    let plan = c4_traffic::plan(&topology, &flows, previous.as_ref());
    if let Some(path) = &args.orders {
        write_orders(path, &topology, &flows, &plan)?;
    }
    let planned = Planned { topology: &topology, flows: &flows, plan: &plan };
    if let Some(directory) = &args.routes {
        write_routes(directory, args.routes_for, &planned)?;
    }
    if json {
        out.json(&planned.document(args.compare))?;
    } else {
        print::plan(&planned, previous.is_some(), out)?;
        if args.compare {
            print::comparison("", &planned.comparison(), out)?;
        }
    }
    out.flush()?;
    Ok(exit(&plan))
}

/// Writes what agents are to do.
fn write_orders(path: &Path, topology: &Topology, flows: &Flows, plan: &Plan) -> Result<(), Failure> {
    let orders = orders::orders(topology, flows, plan).map_err(|unknown| missing("orders", &unknown))?;
    let failed = |error: serde_json::Error| Failure::File { path: path.into(), problem: error.to_string() };
    replace(path, serde_json::to_string(&document::orders_json(&orders)).map_err(failed)? + "\n")
}

/// Writes what leaves are to do, a file for each.
fn write_routes(directory: &Path, words: cli::RoutesFor, planned: &Planned<'_>) -> Result<(), Failure> {
    let words = match words {
        cli::RoutesFor::Iproute => Words::Iproute,
        cli::RoutesFor::Frr => Words::Frr,
    };
    let Planned { topology, flows, plan } = *planned;
    let planned = actuators::Planned { topology, flows, plan };
    let deeds = PolicyRoutes(words).carry_out(&planned).map_err(|failed| match failed {
        Failed::Unknown(unknown) => missing("policy routes", &unknown),
        other => Failure::Configuration(other.to_string()),
    })?;
    let failed = |error: std::io::Error| Failure::File { path: directory.into(), problem: error.to_string() };
    std::fs::create_dir_all(directory).map_err(failed)?;
    for document in deeds.documents {
        // Names of switches may be anything.
        let name: String = document.name.chars().map(|c| if c == '/' { '_' } else { c }).collect();
        replace(&directory.join(name), document.text)?;
    }
    Ok(())
}

fn missing(what: &str, unknown: &Unknown) -> Failure {
    let few: Vec<&str> = unknown.of.iter().take(5).map(String::as_str).collect();
    let more = if unknown.of.len() > few.len() { ", …" } else { "" };
    Failure::Configuration(format!("{what} need addresses: of {}{more} there are none", few.join(", ")))
}

/// Writes a file as a whole: others may look at any moment.
fn replace(path: &Path, text: String) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::File { path: path.to_owned(), problem: error.to_string() };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path)).map_err(failed)
}

/// Runs `c4ctl what-if`.
///
/// # Errors
/// When the documents are wrong, or a link that is to die is not there.
pub fn what_if(args: &cli::WhatIf, json: bool, out: &mut Output) -> Result<Exit, Failure> {
    let (topology, flows) = input::documents(&args.topology, &args.flows)?;
    let mut changed = topology.clone();
    for text in &args.down {
        change::down(&mut changed, text)?;
    }
    let mut more = flows.clone();
    for path in &args.add {
        more = input::read(path, |text| document::parse_more_flows(text, &topology, more.clone()))?;
    }
    let before = c4_traffic::plan(&topology, &flows, None);
    let known: Previous = before.as_previous(&flows);
    let after = c4_traffic::plan(&changed, &more, Some(&known));
    let before = Planned { topology: &topology, flows: &flows, plan: &before };
    let after = Planned { topology: &changed, flows: &more, plan: &after };
    if json {
        out.json(&BeforeAndAfter {
            before: before.document(args.compare),
            after: after.document(args.compare),
        })?;
    } else {
        print::what_if(&before, &after, out)?;
        if args.compare {
            print::comparison(", before", &before.comparison(), out)?;
            print::comparison(", after", &after.comparison(), out)?;
        }
    }
    out.flush()?;
    Ok(exit(after.plan))
}

/// A plan and what it is for.
#[derive(Clone, Copy)]
struct Planned<'a> {
    topology: &'a Topology,
    flows: &'a Flows,
    plan: &'a Plan,
}

impl Planned<'_> {
    fn comparison(&self) -> Vec<Line> {
        compare(self.topology, self.flows, self.plan)
    }

    /// The plan as it is printed for programs, with the comparison if that is wanted.
    fn document(&self, with_comparison: bool) -> impl Serialize {
        let line = |line: Line| {
            let Gain { slowest, sum, bus } = line.gain;
            json!({"paths": line.name, "slowest_gbps": slowest, "sum_gbps": sum, "bus_gbps": bus})
        };
        Document {
            plan: document::plan_json(self.plan, self.flows, self.topology),
            comparison: with_comparison.then(|| self.comparison().into_iter().map(line).collect()),
        }
    }
}

/// Two plans as they are printed for programs.
#[derive(Serialize)]
struct BeforeAndAfter<B: Serialize, A: Serialize> {
    before: B,
    after: A,
}

/// A plan, and what there would be without one.
#[derive(Serialize)]
struct Document<P: Serialize> {
    #[serde(flatten)]
    plan: P,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Vec<Value>>,
}

fn exit(plan: &Plan) -> Exit {
    if plan.unplaced() == 0 { Exit::Fine } else { Exit::Found }
}
