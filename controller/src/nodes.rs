//! Who is connected: nodes, the sessions of their agents, and the streams those speak through.
//!
//! A node may have several agents at once (a daemon, and one for each supervised process group), so what is numbered
//! and acknowledged belongs to a *session* `(node, session id)`. A session outlives its stream: an agent that
//! reconnects goes on where it was, and what the controller already took is recognised. A node is lost only when it
//! has had no stream at all for a while.

use std::collections::{BTreeMap, HashMap};

use c4_detect::observation::{Hearing, NodeName, Timestamp};

use crate::convert::{Hello, Sensor};

mod delay;
#[cfg(test)]
mod tests;

use delay::Delay;

/// Numbers the streams of this run of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Names one run of one agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    /// Its node.
    pub node: NodeName,
    /// Its session id.
    pub session: String,
}

/// Sessions whose stream closed longer ago are forgotten (an hour): a spool does not last longer.
const FORGET_US: u64 = 3600 * 1_000_000;
/// Sessions remembered at most; the longest closed goes first.
const MAX_SESSIONS: usize = 65_536;

#[derive(Debug)]
struct Session {
    stream: Option<StreamId>,
    taken: u64,
    refused: u32,
    closed_at: Option<Timestamp>,
    lost: bool,
    /// Number of the last message of what it had kept, while that is being told.
    behind: Option<u64>,
    delay: Delay,
}

/// A node as operators see it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Version of the agent that connected last.
    pub agent_version: String,
    /// What its agents can see.
    pub sensors: Vec<Sensor>,
    /// When anything was heard of it last.
    pub last_seen: Timestamp,
    /// Streams open.
    pub streams: u32,
    /// Whether the detector was told that it is out of sight.
    pub lost: bool,
    /// Messages its agents had to drop.
    pub spool_dropped: u64,
    /// Sessions that tell of what they had kept.
    pub behind: u32,
    /// What the detector was told of how it is heard.
    pub told: Hearing,
}

impl Node {
    fn hearing(&self) -> Hearing {
        match (self.streams, self.behind) {
            (0, _) => Hearing::Away,
            (_, 0) => Hearing::AtOnce,
            _ => Hearing::CatchingUp,
        }
    }
}

/// What came of a stream that opened.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The session's earlier stream, which has to go.
    pub replaced: Option<StreamId>,
    /// Messages that the session will not send again although they were never taken.
    pub missing: u64,
    /// Everything up to here was taken.
    pub taken: u64,
}

/// What a sequence number means.
#[derive(Debug, PartialEq, Eq)]
pub enum Sequence {
    /// The stream is not, or no longer, one of a session: the message is not looked at.
    Stale,
    /// It was taken before.
    Duplicate,
    /// Take it; so many before it are missing.
    Take {
        /// Messages missing before it.
        missing: u64,
    },
}

/// What the passing of time did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Nodes that are now out of sight.
    pub nodes: Vec<NodeName>,
    /// Sessions that are now taken for ended.
    pub sessions: Vec<SessionKey>,
}

/// The table of everything connected.
#[derive(Debug, Default)]
pub struct Nodes {
    sessions: HashMap<SessionKey, Session>,
    streams: HashMap<StreamId, SessionKey>,
    nodes: BTreeMap<NodeName, Node>,
}

impl Nodes {
    /// A stream has opened with `hello`.
    pub fn open(&mut self, stream: StreamId, hello: &Hello, now: Timestamp) -> Opened {
        let key = SessionKey { node: hello.node.clone(), session: hello.session.clone() };
        let before = hello.next_sequence.saturating_sub(1);
        let fresh = !self.sessions.contains_key(&key);
        if fresh && self.sessions.len() >= MAX_SESSIONS {
            self.forget_oldest();
        }
        let session = self.sessions.entry(key.clone()).or_insert(Session {
            stream: None,
            taken: before,
            refused: 0,
            closed_at: None,
            lost: false,
            behind: None,
            delay: Delay::default(),
        });
        let missing = before.saturating_sub(session.taken);
        session.taken = session.taken.max(before);
        session.closed_at = None;
        session.lost = false;
        session.refused = 0;
        let taken = session.taken;
        let was_behind = session.behind.take().is_some();
        session.behind = Some(hello.kept).filter(|kept| *kept > taken);
        let is_behind = session.behind.is_some();
        let replaced = session.stream.replace(stream);
        if let Some(old) = replaced {
            self.streams.remove(&old);
        }
        self.streams.insert(stream, key);
        let node = self.nodes.entry(hello.node.clone()).or_insert_with(|| Node {
            agent_version: String::new(),
            sensors: Vec::new(),
            last_seen: now,
            streams: 0,
            lost: false,
            spool_dropped: 0,
            behind: 0,
            told: Hearing::AtOnce,
        });
        node.streams += u32::from(replaced.is_none());
        node.behind = node.behind.saturating_sub(u32::from(was_behind)) + u32::from(is_behind);
        node.agent_version.clone_from(&hello.agent_version);
        if !hello.sensors.is_empty() {
            node.sensors.clone_from(&hello.sensors);
        }
        node.last_seen = now;
        node.lost = false;
        Opened { replaced, missing, taken }
    }

