//! Plans for people: how good, what is fullest, what has no path. The paths themselves are in `--json`.

use std::io;

use c4_traffic::{Flow, Flows, compare::Line, rates, wires::Wires};

use super::Planned;
use crate::{
    output::{Output, Style},
    table::{Align, Cell, Table},
    words::{count, printable},
};

/// How many links and flows are shown.
const SHOWN: usize = 10;

/// One plan.
pub(super) fn plan(planned: &Planned<'_>, had_previous: bool, out: &mut Output) -> io::Result<()> {
    let figures = Figures::new(planned);
    let flows = planned.flows.len();
    let placed = flows - planned.plan.unplaced();
    let split = planned.plan.flows.iter().filter(|flow| flow.pieces.len() > 1).count();
    let title = format!("{} of {}, {split} of them split", placed, count(flows as u64, "flow"));
    let title = out.paint(Style::Bold, format!("Paths for {title}"));
    out.line(title)?;
    let plan = planned.plan;
    out.line(format!(
        "  fullest link  {} (no plan can be below {})",
        percent(plan.max_link_utilisation),
        percent(plan.lower_bound)
    ))?;
    out.line(format!(
        "  in the fabric {} (no plan can be below {})",
        percent(plan.max_fabric_utilisation),
        percent(plan.fabric_lower_bound)
    ))?;
    let named = figures.slowest(planned.flows).map(|(flow, _)| format!(" Gbit/s ({})", printable(&flow.id)));
    out.line(format!("  slowest flow  {}{}", slowest(planned, &figures), named.unwrap_or_default()))?;
    if had_previous {
        out.line(format!("  moves         {}", plan.moves))?;
    }
    fullest(planned, &figures, out)?;
    unplaced(planned, out)
}

/// Two plans, one from the other.
pub(super) fn what_if(before: &Planned<'_>, after: &Planned<'_>, out: &mut Output) -> io::Result<()> {
    let figures = [Figures::new(before), Figures::new(after)];
    let mut table = Table::new(&[("", Align::Left), ("BEFORE", Align::Right), ("AFTER", Align::Right)]);
    let mut row = |name: &str, value: &dyn Fn(&Planned<'_>, &Figures) -> String| {
        let cells = [name.to_owned(), value(before, &figures[0]), value(after, &figures[1])];
        table.row(cells.iter().map(Cell::from).collect());
    };
    row("flows", &|planned, _| planned.flows.len().to_string());
    row("without a path", &|planned, _| planned.plan.unplaced().to_string());
    row("fullest link", &|planned, _| percent(planned.plan.max_link_utilisation));
    row("  no plan below", &|planned, _| percent(planned.plan.lower_bound));
    row("fullest in the fabric", &|planned, _| percent(planned.plan.max_fabric_utilisation));
    row("  no plan below", &|planned, _| percent(planned.plan.fabric_lower_bound));
    row("slowest flow, Gbit/s", &slowest);
    row("all flows, Gbit/s", &|_, figures| format!("{:.1}", figures.rates.iter().sum::<f64>()));
    table.print(out)?;
    out.line("")?;
    let moves = after.plan.moves as u64;
    let moved = out.paint(Style::Bold, format!("{} of flows that were there before", count(moves, "move")));
    out.line(moved)?;
    fullest(after, &figures[1], out)?;
    unplaced(after, out)
}

/// What a plan means for links and flows.
struct Figures {
    wires: Wires,
    loads: Vec<f64>,
    rates: Vec<f64>,
}

impl Figures {
    fn new(planned: &Planned<'_>) -> Self {
        let wires = Wires::new(planned.topology);
        let loads = wires.loads(planned.flows, planned.plan);
        let rates = rates::planned(&wires, planned.flows, planned.plan);
        Self { wires, loads, rates }
    }

    fn used(&self, wire: usize) -> f64 {
        self.loads[wire] / self.wires.capacity()[wire]
    }

    /// The flow that gets the least of what it wants, and how much it gets.
    fn slowest<'f>(&self, flows: &'f Flows) -> Option<(&'f Flow, f64)> {
        let rated = flows.as_slice().iter().zip(self.rates.iter().copied());
        rated.min_by(|a, b| (a.1 / a.0.demand.get()).total_cmp(&(b.1 / b.0.demand.get())))
    }
}

fn slowest(planned: &Planned<'_>, figures: &Figures) -> String {
    match figures.slowest(planned.flows) {
        Some((flow, rate)) => format!("{rate:.1} of {:.1}", flow.demand.get()),
        None => "none".into(),
    }
}

fn percent(utilisation: f64) -> String {
    format!("{:.1} %", utilisation * 100.0)
}

fn fullest(planned: &Planned<'_>, figures: &Figures, out: &mut Output) -> io::Result<()> {
    let mut wires: Vec<usize> = (0..figures.loads.len()).filter(|wire| figures.loads[*wire] > 0.0).collect();
    // Equally full ones, but for rounding, in the order of the topology.
    wires.sort_by_key(|wire| (std::cmp::Reverse((figures.used(*wire) * 1e9).round() as u64), *wire));
    if wires.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut table = Table::new(&[
        ("USED", Align::Right),
        ("GBIT/S", Align::Right),
        ("OF", Align::Right),
        ("FULLEST LINKS", Align::Left),
    ]);
    for wire in wires.iter().take(SHOWN) {
        let used = figures.used(*wire);
        let style = if used > 1.0 + 1e-9 { Style::Bad } else { Style::Plain };
        table.row(vec![
            Cell::styled(percent(used), style),
            format!("{:.1}", figures.loads[*wire]).into(),
            format!("{:.1}", figures.wires.capacity()[*wire]).into(),
            figures.wires.describe(planned.topology, *wire).into(),
        ]);
    }
    table.print(out)
}

/// What flows get, and what they would get otherwise.
pub(super) fn comparison(when: &str, lines: &[Line], out: &mut Output) -> io::Result<()> {
    out.line("")?;
    let title = out.paint(Style::Bold, format!("What flows get{when}, in Gbit/s"));
    out.line(title)?;
    let mut table = Table::new(&[
        ("PATHS", Align::Left),
        ("SLOWEST FLOW", Align::Right),
        ("ALL FLOWS", Align::Right),
        ("ALL-REDUCE", Align::Right),
    ]);
    for Line { name, gain } in lines {
        let figures = [gain.slowest, gain.sum, gain.bus].map(|figure| Cell::from(format!("{figure:.1}")));
        table.row(std::iter::once(name.into()).chain(figures).collect());
    }
    table.print(out)
}

fn unplaced(planned: &Planned<'_>, out: &mut Output) -> io::Result<()> {
    let flows = planned.flows.as_slice().iter().zip(&planned.plan.flows);
    let lost: Vec<_> = flows.filter_map(|(flow, planned)| Some((flow, planned.unplaced?))).collect();
    if lost.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let title = out.paint(Style::Bad, format!("{} without a path", count(lost.len() as u64, "flow")));
    out.line(title)?;
    for (flow, why) in lost.iter().take(SHOWN) {
        out.line(format!("  {}: {why}", printable(&flow.id)))?;
    }
    if lost.len() > SHOWN {
        out.line(format!("  … and {} more", lost.len() - SHOWN))?;
    }
    Ok(())
}
