//! `c4ctl paths`: planned paths, what links carry by the plan, and what agents know.

use c4_proto::v1;
use serde_json::{Value, json};

use super::Asked;
use crate::{
    clock,
    failure::Failure,
    output::Style,
    table::{Align, Cell, Table},
    words::seconds,
};

/// Links printed; `--json` has all.
const LINKS: usize = 20;

pub(super) async fn run(asked: &mut Asked<'_>, job: Option<&str>) -> Result<(), Failure> {
    let mut calls = asked.client.calls.clone();
    let request = v1::GetPathsRequest { job: job.unwrap_or_default().to_owned(), topology: false };
    let paths = asked.client.call(asked.timeout, "", calls.get_paths(request)).await?;
    if asked.json {
        asked.out.json(&document(&paths))?;
        return Ok(());
    }
    if !paths.configured {
        asked.out.line("Paths are not planned: the controller has no topology (paths.topology).")?;
        return Ok(());
    }
    if paths.planned_unix_us == 0 {
        asked.out.line("Nothing was planned yet: no job has shown connections between hosts.")?;
    } else {
        asked.out.line(format!(
            "Fullest link {:.0} %, between switches {:.0} % (no plan could go below {:.0} %); {} plans moved {} flows.",
            paths.max_link_utilisation * 100.0,
            paths.max_fabric_utilisation * 100.0,
            paths.lower_bound * 100.0,
            paths.plans,
            paths.moves
        ))?;
    }
    for mistake in &paths.mistakes {
        asked.out.line(mistake)?;
    }
    jobs(asked, &paths)?;
    if job.is_some() {
        flows(asked, &paths)?;
    }
    links(asked, &paths)?;
    nodes(asked, &paths)
}

fn jobs(asked: &mut Asked<'_>, paths: &v1::Paths) -> Result<(), Failure> {
    if paths.jobs.is_empty() {
        return Ok(());
    }
    asked.out.line("")?;
    let mut table = Table::new(&[
        ("JOB", Align::Left),
        ("PATTERN", Align::Left),
        ("FLOWS", Align::Right),
        ("EVERY", Align::Right),
        ("NEXT", Align::Right),
        ("STATE", Align::Left),
    ]);
    for job in &paths.jobs {
        let every = if job.period_seconds > 0.0 { seconds(job.period_seconds) } else { "–".to_owned() };
        let next = until(job, clock::unix_us())
            .map_or_else(|| "–".to_owned(), |us| format!("in {}", seconds(us as f64 * 1e-6)));
        let state = if job.running { "running" } else { "kept for a restart" };
        let flows = job.flows.to_string();
        let cells: [Cell; 6] =
            [(&job.job).into(), (&job.pattern).into(), flows.into(), every.into(), next.into(), state.into()];
        table.row(cells.into());
    }
    Ok(table.print(asked.out)?)
}

/// Microseconds until a job's flows are used next; one use after another passes while people read.
fn until(job: &v1::PathJob, now_us: u64) -> Option<u64> {
    let next = u64::try_from(job.next_unix_us).ok().filter(|next| *next > 0)?;
    if next >= now_us {
        return Some(next - now_us);
    }
    let period = (job.period_seconds * 1e6) as u64;
    (period > 0).then(|| period - (now_us - next) % period)
}

fn flows(asked: &mut Asked<'_>, paths: &v1::Paths) -> Result<(), Failure> {
    asked.out.line("")?;
    let mut table = Table::new(&[
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("GBIT/S", Align::Right),
        ("SHARE", Align::Right),
        ("PATH", Align::Left),
    ]);
    for flow in &paths.flows {
        let mut row = |share: String, path: Cell| {
            let rate = format!("{:.3}", flow.gbps);
            table.row(vec![(&flow.from).into(), (&flow.to).into(), rate.into(), share.into(), path]);
        };
        for piece in &flow.pieces {
            row(format!("{:.0} %", piece.share * 100.0), piece.path.join(" → ").into());
        }
        if flow.pieces.is_empty() {
            row(String::new(), Cell::styled(&flow.why, Style::Bad));
        }
    }
    Ok(table.print(asked.out)?)
}

fn links(asked: &mut Asked<'_>, paths: &v1::Paths) -> Result<(), Failure> {
    let shown: Vec<&v1::PathLink> =
        paths.links.iter().filter(|link| link.planned_utilisation > 0.0 || link.state != "up").collect();
    if shown.is_empty() {
        return Ok(());
    }
    asked.out.line("")?;
    let mut table = Table::new(&[
        ("LINK", Align::Left),
        ("GBIT/S", Align::Right),
        ("PLANNED", Align::Right),
        ("MEASURED", Align::Right),
        ("PROBED BY", Align::Right),
        ("STATE", Align::Left),
    ]);
    for link in shown.iter().take(LINKS) {
        let name = match link.index {
            0 => format!("{} → {}", link.from, link.to),
            index => format!("{} → {} #{index}", link.from, link.to),
        };
        table.row(vec![
            name.into(),
            format!("{:.3}", link.gbps).into(),
            format!("{:.0} %", link.planned_utilisation * 100.0).into(),
            link.measured_utilisation
                .map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0))
                .into(),
            format!("{} ports", link.probed_ports).into(),
            Cell::styled(&link.state, if link.state == "up" { Style::Plain } else { Style::Bad }),
        ]);
    }
    table.print(asked.out)?;
    if shown.len() > LINKS {
        asked.out.line(format!("… and {} more (--json has all)", shown.len() - LINKS))?;
    }
    Ok(())
}

