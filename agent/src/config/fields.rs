//! Reads a YAML document field by field and gathers *all* mistakes, each with the path of its key. A derive would stop at
//! the first one, and whoever sets up a thousand nodes wants to fix a file once.

use std::{fmt, path::PathBuf, time::Duration};

use serde_yaml::{Mapping, Value};

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Path of the key, such as `spool.messages`.
    pub path: String,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// A mapping whose keys are taken one by one; what is left at the end is unknown.
#[derive(Debug)]
pub(super) struct Fields {
    path: String,
    rest: Mapping,
    known: Vec<&'static str>,
}

impl Fields {
    /// The top of a document. An empty document has no keys.
    pub(super) fn root(value: Value, mistakes: &mut Vec<Mistake>) -> Self {
        Self::of(String::new(), value, mistakes)
    }

    fn of(path: String, value: Value, mistakes: &mut Vec<Mistake>) -> Self {
        let rest = match value {
            Value::Mapping(rest) => rest,
            Value::Null => Mapping::new(),
            other => {
                let path = if path.is_empty() { "(document)".to_owned() } else { path.clone() };
                mistakes.push(Mistake {
                    path,
                    what: format!("expected keys and values, found {}", kind(&other)),
                });
                Mapping::new()
            }
        };
        Self { path, rest, known: Vec::new() }
    }

    fn join(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.rest.remove(key)
    }

    /// The keys below `key`.
    pub(super) fn section(&mut self, key: &'static str, mistakes: &mut Vec<Mistake>) -> Self {
        let value = self.take(key).unwrap_or(Value::Null);
        Self::of(self.join(key), value, mistakes)
    }

    /// Entries below `key` whose names are the user's, each with its own keys; none where it is `null`.
    pub(super) fn entries(
        &mut self,
        key: &'static str,
        mistakes: &mut Vec<Mistake>,
    ) -> Vec<(String, Option<Self>)> {
        let Self { path, rest, .. } = self.section(key, mistakes);
        let entry = |(name, value): (Value, Value)| {
            let name = name.as_str().map_or_else(|| show(&name), str::to_owned);
            let keys = (!value.is_null()).then(|| Self::of(format!("{path}.{name}"), value, mistakes));
            (name, keys)
        };
        rest.into_iter().map(entry).collect()
    }

    /// A value that must be there.
    pub(super) fn missing(&self, key: &str, mistakes: &mut Vec<Mistake>) {
        mistakes.push(Mistake { path: self.join(key), what: "is missing".to_owned() });
    }

    /// A value, if there is one and `parse` likes it. `parse` says what it expected.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        into: &mut T,
        mistakes: &mut Vec<Mistake>,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) {
        let Some(value) = self.take(key) else { return };
        match parse(&value) {
            Ok(parsed) => *into = parsed,
            Err(expected) => {
                let what = format!("expected {expected}, found {}", show(&value));
                mistakes.push(Mistake { path: self.join(key), what });
            }
        }
    }

    /// Whatever was not taken is unknown.
    pub(super) fn finish(self, mistakes: &mut Vec<Mistake>) {
        for key in self.rest.keys() {
            let key = key.as_str().map_or_else(|| show(key), str::to_owned);
            let what = format!("unknown key; known here: {}", self.known.join(", "));
            mistakes.push(Mistake { path: self.join(&key), what });
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "keys and values",
        Value::Tagged(_) => "a tagged value",
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) | Value::String(_) => serde_yaml::to_string(value)
            .map_or_else(|_| kind(value).to_owned(), |text| text.trim().to_owned()),
        other => kind(other).to_owned(),
    }
}

/// A whole number between two others.
pub(super) fn whole(low: u64, high: u64) -> impl FnOnce(&Value) -> Result<u64, String> {
    move |value| {
        let number = value.as_u64().filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| format!("a whole number from {low} to {high}"))
    }
}

/// Milliseconds between two bounds.
pub(super) fn milliseconds(low: u64, high: u64) -> impl FnOnce(&Value) -> Result<Duration, String> {
    move |value| whole(low, high)(value).map(Duration::from_millis)
}

/// Seconds between two bounds.
pub(super) fn seconds(low: u64, high: u64) -> impl FnOnce(&Value) -> Result<Duration, String> {
    move |value| whole(low, high)(value).map(Duration::from_secs)
}

/// A number between two others.
pub(super) fn number(low: f64, high: f64) -> impl FnOnce(&Value) -> Result<f64, String> {
    move |value| {
        let number = value.as_f64().filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| format!("a number from {low} to {high}"))
    }
}

/// `true` or `false`.
pub(super) fn truth(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "true or false".to_owned())
}

/// Text that is not empty.
pub(super) fn text(value: &Value) -> Result<String, String> {
    let text = value.as_str().map(str::trim).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| "text that is not empty".to_owned())
}

/// An absolute path.
pub(super) fn path(value: &Value) -> Result<PathBuf, String> {
    let path = value.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
    path.ok_or_else(|| "an absolute path".to_owned())
}

/// `null` turns a thing off.
pub(super) fn or_null<T>(
    parse: impl FnOnce(&Value) -> Result<T, String>,
) -> impl FnOnce(&Value) -> Result<Option<T>, String> {
    move |value| match value {
        Value::Null => Ok(None),
        value => parse(value).map(Some).map_err(|expected| format!("{expected}, or null")),
    }
}
