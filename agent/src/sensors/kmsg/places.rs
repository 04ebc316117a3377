//! Which PCI address is which GPU or NIC.

use std::{collections::BTreeMap, fs, path::Path};

/// A PCI address. A GPU is known by it without its function, which not all parts of the kernel name; ports of a NIC differ in nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl Address {
    /// Parses "0000:3b:00.0"; without its function, it is the first.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(':');
        let (domain, bus, device) = (parts.next()?, parts.next()?, parts.next()?);
        let (device, function) = device.split_once('.').unwrap_or((device, "0"));
        Some(Self {
            domain: u32::from_str_radix(domain, 16).ok()?,
            bus: u8::from_str_radix(bus, 16).ok()?,
            device: u8::from_str_radix(device, 16).ok()?,
            function: u8::from_str_radix(function, 16).ok()?,
        })
    }

    fn of_device(self) -> Self {
        Self { function: 0, ..self }
    }
}

/// What is at which address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    gpus: BTreeMap<Address, u32>,
    nics: BTreeMap<Address, String>,
}

impl Places {
    /// What is known beforehand.
    #[must_use]
    pub fn new(gpus: BTreeMap<Address, u32>, nics: BTreeMap<Address, String>) -> Self {
        Self { gpus, nics }
    }

    /// Looks again. GPUs are numbered by address, as NVML numbers them; once numbered they keep their number, since a GPU
    /// that fell off the bus may be missing now.
    pub(super) fn look(&mut self, gpus: &Path, nics: &Path) {
        let names = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
        };
        let mut addresses: Vec<Address> =
            names(gpus).iter().filter_map(|name| Some(Address::parse(name)?.of_device())).collect();
        addresses.sort_unstable();
        if addresses.len() > self.gpus.len() {
            self.gpus = addresses.into_iter().zip(0..).collect();
        }
        for name in names(nics) {
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
        self.gpus.len()
    }

    pub(super) fn gpu(&self, address: &str) -> Option<u32> {
        self.gpus.get(&Address::parse(address)?.of_device()).copied()
    }

    pub(super) fn nic(&self, address: &str) -> Option<&str> {
        self.nics.get(&Address::parse(address)?).map(String::as_str)
    }
}
