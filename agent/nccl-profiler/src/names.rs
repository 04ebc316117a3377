//! Numbers for NCCL's names. They are string literals inside libnccl, so the address tells which one it is; that is
//! only a hint, since libnccl may be unloaded and another take its place, and is checked against the bytes.

use std::ffi::{CStr, c_char};
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64};

use c4_recorder::layout::{NAME_BYTES, NAMES};
use c4_recorder::writer::Recorder;

/// Names of an operation: its function, element type, algorithm and protocol.
pub type OperationNames = [*const c_char; 4];

/// Their numbers, in that order, and the bytes of an element, 0 if they are not known. The rest is 0.
pub type Numbers = [u8; 8];

/// The names of a communicator's last operation, with their numbers. Its next one mostly has the same, and NCCL, whose literals they are,
/// is not unloaded while it lives, so their addresses are enough. Zeroes are valid: an operation without names.
#[repr(C)]
pub struct LastNames {
    addresses: [AtomicPtr<c_char>; 4],
    numbers: AtomicU64,
}

impl LastNames {
    /// Their numbers, if these are the same.
    #[inline(always)]
    fn numbers(&self, names: OperationNames) -> Option<Numbers> {
        let same = self.addresses.iter().zip(names).all(|(last, name)| ptr::eq(last.load(Relaxed), name));
        same.then(|| self.numbers.load(Relaxed).to_ne_bytes())
    }

    /// Another communicator begins.
    pub fn forget(&self) {
        self.keep([ptr::null(); 4], [0; 8]);
    }

    fn keep(&self, names: OperationNames, numbers: Numbers) {
        self.addresses.iter().zip(names).for_each(|(last, name)| last.store(name.cast_mut(), Relaxed));
        self.numbers.store(u64::from_ne_bytes(numbers), Relaxed);
    }
}

/// Places in the cache of addresses.
const PLACES: usize = 64;

/// What is known of names. Zeroes are valid: nothing is known.
#[repr(C)]
pub struct NameCache {
    adding: AtomicBool,
    places: [Place; PLACES],
    sizes: [AtomicU8; NAMES],
}

#[repr(C)]
struct Place {
    address: AtomicPtr<c_char>,
    number: AtomicU8,
}

impl NameCache {
    /// The numbers of an operation's names; `last` are those of its communicator.
    ///
    /// # Safety
    /// Each name is null or a C string that stays as it is as long as the communicator lives.
    #[inline(always)]
    pub unsafe fn numbers(&self, recorder: &Recorder, last: &LastNames, names: OperationNames) -> Numbers {
        // SAFETY: the caller says so.
        last.numbers(names).unwrap_or_else(|| unsafe { self.others(recorder, last, names) })
    }

    /// The numbers of names that are not those of the communicator's last operation.
    ///
    /// # Safety
    /// As for [`NameCache::numbers`].
    #[inline(never)]
    unsafe fn others(&self, recorder: &Recorder, last: &LastNames, names: OperationNames) -> Numbers {
        // SAFETY: the caller says so.
        let [function, datatype, algorithm, protocol] =
            names.map(|name| unsafe { self.number(recorder, name) });
        let element = self.sizes.get(usize::from(datatype)).map_or(0, |size| size.load(Relaxed));
        let numbers = [function, datatype, algorithm, protocol, element, 0, 0, 0];
        // One that has no number may get one.
        if names.iter().zip(numbers).all(|(name, number)| name.is_null() || number != 0) {
            last.keep(names, numbers);
        }
        numbers
    }

