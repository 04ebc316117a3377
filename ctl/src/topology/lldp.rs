//! What `lldpctl` prints: whom each port of a device sees at the other end of its cable.
//!
//! lldpd has three forms for programs: `-f json` (what is there once is no list), `-f json0` (everything is a list) and
//! `-f keyvalue`. Which one a text is, it shows itself. What other devices say about themselves is whatever they like, so
//! only what is needed is looked at, and whatever else there is, is passed over.

use std::net::IpAddr;

use serde_json::Value;

mod keyvalue;
#[cfg(test)]
mod tests;

/// A neighbour, as a port sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighbour {
    /// The port that sees it.
    pub port: String,
    /// What it calls itself; its chassis id, if it does not.
    pub device: String,
    /// What it is known by: the kind of the id, and the id.
    pub chassis: String,
    /// Whether it says that it forwards packets of others.
    pub forwards: bool,
    /// Its addresses, as far as it tells.
    pub addresses: Vec<IpAddr>,
    /// What it calls the port at its end.
    pub their_port: String,
    /// The rate at which the cable is run, in Gbit/s, where it says so.
    pub gbps: Option<f64>,
    /// Where all this stands.
    pub place: String,
}

/// Why a text is not what `lldpctl` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Where.
    pub place: String,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl Wrong {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

/// Reads a text in any of the three forms.
///
/// # Errors
/// When it is none of them, or a neighbour says too little.
pub fn parse(text: &str) -> Result<Vec<Neighbour>, Wrong> {
    match text.trim_start().chars().next() {
        // `keyvalue` has no line where there is no neighbour.
        None => Ok(Vec::new()),
        Some('{') => {
            let value =
                serde_json::from_str(text).map_err(|error| Wrong::new("", format!("not JSON: {error}")))?;
            json(&value)
        }
        Some(_) => keyvalue::parse(text),
    }
}

/// What is there: a list's items, or the one that there is without a list.
fn items<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    match value.get(name) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(items)) => items,
        Some(one) => std::slice::from_ref(one),
    }
}

/// Text, alone or as `{"value": …}`.
fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Object(fields) => fields.get("value").and_then(Value::as_str),
        _ => None,
    }
}

fn first<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    items(value, name).first().and_then(text)
}

fn json(value: &Value) -> Result<Vec<Neighbour>, Wrong> {
    let Some(root) = items(value, "lldp").first() else {
        return Err(Wrong::new("", "expected what `lldpctl -f json` prints, which begins with \"lldp\""));
    };
    let mut neighbours = Vec::new();
    for (index, entry) in items(root, "interface").iter().enumerate() {
        let place = format!("lldp.interface[{index}]");
        let Some(fields) = entry.as_object() else {
            return Err(Wrong::new(place, "expected a port and its neighbour"));
        };
        match entry.get("name").and_then(text) {
            // `json0`: the port is a field among others.
            Some(port) if fields.contains_key("via") || fields.contains_key("chassis") => {
                neighbours.push(neighbour(port, entry, format!("{place} ({port})"))?);
            }
            _ => {
                for (port, entry) in fields {
                    neighbours.push(neighbour(port, entry, format!("{place}.{port}"))?);
                }
            }
        }
    }
    Ok(neighbours)
}

fn neighbour(port: &str, entry: &Value, place: String) -> Result<Neighbour, Wrong> {
    let Some(chassis) = items(entry, "chassis").first() else {
        return Err(Wrong::new(place, "expected `chassis`: who is at the other end"));
    };
    // With `json`, what is there stands under its name, if it has one.
    let under_name = chassis.as_object().filter(|fields| fields.len() == 1).and_then(|fields| {
        let (name, inner) = fields.iter().next()?;
        inner.get("id").map(|_| (name.as_str(), inner))
    });
    let (name, chassis) = match under_name {
        Some((name, inner)) => (Some(name), inner),
        None => (first(chassis, "name"), chassis),
    };
    let id = |of: &Value| {
        let id = items(of, "id").first()?;
        let kind = id.get("type").and_then(Value::as_str)?;
        Some((kind.to_owned(), id.get("value").and_then(Value::as_str)?.to_owned()))
    };
    let told = Told {
        name: name.map(str::to_owned),
        chassis: id(chassis),
        forwards: items(chassis, "capability").iter().any(|capability| {
            let kind = capability.get("type").and_then(Value::as_str);
            kind.is_some_and(forwards) && capability.get("enabled") == Some(&Value::Bool(true))
        }),
        addresses: items(chassis, "mgmt-ip").iter().filter_map(text).map(str::to_owned).collect(),
        ..Told::default()
    };
    let their = items(entry, "port").first().unwrap_or(&Value::Null);
    let rates = items(their, "auto-negotiation").first().and_then(|rates| first(rates, "current"));
    let told = Told {
        port: id(their),
        port_description: first(their, "descr").map(str::to_owned),
        rate: rates.map(str::to_owned),
        ..told
    };
    told.into_neighbour(port, place)
}

/// What a neighbour says, in any of the forms.
#[derive(Default)]
struct Told {
    name: Option<String>,
    chassis: Option<(String, String)>,
    forwards: bool,
    addresses: Vec<String>,
    port: Option<(String, String)>,
    port_description: Option<String>,
    rate: Option<String>,
}

impl Told {
    fn into_neighbour(self, port: &str, place: String) -> Result<Neighbour, Wrong> {
        let Some((kind, id)) = self.chassis else {
            return Err(Wrong::new(place, "the neighbour has no chassis id, which LLDP demands"));
        };
        let named = self.name.filter(|name| !name.is_empty());
        let their_port = match (self.port, self.port_description) {
            (Some((kind, id)), _) if kind == "ifname" || kind == "local" => id,
            (_, Some(description)) if !description.is_empty() => description,
            (Some((_, id)), _) => id,
            (None, _) => String::new(),
        };
        Ok(Neighbour {
            port: port.to_owned(),
            device: named.unwrap_or_else(|| id.clone()),
            chassis: format!("{kind} {id}"),
            forwards: self.forwards,
            addresses: self.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
            their_port,
            gbps: self.rate.as_deref().and_then(rate),
            place,
        })
    }
}

/// Whether a device with this capability forwards packets of others.
fn forwards(capability: &str) -> bool {
    matches!(capability, "Bridge" | "Router")
}

/// The rate that the name of an operational MAU type says: `100GbaseCR4 - …`, `1000BaseTFD - …`. lldpd knows those up to
/// 100 Gbit/s.
fn rate(mau: &str) -> Option<f64> {
    let digits = mau.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = mau.split_at(digits);
    let number: f64 = number.parse().ok().filter(|number| *number > 0.0)?;
    let unit = unit.to_ascii_lowercase();
    if unit.starts_with("gbase") || unit.starts_with("gigbase") {
        Some(number)
    } else if unit.starts_with("base") {
        Some(number / 1000.0)
    } else {
        None
    }
}
