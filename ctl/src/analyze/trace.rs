//! One line of an operation trace. The format is an interface (JSON lines, one operation a line); this file knows what
//! a line may say and what it must, and nothing about what it means.

use std::{borrow::Cow, collections::BTreeMap};

mod fast;

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

/// Times beyond this many microseconds either way (about 285 years) are taken for nonsense.
const LARGEST_TIME_US: f64 = 9e15;

/// A line, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Line<'a> {
    /// What the job is.
    Meta(Meta),
    /// Who is on a communicator.
    Members {
        /// The communicator.
        comm: Cow<'a, str>,
        /// Global ranks, in the order of their ranks on it.
        ranks: Vec<u32>,
    },
    /// A collective.
    Collective(Collective<'a>),
    /// A send or receive.
    PointToPoint(PointToPoint<'a>),
    /// Computation.
    Compute(Compute<'a>),
}

/// The job, from the `meta` line.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Meta {
    /// Its name.
    pub job: Option<String>,
    /// Number of ranks.
    pub world_size: Option<u32>,
    /// Where the ranks are.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ranks: Vec<Place>,
}

/// Where a rank is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Place {
    /// The rank.
    pub rank: u32,
    /// Its node.
    pub node: Option<String>,
    /// Its GPU on the node.
    pub gpu: Option<u32>,
    /// Where it is in the parallel layout, by axis: "tp", "pp", …
    #[serde(default, deserialize_with = "null_is_default")]
    pub coords: BTreeMap<String, serde_json::Value>,
}

/// A collective of one rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Collective<'a> {
    /// Who.
    pub rank: u32,
    /// On which communicator.
    pub comm: Cow<'a, str>,
    /// Position on it.
    pub sequence: u64,
    /// What, in the trace's words.
    pub op: Cow<'a, str>,
    /// How much, if told.
    pub bytes: Option<u64>,
    /// When the host asked for it, if told.
    pub enqueued_ns: Option<i64>,
    /// When the rank began to wait in it.
    pub start_ns: i64,
    /// When it was over; absent if it never was.
    pub end_ns: Option<i64>,
}

/// A send or receive of one rank.
#[derive(Clone, Debug, PartialEq)]
pub struct PointToPoint<'a> {
    /// Who.
    pub rank: u32,
    /// With whom.
    pub peer: u32,
    /// Whether it sends.
    pub is_send: bool,
    /// On which communicator, if told.
    pub comm: Option<Cow<'a, str>>,
    /// What both ends call it, if told.
    pub tag: Option<Cow<'a, str>>,
    /// Its number among the transfers between the two, if told.
    pub sequence: Option<u64>,
    /// The batch it is of, if told.
    pub group: Option<Cow<'a, str>>,
    /// The iteration it is of, if told.
    pub iteration: Option<u64>,
    /// How much, if told.
    pub bytes: Option<u64>,
    /// When the host asked for it, if told.
    pub enqueued_ns: Option<i64>,
    /// When the rank began to wait in it.
    pub start_ns: i64,
    /// When it was over; absent if it never was.
    pub end_ns: Option<i64>,
}

/// A computation of one rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Compute<'a> {
    /// Who.
    pub rank: u32,
    /// What.
    pub name: Cow<'a, str>,
    /// The iteration it is of, if told.
    pub iteration: Option<u64>,
    /// Begin.
    pub start_ns: i64,
    /// End; absent if it never ended.
    pub end_ns: Option<i64>,
}

/// Why a line is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No JSON, or a field of the wrong type.
    #[error("{0}")]
    Json(String),
    /// Something required is not there.
    #[error("{missing} is missing; expected {expected}")]
    Missing {
        /// The field.
        missing: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// A value that cannot be.
    #[error("{field} is {value}, expected {expected}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

#[derive(Default, Deserialize)]
struct Raw<'a> {
    meta: Option<Meta>,
    rank: Option<Whole>,
    ranks: Option<Vec<Whole>>,
    #[serde(borrow)]
    comm: Option<Name<'a>>,
    seq: Option<Whole>,
    peer: Option<Whole>,
    #[serde(borrow)]
    name: Option<Name<'a>>,
    #[serde(borrow)]
    op: Option<Name<'a>>,
    #[serde(borrow)]
    tag: Option<Name<'a>>,
    #[serde(borrow)]
    group: Option<Name<'a>>,
    iteration: Option<Whole>,
    bytes: Option<Whole>,
    enqueued_us: Option<f64>,
    start_us: Option<f64>,
    end_us: Option<f64>,
}

/// Understands one line. `file_rank` is the rank that the file's name gives, for lines that have none.
///
/// # Errors
/// In words that name the field and what was expected.
pub fn parse(text: &[u8], file_rank: Option<u32>) -> Result<Line<'_>, LineError> {
    // Without this, an array would pass for an object whose fields come in order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(LineError::Json("not a JSON object".to_owned()));
    }
    if let Some(raw) = fast::read(text) {
        return raw.understand(file_rank);
    }
    // Where a field is wrong is only looked for when one is: it costs more than reading the line.
    if let Ok(raw) = serde_json::from_slice::<Raw<'_>>(text) {
        return raw.understand(file_rank);
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let raw: Raw<'_> = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.inner();
        LineError::Json(match inner.classify() {
            serde_json::error::Category::Data if path != "." => format!("{path}: {inner}"),
            serde_json::error::Category::Eof => {
                format!("the line ends in the middle of its JSON object ({inner})")
            }
            _ => format!("not a JSON object: {inner}"),
        })
    })?;
    json.end().map_err(|error| LineError::Json(format!("more than one JSON object on the line: {error}")))?;
    raw.understand(file_rank)
}

