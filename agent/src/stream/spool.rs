//! What the controller has not acknowledged yet, bounded by messages and by bytes. It is kept as it is sent, which takes a part of the
//! memory that its parts would.
//!
//! When it is full the oldest *window* goes first: windows are many and the next one says nearly the same, while a
//! process's start or end, a health event or a command's result is said once. In the place of what was dropped stays a
//! marker that says how much is missing, under the last of the dropped sequence numbers, so a loss is acknowledged and
//! resent like everything else and cannot itself be lost.

use std::{collections::VecDeque, time::Duration};

use c4_proto::v1::{AgentMessage, SpoolLoss, agent_message::Body};
use prost::Message;
use tokio::time::Instant;

/// How much is kept for a controller that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Messages.
    pub messages: usize,
    /// Their encoded size together.
    pub bytes: usize,
}

/// A message that waits for its acknowledgement.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number in this session, from 1.
    pub sequence: u64,
    /// When what it says was captured.
    pub captured: Instant,
    kind: Kind,
    /// What it says: an `AgentMessage` that has nothing but a body.
    encoded: Box<[u8]>,
}

/// What a full spool has to know of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Window,
    /// Neither later messages nor an introduction say it again.
    SaidOnce,
    /// So many are missing.
    Loss(u64),
    Other,
}

impl From<&Body> for Kind {
    fn from(body: &Body) -> Self {
        match body {
            Body::Window(_) | Body::Windows(_) => Self::Window,
            Body::ProcessEnded(_) | Body::Health(_) | Body::CommandResult(_) | Body::EvidenceSaved(_) => {
                Self::SaidOnce
            }
            Body::SpoolLoss(loss) => Self::Loss(loss.dropped),
            _ => Self::Other,
        }
    }
}

impl Entry {
    fn new(sequence: u64, captured: Instant, body: &Body) -> Self {
        let mut encoded = Vec::with_capacity(body.encoded_len());
        body.encode(&mut encoded);
        Self { sequence, captured, kind: body.into(), encoded: encoded.into() }
    }

    /// The message as it is sent at `now`.
    #[must_use]
    pub fn message(&self, now: Instant) -> AgentMessage {
        let age = now.saturating_duration_since(self.captured);
        AgentMessage {
            sequence: self.sequence,
            age_us: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
            // It was encoded here.
            ..AgentMessage::decode(&*self.encoded).unwrap_or_default()
        }
    }

    fn losses(&self) -> u64 {
        if let Kind::Loss(dropped) = self.kind { dropped } else { 0 }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Spool {
    limits: SpoolLimits,
    entries: VecDeque<Entry>,
    bytes: usize,
    next_sequence: u64,
    dropped: u64,
    /// How long what is acknowledged is remembered.
    memory: Duration,
    acknowledged: VecDeque<Entry>,
}

impl Spool {
    /// An empty spool. The first message gets number 1.
    #[must_use]
    pub fn new(limits: SpoolLimits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            bytes: 0,
            next_sequence: 1,
            dropped: 0,
            memory: Duration::ZERO,
            acknowledged: VecDeque::new(),
        }
    }

    /// Remembers for a while what was acknowledged, for [`Spool::rewind`].
    #[must_use]
    pub fn remembering(self, memory: Duration) -> Self {
        Self { memory, ..self }
    }

    /// What was acknowledged a short while ago is to be said again: whoever took it may not be who listens now. Where all of it
    /// is said again and again anyway, it is not: agents that come back all at once have enough to say.
    pub fn rewind(&mut self, now: Instant) {
        self.forget(now);
        if !self.acknowledged.iter().any(|entry| entry.kind == Kind::SaidOnce) {
            return;
        }
        while let Some(entry) = self.acknowledged.pop_back() {
            self.bytes += entry.encoded.len();
            self.entries.push_front(entry);
        }
    }

    fn forget(&mut self, now: Instant) {
        let old = |entry: &Entry| now.saturating_duration_since(entry.captured) >= self.memory;
        let most = self.limits.messages / 4;
        while self.acknowledged.len() > most || self.acknowledged.front().is_some_and(old) {
            self.acknowledged.pop_front();
        }
    }

    /// Everything up to and including this number is taken, and need not be said again to anybody.
    #[must_use]
    pub fn settled(&self) -> u64 {
        let first = self.acknowledged.front().or_else(|| self.entries.front());
        first.map_or(self.next_sequence, |entry| entry.sequence) - 1
    }

    /// Appends a message and returns its number.
    pub fn push(&mut self, body: &Body, captured: Instant) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let entry = Entry::new(sequence, captured, body);
        self.bytes += entry.encoded.len();
        self.entries.push_back(entry);
        while self.entries.len() > self.limits.messages || self.bytes > self.limits.bytes {
            if !self.drop_one() {
                break;
            }
        }
        sequence
    }

