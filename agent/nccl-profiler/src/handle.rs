//! Handles are numbers, never addresses.
//!
//! NCCL keeps handles for ever (a replayed graph names the call it was captured from), stops some twice, and under PXN hands
//! one process the handles of another. A number can be checked; an address can only crash. So a handle is 16 bits of the
//! process's cookie, 4 bits of kind and 44 bits that say which record, with enough of a generation to know when it is
//! outdated. All of them are different from 0: no handle is what an event has that NCCL need not tell more of.
//!
//! In a forked child the cookie reads 0 (see [`crate::state`]), so no handle is its own: that one comparison, which every event
//! needs anyway, also keeps the child silent.

/// What a handle stands for. Any two differ in at least two bits, so that one wrong bit makes no other kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// A step: connection, 33 bits of key.
    Step = 0b0011,
    /// A network operation: connection, operation, flags.
    ProxyOp = 0b0101,
    /// A collective or point-to-point operation.
    Operation = 0b0110,
    /// A kernel on a channel: operation, channel.
    Kernel = 0b1001,
    /// A communicator's context: slot, generation.
    Communicator = 0b1010,
    /// An event of which nothing is kept; see [`token`] for what the call of an operation says of it.
    Token = 0b1100,
    /// An event of another process.
    Foreign = 0b1111,
    /// An entry of the table for the chained plugin.
    Chained = 0b0000,
}

/// Bits below kind and cookie.
pub const PAYLOAD_BITS: u32 = 44;
/// The payload.
pub const PAYLOAD: u64 = (1 << PAYLOAD_BITS) - 1;
/// Bits of an operation's index in a network operation's handle.
pub const PROXY_INDEX: u64 = (1 << 28) - 1;
/// Bits of an operation's index in a kernel's handle.
pub const KERNEL_INDEX: u64 = (1 << 36) - 1;
/// Slot that means: no connection.
pub const NO_CONNECTION: usize = (1 << 11) - 1;

/// A handle or context, ours or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(pub u64);

impl Handle {
    /// No handle.
    pub const NULL: Self = Self(0);

    /// Makes one. `cookie` is in the highest 16 bits already.
    #[inline(always)]
    pub fn new(cookie: u64, kind: Kind, payload: u64) -> Self {
        Self(cookie | (kind as u64) << PAYLOAD_BITS | (payload & PAYLOAD))
    }

    /// Whether it was made with this cookie.
    #[inline(always)]
    pub fn is_of(self, cookie: u64) -> bool {
        self.0 >> 48 == cookie >> 48
    }

    /// Whether it is of a kind.
    #[inline(always)]
    pub fn is(self, kind: Kind) -> bool {
        self.0 >> PAYLOAD_BITS & 0xF == kind as u64
    }

    /// Whether it was made with this cookie and is of a kind: one comparison for both.
    #[inline(always)]
    pub fn is_ours(self, cookie: u64, kind: Kind) -> bool {
        self.0 >> PAYLOAD_BITS == Self::new(cookie, kind, 0).0 >> PAYLOAD_BITS
    }

    /// What it says.
    #[inline(always)]
    pub fn payload(self) -> u64 {
        self.0 & PAYLOAD
    }
}

/// Bits of a token.
pub mod token {
    /// A graph is being captured.
    pub const CAPTURED: u64 = 1;
    /// Kernel events were switched on for the operation.
    pub const KERNEL_EVENTS: u64 = 2;
}

/// A network operation, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyOp {
    /// Slot, or [`NO_CONNECTION`].
    pub connection: usize,
    /// Low bits of the index of its operation.
    pub operation: u64,
    /// See [`proxy_flag`].
    pub flags: u64,
}

/// Flags of a network operation.
pub mod proxy_flag {
    /// Its steps are timed.
    pub const TIMED: u64 = 1;
    /// Its operation is not known.
    pub const ORPHAN: u64 = 2;
    /// Its operation does not wait for it: its transport never says that it ended.
    pub const UNCOUNTED: u64 = 4;
    /// It belongs to a point-to-point operation.
    pub const P2P: u64 = 8;
    /// Makes the number of bits in the payload odd.
    pub(super) const CHECK: u64 = 16;
}

impl ProxyOp {
    /// As a payload.
    #[inline(always)]
    pub fn pack(self) -> u64 {
        let payload = (self.connection as u64) << 33 | (self.operation & PROXY_INDEX) << 5 | self.flags;
        if is_odd(payload) { payload } else { payload | proxy_flag::CHECK }
    }

    /// From a payload.
    #[inline(always)]
    pub fn unpack(payload: u64) -> Self {
        Self {
            connection: (payload >> 33) as usize,
            operation: payload >> 5 & PROXY_INDEX,
            flags: payload & 0xF,
        }
    }

    /// From a payload; `None` if a bit of it is wrong.
    #[inline]
    pub fn checked(payload: u64) -> Option<Self> {
        is_odd(payload).then(|| Self::unpack(payload))
    }
}

/// Whether the number of bits is odd, without an instruction that old processors lack.
#[inline(always)]
fn is_odd(payload: u64) -> bool {
    let folded = payload ^ payload >> 32;
    let folded = folded ^ folded >> 16;
    let folded = folded ^ folded >> 8;
    let folded = folded ^ folded >> 4;
    0x6996_u64 >> (folded & 0xF) & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_cookies_do_not_mix() {
        let cookie = 0xBEEF << 48;
        let handle = Handle::new(cookie, Kind::Kernel, PAYLOAD);
        assert!(handle.is_of(cookie) && handle.is(Kind::Kernel) && handle.payload() == PAYLOAD);
        assert!(!handle.is_of(0) && !handle.is_of(0xBEEE << 48) && !handle.is(Kind::Step));
        assert!(!Handle::NULL.is_of(cookie), "NULL is nobody's handle");
        assert_ne!(Handle::new(cookie, Kind::Token, 0), Handle::NULL);
    }

    #[test]
    fn network_operations_survive_packing_and_show_a_wrong_bit() {
        let all = ProxyOp { connection: NO_CONNECTION, operation: PROXY_INDEX, flags: 0xF };
        let one = ProxyOp { connection: 5, operation: 77, flags: proxy_flag::TIMED };
        let none = ProxyOp { connection: 0, operation: 0, flags: 0 };
        for op in [all, one, none] {
            let payload = op.pack();
            assert!(payload <= PAYLOAD);
            assert_eq!(ProxyOp::checked(payload), Some(op));
            assert!((0..PAYLOAD_BITS).all(|bit| ProxyOp::checked(payload ^ 1 << bit).is_none()));
        }
    }

    #[test]
    fn one_wrong_bit_makes_no_other_kind() {
        let kinds = [0b0011_u64, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100, 0b1111, 0b0000];
        assert_eq!(kinds[0], Kind::Step as u64);
        for (place, kind) in kinds.iter().enumerate() {
            assert!(kinds.iter().skip(place + 1).all(|other| (kind ^ other).count_ones() >= 2));
        }
    }
}
