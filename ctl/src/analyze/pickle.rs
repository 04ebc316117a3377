//! Reads pickles as data. A pickle is a program for a small stack machine, some of whose instructions import modules
//! and call what they find there; a file from somebody else's machine must never get that far. So this machine knows
//! the instructions that build numbers, strings, lists, tuples and dicts, of every protocol from 0 to 5, and refuses
//! the others by name and place. What it builds is a flat table of [`Node`]s that refer to each other by number: a
//! pickle can make a list contain itself or share one list a million times, and neither costs memory or recursion.

use std::collections::HashMap;

/// Nodes at most: a dump of 20,000 entries with stack traces has some three million.
const MAX_NODES: usize = 24 << 20;
/// Numbers longer than this are no numbers of ours, and never need be.
const MAX_NUMBER_BYTES: usize = 1 << 10;

/// Place of a node in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(u32);

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number that fits.
    Int(i64),
    /// A number that is not whole, or a whole one that does not fit.
    Float(f64),
    /// Text or bytes.
    Text(String),
    /// A list, tuple or set.
    List(Vec<NodeId>),
    /// A dict, in the order of insertion; a key that comes again counts the last time.
    Dict(Vec<(NodeId, NodeId)>),
}

/// A pickle as a table of values.
#[derive(Clone, Debug)]
pub struct Pickle {
    nodes: Vec<Node>,
    root: NodeId,
}

impl Pickle {
    /// The value that the pickle is of.
    #[must_use]
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// One value.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        // Ids are only made for nodes that are there.
        self.nodes.get(id.0 as usize).unwrap_or(&Node::None)
    }
}

/// Why a pickle cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It imports or calls something.
    #[error(
        "this pickle holds code ({what} at byte {at}), a Flight Recorder dump holds none; nothing of it was run"
    )]
    Code {
        /// The instruction and what it would do.
        what: String,
        /// Its place.
        at: usize,
    },
    /// It ends too early.
    #[error("the pickle ends at byte {at} in the middle of {what}; expected it to go on until its STOP")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where the file ends.
        at: usize,
    },
    /// Something that no pickle has.
    #[error("{what} at byte {at}; expected {expected}")]
    Malformed {
        /// What is there.
        what: String,
        /// What should be.
        expected: &'static str,
        /// Where.
        at: usize,
    },
    /// It is larger than any dump.
    #[error("the pickle holds more than {MAX_NODES} values by byte {at}; expected a dump of one rank")]
    TooLarge {
        /// Where it became too large.
        at: usize,
    },
}

/// Reads a pickle.
///
/// # Errors
/// Says what is wrong and at which byte.
pub fn parse(bytes: &[u8]) -> Result<Pickle, PickleError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        op_at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = machine.run()?;
    Ok(Pickle { nodes: machine.nodes, root })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the instruction at hand begins.
    op_at: usize,
    nodes: Vec<Node>,
    stack: Vec<NodeId>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, NodeId>,
}

type Step<T> = Result<T, PickleError>;

