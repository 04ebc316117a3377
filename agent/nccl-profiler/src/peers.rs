//! Counts the sends to, and the receives from, each peer of a communicator: both ends then know which of them belong together,
//! although each tells only of its own.
//!
//! Counted by the thread that launches, one at a time for each communicator. A communicator has room for some peers; those that find
//! none are not counted.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use c4_recorder::layout::COMMUNICATORS;

/// Places of a communicator, one for each peer and direction: a pipeline's stage needs four, an all-to-all inside a node 14 or so.
const PLACES: usize = 64;
/// Places looked at before giving up.
const TRIES: usize = 8;

/// Counts by communicator. Zeroes are valid.
#[repr(C)]
pub struct Peers([[AtomicU64; PLACES]; COMMUNICATORS]);

impl Peers {
    /// Counts a send to, or a receive from, a peer, and says which one it is, from 1; 0 if there is no room.
    #[inline]
    pub fn next(&self, comm_slot: usize, peer: u32, is_send: bool) -> u32 {
        // Peer and direction in the upper half, the count in the lower, which is not 0 once a place is used.
        let key = peer << 1 | u32::from(is_send);
        let Some(places) = self.0.get(comm_slot) else { return 0 };
        for place in (0..TRIES).filter_map(|step| places.get((key as usize + step) % PLACES)) {
            let word = place.load(Relaxed);
            if word == 0 || (word >> 32) as u32 == key {
                let number = (word as u32).wrapping_add(1).max(1);
                place.store(u64::from(key) << 32 | u64::from(number), Relaxed);
                return number;
            }
        }
        0
    }

    /// Begins anew for another communicator.
    pub fn forget(&self, comm_slot: usize) {
        self.0.get(comm_slot).into_iter().flatten().for_each(|place| place.store(0, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Box<Peers> {
        Box::new(Peers([const { [const { AtomicU64::new(0) }; PLACES] }; COMMUNICATORS]))
    }

    #[test]
    fn each_peer_and_direction_is_counted_by_itself() {
        let peers = empty();
        let next = |peer, is_send| peers.next(3, peer, is_send);
        assert_eq!((next(0, true), next(0, false), next(0, true)), (1, 1, 2));
        assert_eq!((next(64, true), next(32, true), next(0, true)), (1, 1, 3), "places that collide");
        assert_eq!(peers.next(4, 0, true), 1, "another communicator");
        peers.forget(3);
        assert_eq!((next(64, true), next(0, true), peers.next(4, 0, true)), (1, 1, 2));
        assert_eq!(peers.next(COMMUNICATORS, 0, true), 0);
    }

    #[test]
    fn who_finds_no_room_is_never_counted() {
        let peers = empty();
        let counted = || (0..100).map(|peer| peers.next(0, peer, true)).collect::<Vec<_>>();
        let (first, second) = (counted(), counted());
        assert_eq!(first.iter().filter(|number| **number == 1).count(), PLACES);
        assert!(
            first.iter().zip(&second).all(|(first, second)| *second == first * 2),
            "{first:?} {second:?}"
        );
    }
}
