//! JSON with positions. `serde_json` does the parsing and checks the grammar; a raw value borrows the text it was parsed
//! from, so where it begins tells the line. Each level is parsed again inside its parent, and the formats are shallow.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    MOST_BYTES, MOST_DEPTH,
    node::{Entry, Node, Tree, Value},
    problem::Problems,
};

/// Reads a document.
///
/// # Errors
/// When it is too large, nested too deep, or not JSON.
pub fn parse(text: &str) -> Result<Tree<'_>, Problems> {
    if text.len() > MOST_BYTES {
        return Err(Problems::one(1, format_args!("more than {MOST_BYTES} bytes")));
    }
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| syntax(&error))?;
    let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| offset(at));
    let line_ends: Vec<u32> = ends.collect();
    let source = Source { start: text.as_ptr() as usize };
    let root = source.node(raw.get(), 0).map_err(|(place, what)| {
        let line = line_ends.partition_point(|end| *end < place) + 1;
        Problems::one(offset(line), what)
    })?;
    Ok(Tree { root, line_ends: Some(line_ends) })
}

fn syntax(error: &serde_json::Error) -> Problems {
    // The position is in the message, too; say it once.
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text).to_owned();
    Problems::one(offset(error.line().max(1)), format_args!("not JSON: {what} (column {})", error.column()))
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// The text all parts are borrowed from.
struct Source {
    start: usize,
}

impl Source {
    fn place(&self, part: &str) -> u32 {
        offset((part.as_ptr() as usize).saturating_sub(self.start))
    }

    fn node<'a>(&self, raw: &'a str, depth: usize) -> Result<Node<'a>, (u32, String)> {
        let place = self.place(raw);
        if depth > MOST_DEPTH {
            return Err((place, format!("nested deeper than {MOST_DEPTH}")));
        }
        let bad = |error: serde_json::Error| (place, format!("not JSON: {error}"));
        let value = match raw.as_bytes().first() {
            Some(b'{') => {
                let fields: Fields<'a> = serde_json::from_str(raw).map_err(bad)?;
                let entries = fields.0.into_iter().map(|(name, value)| {
                    let node = self.node(value.get(), depth + 1)?;
                    // An escaped name is a copy: then the value says where.
                    let place = match &name {
                        Cow::Borrowed(name) => self.place(name),
                        Cow::Owned(_) => node.place,
                    };
                    Ok(Entry { name, place, node })
                });
                Value::Map(entries.collect::<Result<_, _>>()?)
            }
            Some(b'[') => {
                let items: Vec<&'a RawValue> = serde_json::from_str(raw).map_err(bad)?;
                let items = items.into_iter().map(|item| self.node(item.get(), depth + 1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Some(b'"') => {
                let text: Text<'a> = serde_json::from_str(raw).map_err(bad)?;
                Value::Text(text.0)
            }
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'n') | None => Value::Null,
            // The grammar is checked: what is left is a number, and Rust reads every JSON number.
            Some(_) => Value::Number(raw.parse().unwrap_or(f64::NAN)),
        };
        Ok(Node { place, value })
    }
}

/// Text, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Visit<'a> {
            type Value = Text<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Visit(PhantomData))
    }
}

/// Names and values as they stand, repeated names included.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Visit<'a> {
            type Value = Fields<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("fields")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'a>, M::Error> {
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<Text<'a>>()? {
                    let value: &'de RawValue = map.next_value().map_err(M::Error::custom)?;
                    fields.push((name.0, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Visit(PhantomData))
    }
}