impl Machine<'_> {
    fn run(&mut self) -> Step<NodeId> {
        loop {
            self.op_at = self.at;
            let op = self.take(1, "the next instruction")?[0];
            if op == b'.' {
                return self.pop();
            }
            if !(self.scalar(op)? || self.container(op)? || self.stack_and_memo(op)?) {
                return Err(self.refuse(op));
            }
        }
    }

    /// Instructions that push one number, text or nothing.
    fn scalar(&mut self, op: u8) -> Step<bool> {
        let node = match op {
            b'N' => Node::None,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'K' => Node::Int(i64::from(self.take(1, "a number")?[0])),
            b'M' => Node::Int(self.little_endian(2, "a number")? as i64),
            b'J' => Node::Int(i64::from(self.little_endian(4, "a number")? as u32 as i32)),
            b'G' => {
                let bytes = self.take(8, "a number")?;
                Node::Float(f64::from_bits(bytes.iter().fold(0, |all, b| all << 8 | u64::from(*b))))
            }
            0x8a => {
                let length = usize::from(self.take(1, "a number")?[0]);
                self.long(length)?
            }
            0x8b => {
                let length = self.length(4)?;
                self.long(length)?
            }
            b'I' | b'L' | b'F' => self.written_number(op)?,
            b'S' | b'V' => Node::Text(self.quoted(op == b'S')?),
            b'U' | b'C' | 0x8c => self.text(1)?,
            b'T' | b'B' | b'X' => self.text(4)?,
            0x8d | 0x8e | 0x96 => self.text(8)?,
            _ => return Ok(false),
        };
        self.push(node)?;
        Ok(true)
    }

    /// Instructions that make or fill lists, tuples, sets and dicts.
    fn container(&mut self, op: u8) -> Step<bool> {
        match op {
            b']' | b')' | 0x8f => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'l' | b't' | 0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items))?;
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                let pairs = self.pairs(&items)?;
                self.push(Node::Dict(pairs))?;
            }
            0x85..=0x87 => {
                let length = usize::from(op - 0x84);
                let from = self.stack.len().checked_sub(length).filter(|from| *from >= self.floor());
                let from = from.ok_or_else(|| self.underflow())?;
                let items = self.stack.split_off(from);
                self.push(Node::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.extend(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(vec![(key, value)])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                let pairs = self.pairs(&items)?;
                self.insert(pairs)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn stack_and_memo(&mut self, op: u8) -> Step<bool> {
        match op {
            0x80 => {
                let version = self.take(1, "the protocol's number")?[0];
                if version > 5 {
                    return Err(self.malformed(format!("protocol {version}"), "protocol 0 to 5"));
                }
            }
            0x95 => drop(self.take(8, "the length of a frame")?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // A mark on top is what this takes away, if there is one.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'q' => {
                let key = u64::from(self.take(1, "a memo's number")?[0]);
                self.remember(key)?;
            }
            b'r' => {
                let key = self.little_endian(4, "a memo's number")?;
                self.remember(key)?;
            }
            b'p' => {
                let key = self.written_index()?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => {
                let key = u64::from(self.take(1, "a memo's number")?[0]);
                self.recall(key)?;
            }
            b'j' => {
                let key = self.little_endian(4, "a memo's number")?;
                self.recall(key)?;
            }
            b'g' => {
                let key = self.written_index()?;
                self.recall(key)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What is not data, or no instruction at all.
    fn refuse(&mut self, op: u8) -> PickleError {
        let at = self.op_at;
        let name = match op {
            b'c' | b'i' => {
                let name = if op == b'c' { "GLOBAL" } else { "INST" };
                let mut line = || self.line("a name").map(printable).unwrap_or_default();
                let (module, function) = (line(), line());
                return PickleError::Code { what: format!("{name} '{module} {function}'"), at };
            }
            0x93 => {
                let mut name = || {
                    let id = self.stack.pop();
                    match id.and_then(|id| self.nodes.get(id.0 as usize)) {
                        Some(Node::Text(text)) => printable(text.as_bytes()),
                        _ => "?".to_owned(),
                    }
                };
                let (function, module) = (name(), name());
                return PickleError::Code { what: format!("STACK_GLOBAL '{module} {function}'"), at };
            }
            b'R' => "REDUCE",
            b'b' => "BUILD",
            b'o' => "OBJ",
            0x81 => "NEWOBJ",
            0x92 => "NEWOBJ_EX",
            0x82 => "EXT1",
            0x83 => "EXT2",
            0x84 => "EXT4",
            b'P' => "PERSID",
            b'Q' => "BINPERSID",
            0x97 => "NEXT_BUFFER",
            0x98 => "READONLY_BUFFER",
            _ => return self.malformed(format!("0x{op:02x}"), "an instruction of a pickle"),
        };
        PickleError::Code { what: name.to_owned(), at }
    }

    fn take(&mut self, length: usize, what: &'static str) -> Step<&[u8]> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(PickleError::Truncated { what, at: self.bytes.len() });
        };
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn little_endian(&mut self, length: usize, what: &'static str) -> Step<u64> {
        Ok(self.take(length, what)?.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Step<usize> {
        let length = self.little_endian(bytes, "a length")?;
        usize::try_from(length)
            .map_err(|_| self.malformed(format!("a length of {length}"), "one that fits into memory"))
    }

    fn text(&mut self, length_bytes: usize) -> Step<Node> {
        let length = self.length(length_bytes)?;
        Ok(Node::Text(String::from_utf8_lossy(self.take(length, "a text")?).into_owned()))
    }

    /// A whole number of any length, in two's complement.
    fn long(&mut self, length: usize) -> Step<Node> {
        if length > MAX_NUMBER_BYTES {
            return Err(self.malformed(format!("a number of {length} bytes"), "one of at most 1024"));
        }
        let bytes = self.take(length, "a number")?;
        let Some(highest) = bytes.last() else { return Ok(Node::Int(0)) };
        let fill = if *highest & 0x80 == 0 { 0 } else { 0xff };
        if bytes.iter().skip(8).all(|byte| *byte == fill) {
            let mut whole = [fill; 8];
            for (to, from) in whole.iter_mut().zip(bytes) {
                *to = *from;
            }
            let value = i64::from_le_bytes(whole);
            // Eight bytes that say one sign and a ninth that says the other is a number beyond i64.
            if (value < 0) == (fill == 0xff) {
                return Ok(Node::Int(value));
            }
        }
        Ok(Node::Float(if fill == 0 { f64::MAX } else { f64::MIN }))
    }

    fn line(&mut self, what: &'static str) -> Step<&[u8]> {
        let rest = &self.bytes[self.at.min(self.bytes.len())..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            return Err(PickleError::Truncated { what, at: self.bytes.len() });
        };
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn written_number(&mut self, op: u8) -> Step<Node> {
        let line = String::from_utf8_lossy(self.line("a number")?).trim().to_owned();
        let node = match (op, line.as_str()) {
            (b'I', "00") => Some(Node::Bool(false)),
            (b'I', "01") => Some(Node::Bool(true)),
            (b'F', text) => text.parse().ok().map(Node::Float),
            (_, text) => text.strip_suffix('L').unwrap_or(text).parse().ok().map(Node::Int),
        };
        node.ok_or_else(|| self.malformed(format!("the number {}", printable(line.as_bytes())), "digits"))
    }

    fn written_index(&mut self) -> Step<u64> {
        let line = String::from_utf8_lossy(self.line("a memo's number")?).trim().to_owned();
        line.parse().map_err(|_| self.malformed(format!("the memo {}", printable(line.as_bytes())), "digits"))
    }

    /// Text as protocol 0 writes it, with or without quotes; escapes are kept as they are.
    fn quoted(&mut self, quotes: bool) -> Step<String> {
        let line = String::from_utf8_lossy(self.line("a text")?).into_owned();
        let inside = ['\'', '"']
            .iter()
            .find_map(|quote| line.strip_prefix(*quote)?.strip_suffix(*quote))
            .filter(|_| quotes);
        Ok(inside.unwrap_or(&line).to_owned())
    }

    fn push(&mut self, node: Node) -> Step<()> {
        if self.nodes.len() >= MAX_NODES {
            return Err(PickleError::TooLarge { at: self.op_at });
        }
        // In range: MAX_NODES is far below 2^32.
        self.stack.push(NodeId(self.nodes.len() as u32));
        self.nodes.push(node);
        Ok(())
    }

    /// How far down the stack the instruction at hand may reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Step<NodeId> {
        if self.stack.len() <= self.floor() {
            return Err(self.underflow());
        }
        self.stack.pop().ok_or_else(|| self.underflow())
    }

    fn top(&self) -> Step<NodeId> {
        if self.stack.len() <= self.floor() {
            return Err(self.underflow());
        }
        self.stack.last().copied().ok_or_else(|| self.underflow())
    }

    fn pop_to_mark(&mut self) -> Step<Vec<NodeId>> {
        let Some(mark) = self.marks.pop() else {
            return Err(self.malformed("no mark".to_owned(), "one to build a list or dict from"));
        };
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn pairs(&self, items: &[NodeId]) -> Step<Vec<(NodeId, NodeId)>> {
        if items.len() % 2 == 1 {
            return Err(self.malformed("a key without a value".to_owned(), "pairs"));
        }
        Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn extend(&mut self, items: Vec<NodeId>) -> Step<()> {
        let top = self.top()?;
        match self.nodes.get_mut(top.0 as usize) {
            Some(Node::List(list)) => list.extend(items),
            _ => return Err(self.malformed("items for what is no list".to_owned(), "a list")),
        }
        Ok(())
    }

    fn insert(&mut self, pairs: Vec<(NodeId, NodeId)>) -> Step<()> {
        let top = self.top()?;
        match self.nodes.get_mut(top.0 as usize) {
            Some(Node::Dict(dict)) => dict.extend(pairs),
            _ => return Err(self.malformed("pairs for what is no dict".to_owned(), "a dict")),
        }
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Step<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Step<()> {
        match self.memo.get(&key) {
            Some(id) => {
                self.stack.push(*id);
                Ok(())
            }
            None => Err(self.malformed(format!("memo {key}, which was never stored"), "one that was")),
        }
    }

    fn underflow(&self) -> PickleError {
        self.malformed("an instruction that takes more than there is".to_owned(), "a whole pickle")
    }

    fn malformed(&self, what: String, expected: &'static str) -> PickleError {
        PickleError::Malformed { what, expected, at: self.op_at }
    }
}

/// A name out of a hostile file, short and without control characters.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests;