fn nodes(asked: &mut Asked<'_>, paths: &v1::Paths) -> Result<(), Failure> {
    if paths.nodes.is_empty() {
        return Ok(());
    }
    asked.out.line("")?;
    let wide = asked.out.is_wide();
    let mut columns = vec![
        ("NODE", Align::Left),
        ("DESTINATIONS", Align::Right),
        ("STATE", Align::Left),
        ("PATHS", Align::Right),
        ("WITHOUT PORT", Align::Right),
        ("TRIED", Align::Right),
    ];
    if wide {
        columns.extend([("GIVEN UP", Align::Right), ("PROBES", Align::Right)]);
    }
    columns.push(("LEARNED IN", Align::Right));
    let mut table = Table::new(&columns);
    for node in &paths.nodes {
        let (state, style) = match (node.follows, node.settled) {
            (false, _) => ("does not follow yet", Style::Doubtful),
            (true, false) => ("learning", Style::Doubtful),
            (true, true) => ("settled", Style::Good),
        };
        let mut row = vec![
            (&node.name).into(),
            node.orders.to_string().into(),
            Cell::styled(state, style),
            node.paths_seen.to_string().into(),
            node.missing.to_string().into(),
            node.ports_tried.to_string().into(),
        ];
        if wide {
            row.extend([node.given_up.to_string().into(), node.probes.to_string().into()]);
        }
        row.push(seconds(node.learning_seconds).into());
        table.row(row);
    }
    Ok(table.print(asked.out)?)
}

fn document(paths: &v1::Paths) -> Value {
    let link = |link: &v1::PathLink| {
        json!({
            "from": link.from, "to": link.to, "index": link.index, "gbps": link.gbps,
            "planned_utilisation": link.planned_utilisation, "measured_utilisation": link.measured_utilisation, "state": link.state, "probed_ports": link.probed_ports,
        })
    };
    let piece = |piece: &v1::PathPiece| json!({"share": piece.share, "path": piece.path});
    let flow = |flow: &v1::PathFlow| {
        json!({
            "job": flow.job, "from": flow.from, "to": flow.to, "gbps": flow.gbps,
            "pieces": flow.pieces.iter().map(piece).collect::<Vec<_>>(),
            "why": Some(&flow.why).filter(|why| !why.is_empty()),
        })
    };
    let job = |job: &v1::PathJob| {
        json!({
            "job": job.job, "pattern": job.pattern, "flows": job.flows, "running": job.running,
            "period_seconds": Some(job.period_seconds).filter(|seconds| *seconds > 0.0),
            "next_unix_us": Some(job.next_unix_us).filter(|at| *at > 0),
        })
    };
    let node = |node: &v1::PathNode| {
        json!({
            "name": node.name, "orders": node.orders, "follows": node.follows, "settled": node.settled,
            "missing": node.missing, "ports_tried": node.ports_tried, "probes": node.probes,
            "given_up": node.given_up, "learning_seconds": node.learning_seconds,
            "paths_seen": node.paths_seen, "changes": node.changes,
        })
    };
    json!({
        "configured": paths.configured,
        "revision": paths.revision,
        "epoch": paths.epoch,
        "planned_unix_us": Some(paths.planned_unix_us).filter(|at| *at > 0),
        "max_link_utilisation": paths.max_link_utilisation,
        "max_fabric_utilisation": paths.max_fabric_utilisation,
        "lower_bound": paths.lower_bound,
        "plans": paths.plans,
        "moves": paths.moves,
        "jobs": paths.jobs.iter().map(job).collect::<Vec<_>>(),
        "flows": paths.flows.iter().map(flow).collect::<Vec<_>>(),
        "links": paths.links.iter().map(link).collect::<Vec<_>>(),
        "nodes": paths.nodes.iter().map(node).collect::<Vec<_>>(),
        "mistakes": paths.mistakes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_use_is_told_in_the_future_also_of_an_answer_that_is_old() {
        let job = |next_unix_us, period_seconds| v1::PathJob {
            next_unix_us,
            period_seconds,
            ..v1::PathJob::default()
        };
        assert_eq!(until(&job(1_000_100, 0.25), 1_000_000), Some(100));
        assert_eq!(until(&job(1_000_100, 0.25), 1_300_000), Some(200_100));
        assert_eq!(until(&job(1_000_100, 0.0), 1_300_000), None);
        assert_eq!(until(&job(0, 0.25), 1_300_000), None);
    }
}
