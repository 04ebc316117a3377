//! Which ports of a host belong to one NIC. LLDP does not say; the kernel's names for functions of a PCI device do, or whoever
//! knows that there are so many ports to each.

use super::order::natural;
use crate::topology::lldp::Neighbour;

/// NICs with their ports, by plane.
pub(super) fn group<'n>(
    neighbours: &[&'n Neighbour],
    ports_per_nic: Option<usize>,
) -> Result<Vec<(String, Vec<&'n Neighbour>)>, String> {
    let mut sorted: Vec<&'n Neighbour> = neighbours.to_vec();
    sorted.sort_by_key(|neighbour| natural(&neighbour.port));
    if let Some(count) = ports_per_nic {
        if !sorted.len().is_multiple_of(count) {
            let ports: Vec<&str> = sorted.iter().map(|neighbour| neighbour.port.as_str()).collect();
            return Err(format!(
                "{} ports ({}) do not make NICs of {count}: a cable is out, or --ports takes in others",
                sorted.len(),
                ports.join(", ")
            ));
        }
        return Ok(sorted.chunks(count).map(|ports| (nic_name(ports), ports.to_vec())).collect());
    }
    let mut nics: Vec<(String, Vec<&'n Neighbour>)> = Vec::new();
    for neighbour in sorted {
        let Some((device, function)) = function(&neighbour.port) else {
            nics.push((neighbour.port.clone(), vec![neighbour]));
            continue;
        };
        let known = nics.iter_mut().find(|(name, _)| *name == device);
        if known.as_ref().map_or(0, |(_, ports)| ports.len()) != function {
            return Err(format!(
                "{} is port {function} of its NIC, and a port before it sees no neighbour: which plane it is in cannot be told",
                neighbour.port
            ));
        }
        match known {
            Some((_, ports)) => ports.push(neighbour),
            None => nics.push((device, vec![neighbour])),
        }
    }
    Ok(nics)
}

fn nic_name(ports: &[&Neighbour]) -> String {
    let first = ports.first().map_or("", |neighbour| neighbour.port.as_str());
    match function(first) {
        Some((device, _)) if ports.len() > 1 => device,
        _ => first.to_owned(),
    }
}

/// The device and the number of the function that a port is: `enp65s0f1np1` is function 1 of `enp65s0`.
fn function(port: &str) -> Option<(String, usize)> {
    let port = numbered(port, "np").or_else(|| numbered(port, "d")).map_or(port, |(port, _)| port);
    let (device, function) = numbered(port, "f")?;
    // A device is named by its slot.
    numbered(device, "s")?;
    Some((device.to_owned(), function.parse().ok()?))
}

/// What stands before a word and a number at the end of a name, and the number.
fn numbered<'n>(name: &'n str, word: &str) -> Option<(&'n str, &'n str)> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = &name[stem.len()..];
    Some((stem.strip_suffix(word)?, number)).filter(|_| !number.is_empty())
}
