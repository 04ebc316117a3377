//! How many connections there may be, altogether and from one address. An address behind which many nodes sit (NAT) is
//! still one address, so the limits are configured; a machine's own programs are not counted against each other.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Default)]
struct Table {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Counts connections. Clones share the count.
#[derive(Clone, Debug)]
pub struct Slots {
    table: Arc<Mutex<Table>>,
    total: usize,
    each: usize,
}

/// One connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    address: IpAddr,
}

impl Slots {
    /// Room for `total` connections, `each` from one address.
    #[must_use]
    pub fn new(total: usize, each: usize) -> Self {
        Self { table: Arc::default(), total, each }
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.lock().total
    }

    pub(crate) fn take(&self, address: IpAddr) -> Option<Slot> {
        let address = address.to_canonical();
        let mut table = self.lock();
        if table.total >= self.total {
            return None;
        }
        if !address.is_loopback() {
            let here = table.by_address.entry(address).or_default();
            if *here >= self.each {
                return None;
            }
            *here += 1;
        }
        table.total += 1;
        Some(Slot { slots: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.slots.lock();
        table.total = table.total.saturating_sub(1);
        if let Some(here) = table.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                table.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let slots = Slots::new(5, 2);
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = slots.take(a).expect("room");
        let _second = slots.take("::ffff:10.0.0.1".parse().expect("an address")).expect("room");
        assert!(slots.take(a).is_none(), "the third of one address");
        let _other = slots.take(b).expect("another address has its own share");
        drop(first);
        let _again = slots.take(a).expect("a closed connection makes room");
        let own: Vec<_> = (0..3).map(|_| slots.take([127, 0, 0, 1].into())).collect();
        assert_eq!(own.iter().flatten().count(), 2, "the machine's own count in the total only");
        drop(own);
        assert_eq!((slots.open(), slots.lock().by_address.len()), (3, 2));
    }
}