    /// Drops the oldest window, or, where there is none, the oldest message. The newest is spared.
    fn drop_one(&mut self) -> bool {
        let candidates = self.entries.len().saturating_sub(1);
        let oldest_of = |wanted: fn(&Entry) -> bool| self.entries.iter().take(candidates).position(wanted);
        let index =
            oldest_of(|entry| entry.kind == Kind::Window).or_else(|| oldest_of(|entry| entry.losses() == 0));
        // Only a marker and the newest message are left.
        let Some(index) = index else { return false };
        self.dropped += 1;
        self.replace_by_marker(index);
        true
    }

    /// Puts a marker in the place of entry `index`, joined with its neighbours if they are markers too.
    fn replace_by_marker(&mut self, index: usize) {
        let mut total = 1;
        let mut first = index;
        let mut last = index;
        if index > 0 && self.entries[index - 1].losses() > 0 {
            first = index - 1;
            total += self.entries[first].losses();
        }
        if let Some(next) = self.entries.get(index + 1)
            && next.losses() > 0
        {
            last = index + 1;
            total += next.losses();
        }
        let body = Body::SpoolLoss(SpoolLoss { dropped: total });
        let (sequence, captured) = (self.entries[last].sequence, self.entries[first].captured);
        let freed: usize = self.entries.drain(first..=last).map(|entry| entry.encoded.len()).sum();
        let marker = Entry::new(sequence, captured, &body);
        self.bytes = self.bytes.saturating_sub(freed) + marker.encoded.len();
        self.entries.insert(first, marker);
    }

    /// Everything up to and including `sequence` is taken. Returns false for a number that was never given out.
    pub fn acknowledge(&mut self, sequence: u64, now: Instant) -> bool {
        if sequence >= self.next_sequence {
            return false;
        }
        while let Some(entry) = self.entries.front()
            && entry.sequence <= sequence
        {
            self.bytes = self.bytes.saturating_sub(entry.encoded.len());
            self.acknowledged.extend(self.entries.pop_front());
        }
        self.forget(now);
        true
    }

    /// The first message after number `sequence`.
    #[must_use]
    pub fn after(&self, sequence: u64) -> Option<&Entry> {
        let index = self.entries.partition_point(|entry| entry.sequence <= sequence);
        self.entries.get(index)
    }

    /// Number of the first message that is still kept, or of the next one to come.
    #[must_use]
    pub fn first_sequence(&self) -> u64 {
        self.entries.front().map_or(self.next_sequence, |entry| entry.sequence)
    }