    /// A stream has closed.
    pub fn close(&mut self, stream: StreamId, now: Timestamp) {
        let Some(key) = self.streams.remove(&stream) else { return };
        let mut was_behind = false;
        if let Some(session) = self.sessions.get_mut(&key) {
            session.stream = None;
            session.closed_at = Some(now);
            was_behind = session.behind.take().is_some();
        }
        if let Some(node) = self.nodes.get_mut(&key.node) {
            node.streams = node.streams.saturating_sub(1);
            node.behind = node.behind.saturating_sub(u32::from(was_behind));
            node.last_seen = now;
        }
    }

    /// Whose stream it is.
    #[must_use]
    pub fn session(&self, stream: StreamId) -> Option<&SessionKey> {
        self.streams.get(&stream)
    }

    /// The open streams of a node's agents.
    #[must_use]
    pub fn streams(&self, node: &NodeName) -> Vec<StreamId> {
        let mut streams: Vec<StreamId> =
            self.streams.iter().filter(|(_, key)| key.node == *node).map(|(stream, _)| *stream).collect();
        streams.sort_unstable();
        streams
    }

    /// Looks at a message's number. Unnumbered messages (0) are always taken.
    pub fn sequence(&mut self, stream: StreamId, sequence: u64, now: Timestamp) -> Sequence {
        let Some(key) = self.streams.get(&stream) else { return Sequence::Stale };
        let Some(session) = self.sessions.get_mut(key) else { return Sequence::Stale };
        if let Some(node) = self.nodes.get_mut(&key.node) {
            node.last_seen = now;
        }
        if sequence == 0 {
            return Sequence::Take { missing: 0 };
        }
        if sequence <= session.taken {
            return Sequence::Duplicate;
        }
        let missing = sequence - session.taken - 1;
        session.taken = sequence;
        Sequence::Take { missing }
    }

    /// For how long a message was on its way that was sent at `sent_us`, by its agent's clock, and is looked at now: more
    /// exactly, for how much longer than others of its session.
    pub fn delay(&mut self, stream: StreamId, sent_us: u64, now: Timestamp) -> u64 {
        let session = self.streams.get(&stream).and_then(|key| self.sessions.get_mut(key));
        session.filter(|_| sent_us > 0).map_or(0, |session| session.delay.of(sent_us, now))
    }

    /// A message of a stream was looked at. To be followed by [`Nodes::news_of`].
    pub fn told(&mut self, stream: StreamId) {
        let Some(key) = self.streams.get(&stream) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.behind.take_if(|last| *last <= session.taken).is_some()
            && let Some(node) = self.nodes.get_mut(&key.node)
        {
            node.behind = node.behind.saturating_sub(1);
        }
    }

    /// How a node is heard, if that has changed since this was last asked for.
    pub fn news_of(&mut self, node: &NodeName) -> Option<Hearing> {
        let node = self.nodes.get_mut(node)?;
        let hearing = node.hearing();
        (std::mem::replace(&mut node.told, hearing) != hearing).then_some(hearing)
    }

    /// Everything up to this number was taken from the stream's session.
    #[must_use]
    pub fn taken(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).and_then(|key| self.sessions.get(key)).map_or(0, |session| session.taken)
    }

    /// Counts a refused message of a stream; returns how many there were.
    pub fn refused(&mut self, stream: StreamId) -> u32 {
        let Some(session) = self.streams.get(&stream).and_then(|key| self.sessions.get_mut(key)) else {
            return 0;
        };
        session.refused = session.refused.saturating_add(1);
        session.refused
    }

    /// An agent had to drop messages.
    pub fn dropped(&mut self, node: &NodeName, messages: u64) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.spool_dropped = node.spool_dropped.saturating_add(messages);
        }
    }

    /// Time has passed: who is out of sight now?
    pub fn tick(&mut self, now: Timestamp, lost_after_us: u64) -> Lost {
        let mut lost = Lost::default();
        for (name, node) in &mut self.nodes {
            if node.streams == 0 && !node.lost && now.micros_since(node.last_seen) >= lost_after_us {
                node.lost = true;
                lost.nodes.push(name.clone());
            }
        }
        self.sessions.retain(|key, session| {
            let Some(closed_at) = session.closed_at else { return true };
            let closed_us = now.micros_since(closed_at);
            if closed_us >= lost_after_us && !session.lost {
                session.lost = true;
                lost.sessions.push(key.clone());
            }
            closed_us < FORGET_US
        });
        // A node that has been gone for long is no longer anybody's concern.
        self.nodes.retain(|_, node| !node.lost || now.micros_since(node.last_seen) < FORGET_US);
        lost
    }

    /// Whether an agent of the node is in sight.
    #[must_use]
    pub fn in_sight(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|node| !node.lost)
    }

    /// All nodes, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, &Node)> {
        self.nodes.iter()
    }

    fn forget_oldest(&mut self) {
        let oldest = self.sessions.iter().filter_map(|(key, session)| Some((session.closed_at?, key))).min();
        if let Some(key) = oldest.map(|(_, key)| key.clone()) {
            self.sessions.remove(&key);
        }
    }
}
