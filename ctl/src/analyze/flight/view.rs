//! One way to look at a dump, whether it was a pickle or JSON. Nothing is copied, and nothing is walked that nobody
//! asks for, so what a hostile file nests or shares does no harm.

use serde_json::Value;

use crate::analyze::pickle::{Node, NodeId, Pickle};

/// A value in a dump.
#[derive(Clone, Copy)]
pub enum View<'a> {
    /// In a pickle.
    Pickle(&'a Pickle, NodeId),
    /// In JSON.
    Json(&'a Value),
}

impl<'a> View<'a> {
    /// The value of a key, if this is a dict that has it.
    #[must_use]
    pub fn get(self, key: &str) -> Option<View<'a>> {
        match self {
            View::Json(value) => value.get(key).map(View::Json),
            View::Pickle(pickle, id) => {
                let Node::Dict(pairs) = pickle.node(id) else { return None };
                let found = pairs
                    .iter()
                    .rev()
                    .find(|(name, _)| matches!(pickle.node(*name), Node::Text(text) if text.as_str() == key));
                found.map(|(_, value)| View::Pickle(pickle, *value))
            }
        }
        .filter(|value| !value.is_none())
    }

    fn is_none(self) -> bool {
        match self {
            View::Json(value) => value.is_null(),
            View::Pickle(pickle, id) => matches!(pickle.node(id), Node::None),
        }
    }

    /// Items, if this is a list.
    #[must_use]
    pub fn items(self) -> Option<Vec<View<'a>>> {
        match self {
            View::Json(value) => Some(value.as_array()?.iter().map(View::Json).collect()),
            View::Pickle(pickle, id) => match pickle.node(id) {
                Node::List(items) => Some(items.iter().map(|item| View::Pickle(pickle, *item)).collect()),
                _ => None,
            },
        }
    }

    /// Pairs, if this is a dict; keys that are numbers are written out.
    #[must_use]
    pub fn pairs(self) -> Option<Vec<(String, View<'a>)>> {
        match self {
            View::Json(value) => {
                Some(value.as_object()?.iter().map(|(key, value)| (key.clone(), View::Json(value))).collect())
            }
            View::Pickle(pickle, id) => {
                let Node::Dict(pairs) = pickle.node(id) else { return None };
                let pair = |(key, value): &(NodeId, NodeId)| {
                    let key = match pickle.node(*key) {
                        Node::Text(text) => text.clone(),
                        Node::Int(number) => number.to_string(),
                        _ => return None,
                    };
                    Some((key, View::Pickle(pickle, *value)))
                };
                Some(pairs.iter().filter_map(pair).collect())
            }
        }
    }

    /// Text.
    #[must_use]
    pub fn text(self) -> Option<&'a str> {
        match self {
            View::Json(value) => value.as_str(),
            View::Pickle(pickle, id) => match pickle.node(id) {
                Node::Text(text) => Some(text),
                _ => None,
            },
        }
    }

    /// A whole number; the JSON form of a dump writes some of them as text.
    #[must_use]
    pub fn whole(self) -> Option<i64> {
        let float = |number: f64| (number.fract() == 0.0 && number.abs() < 9e18).then_some(number as i64);
        match self {
            View::Json(Value::Number(number)) => number.as_i64().or_else(|| number.as_f64().and_then(float)),
            View::Json(Value::String(text)) => text.trim().parse().ok(),
            View::Json(_) => None,
            View::Pickle(pickle, id) => match pickle.node(id) {
                Node::Int(number) => Some(*number),
                Node::Float(number) => float(*number),
                Node::Text(text) => text.trim().parse().ok(),
                _ => None,
            },
        }
    }

    /// A number.
    #[must_use]
    pub fn number(self) -> Option<f64> {
        match self {
            View::Json(value) => value.as_f64(),
            View::Pickle(pickle, id) => match pickle.node(id) {
                Node::Float(number) => Some(*number),
                Node::Int(number) => Some(*number as f64),
                _ => None,
            },
        }
        .filter(|number| number.is_finite())
    }

    /// Yes or no.
    #[must_use]
    pub fn truth(self) -> Option<bool> {
        match self {
            View::Json(value) => value.as_bool(),
            View::Pickle(pickle, id) => match pickle.node(id) {
                Node::Bool(value) => Some(*value),
                _ => None,
            },
        }
    }

    /// What it is, for a message.
    #[must_use]
    pub fn kind(self) -> &'static str {
        if self.is_none() {
            "nothing"
        } else if self.truth().is_some() {
            "true or false"
        } else if self.text().is_some() {
            "text"
        } else if self.number().is_some() {
            "a number"
        } else if self.items().is_some() {
            "a list"
        } else if self.pairs().is_some() {
            "a dict"
        } else {
            "a number that is not finite"
        }
    }
}
