//! `lldpctl -f keyvalue`: a line each, `lldp.eth0.chassis.name=leaf0`. Each neighbour begins with how it was heard (`via`).

use super::{Neighbour, Told, Wrong, forwards};

/// Kinds of ids, as this form has them for fields.
const KINDS: [&str; 7] = ["mac", "ifname", "ifalias", "local", "ip", "port", "chassis"];

pub(super) fn parse(text: &str) -> Result<Vec<Neighbour>, Wrong> {
    let mut neighbours = Vec::new();
    // The port and where it stands, and what its neighbour says.
    let mut open: Option<(String, String, Told)> = None;
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let place = || format!("line {}", number + 1);
        let strange = || {
            Wrong::new(place(), "expected what `lldpctl -f json` or `-f keyvalue` prints (lldp.PORT.FIELD=…)")
        };
        let field = line.strip_prefix("lldp.").and_then(|line| line.split_once('='));
        let Some((key, value)) = field else {
            // Descriptions go over several lines.
            if open.is_some() {
                continue;
            }
            return Err(strange());
        };
        if let Some(port) = key.strip_suffix(".via") {
            if let Some((port, place, told)) = open.take() {
                neighbours.push(told.into_neighbour(&port, place)?);
            }
            open = Some((port.to_owned(), format!("{} ({port})", place()), Told::default()));
            continue;
        }
        let Some((port, _, told)) = &mut open else { return Err(strange()) };
        // Names of ports have dots, too.
        let field = key.strip_prefix(port.as_str()).and_then(|rest| rest.strip_prefix('.'));
        take(told, field.ok_or_else(strange)?, value);
    }
    if let Some((port, place, told)) = open {
        neighbours.push(told.into_neighbour(&port, place)?);
    }
    Ok(neighbours)
}

fn take(told: &mut Told, field: &str, value: &str) {
    let id = |kind: &str| KINDS.contains(&kind).then(|| (kind.to_owned(), value.to_owned()));
    match field.split_once('.') {
        Some(("chassis", "name")) => told.name = Some(value.to_owned()),
        Some(("chassis", "mgmt-ip")) => told.addresses.push(value.to_owned()),
        Some(("chassis", rest)) => match rest.strip_suffix(".enabled") {
            Some(capability) => told.forwards |= forwards(capability) && value == "on",
            None => told.chassis = told.chassis.take().or_else(|| id(rest)),
        },
        Some(("port", "descr")) => told.port_description = Some(value.to_owned()),
        Some(("port", "auto-negotiation.current")) => told.rate = Some(value.to_owned()),
        Some(("port", rest)) => told.port = told.port.take().or_else(|| id(rest)),
        _ => {}
    }
}
