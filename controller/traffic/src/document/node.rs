//! A document as a tree that knows where everything stands.

use std::borrow::Cow;

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    /// Where it begins; [`Tree::line`] makes a line of it.
    pub(crate) place: u32,
    /// What it is.
    pub(crate) value: Value<'a>,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number; not finite when it was written so, or is too large for one.
    Number(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// Values in order.
    List(Vec<Node<'a>>),
    /// Names and values in order; names may repeat, which is the reader's to report.
    Map(Vec<Entry<'a>>),
}

impl Value<'_> {
    /// What it is, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "fields",
        }
    }
}

/// One field.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub(crate) name: Cow<'a, str>,
    /// Where the name stands.
    pub(crate) place: u32,
    /// Its value.
    pub(crate) node: Node<'a>,
}

/// A whole document.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    /// Its outermost value.
    pub(crate) root: Node<'a>,
    /// Offsets of the line ends where places are offsets; none where they are lines already.
    pub(crate) line_ends: Option<Vec<u32>>,
}

impl Tree<'_> {
    /// The line of a place, from 1.
    pub(crate) fn line(&self, place: u32) -> u32 {
        match &self.line_ends {
            None => place,
            Some(ends) => u32::try_from(ends.partition_point(|end| *end < place)).unwrap_or(u32::MAX - 1) + 1,
        }
    }
}
