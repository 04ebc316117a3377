//! Which PCI address is which GPU or NIC.

use std::{collections::BTreeMap, fs, path::Path};

use crate::sensors::{Address, Gpus};

/// What is at which address.
#[derive(Clone, Debug)]
pub struct Places {
    gpus: Gpus,
    nics: BTreeMap<Address, String>,
}

impl Places {
    /// GPUs are told apart by those who know them; NICs that are known beforehand.
    #[must_use]
    pub fn new(gpus: Gpus, nics: BTreeMap<Address, String>) -> Self {
        Self { gpus, nics }
    }

    /// Looks again, for NICs in that directory.
    pub(super) fn look(&mut self, nics: &Path) {
        self.gpus.look();
        let entries = fs::read_dir(nics).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            let device = fs::read_link(nics.join(&name).join("device")).ok();
            let address =
                device.as_deref().and_then(Path::file_name).and_then(|name| Address::parse(name.to_str()?));
            if let Some(address) = address {
                self.nics.insert(address, name);
            }
        }
    }

    /// How many GPUs are known.
    pub(super) fn gpus(&self) -> usize {
        self.gpus.count()
    }

    pub(super) fn gpu(&self, address: &str) -> Option<u32> {
        self.gpus.known(Address::parse(address)?)
    }

    pub(super) fn nic(&self, address: &str) -> Option<&str> {
        self.nics.get(&Address::parse(address)?).map(String::as_str)
    }
}
