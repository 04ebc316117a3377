//! Reading the documents. All mistakes of a document are told, each with its line, the way compilers do.

use std::{fs, path::Path};

use c4_traffic::{
    Flows, Topology,
    document::{self, Problems},
};

use crate::{
    failure::Failure,
    words::{count, printable},
};

/// The topology and the flows.
pub(super) fn documents(topology: &Path, flows: &Path) -> Result<(Topology, Flows), Failure> {
    let topology = read(topology, document::parse_topology)?;
    let flows = read(flows, |text| document::parse_flows(text, &topology))?;
    Ok((topology, flows))
}

/// One document.
pub(crate) fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, Problems>) -> Result<T, Failure> {
    let name = path.display();
    let bytes =
        fs::read(path).map_err(|error| Failure::Configuration(format!("{name}: cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        Failure::Configuration(format!("{name}:{line}: is not UTF-8 text"))
    })?;
    parse(&text).map_err(|problems| {
        for problem in problems.kept() {
            let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
            eprintln!("{name}:{}: {}", problem.line, printable(&format!("{field}{}", problem.what)));
        }
        let total = problems.total();
        let more = total - problems.kept().len();
        let rest = if more > 0 { format!(", {more} of them not shown") } else { String::new() };
        Failure::Configuration(format!("{name}: {}{rest}", count(total as u64, "mistake")))
    })
}
