//! Checks objects against Kubernetes' published schemas (schemas/README), as strictly as its API server does when it is asked
//! to be strict: a field that no schema knows is an error. The schemas use few of JSON Schema's words; one that this does not
//! know is an error, too, so that nothing goes unchecked by mistake.

use std::{collections::BTreeMap, io::Read, sync::LazyLock};

use flate2::read::GzDecoder;
use serde_json::Value;

static DEFINITIONS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let mut text = String::new();
    let packed: &[u8] = include_bytes!("schemas/schemas.json.gz");
    GzDecoder::new(packed).read_to_string(&mut text).expect("unpacks");
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    serde_json::from_value(document["definitions"].take()).expect("definitions")
});

/// The definition of a kind.
pub(crate) fn definition(api_version: &str, kind: &str) -> &'static Value {
    let name = match (api_version, kind) {
        ("v1", "Node" | "Pod") => format!("io.k8s.api.core.v1.{kind}"),
        ("v1", "DeleteOptions") => "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".into(),
        ("policy/v1", "Eviction") => "io.k8s.api.policy.v1.Eviction".into(),
        (_, kind) => kind.into(),
    };
    DEFINITIONS.get(&name).unwrap_or_else(|| panic!("no schema of {api_version} {kind}"))
}

/// What is wrong with an object, by place.
pub(crate) fn check(value: &Value, api_version: &str, kind: &str) -> Result<(), String> {
    let mut wrong = Vec::new();
    look(value, definition(api_version, kind), kind, &mut wrong);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// The schema itself, wherever it refers to.
pub(crate) fn resolved(mut schema: &'static Value) -> &'static Value {
    while let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().expect("a name");
        schema = DEFINITIONS.get(name).unwrap_or_else(|| panic!("no definition {name}"));
    }
    schema
}

fn look(value: &Value, schema: &'static Value, at: &str, wrong: &mut Vec<String>) {
    let schema = resolved(schema);
    for (word, said) in schema.as_object().into_iter().flatten() {
        match word.as_str() {
            "type" if !is_of(value, said) => wrong.push(format!("{at}: is no {said}: {value}")),
            "enum" if !said.as_array().expect("a list").contains(value) => {
                wrong.push(format!("{at}: {value} is none of {said}"));
            }
            "required" => {
                let names =
                    said.as_array().expect("a list").iter().map(|name| name.as_str().expect("a name"));
                let missing = names.filter(|name| value.is_object() && value.get(name).is_none());
                wrong.extend(missing.map(|name| format!("{at}.{name}: is missing")));
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    look(item, said, &format!("{at}[{index}]"), wrong);
                }
            }
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minimum" => {
                let size = match word.as_str() {
                    "minimum" => value.as_f64(),
                    "minItems" | "maxItems" => value.as_array().map(|items| items.len() as f64),
                    _ => value.as_str().map(|text| text.chars().count() as f64),
                };
                let limit = said.as_f64().expect("a number");
                let low = word.starts_with("min");
                if size.is_some_and(|size| if low { size < limit } else { size > limit }) {
                    wrong.push(format!("{at}: {word} is {limit}: {value}"));
                }
            }
            "anyOf" | "oneOf" => {
                let fits = |one: &'static Value| {
                    let mut inner = Vec::new();
                    look(value, one, at, &mut inner);
                    inner.is_empty()
                };
                if !said.as_array().expect("a list").iter().any(fits) {
                    wrong.push(format!("{at}: fits none of {said}"));
                }
            }
            "format" => {
                let right = match (said.as_str(), value.as_str()) {
                    (Some("date-time"), Some(text)) => text.parse::<jiff::Timestamp>().is_ok(),
                    _ => true,
                };
                if !right {
                    wrong.push(format!("{at}: {value} is no {said}"));
                }
            }
            // Quantities, which nothing of ours writes.
            "pattern" | "type" | "enum" | "properties" | "additionalProperties" => {}
            word if word.starts_with("x-kubernetes-") => {}
            unknown => panic!("{at}: a word of the schema that this does not know: {unknown}"),
        }
    }
    let (known, others) = (&schema["properties"], &schema["additionalProperties"]);
    for (key, inner) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{key}");
        match (known.get(key), others) {
            (Some(schema), _) => look(inner, schema, &at, wrong),
            (None, Value::Object(_)) => look(inner, others, &at, wrong),
            (None, _) if known.is_null() => {}
            _ => wrong.push(format!("{at}: no such field")),
        }
    }
}

fn is_of(value: &Value, kinds: &Value) -> bool {
    let is = |kind: &Value| match kind.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("a type that this does not know: {other}"),
    };
    kinds.as_array().map_or_else(|| is(kinds), |kinds| kinds.iter().any(is))
}
