//! Patches, as the API server applies them.

use serde_json::{Map, Value};

use super::schema::resolved;

/// A JSON merge patch (RFC 7396).
pub(crate) fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    for (key, change) in patch {
        let before = target.remove(key);
        if !change.is_null() {
            target.insert(key.clone(), merged(before.unwrap_or_default(), change));
        }
    }
    Value::Object(target)
}

/// A strategic merge patch: lists whose schema names a merge key are merged by it.
pub(crate) fn merged_by_keys(target: Value, patch: &Value, schema: &'static Value) -> Value {
    let schema = resolved(schema);
    match patch {
        Value::Object(patch) => {
            let mut target = match target {
                Value::Object(target) => target,
                _ => Map::new(),
            };
            for (key, change) in patch {
                let before = target.remove(key);
                if !change.is_null() {
                    let inner = &schema["properties"][key];
                    target.insert(key.clone(), merged_by_keys(before.unwrap_or_default(), change, inner));
                }
            }
            Value::Object(target)
        }
        Value::Array(items) if schema["x-kubernetes-patch-strategy"] == "merge" => {
            let key = schema["x-kubernetes-patch-merge-key"].as_str().expect("a key");
            let mut list = target.as_array().cloned().unwrap_or_default();
            for item in items {
                match list.iter_mut().find(|other| other[key] == item[key]) {
                    Some(same) => *same = merged_by_keys(same.take(), item, &schema["items"]),
                    None => list.push(item.clone()),
                }
            }
            list.into()
        }
        other => other.clone(),
    }
}
