//! Where a GPU is, in the one word that the header has for it.

use std::fmt;

use serde::Serialize;

/// PCI address of a GPU, whose function is always 0. CUDA numbers the GPUs that a process sees, and a container sees some of a
/// node's; the address is the same for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct GpuAddress {
    /// PCI domain.
    pub domain: u16,
    /// Bus in it.
    pub bus: u8,
    /// Device on that.
    pub device: u8,
}

impl GpuAddress {
    /// As the header has it: domain, bus and device from the highest bits on.
    pub const fn bits(self) -> u32 {
        (self.domain as u32) << 16 | (self.bus as u32) << 8 | self.device as u32
    }

    /// `None` for 0: what is there is never a GPU.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        let [high, low, bus, device] = bits.to_be_bytes();
        match bits {
            0 => None,
            _ => Some(Self { domain: u16::from_be_bytes([high, low]), bus, device }),
        }
    }
}

impl fmt::Display for GpuAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04x}:{:02x}:{:02x}.0", self.domain, self.bus, self.device)
    }
}

impl From<GpuAddress> for String {
    fn from(address: GpuAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_word_and_a_text() {
        let address = GpuAddress { domain: 0xffbb, bus: 0x1b, device: 4 };
        assert_eq!(GpuAddress::from_bits(address.bits()), Some(address));
        assert_eq!(address.to_string(), "ffbb:1b:04.0");
        assert_eq!(GpuAddress::from_bits(0), None);
    }
}