    /// The number of a name; 0 for null, or if the table is full.
    ///
    /// # Safety
    /// `name` is null or a C string that stays as it is during the call.
    #[inline]
    unsafe fn number(&self, recorder: &Recorder, name: *const c_char) -> u8 {
        if name.is_null() {
            return 0;
        }
        // SAFETY: not null, so the caller promises a C string.
        let text = unsafe { CStr::from_ptr(name) }.to_bytes();
        let text = text.get(..NAME_BYTES).unwrap_or(text);
        let address = name.cast_mut();
        let place = &self.places[(address.addr() >> 3 ^ address.addr() >> 9) % PLACES];
        let number = place.number.load(Acquire);
        if ptr::eq(place.address.load(Relaxed), address) && recorder.names().is(number, text) {
            return number;
        }
        self.look_up(recorder, text, place, address)
    }

    #[cold]
    fn look_up(&self, recorder: &Recorder, text: &[u8], place: &Place, address: *mut c_char) -> u8 {
        let names = recorder.names();
        let number = names.find(text).or_else(|| {
            // One thread adds at a time. The others do not wait: their operation goes without a name.
            if self.adding.swap(true, Acquire) {
                return None;
            }
            let number = names.add(text);
            if let Some(size) = number.and_then(|number| self.sizes.get(usize::from(number))) {
                size.store(element_bytes(text), Relaxed);
            }
            self.adding.store(false, Release);
            number
        });
        if let Some(number) = number {
            place.number.store(0, Relaxed);
            place.address.store(address, Relaxed);
            place.number.store(number, Release);
        }
        number.unwrap_or(0)
    }
}

/// Bytes of an element: NCCL's names end in the number of bits, but for the 8-bit floats ("ncclFloat8e4m3").
fn element_bytes(name: &[u8]) -> u8 {
    let ends_in = |bits: &[u8]| name.ends_with(bits);
    if ends_in(b"64") || ends_in(b"Double") {
        8
    } else if ends_in(b"32") {
        4
    } else if ends_in(b"16") || ends_in(b"Half") {
        2
    } else if ends_in(b"Int8") || ends_in(b"int8") || name.windows(6).any(|part| part == b"Float8") {
        1
    } else {
        0
    }
}

/// A name for the numbers that API v1 uses, if NCCL of that time had it.
pub fn of_v1(table: &'static [&'static CStr], number: u8) -> *const c_char {
    table.get(usize::from(number)).map_or(ptr::null(), |name| name.as_ptr())
}

/// `ncclFunc_t` of NCCL 2.23.
pub const V1_FUNCTIONS: &[&CStr] =
    &[c"Broadcast", c"Reduce", c"AllGather", c"ReduceScatter", c"AllReduce", c"SendRecv", c"Send", c"Recv"];
/// `ncclDataType_t`.
pub const V1_DATATYPES: &[&CStr] = &[
    c"ncclInt8",
    c"ncclUint8",
    c"ncclInt32",
    c"ncclUint32",
    c"ncclInt64",
    c"ncclUint64",
    c"ncclFloat16",
    c"ncclFloat32",
    c"ncclFloat64",
    c"ncclBfloat16",
];
/// `NCCL_ALGO_*`.
pub const V1_ALGORITHMS: &[&CStr] =
    &[c"TREE", c"RING", c"COLLNET_DIRECT", c"COLLNET_CHAIN", c"NVLS", c"NVLS_TREE", c"PAT"];
/// `NCCL_PROTO_*`.
pub const V1_PROTOCOLS: &[&CStr] = &[c"LL", c"LL128", c"SIMPLE"];

#[cfg(test)]
mod tests {
    use super::element_bytes;

    #[test]
    fn element_sizes() {
        for (name, bytes) in [
            ("ncclInt8", 1),
            ("ncclUint8", 1),
            ("ncclFloat8e4m3", 1),
            ("ncclFloat8e5m2", 1),
            ("ncclFloat16", 2),
            ("ncclBfloat16", 2),
            ("ncclInt32", 4),
            ("ncclUint32", 4),
            ("ncclFloat32", 4),
            ("ncclInt64", 8),
            ("ncclFloat64", 8),
            ("Unknown", 0),
            ("", 0),
        ] {
            assert_eq!(element_bytes(name.as_bytes()), bytes, "{name}");
        }
    }
}
