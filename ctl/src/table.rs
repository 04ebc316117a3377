//! Tables that fit the terminal: every column is as wide as its widest cell, and when that is too much the last column
//! is cut with an ellipsis, and then the widest of the others. Away from a terminal nothing is cut, for whoever pipes it into grep.

use std::io;

use crate::{
    output::{Output, Style},
    words::printable,
};

/// One cell.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell in a style of its own.
    #[must_use]
    pub fn styled(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: printable(text.as_ref()).into_owned(), style }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::styled(text, Style::Plain)
    }
}

/// Which way a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

const SEPARATOR: &str = "  ";
const NARROWEST: usize = 8;

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, surplus ones ignored.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Writes the table.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn print(&self, out: &mut Output) -> io::Result<()> {
        let widths = self.widths(out.width());
        let heading: Vec<Cell> =
            self.columns.iter().map(|(name, _)| Cell::styled(name, Style::Dim)).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let line = self.render(row, &widths, out);
            out.line(line.trim_end())?;
        }
        Ok(())
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let total = widths.iter().sum::<usize>() + SEPARATOR.len() * widths.len().saturating_sub(1);
        if let (Some(limit), Some(last)) = (limit, widths.last_mut())
            && total > limit
        {
            *last = last.saturating_sub(total - limit).max(NARROWEST.min(*last));
            let mut over =
                (widths.iter().sum::<usize>() + SEPARATOR.len() * (widths.len() - 1)).saturating_sub(limit);
            while over > 0
                && let Some(widest) = widths.iter_mut().max().filter(|width| **width > NARROWEST)
            {
                *widest -= 1;
                over -= 1;
            }
        }
        widths
    }

    fn render(&self, row: &[Cell], widths: &[usize], out: &Output) -> String {
        let mut line = String::new();
        for (index, ((_, align), width)) in self.columns.iter().zip(widths).enumerate() {
            let empty = Cell::from("");
            let cell = row.get(index).unwrap_or(&empty);
            let text = cut(&cell.text, *width);
            let padding = " ".repeat(width.saturating_sub(text.chars().count()));
            let painted = if text.is_empty() { text } else { out.paint(cell.style, &text) };
            if index > 0 {
                line.push_str(SEPARATOR);
            }
            match align {
                Align::Left => {
                    line.push_str(&painted);
                    line.push_str(&padding);
                }
                Align::Right => {
                    line.push_str(&padding);
                    line.push_str(&painted);
                }
            }
        }
        line
    }
}

/// `text` in at most `width` characters, an ellipsis where it was cut.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(table: &Table, width: Option<usize>) -> String {
        let sink = Sink::default();
        let mut out = Output::to(Box::new(sink.clone()), width);
        table.print(&mut out).expect("prints");
        let bytes = sink.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("utf-8")
    }

    fn table() -> Table {
        let mut table =
            Table::new(&[("NAME", Align::Left), ("RANKS", Align::Right), ("SUMMARY", Align::Left)]);
        table.row(vec!["a".into(), "16".into(), "rank 3 never entered the all-reduce".into()]);
        table.row(vec!["longer".into(), "8".into(), "fine".into()]);
        table
    }

    #[test]
    fn columns_line_up() {
        let expected = "\
NAME    RANKS  SUMMARY
a          16  rank 3 never entered the all-reduce
longer      8  fine
";
        assert_eq!(printed(&table(), None), expected);
    }

    #[test]
    fn then_the_widest_of_the_others_does() {
        let mut table =
            Table::new(&[("NAME", Align::Left), ("RANKS", Align::Right), ("SUMMARY", Align::Left)]);
        table.row(vec![
            "a-job-with-a-name-of-some-length".into(),
            "16".into(),
            "rank 3 never entered".into(),
        ]);
        for line in printed(&table, Some(30)).lines() {
            assert!(line.chars().count() <= 30, "{line:?}");
        }
        assert!(printed(&table, Some(30)).contains("16"), "short columns stay whole");
    }

    #[test]
    fn the_last_column_gives_way_on_a_narrow_terminal() {
        for line in printed(&table(), Some(30)).lines() {
            assert!(line.chars().count() <= 30, "{line:?}");
        }
        assert!(printed(&table(), Some(30)).contains("rank 3 never e…"));
    }
}
