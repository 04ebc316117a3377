//! Which PCI address is which GPU of the node: the kernel log and training processes name them by address, people by number.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::Address;

/// GPUs by address, in the order of addresses, as NVML numbers them. Shared between those who learn of them and those who ask; by default
/// nobody knows of any.
#[derive(Clone, Debug, Default)]
pub struct Gpus {
    directory: PathBuf,
    numbers: Arc<Mutex<BTreeMap<Address, u32>>>,
}

impl Gpus {
    /// What shows in the driver's directory, which has an entry for the address of each GPU. It may come later.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        let gpus = Self { directory: directory.to_owned(), numbers: Arc::default() };
        gpus.look();
        gpus
    }

    /// All there are. Once numbered they keep their numbers, since a GPU that fell off the bus may be missing now.
    pub fn learn(&self, addresses: impl IntoIterator<Item = Address>) {
        let addresses: BTreeSet<Address> = addresses.into_iter().map(Address::of_device).collect();
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() > numbers.len() {
            *numbers = addresses.into_iter().zip(0..).collect();
        }
    }

    /// Looks again.
    pub(super) fn look(&self) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        self.learn(entries.filter_map(|entry| Address::parse(entry.file_name().to_str()?)));
    }

    /// How many are known.
    pub(super) fn count(&self) -> usize {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The number of the GPU there, as far as is known now.
    pub(super) fn known(&self, address: Address) -> Option<u32> {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.get(&address.of_device()).copied()
    }

    /// The number of the GPU there; looks again for one that is not known.
    pub(crate) fn number(&self, address: Address) -> Option<u32> {
        self.known(address).or_else(|| {
            self.look();
            self.known(address)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_numbered_by_address_and_one_that_is_gone_keeps_its_number() {
        let root = tempfile::tempdir().unwrap();
        let at = |text| Address::parse(text).unwrap();
        let gpus = Gpus::new(&root.path().join("gpus"));
        assert_eq!((gpus.count(), gpus.number(at("0000:3b:00.0"))), (0, None));
        for address in ["0000:65:00.0", "0000:3b:00.0", "0000:c1:00.0"] {
            fs::create_dir_all(root.path().join("gpus").join(address)).unwrap();
        }
        let numbers = ["0000:3b:00", "0000:65:00.0", "0000:c1:00.0", "0000:01:00.0"]
            .map(|address| gpus.number(at(address)));
        assert_eq!(numbers, [Some(0), Some(1), Some(2), None]);
        fs::remove_dir_all(root.path().join("gpus/0000:3b:00.0")).unwrap();
        gpus.look();
        gpus.learn([at("00000000:65:00.0"), at("00000000:C1:00.0")]);
        assert_eq!((gpus.number(at("0000:3b:00")), gpus.number(at("0000:65:00"))), (Some(0), Some(1)));
    }
}
