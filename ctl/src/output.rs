//! Where answers go. A reader that went away (`c4ctl events | head`) is no error: what is left to write is dropped, and
//! whoever streams asks [`Output::gone`].

use std::{
    fmt::Display,
    io::{self, BufWriter, ErrorKind, IsTerminal, Write},
};

use serde::Serialize;

use crate::cli::Color;

/// How a piece of text stands out on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Plain,
    /// Headings.
    Bold,
    /// Less important.
    Dim,
    /// Wrong.
    Bad,
    /// Doubtful.
    Doubtful,
    /// Right.
    Good,
}

impl Style {
    fn code(self) -> Option<&'static str> {
        match self {
            Style::Plain => None,
            Style::Bold => Some("1"),
            Style::Dim => Some("2"),
            Style::Bad => Some("31"),
            Style::Doubtful => Some("33"),
            Style::Good => Some("32"),
        }
    }
}

/// A writer that knows whether it may colour and how wide it is.
pub struct Output {
    to: Box<dyn Write>,
    color: bool,
    width: Option<usize>,
    terminal: bool,
    wide: bool,
    gone: bool,
}

impl Output {
    /// Standard output; `wide`: nothing is cut, and nothing left out.
    #[must_use]
    pub fn stdout(color: Color, wide: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        let width = if terminal && !wide {
            terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
        } else {
            None
        };
        Self { to: Box::new(BufWriter::new(io::stdout())), color, width, terminal, wide, gone: false }
    }

    /// Any other writer, without colours; `width` in columns, none for unlimited.
    #[must_use]
    pub fn to(writer: Box<dyn Write>, width: Option<usize>) -> Self {
        Self { to: writer, color: false, width, terminal: false, wide: false, gone: false }
    }

    /// Columns of the terminal; none when this is not one.
    #[must_use]
    pub fn width(&self) -> Option<usize> {
        self.width
    }

    /// Whether everything is to be told.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.wide
    }

    /// Begins an answer that takes the place of the one before: on a terminal, its screen; else after an empty line.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn again(&mut self) -> io::Result<()> {
        // Home, and clear from there on: less flicker than clearing first.
        if self.terminal { self.write(|to| to.write_all(b"\x1b[H\x1b[J")) } else { self.line("") }
    }

    /// Whether the reader went away.
    #[must_use]
    pub fn gone(&self) -> bool {
        self.gone
    }

    /// `text` in this style, if there are colours here.
    #[must_use]
    pub fn paint(&self, style: Style, text: impl Display) -> String {
        match style.code() {
            Some(code) if self.color => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_string(),
        }
    }

    /// Writes one line.
    ///
    /// # Errors
    /// When the line cannot be written, other than because nobody reads any more.
    pub fn line(&mut self, text: impl Display) -> io::Result<()> {
        self.write(|to| writeln!(to, "{text}"))
    }

    /// Writes a document for scripts.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn json(&mut self, document: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(document)?;
        self.line(text)?;
        self.flush()
    }

    /// Writes a document on one line.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn json_line(&mut self, document: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(document)?;
        self.line(text)
    }

    /// Hands on what is buffered.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.write(|to| to.flush())
    }

    fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        if self.gone {
            return Ok(());
        }
        match write(self.to.as_mut()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let mut out = Output::to(Box::new(Closed), None);
        assert!(!out.gone());
        out.line("one").expect("quiet");
        assert!(out.gone());
        out.line("two").expect("quiet");
    }

    #[test]
    fn there_are_no_colours_away_from_a_terminal() {
        let out = Output::to(Box::new(io::sink()), None);
        assert_eq!(out.paint(Style::Bad, "x"), "x");
    }
}
