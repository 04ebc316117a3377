//! How `top` looks.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState, Wrap},
};

use super::model::Model;
use crate::{
    finding::Report,
    live::jobs::{iteration, ranks},
    words::{count, moment, printable},
};

const KEYS: &str = " ↑↓ job   Enter only its findings   PgUp PgDn scroll   q leave ";

pub(super) fn draw(model: &mut Model, frame: &mut Frame<'_>, colorful: bool) {
    let rows = u16::try_from(model.heard.jobs.len()).unwrap_or(u16::MAX).saturating_add(3);
    let [head, jobs, findings, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(rows.clamp(4, (frame.area().height / 2).max(4))),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(heading(model, colorful)), head);
    draw_jobs(model, frame, jobs, colorful);
    draw_findings(model, frame, findings, colorful);
    frame.render_widget(Paragraph::new(KEYS).style(Style::new().add_modifier(Modifier::DIM)), foot);
}

fn heading(model: &Model, colorful: bool) -> Vec<Line<'static>> {
    let status = &model.heard.status;
    if !model.is_known && model.heard.trouble.is_none() {
        return vec![Line::raw(format!("asking the controller at {} …", model.url))];
    }
    let lost = status.nodes.iter().filter(|node| !node.connected).count();
    let mut first = vec![Span::raw(format!(
        "C4 at {}  mode {}  {}  {}",
        model.url,
        printable(&status.mode),
        count(status.nodes.len() as u64, "node"),
        count(status.ranks.into(), "rank"),
    ))];
    if lost > 0 {
        first.push(Span::styled(format!("  {lost} out of sight"), tone("unknown", colorful)));
    }
    let second = match &model.heard.trouble {
        Some(trouble) => Line::styled(
            format!("controller lost, what follows is old: {}", printable(trouble)),
            tone("faulty", colorful),
        ),
        None if status.open_findings == 0 => Line::styled("nothing is wrong", tone("healthy", colorful)),
        None => Line::styled(count(status.open_findings.into(), "open finding"), tone("faulty", colorful)),
    };
    vec![Line::from(first), second]
}

fn draw_jobs(model: &Model, frame: &mut Frame<'_>, area: Rect, colorful: bool) {
    let rows = model.heard.jobs.iter().map(|job| {
        Row::new([
            Cell::new(printable(&job.name).into_owned()),
            Cell::new(printable(&job.state).into_owned()).style(tone(&job.state, colorful)),
            Cell::new(ranks(job)),
            Cell::new(iteration(job)),
            Cell::new(job.open_findings.to_string()),
            Cell::new(job.restarts.to_string()),
        ])
    });
    let widths = [
        Constraint::Min(12),
        Constraint::Length(10),
        Constraint::Length(13),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(8),
    ];
    let header = Row::new(["JOB", "STATE", "RANKS", "ITERATION", "FINDINGS", "RESTARTS"])
        .style(Style::new().add_modifier(Modifier::BOLD));
    let table = Table::new(rows, widths)
        .header(header)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::new().borders(Borders::ALL).title(" Jobs "));
    let mut state = TableState::new().with_selected(model.row());
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_findings(model: &mut Model, frame: &mut Frame<'_>, area: Rect, colorful: bool) {
    let lines: Vec<Line<'static>> = model.findings().flat_map(|report| told(report, colorful)).collect();
    let title = match &model.selected {
        Some(job) if model.narrowed => format!(" Findings of {} ", printable(job)),
        _ => " Findings ".to_owned(),
    };
    let lines = if lines.is_empty() { vec![Line::raw("none")] } else { lines };
    model.scroll = model.scroll.min(u16::try_from(lines.len().saturating_sub(1)).unwrap_or(u16::MAX));
    let text = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .scroll((model.scroll, 0))
        .block(Block::new().borders(Borders::ALL).title(title));
    frame.render_widget(text, area);
}

fn told(report: &Report, colorful: bool) -> Vec<Line<'static>> {
    let finding = &report.finding;
    let mut lines = vec![
        Line::styled(printable(&finding.summary).into_owned(), tone("faulty", colorful)),
        Line::raw(format!(
            "  {} {}, job {}, since {}, confidence {:.0} %",
            printable(&finding.id.0),
            finding.kind.name(),
            printable(&finding.job.0),
            moment(finding.since.0),
            finding.confidence * 100.0
        )),
    ];
    let suspects: Vec<String> = finding.suspects.iter().take(4).map(crate::finding::suspect).collect();
    if !suspects.is_empty() {
        lines.push(Line::raw(format!("  suspects: {}", printable(&suspects.join("; ")))));
    }
    if let Some(action) = report.actions.last() {
        lines.push(Line::raw(format!("  {}", printable(action))));
    }
    lines.push(Line::raw(""));
    lines
}

fn tone(state: &str, colorful: bool) -> Style {
    let style = Style::new();
    match (state, colorful) {
        ("faulty", true) => style.fg(Color::Red).add_modifier(Modifier::BOLD),
        ("faulty", false) => style.add_modifier(Modifier::BOLD),
        ("unknown" | "restarting", true) => style.fg(Color::Yellow),
        ("healthy", true) => style.fg(Color::Green),
        _ => style,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::live::top::model::{Heard, tests::job};

    fn shown(model: &mut Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(model, frame, true)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn it_says_what_it_knows_at_every_size() {
        let mut model = Model::new("http://c:4400".into());
        assert!(shown(&mut model, 80, 24).contains("asking the controller"));
        let jobs =
            (0..300).map(|n| job(&format!("job-{n:03}"), "healthy")).chain([job("llm\u{1b}[2J", "faulty")]);
        model.hear(Heard { jobs: jobs.collect(), ..Heard::default() });
        let screen = shown(&mut model, 80, 24);
        assert!(screen.contains("llm\u{fffd}[2J") && screen.contains("faulty"), "{screen}");
        model.hear(Heard { trouble: Some("connection refused".into()), ..model.heard.clone() });
        assert!(shown(&mut model, 80, 24).contains("controller lost, what follows is old"));
        for (width, height) in [(1, 1), (20, 3), (40, 8), (300, 100)] {
            shown(&mut model, width, height);
        }
    }
}
