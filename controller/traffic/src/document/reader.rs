//! Taking a tree apart, noting everything that is not as it should be, and going on.

use std::{collections::HashMap, fmt, net::IpAddr};

use super::{
    node::{Entry, Node, Tree, Value},
    problem::Problems,
};
use crate::topology::Gbps;

/// Where in the document we are; written out only when something is wrong there.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Item(usize),
}

impl<'a> At<'a> {
    pub(super) const ROOT: At<'static> = At { parent: None, step: Step::Root };

    pub(super) fn field(&'a self, name: &'a str) -> At<'a> {
        At { parent: Some(self), step: Step::Field(name) }
    }

    pub(super) fn item(&'a self, index: usize) -> At<'a> {
        At { parent: Some(self), step: Step::Item(index) }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if let (Step::Field(_), false) = (self.step, matches!(parent.step, Step::Root)) {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) => f.write_str(name),
            Step::Item(index) => write!(f, "[{index}]"),
        }
    }
}

/// Collects what is wrong with one document.
pub(super) struct Reader<'t> {
    tree: &'t Tree<'t>,
    pub(super) problems: Problems,
}

/// The fields of one map, by the order of the names asked for.
pub(super) struct Fields<'t, const N: usize> {
    values: [Option<&'t Node<'t>>; N],
    pub(super) place: u32,
}

impl<'t, const N: usize> Fields<'t, N> {
    pub(super) fn get(&self, index: usize) -> Option<&'t Node<'t>> {
        // `null` says as much as leaving the field out.
        self.values[index].filter(|node| !matches!(node.value, Value::Null))
    }
}

impl<'t> Reader<'t> {
    pub(super) fn new(tree: &'t Tree<'t>) -> Self {
        Self { tree, problems: Problems::default() }
    }

    pub(super) fn line(&self, place: u32) -> u32 {
        self.tree.line(place)
    }

    pub(super) fn wrong(&mut self, place: u32, at: &At<'_>, what: impl fmt::Display) {
        self.problems.add(self.tree.line(place), at, what);
    }

    fn expected(&mut self, node: &Node<'_>, at: &At<'_>, what: &str) {
        self.wrong(node.place, at, format_args!("expected {what}, found {}", node.value.kind()));
    }