impl<'a> Raw<'a> {
    fn understand(self, file_rank: Option<u32>) -> Result<Line<'a>, LineError> {
        if let Some(meta) = self.meta {
            return Ok(Line::Meta(meta));
        }
        if let (Some(comm), Some(ranks), None) = (&self.comm, &self.ranks, &self.op) {
            let ranks = ranks.iter().map(|rank| rank.rank("ranks")).collect::<Result<_, _>>()?;
            return Ok(Line::Members { comm: comm.0.clone(), ranks });
        }
        let rank = match (self.rank, file_rank) {
            (Some(rank), _) => rank.rank("rank")?,
            (None, Some(rank)) => rank,
            (None, None) => return Err(missing("rank", "the global rank that did the operation")),
        };
        let op = self.op.ok_or_else(|| missing("op", "the operation, such as \"all_reduce\""))?.0;
        let start =
            self.start_us.ok_or_else(|| missing("start_us", "when the rank entered the operation"))?;
        let start_ns = nanoseconds("start_us", start)?;
        let end_ns = self.end_us.map(|end| nanoseconds("end_us", end)).transpose()?;
        if let (Some(end_us), Some(end_ns)) = (self.end_us, end_ns)
            && end_ns < start_ns
        {
            return Err(value("end_us", end_us, "a time not before start_us"));
        }
        let enqueued_ns = self.enqueued_us.map(|us| nanoseconds("enqueued_us", us)).transpose()?;
        let enqueued_ns = enqueued_ns.map(|ns| ns.min(start_ns));
        let bytes = self.bytes.map(|bytes| bytes.0);
        let iteration = self.iteration.map(|iteration| iteration.0);
        if let Some(peer) = self.peer {
            let peer = peer.rank("peer")?;
            if peer == rank {
                return Err(value("peer", peer, "another rank than the one that sends or receives"));
            }
            return Ok(Line::PointToPoint(PointToPoint {
                rank,
                peer,
                is_send: direction(&op)?,
                comm: self.comm.map(|comm| comm.0),
                tag: self.tag.map(|tag| tag.0),
                sequence: self.seq.map(|seq| seq.0),
                group: self.group.map(|group| group.0),
                iteration,
                bytes,
                enqueued_ns,
                start_ns,
                end_ns,
            }));
        }
        match (self.comm, self.seq, self.name) {
            (Some(comm), Some(seq), _) => Ok(Line::Collective(Collective {
                rank,
                comm: comm.0,
                sequence: seq.0,
                op,
                bytes,
                enqueued_ns,
                start_ns,
                end_ns,
            })),
            (_, _, Some(name)) => {
                Ok(Line::Compute(Compute { rank, name: name.0, iteration, start_ns, end_ns }))
            }
            (Some(_), None, None) => Err(missing("seq", "the operation's position on its communicator")),
            (None, _, None) => Err(missing(
                "comm",
                "`comm` with `seq` (collective), `peer` (point-to-point) or `name` (computation)",
            )),
        }
    }
}

/// Whether an operation with a peer sends or receives.
fn direction(op: &str) -> Result<bool, LineError> {
    let lower = op.to_ascii_lowercase();
    match (lower.contains("send"), lower.contains("recv") || lower.contains("receive")) {
        (true, false) => Ok(true),
        (false, true) => Ok(false),
        _ => Err(value("op", op, "send or recv, since there is a `peer`")),
    }
}

fn missing(missing: &'static str, expected: &'static str) -> LineError {
    LineError::Missing { missing, expected }
}

fn value(field: &'static str, value: impl ToString, expected: &'static str) -> LineError {
    LineError::Value { field, value: value.to_string(), expected }
}

fn nanoseconds(field: &'static str, us: f64) -> Result<i64, LineError> {
    if us.abs() <= LARGEST_TIME_US {
        Ok((us * 1e3).round() as i64)
    } else {
        Err(value(field, us, "microseconds, finite and within 285 years"))
    }
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A number that must be whole and not negative; exporters that know only floats write 12.0.
#[derive(Clone, Copy)]
struct Whole(u64);

impl Whole {
    fn rank(self, field: &'static str) -> Result<u32, LineError> {
        u32::try_from(self.0).map_err(|_| value(field, self.0, "a rank, less than 2^32"))
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Whole;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number, not negative")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Whole, E> {
                Ok(Whole(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Whole, E> {
                u64::try_from(number)
                    .map(Whole)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Whole, E> {
                // Beyond 2^53 a float no longer says which whole number is meant.
                if number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number) {
                    Ok(Whole(number as u64))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(number), &self))
                }
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// A name; some exporters write a number.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(number.to_string())))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(number.to_string())))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests;
