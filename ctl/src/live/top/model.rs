//! What `top` shows, and what keys do to it.

use c4_detect::view::urgency;
use c4_proto::v1;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::finding::Report;

/// The newest answer of the controller, and what went wrong since.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) status: v1::Status,
    pub(super) jobs: Vec<v1::JobSummary>,
    pub(super) findings: Vec<Report>,
    pub(super) trouble: Option<String>,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Stay,
    Leave,
}

/// What is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) url: String,
    pub(super) heard: Heard,
    /// Whether anything was ever heard.
    pub(super) is_known: bool,
    /// The job under the cursor, by name: rows move as jobs change.
    pub(super) selected: Option<String>,
    /// Only that job's findings.
    pub(super) narrowed: bool,
    pub(super) scroll: u16,
}

impl Model {
    pub(super) fn new(url: String) -> Self {
        Self { url, heard: Heard::default(), is_known: false, selected: None, narrowed: false, scroll: 0 }
    }

    /// Takes in an answer; the worst jobs come first.
    pub(super) fn hear(&mut self, heard: Heard) {
        self.heard = heard;
        self.is_known |= self.heard.trouble.is_none();
        self.heard
            .jobs
            .sort_by_key(|job| (urgency(&job.state), std::cmp::Reverse(job.ranks_seen), job.name.clone()));
        self.heard.findings.sort_by_key(|report| std::cmp::Reverse(report.finding.detected));
        if self.row().is_none() {
            self.selected = self.heard.jobs.first().map(|job| job.name.clone());
        }
    }

    /// Where the cursor is.
    pub(super) fn row(&self) -> Option<usize> {
        let name = self.selected.as_ref()?;
        self.heard.jobs.iter().position(|job| job.name == *name)
    }

    /// Findings that are shown.
    pub(super) fn findings(&self) -> impl Iterator<Item = &Report> {
        let only = self.selected.as_ref().filter(|_| self.narrowed);
        self.heard.findings.iter().filter(move |report| only.is_none_or(|job| report.finding.job.0 == *job))
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if control => return Wish::Leave,
            KeyCode::Char('q') => return Wish::Leave,
            KeyCode::Esc if !self.narrowed => return Wish::Leave,
            KeyCode::Esc => self.narrow(false),
            KeyCode::Enter | KeyCode::Char(' ') => self.narrow(!self.narrowed),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN / 2),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX / 2),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(5),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(5),
            _ => {}
        }
        Wish::Stay
    }

    fn narrow(&mut self, narrowed: bool) {
        (self.narrowed, self.scroll) = (narrowed, 0);
    }

    fn step(&mut self, by: isize) {
        let Some(last) = self.heard.jobs.len().checked_sub(1) else { return };
        let row = self.row().unwrap_or(0).saturating_add_signed(by).min(last);
        self.selected = self.heard.jobs.get(row).map(|job| job.name.clone());
        if self.narrowed {
            self.scroll = 0;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::live::top) fn job(name: &str, state: &str) -> v1::JobSummary {
        v1::JobSummary {
            name: name.into(),
            state: state.into(),
            ranks_seen: 8,
            world_size: 8,
            ..Default::default()
        }
    }

    fn press(model: &mut Model, code: KeyCode) -> Wish {
        model.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn the_worst_is_first_and_the_cursor_stays_with_its_job() {
        let mut model = Model::new(String::new());
        let jobs = vec![job("a", "healthy"), job("b", "faulty"), job("c", "healthy")];
        model.hear(Heard { jobs, ..Heard::default() });
        assert_eq!(model.selected.as_deref(), Some("b"));
        press(&mut model, KeyCode::Down);
        assert_eq!(model.selected.as_deref(), Some("a"));
        let jobs = vec![job("a", "healthy"), job("b", "healthy"), job("c", "faulty"), job("d", "faulty")];
        model.hear(Heard { jobs, ..Heard::default() });
        assert_eq!((model.selected.as_deref(), model.row()), (Some("a"), Some(2)));
        press(&mut model, KeyCode::End);
        press(&mut model, KeyCode::Down);
        assert_eq!(model.selected.as_deref(), Some("b"));
        model.hear(Heard::default());
        assert_eq!(model.selected, None);
        press(&mut model, KeyCode::Up);
    }

    #[test]
    fn escape_goes_back_before_it_leaves() {
        let mut model = Model::new(String::new());
        assert_eq!(press(&mut model, KeyCode::Enter), Wish::Stay);
        assert!(model.narrowed);
        assert_eq!(press(&mut model, KeyCode::Esc), Wish::Stay);
        assert_eq!(press(&mut model, KeyCode::Esc), Wish::Leave);
        assert_eq!(model.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::Leave);
    }
}
