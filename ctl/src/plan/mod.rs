//! `c4ctl plan` and `c4ctl what-if`: paths for flows, from files alone.
//!
//! The planner is the controller's own (`c4_traffic`), so what these commands say is what a controller with the same
//! topology and flows would do. `what-if` plans twice, the second time from the first plan, as the controller would when
//! the link dies or the job arrives.

use c4_traffic::{Flows, Plan, Previous, Topology, document};

use crate::{
    cli,
    failure::{Exit, Failure},
    output::Output,
};

mod change;
mod input;
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
    if json {
        out.json(&document::plan_json(&plan, &flows, &topology))?;
    } else {
        print::plan(&Planned { topology: &topology, flows: &flows, plan: &plan }, previous.is_some(), out)?;
    }
    out.flush()?;
    Ok(exit(&plan))
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
        out.json(&serde_json::json!({
            "before": document::plan_json(before.plan, before.flows, before.topology),
            "after": document::plan_json(after.plan, after.flows, after.topology),
        }))?;
    } else {
        print::what_if(&before, &after, out)?;
    }
    out.flush()?;
    Ok(exit(after.plan))
}

/// A plan and what it is for.
struct Planned<'a> {
    topology: &'a Topology,
    flows: &'a Flows,
    plan: &'a Plan,
}

fn exit(plan: &Plan) -> Exit {
    if plan.unplaced() == 0 { Exit::Fine } else { Exit::Found }
}
