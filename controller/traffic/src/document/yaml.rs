//! YAML with positions, of the sort that describes things: one document, no aliases (a few lines of those can stand for
//! gigabytes), no tags, names are text.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::{
    MOST_BYTES, MOST_DEPTH,
    node::{Entry, Node, Tree, Value},
    problem::Problems,
};

/// Reads a document. A document that begins with a brace and is JSON is read as JSON, which YAML nearly includes: its
/// parsers do not take tabs between tokens, nor all escapes.
///
/// # Errors
/// When it is too large, nested too deep, or not YAML of this sort.
pub fn parse(text: &str) -> Result<Tree<'_>, Problems> {
    if text.len() > MOST_BYTES {
        return Err(Problems::one(1, format_args!("more than {MOST_BYTES} bytes")));
    }
    if text.trim_start().starts_with('{')
        && let Ok(tree) = super::json::parse(text)
    {
        return Ok(tree);
    }
    let mut builder = Builder { open: Vec::new(), root: None };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let (line, column) = (error.marker().line(), error.marker().col());
            Problems::one(
                line_number(line),
                format_args!("not YAML: {} (column {})", error.info(), column + 1),
            )
        })?;
        builder.take(event, &span).map_err(|what| Problems::one(line_number(span.start.line()), what))?;
    }
    let root = builder.root.unwrap_or(Node { place: 1, value: Value::Null });
    Ok(Tree { root, line_ends: None })
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX).max(1)
}

/// A collection whose end has not come yet.
enum Open<'a> {
    List(u32, Vec<Node<'a>>),
    Map(u32, Vec<Entry<'a>>, Option<(Cow<'a, str>, u32)>),
}

struct Builder<'a> {
    open: Vec<Open<'a>>,
    root: Option<Node<'a>>,
}

impl<'a> Builder<'a> {
    fn take(&mut self, event: Event<'a>, span: &Span) -> Result<(), String> {
        let place = line_number(span.start.line());
        match event {
            Event::Alias(_) => return Err("aliases (*name) are not taken here: write it out".into()),
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                return Err("tags (!name) are not taken here".into());
            }
            Event::Scalar(text, style, _, None) => self.scalar(text, style, place)?,
            Event::SequenceStart(..) => self.push(Open::List(place, Vec::new()))?,
            Event::MappingStart(..) => self.push(Open::Map(place, Vec::new(), None))?,
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(place, items)) => self.value(Node { place, value: Value::List(items) })?,
                Some(Open::Map(place, entries, _)) => {
                    self.value(Node { place, value: Value::Map(entries) })?
                }
                None => {}
            },
            Event::DocumentStart(_) if self.root.is_some() => return Err("a second document (---)".into()),
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, open: Open<'a>) -> Result<(), String> {
        if self.open.len() >= MOST_DEPTH {
            return Err(format!("nested deeper than {MOST_DEPTH}"));
        }
        self.open.push(open);
        Ok(())
    }

    fn scalar(&mut self, text: Cow<'a, str>, style: ScalarStyle, place: u32) -> Result<(), String> {
        if let Some(Open::Map(_, _, name @ None)) = self.open.last_mut() {
            *name = Some((text, place));
            return Ok(());
        }
        let value = match style {
            ScalarStyle::Plain => plain(text),
            _ => Value::Text(text),
        };
        self.value(Node { place, value })
    }

    fn value(&mut self, node: Node<'a>) -> Result<(), String> {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, name)) => match name.take() {
                Some((name, place)) => entries.push(Entry { name, place, node }),
                None => return Err(format!("the name of a field is text, not {}", node.value.kind())),
            },
        }
        Ok(())
    }
}

/// YAML 1.2's core schema: what an unquoted word means.
fn plain(text: Cow<'_, str>) -> Value<'_> {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Value::Number(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Value::Number(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Value::Number(f64::NEG_INFINITY),
        word => match number(word) {
            Some(number) => Value::Number(number),
            None => Value::Text(text),
        },
    }
}

fn number(word: &str) -> Option<f64> {
    let first = word.bytes().find(|byte| !matches!(byte, b'+' | b'-' | b'.'))?;
    // Rust would also read `inf` and `nan`, which are words here.
    first.is_ascii_digit().then(|| word.parse().ok()).flatten()
}
