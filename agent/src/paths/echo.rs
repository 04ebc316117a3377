//! Probes from agent to agent, and what the receiver answers. Both have the same size, so that nobody can be made to send
//! more than was sent to him.

use std::{collections::HashMap, net::SocketAddr};

use super::trains::Heard;

/// Bytes of a probe, and of an answer.
pub const SIZE: usize = 64;

const MAGIC: &[u8; 4] = b"C4tr";
const VERSION: u8 = 1;
const PROBE: u8 = 0;
const ANSWER: u8 = 1;

/// Senders that are remembered.
const MOST_SENDERS: usize = 16_384;
/// Senders that have been silent for so long are forgotten when there is no room.
const FORGET_US: u64 = 60_000_000;
/// Answers within a second, at most.
const MOST_ANSWERS: u32 = 5_000;

/// A probe as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Of the sender; another one begins to count anew.
    pub session: u64,
    /// Its number.
    pub sequence: u64,
    /// When it was sent, by the sender's clock.
    pub sent_ns: i64,
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn header(kind: u8, sent: &Sent) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes[..4].copy_from_slice(MAGIC);
    (bytes[4], bytes[5]) = (VERSION, kind);
    bytes[8..16].copy_from_slice(&sent.session.to_le_bytes());
    bytes[16..24].copy_from_slice(&sent.sequence.to_le_bytes());
    bytes[24..32].copy_from_slice(&sent.sent_ns.to_le_bytes());
    bytes
}

fn read(kind: u8, bytes: &[u8]) -> Option<Sent> {
    let known = bytes.len() == SIZE && bytes.starts_with(MAGIC) && bytes[4..6] == [VERSION, kind];
    known.then_some(())?;
    let (session, sequence) = (number(bytes, 8)?, number(bytes, 16)?);
    Some(Sent { session, sequence, sent_ns: number(bytes, 24)?.cast_signed() })
}

impl Sent {
    /// As it goes on its way.
    #[must_use]
    pub fn encode(&self) -> [u8; SIZE] {
        header(PROBE, self)
    }

    /// A probe that came; none if it is something else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        read(PROBE, bytes)
    }
}

/// An answer that came to the sender of this session; none if it is something else.
#[must_use]
pub fn decode(bytes: &[u8], session: u64) -> Option<Heard> {
    let sent = read(ANSWER, bytes).filter(|sent| sent.session == session)?;
    let overflow = u32::from_le_bytes(bytes.get(56..60)?.try_into().ok()?);
    Some(Heard {
        sequence: sent.sequence,
        sent_ns: sent.sent_ns,
        received_ns: number(bytes, 32)?.cast_signed(),
        newest: number(bytes, 40)?,
        arrived: number(bytes, 48)?,
        overflow,
    })
}

#[derive(Debug)]
struct Sender {
    session: u64,
    newest: u64,
    arrived: u64,
    last_us: u64,
}

/// What has come from whom.
#[derive(Debug, Default)]
pub struct Receiver {
    senders: HashMap<SocketAddr, Sender>,
    second: u64,
    answers: u32,
}

impl Receiver {
    /// A probe has come; what to answer. None where there were too many within this second, or too many senders.
    pub fn came(
        &mut self,
        from: SocketAddr,
        sent: &Sent,
        received_ns: i64,
        overflow: u32,
        now_us: u64,
    ) -> Option<[u8; SIZE]> {
        if now_us / 1_000_000 != self.second {
            (self.second, self.answers) = (now_us / 1_000_000, 0);
        }
        if self.senders.len() >= MOST_SENDERS && !self.senders.contains_key(&from) {
            self.senders.retain(|_, sender| now_us.saturating_sub(sender.last_us) < FORGET_US);
            if self.senders.len() >= MOST_SENDERS {
                return None;
            }
        }
        let fresh = Sender { session: sent.session, newest: sent.sequence, arrived: 0, last_us: now_us };
        let sender = self.senders.entry(from).or_insert(fresh);
        if sender.session != sent.session {
            *sender = Sender { session: sent.session, newest: sent.sequence, arrived: 0, last_us: now_us };
        }
        sender.last_us = now_us;
        if let Some(ahead) = sent.sequence.checked_sub(sender.newest) {
            sender.arrived = sender.arrived.checked_shl(ahead.min(64) as u32).unwrap_or(0) | 1;
            sender.newest = sent.sequence;
        } else if sender.newest - sent.sequence < 64 {
            sender.arrived |= 1 << (sender.newest - sent.sequence);
        }
        self.answers += 1;
        (self.answers <= MOST_ANSWERS).then(|| {
            let mut bytes = header(ANSWER, sent);
            bytes[32..40].copy_from_slice(&received_ns.to_le_bytes());
            bytes[40..48].copy_from_slice(&sender.newest.to_le_bytes());
            bytes[48..56].copy_from_slice(&sender.arrived.to_le_bytes());
            bytes[56..60].copy_from_slice(&overflow.to_le_bytes());
            bytes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    fn sent(sequence: u64) -> Sent {
        Sent { session: 7, sequence, sent_ns: 1_000 }
    }

    #[test]
    fn answers_say_which_probes_came() {
        let mut receiver = Receiver::default();
        let mut last = None;
        for sequence in [0, 1, 3, 2, 70, 71] {
            let probe = Sent::decode(&sent(sequence).encode()).expect("a probe");
            let bytes = receiver.came(from(1), &probe, 5_000, 3, 10).expect("answered");
            assert_eq!(Sent::decode(&bytes), None, "an answer is no probe");
            last = decode(&bytes, 7);
            assert_eq!(decode(&bytes, 8), None, "of another session");
            if sequence == 2 {
                let heard = last.expect("an answer");
                assert_eq!((heard.sequence, heard.newest, heard.arrived), (2, 3, 0b1111));
            }
        }
        let expected = Heard {
            sequence: 71,
            sent_ns: 1_000,
            received_ns: 5_000,
            newest: 71,
            arrived: 0b11,
            overflow: 3,
        };
        assert_eq!(last, Some(expected), "what came longer ago is not told");
        let again = Sent { session: 8, ..sent(4) };
        let bytes = receiver.came(from(1), &again, 0, 0, 10).expect("answered");
        assert_eq!(decode(&bytes, 8).map(|heard| (heard.newest, heard.arrived)), Some((4, 1)));
    }

    #[test]
    fn what_is_no_probe_is_not_answered_and_floods_are_not_amplified() {
        let good = sent(1).encode();
        for spoilt in [&good[..SIZE - 1], &[0; SIZE], &[good.as_slice(), &[0]].concat()] {
            assert_eq!(Sent::decode(spoilt), None);
        }
        let mut version = good;
        version[4] = 9;
        assert_eq!(Sent::decode(&version), None);
        let mut receiver = Receiver::default();
        let answered = |receiver: &mut Receiver, now| {
            (0..2 * MOST_ANSWERS)
                .filter(|n| receiver.came(from(1), &sent((*n).into()), 0, 0, now).is_some())
                .count()
        };
        assert_eq!(answered(&mut receiver, 0), MOST_ANSWERS as usize);
        assert_eq!(answered(&mut receiver, 1_000_000), MOST_ANSWERS as usize);
        for n in 0..=MOST_SENDERS as u32 {
            let from = SocketAddr::from(([11, 0, (n >> 8) as u8, n as u8], 1));
            receiver.came(from, &sent(1), 0, 0, u64::from(n) * 1_000);
        }
        assert!(receiver.senders.len() <= MOST_SENDERS);
    }
}
