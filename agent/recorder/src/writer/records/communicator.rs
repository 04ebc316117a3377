//! Communicators: facts under a version, counters by themselves.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::{add, close, open};
use crate::layout::{Communicator, communicator_state};
use crate::writer::prefix;

/// What is known of a communicator when it is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommunicatorFacts<'a> {
    /// NCCL's id or hash.
    pub id: u64,
    /// Name; cut at 64 bytes.
    pub name: &'a str,
    /// Ranks.
    pub size: u32,
    /// Own rank.
    pub rank: u32,
    /// Nodes.
    pub nodes: u32,
}

impl Communicator {
    /// Fills the slot for a new communicator.
    pub fn open(&self, generation: u32, facts: &CommunicatorFacts<'_>, now: u64) {
        let odd = open(&self.version);
        for word in [
            &self.enqueued,
            &self.p2p_enqueued,
            &self.groups,
            &self.p2p_unobservable,
            &self.started,
            &self.completed,
            &self.p2p_started,
            &self.p2p_completed,
            &self.observed,
        ] {
            word.store(0, Relaxed);
        }
        self.generation.store(generation, Relaxed);
        self.created.store(now, Relaxed);
        self.state.store(communicator_state::LIVE, Relaxed);
        self.write_facts(facts);
        close(&self.version, odd);
    }

    /// Corrects the facts: old interfaces tell them with the first operation.
    pub fn describe(&self, facts: &CommunicatorFacts<'_>) {
        let odd = open(&self.version);
        self.write_facts(facts);
        close(&self.version, odd);
    }

    fn write_facts(&self, facts: &CommunicatorFacts<'_>) {
        self.id.store(facts.id, Relaxed);
        self.size.store(facts.size, Relaxed);
        self.rank.store(facts.rank, Relaxed);
        self.nodes.store(facts.nodes, Relaxed);
        let name = prefix(facts.name, self.name.len()).as_bytes();
        let padded = name.iter().copied().chain(std::iter::repeat(0));
        for (kept, byte) in self.name.iter().zip(padded) {
            kept.store(byte, Relaxed);
        }
    }

    /// Marks the communicator as finalised; what it did stays until the slot is needed.
    pub fn finalize(&self) {
        let odd = open(&self.version);
        self.state.store(communicator_state::FINALIZED, Relaxed);
        close(&self.version, odd);
    }

    /// Takes the sequence number of a collective or point-to-point operation.
    #[inline]
    pub fn next_sequence(&self, is_collective: bool) -> u64 {
        let word = if is_collective { &self.enqueued } else { &self.p2p_enqueued };
        let sequence = word.load(Relaxed);
        word.store(sequence + 1, Release);
        sequence
    }

    /// A point-to-point operation was enqueued whose end cannot be seen.
    pub fn p2p_is_unobservable(&self) {
        add(&self.p2p_unobservable, 1);
    }

    /// Counts a group and says how many came before it.
    #[inline]
    pub fn next_group(&self) -> u64 {
        let before = self.groups.load(Relaxed);
        self.groups.store(before + 1, Relaxed);
        before
    }

    /// An operation started. Collectives of a communicator start in order, so the latest tells about all.
    #[inline]
    pub fn operation_started(&self, is_collective: bool, sequence: u64) {
        if is_collective {
            raise(&self.started, sequence + 1);
        } else {
            add(&self.p2p_started, 1);
        }
    }

    /// An operation completed. As for starts.
    #[inline]
    pub fn operation_completed(&self, is_collective: bool, sequence: u64) {
        if is_collective {
            raise(&self.completed, sequence + 1);
        } else {
            add(&self.p2p_completed, 1);
        }
    }
}

#[inline(always)]
fn raise(word: &AtomicU64, value: u64) {
    if word.load(Relaxed) < value {
        word.store(value, Release);
    }
}
