//! Takes a YAML document apart into leaves and finds out which of them the configuration does not take.

use serde_yaml::{Mapping, Value};

use super::{Config, Mistake};

/// One step on the way from the document's root to a leaf.
#[derive(Clone, Debug)]
enum Step {
    Key(Value),
    Index(usize),
}

/// The configuration made of all the leaves that could be read, and the mistakes in the others. `Err` when the
/// document is not YAML at all, or not a mapping.
pub(super) fn parse(text: &str) -> Result<(Config, Vec<Mistake>), Vec<Mistake>> {
    let whole = |problem: String| vec![Mistake { path: String::new(), problem }];
    let document: Value = serde_yaml::from_str(text).map_err(|e| whole(format!("not valid YAML: {e}")))?;
    let Some(document) = without_nulls(document) else { return Ok((Config::default(), Vec::new())) };
    if !document.is_mapping() {
        return Err(whole("expected keys and values at the top level".into()));
    }
    let mut paths = Vec::new();
    collect(&document, &mut Vec::new(), &mut paths);

    let mut mistakes = Vec::new();
    let mut good = Value::Mapping(Mapping::new());
    for (path, value) in paths {
        match serde_yaml::from_value::<Config>(alone(&path, value.clone())) {
            Ok(_) => insert(&mut good, &path, value),
            Err(error) => mistakes.push(Mistake { path: name(&path), problem: words(&error) }),
        }
    }
    match serde_yaml::from_value(good) {
        Ok(config) => Ok((config, mistakes)),
        Err(error) => {
            mistakes.push(Mistake { path: String::new(), problem: words(&error) });
            Err(mistakes)
        }
    }
}

/// serde_yaml prefixes its messages with the path inside the document with one leaf; the caller names the whole one.
fn words(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    match text.split_once(": ") {
        Some((path, rest)) if !path.contains(' ') => rest.to_owned(),
        _ => text,
    }
}

/// `null` means "the default", so it is as if the key were not there. Elements of a list keep their places.
fn without_nulls(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Mapping(mapping) => {
            let kept: Mapping =
                mapping.into_iter().filter_map(|(key, value)| Some((key, without_nulls(value)?))).collect();
            Some(Value::Mapping(kept))
        }
        Value::Sequence(items) => {
            let kept = items
                .into_iter()
                .map(|item| without_nulls(item).unwrap_or_else(|| Value::Mapping(Mapping::new())))
                .collect();
            Some(Value::Sequence(kept))
        }
        other => Some(other),
    }
}

fn collect(value: &Value, path: &mut Vec<Step>, leaves: &mut Vec<(Vec<Step>, Value)>) {
    match value {
        Value::Mapping(mapping) if !mapping.is_empty() => {
            for (key, value) in mapping {
                path.push(Step::Key(key.clone()));
                collect(value, path, leaves);
                path.pop();
            }
        }
        // Only lists of mappings are taken apart: a list of scalars is one value.
        Value::Sequence(items) if !items.is_empty() && items.iter().all(Value::is_mapping) => {
            for (index, value) in items.iter().enumerate() {
                path.push(Step::Index(index));
                collect(value, path, leaves);
                path.pop();
            }
        }
        other => leaves.push((path.clone(), other.clone())),
    }
}

/// A document that holds nothing but one leaf. A list holds nothing but the element on the way.
fn alone(path: &[Step], leaf: Value) -> Value {
    path.iter().rev().fold(leaf, |inner, step| match step {
        Step::Key(key) => Value::Mapping(Mapping::from_iter([(key.clone(), inner)])),
        Step::Index(_) => Value::Sequence(vec![inner]),
    })
}

fn insert(into: &mut Value, path: &[Step], leaf: Value) {
    let Some((step, rest)) = path.split_first() else {
        *into = leaf;
        return;
    };
    match step {
        Step::Key(key) => {
            if !into.is_mapping() {
                *into = Value::Mapping(Mapping::new());
            }
            if let Value::Mapping(mapping) = into {
                insert(mapping.entry(key.clone()).or_insert(Value::Null), rest, leaf);
            }
        }
        Step::Index(index) => {
            if !into.is_sequence() {
                *into = Value::Sequence(Vec::new());
            }
            if let Value::Sequence(items) = into {
                while items.len() <= *index {
                    items.push(Value::Mapping(Mapping::new()));
                }
                insert(&mut items[*index], rest, leaf);
            }
        }
    }
}

fn name(path: &[Step]) -> String {
    let mut name = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !name.is_empty() {
                    name.push('.');
                }
                match key {
                    Value::String(text) => name.push_str(text),
                    other => name.push_str(serde_yaml::to_string(other).unwrap_or_default().trim()),
                }
            }
            Step::Index(index) => name.push_str(&format!("[{index}]")),
        }
    }
    name
}
