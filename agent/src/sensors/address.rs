//! Where devices are.

use c4_recorder::GpuAddress;

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

    pub(super) fn of_device(self) -> Self {
        Self { function: 0, ..self }
    }
}

impl From<GpuAddress> for Address {
    fn from(GpuAddress { domain, bus, device }: GpuAddress) -> Self {
        Self { domain: domain.into(), bus, device, function: 0 }
    }
}
