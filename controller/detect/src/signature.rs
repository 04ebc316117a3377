//! Hashes of operation signatures that survive being cut and joined.
//!
//! Ranks choose their block lengths for themselves, so the detector often has to compare one rank's block of eight
//! with another's two blocks of four. The hash of a block is therefore a polynomial over its operations' hashes,
//! modulo a Mersenne prime: the hash of two neighbouring blocks follows from theirs, without the operations.
//! Both the hash of an operation and the polynomial are fixed here for ever, since they cross machines.

use crate::observation::OperationSignature;

/// 2^61 − 1: products of two residues fit into 128 bits, and reducing them takes two additions.
const PRIME: u64 = (1 << 61) - 1;
/// Any number below the prime that is not small will do.
const BASE: u64 = 0x1234_5678_9abc_def1 % PRIME;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a, continued from `state`.
#[must_use]
pub(crate) fn fnv(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// The start value for [`fnv`].
#[must_use]
pub(crate) fn fnv_start() -> u64 {
    FNV_OFFSET
}

/// Hash of one operation, the same on every machine.
#[must_use]
pub fn hash(signature: &OperationSignature) -> u64 {
    let mut state = fnv(FNV_OFFSET, signature.function.as_bytes());
    state = fnv(state, &[0]);
    state = fnv(state, &signature.count.to_le_bytes());
    state = fnv(state, signature.datatype.as_bytes());
    state = fnv(state, &[0]);
    state = fnv(state, &signature.root.to_le_bytes());
    state % PRIME
}

/// Hash of what one operation is but for its size, on this machine.
#[must_use]
pub(crate) fn hash_without_size(signature: &OperationSignature) -> u64 {
    let mut state = fnv(FNV_OFFSET, signature.function.as_bytes());
    state = fnv(state, &[0]);
    state = fnv(state, signature.datatype.as_bytes());
    fnv(state, &signature.root.to_le_bytes()) % PRIME
}

/// Hash of a sequence whose first part hashes to `left` and whose second part, of `right_length` operations, to
/// `right`.
#[must_use]
pub fn join(left: u64, right: u64, right_length: u64) -> u64 {
    add(multiply(left % PRIME, power(right_length)), right % PRIME)
}

fn add(a: u64, b: u64) -> u64 {
    let sum = a + b;
    if sum >= PRIME { sum - PRIME } else { sum }
}

fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let low = (product & u128::from(PRIME)) as u64;
    let high = (product >> 61) as u64;
    add(low, high % PRIME)
}

fn power(mut exponent: u64) -> u64 {
    let (mut result, mut base) = (1, BASE);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, base);
        }
        base = multiply(base, base);
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_does_not_depend_on_where_it_was_cut() {
        let hashes: Vec<u64> = (0..16u64).map(|i| fnv(FNV_OFFSET, &i.to_le_bytes()) % PRIME).collect();
        let whole = hashes.iter().fold(0, |acc, h| join(acc, *h, 1));
        for cut in 0..=16 {
            let left = hashes[..cut].iter().fold(0, |acc, h| join(acc, *h, 1));
            let right = hashes[cut..].iter().fold(0, |acc, h| join(acc, *h, 1));
            assert_eq!(join(left, right, (16 - cut) as u64), whole, "cut at {cut}");
        }
    }

    #[test]
    fn order_count_type_and_root_all_matter() {
        let base = OperationSignature {
            function: "AllReduce".into(),
            count: 4,
            datatype: "ncclFloat32".into(),
            root: 0,
        };
        let others = [
            OperationSignature { function: "AllGather".into(), ..base.clone() },
            OperationSignature { count: 5, ..base.clone() },
            OperationSignature { datatype: "ncclFloat16".into(), ..base.clone() },
            OperationSignature { root: 1, ..base.clone() },
        ];
        for other in &others {
            assert_ne!(hash(&base), hash(other));
            assert_ne!(join(hash(&base), hash(other), 1), join(hash(other), hash(&base), 1));
        }
    }
}