    /// Number of the last message that is kept, 0 if there is none.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.entries.back().map_or(0, |entry| entry.sequence)
    }

    /// Messages kept.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.entries.len()
    }

    /// Their size together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use c4_proto::v1::{ProcessEnded, Window};

    use super::*;

    fn window(process: u64) -> Body {
        Body::Window(Window { process, ..Window::default() })
    }

    fn ended(process: u64) -> Body {
        Body::ProcessEnded(ProcessEnded { process, ..ProcessEnded::default() })
    }

    fn spool(messages: usize) -> (Spool, Instant) {
        (Spool::new(SpoolLimits { messages, bytes: 1 << 20 }), Instant::now())
    }

    fn shape(spool: &Spool) -> Vec<(u64, String)> {
        let mut shape = Vec::new();
        let mut last = 0;
        while let Some(entry) = spool.after(last) {
            last = entry.sequence;
            shape.push((
                last,
                match entry.message(entry.captured).body {
                    Some(Body::Window(window)) => format!("window {}", window.process),
                    Some(Body::ProcessEnded(end)) => format!("ended {}", end.process),
                    Some(Body::SpoolLoss(loss)) => format!("lost {}", loss.dropped),
                    other => format!("{other:?}"),
                },
            ));
        }
        shape
    }

    fn expect(pairs: &[(u64, &str)]) -> Vec<(u64, String)> {
        pairs.iter().map(|(sequence, text)| (*sequence, (*text).to_owned())).collect()
    }

    #[test]
    fn windows_go_first_and_a_marker_says_how_many() {
        let (mut spool, now) = spool(4);
        spool.push(&ended(1), now);
        for process in 2..=6 {
            spool.push(&window(process), now);
        }
        assert_eq!(shape(&spool), expect(&[(1, "ended 1"), (4, "lost 3"), (5, "window 5"), (6, "window 6")]));
        assert_eq!((spool.depth(), spool.dropped()), (4, 3));
    }

    #[test]
    fn a_spool_of_precious_messages_still_keeps_its_bound_and_its_count() {
        let (mut spool, now) = spool(3);
        for process in 1..=50 {
            spool.push(&ended(process), now);
            assert!(spool.depth() <= 3);
        }
        let kept = shape(&spool);
        assert_eq!(kept.last().unwrap(), &(50, "ended 50".to_owned()));
        let lost: u64 =
            kept.iter().filter_map(|(_, text)| text.strip_prefix("lost ")?.parse::<u64>().ok()).sum();
        assert_eq!(lost + kept.iter().filter(|(_, text)| text.starts_with("ended")).count() as u64, 50);
        assert_eq!(lost, spool.dropped());
    }

    #[test]
    fn mixed_floods_never_break_order_bound_or_count() {
        let (mut spool, now) = spool(8);
        for n in 1..=1000_u64 {
            spool.push(&if n % 3 == 0 { ended(n) } else { window(n) }, now);
            if n % 17 == 0 {
                assert!(spool.acknowledge(spool.first_sequence(), now));
            }
            let kept = shape(&spool);
            assert!(kept.len() <= 8 && kept.windows(2).all(|pair| pair[0].0 < pair[1].0), "{kept:?}");
        }
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let now = Instant::now();
        let mut spool = Spool::new(SpoolLimits { messages: 1000, bytes: 200 });
        for process in 0..500 {
            spool.push(&window(u64::MAX - process), now);
            assert!(spool.bytes() <= 200, "{}", spool.bytes());
        }
        assert!(spool.acknowledge(500, now));
        assert_eq!((spool.depth(), spool.bytes()), (0, 0));
    }

    #[test]
    fn an_acknowledgement_of_the_future_is_refused() {
        let (mut spool, now) = spool(4);
        spool.push(&window(1), now);
        assert!(!spool.acknowledge(2, now));
        assert_eq!(spool.depth(), 1);
        assert!(spool.acknowledge(1, now) && spool.acknowledge(1, now));
        assert_eq!((spool.depth(), spool.first_sequence()), (0, 2));
    }

    #[test]
    fn what_was_taken_lately_can_be_said_again() {
        let now = Instant::now();
        let limits = SpoolLimits { messages: 100, bytes: 1 << 20 };
        let mut spool = Spool::new(limits).remembering(Duration::from_secs(15));
        for process in 1..=2 {
            spool.push(&window(process), now + Duration::from_secs(process));
        }
        spool.push(&ended(3), now + Duration::from_secs(3));
        spool.push(&window(4), now + Duration::from_secs(4));
        let later = now + Duration::from_secs(17);
        assert!(spool.acknowledge(3, later));
        // The first two were captured 15 s ago or more.
        assert_eq!((spool.depth(), spool.first_sequence(), spool.settled()), (1, 4, 2));
        spool.rewind(later);
        assert_eq!(shape(&spool), expect(&[(3, "ended 3"), (4, "window 4")]));
        assert_eq!(spool.last_sequence(), 4);
        assert_eq!(spool.settled(), 2);
        assert!(spool.acknowledge(4, later + Duration::from_secs(60)));
        spool.rewind(later + Duration::from_secs(60));
        assert_eq!((spool.depth(), spool.bytes(), spool.settled()), (0, 0, 4));
        // Windows alone are not worth it.
        spool.push(&window(5), later + Duration::from_secs(60));
        assert!(spool.acknowledge(5, later + Duration::from_secs(61)));
        spool.rewind(later + Duration::from_secs(61));
        assert_eq!((spool.depth(), spool.last_sequence()), (0, 0));
    }
}