    /// The fields of a map. Unknown and repeated ones are reported.
    pub(super) fn fields<const N: usize>(
        &mut self,
        node: &'t Node<'t>,
        at: &At<'_>,
        names: [&str; N],
    ) -> Option<Fields<'t, N>> {
        let Value::Map(entries) = &node.value else {
            self.expected(node, at, &format!("fields ({})", names.join(", ")));
            return None;
        };
        let mut values = [None; N];
        for Entry { name, place, node } in entries {
            match names.iter().position(|known| known == name) {
                None => self.wrong(
                    *place,
                    &at.field(name),
                    format_args!("there is no such field; there are {}", names.join(", ")),
                ),
                Some(index) if values[index].is_some() => {
                    self.wrong(*place, &at.field(name), "the field is there twice");
                }
                Some(index) => values[index] = Some(node),
            }
        }
        Some(Fields { values, place: node.place })
    }

    /// A list; absent means empty unless it is required.
    pub(super) fn list(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>) -> &'t [Node<'t>] {
        match node.map(|node| (node, &node.value)) {
            None => &[],
            Some((_, Value::List(items))) => items,
            Some((node, _)) => {
                self.expected(node, at, "a list");
                &[]
            }
        }
    }

    pub(super) fn missing(&mut self, place: u32, at: &At<'_>, what: &str) {
        self.wrong(place, at, format_args!("is missing; expected {what}"));
    }

    /// A name: text that is not empty.
    pub(super) fn name(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>, parent: u32) -> Option<&'t str> {
        let text = self.text(node, at, parent)?;
        if text.is_empty() {
            self.wrong(node.map_or(parent, |node| node.place), at, "is empty");
            return None;
        }
        Some(text)
    }

    /// Any text.
    pub(super) fn text(&mut self, node: Option<&'t Node<'t>>, at: &At<'_>, parent: u32) -> Option<&'t str> {
        let Some(node) = node else {
            self.missing(parent, at, "text");
            return None;
        };
        match &node.value {
            Value::Text(text) => Some(text),
            Value::Number(_) | Value::Bool(_) => {
                let what = format_args!("expected text, found {}: put it in quotes", node.value.kind());
                self.wrong(node.place, at, what);
                None
            }
            _ => {
                self.expected(node, at, "text");
                None
            }
        }
    }

    fn number(&mut self, node: &'t Node<'t>, at: &At<'_>, what: &str) -> Option<f64> {
        match node.value {
            Value::Number(number) => Some(number),
            _ => {
                self.expected(node, at, what);
                None
            }
        }
    }

    /// A rate in Gbit/s.
    pub(super) fn gbps(&mut self, node: &'t Node<'t>, at: &At<'_>) -> Option<Gbps> {
        let number = self.number(node, at, "a rate in Gbit/s")?;
        let rate = Gbps::new(number);
        if rate.is_none() {
            let (least, most) = (Gbps::SMALLEST, Gbps::LARGEST);
            let what = format_args!(
                "{number} is no rate: expected a finite and positive number of Gbit/s ({least:e} to {most:e})"
            );
            self.wrong(node.place, at, what);
        }
        rate
    }

    /// A rate that must be there.
    pub(super) fn required_gbps(
        &mut self,
        node: Option<&'t Node<'t>>,
        at: &At<'_>,
        parent: u32,
    ) -> Option<Gbps> {
        match node {
            Some(node) => self.gbps(node, at),
            None => {
                self.missing(parent, at, "a rate in Gbit/s");
                None
            }
        }
    }

    /// An address.
    pub(super) fn address(&mut self, node: &'t Node<'t>, at: &At<'_>) -> Option<IpAddr> {
        let expected = "an IPv4 or IPv6 address";
        let Value::Text(text) = &node.value else {
            self.expected(node, at, expected);
            return None;
        };
        let address = text.parse().ok();
        if address.is_none() {
            self.wrong(node.place, at, format_args!("{text:?} is not {expected}"));
        }
        address
    }

    /// A finite number.
    pub(super) fn finite(&mut self, node: &'t Node<'t>, at: &At<'_>) -> Option<f64> {
        let number = self.number(node, at, "a number")?;
        if !number.is_finite() {
            self.wrong(node.place, at, format_args!("{number} is not finite"));
            return None;
        }
        Some(number)
    }

    /// A whole number in a range.
    pub(super) fn whole(&mut self, node: &'t Node<'t>, at: &At<'_>, least: u32, most: u32) -> Option<u32> {
        let number = self.number(node, at, "a whole number")?;
        if number.fract() != 0.0 || !(f64::from(least)..=f64::from(most)).contains(&number) {
            let what = format_args!("{number} is not a whole number from {least} to {most}");
            self.wrong(node.place, at, what);
            return None;
        }
        // In range and whole, as just checked.
        Some(number as u32)
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(
        &mut self,
        node: &'t Node<'t>,
        at: &At<'_>,
        words: &[(&str, T)],
    ) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let expected = format!("one of {}", known.join(", "));
        let Value::Text(text) = &node.value else {
            self.expected(node, at, &expected);
            return None;
        };
        let found = words.iter().find(|(word, _)| word == text);
        if found.is_none() {
            self.wrong(node.place, at, format_args!("{text:?} is not {expected}"));
        }
        found.map(|(_, value)| *value)
    }
}

/// Remembers where names were first used.
#[derive(Default)]
pub(super) struct Seen<K>(HashMap<K, u32>);

impl<K: std::hash::Hash + Eq> Seen<K> {
    /// The line of the first use, if this is not it.
    pub(super) fn again(&mut self, key: K, line: u32) -> Option<u32> {
        match self.0.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => Some(*first.get()),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(line);
                None
            }
        }
    }
}
