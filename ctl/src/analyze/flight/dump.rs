//! One rank's Flight Recorder dump, as PyTorch 2.5 to 2.11 write it: a dict of `version`, `pg_config`, `pg_status` and
//! `entries`. This file knows the words of the format; what they mean together is for [`super::recording`].

use super::view::View;

/// Entries read of one dump at most; PyTorch's own ring is of some thousands.
const MAX_ENTRIES: usize = 1 << 20;
/// Largest time taken for one, in nanoseconds since the epoch: the year 2200.
const LATEST_NS: i64 = 7_258_118_400_000_000_000;

/// A dump.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Whose it is.
    pub rank: u32,
    /// Groups the rank is in, as far as it had used them.
    pub groups: Vec<Group>,
    /// How far it came in each group, by process-local id; absent if the dump does not say.
    pub status: Option<Vec<(u64, Status)>>,
    /// What it did, in the order in which it was recorded.
    pub entries: Vec<Entry>,
}

/// A process group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The name, the same on all its ranks.
    pub name: String,
    /// What the program calls it.
    pub desc: String,
    /// Global ranks in the order of their ranks in the group; empty if the dump does not say.
    pub ranks: Vec<u32>,
}

/// How far a rank came in a group: sequence numbers, none if there was no operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Handed to NCCL.
    pub enqueued: Option<u64>,
    /// Done.
    pub completed: Option<u64>,
}

/// What an operation has come to, as far as the recorder noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Handed to NCCL. Without timing events that is all that is known until it completes.
    Scheduled,
    /// Running on the GPU.
    Started,
    /// Done.
    Completed,
}

/// One operation of a rank.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The group's process-local id.
    pub pg_id: u64,
    /// The group's name and description.
    pub group: (String, String),
    /// Counts collectives of the group.
    pub collective_seq: u64,
    /// Counts point-to-point operations of the group.
    pub p2p_seq: u64,
    /// "all_reduce", "send 0->1", "coalesced": without the backend's name.
    pub name: String,
    /// When the host called it.
    pub created_ns: i64,
    /// When it was noticed to run.
    pub started_ns: Option<i64>,
    /// When it was noticed to be done.
    pub completed_ns: Option<i64>,
    /// How long the GPU was in it, if timing was on.
    pub duration_ns: Option<i64>,
    /// What it has come to.
    pub state: State,
    /// Whether it is point-to-point.
    pub is_p2p: bool,
    /// Elements of the inputs and of the outputs.
    pub elements: (u64, u64),
    /// Type of the elements, as PyTorch calls it; empty where not known.
    pub dtype: String,
    /// Where in the program it was called, innermost frame of the user's.
    pub called_at: Option<String>,
}

/// Understands a dump. `rank` is whose it is. What cannot be used is told to `complain`, the rest is kept.
///
/// # Errors
/// When it is no dump at all.
pub fn read(root: View<'_>, rank: u32, complain: &mut impl FnMut(String)) -> Result<Dump, String> {
    if root.pairs().is_none() {
        return Err(format!(
            "the file holds {}; expected a dict with `entries` and `pg_config`",
            root.kind()
        ));
    }
    let known = ["entries", "pg_config", "pg_status"].iter().any(|key| root.get(key).is_some());
    if !known {
        return Err("no `entries`, `pg_config` or `pg_status`; expected a Flight Recorder dump".to_owned());
    }
    if let Some(version) = root.get("version")
        && !version.text().is_some_and(|version| version.starts_with("2."))
    {
        let version = version.text().unwrap_or("no text");
        complain(format!("version is {version}, expected 2.x (PyTorch 2.5 to 2.11); read as such"));
    }
    let mut dump = Dump { rank, groups: groups(root, complain), ..Dump::default() };
    dump.status = root.get("pg_status").and_then(|view| status(view, complain));
    let entries = match root.get("entries") {
        None => Vec::new(),
        Some(view) => view.items().ok_or_else(|| format!("entries is {}, expected a list", view.kind()))?,
    };
    if entries.len() > MAX_ENTRIES {
        complain(format!("{} entries, only the last {MAX_ENTRIES} are read", entries.len()));
    }
    let skipped = entries.len().saturating_sub(MAX_ENTRIES);
    for (index, view) in entries.into_iter().enumerate().skip(skipped) {
        match entry(view) {
            Ok(entry) => dump.entries.push(entry),
            Err(why) => complain(format!("entry {index}: {why}")),
        }
    }
    Ok(dump)
}

fn groups(root: View<'_>, complain: &mut impl FnMut(String)) -> Vec<Group> {
    let pairs = root.get("pg_config").and_then(View::pairs).unwrap_or_default();
    let group = |(key, view): (String, View<'_>)| {
        let text = |name: &str| view.get(name).and_then(View::text).map(str::to_owned);
        let listed = view.get("ranks").or_else(|| view.items().map(|_| view));
        let ranks = match listed.map(ranks) {
            None => Vec::new(),
            Some(Some(ranks)) => ranks,
            Some(None) => {
                complain(format!(
                    "pg_config: ranks of group {key} are not a list of ranks, expected such as \"[0, 1]\""
                ));
                Vec::new()
            }
        };
        Group { name: text("name").unwrap_or(key), desc: text("desc").unwrap_or_default(), ranks }
    };
    pairs.into_iter().map(group).collect()
}

/// Ranks as a list, or as the text of one.
fn ranks(view: View<'_>) -> Option<Vec<u32>> {
    let mut ranks = match view.text() {
        Some(text) => serde_json::from_str::<Vec<u32>>(text).ok()?,
        None => {
            let items = view.items()?;
            items.into_iter().map(|item| u32::try_from(item.whole()?).ok()).collect::<Option<_>>()?
        }
    };
    let mut seen = std::collections::HashSet::new();
    ranks.retain(|rank| seen.insert(*rank));
    Some(ranks)
}

fn status(view: View<'_>, complain: &mut impl FnMut(String)) -> Option<Vec<(u64, Status)>> {
    let mut all = Vec::new();
    for (key, view) in view.pairs()? {
        let Ok(id) = key.parse() else {
            complain(format!("pg_status: the key {key} is no number; expected a process-local id"));
            continue;
        };
        // −1 says that there was none yet.
        let number = |name: &str| view.get(name).and_then(View::whole).and_then(|n| u64::try_from(n).ok());
        let status = Status {
            enqueued: number("last_enqueued_collective"),
            completed: number("last_completed_collective"),
        };
        all.push((id, status));
    }
    all.sort_by_key(|(id, _)| *id);
    Some(all)
}

fn entry(view: View<'_>) -> Result<Entry, String> {
    let need = |name: &str, expected: &str| {
        view.get(name).ok_or_else(|| format!("{name} is missing; expected {expected}"))
    };
    let count = |name: &str| -> Result<u64, String> {
        let value = need(name, "a number")?;
        let number = value.whole().ok_or_else(|| format!("{name} is {}, expected a number", value.kind()))?;
        u64::try_from(number).map_err(|_| format!("{name} is {number}, expected a number from 0 on"))
    };
    let time = |name: &str| -> Result<Option<i64>, String> {
        match view.get(name) {
            None => Ok(None),
            Some(value) => match value.whole() {
                // The JSON form writes 0 where nothing is known.
                Some(0) => Ok(None),
                Some(ns) if (0..LATEST_NS).contains(&ns) => Ok(Some(ns)),
                Some(ns) => Err(format!("{name} is {ns}, expected nanoseconds since 1970")),
                None => Err(format!("{name} is {}, expected nanoseconds since 1970", value.kind())),
            },
        }
    };
    let name = need("profiling_name", "such as \"nccl:all_reduce\"")?;
    let name = name.text().ok_or("profiling_name is no text; expected such as \"nccl:all_reduce\"")?;
    let name = name.split_once(':').map_or(name, |(_, name)| name).to_owned();
    let group = need("process_group", "its name and description")?;
    let mut words = group.items().unwrap_or_default().into_iter();
    let mut word = || words.next().and_then(View::text).map(str::to_owned);
    let group_name = group.text().map(str::to_owned).or_else(&mut word);
    let group_name = group_name.ok_or("process_group has no name; expected (name, description)")?;
    let group = (group_name, word().unwrap_or_default());
    let started_ns = time("time_discovered_started_ns")?;
    let completed_ns = time("time_discovered_completed_ns")?;
    let state = match view.get("state").and_then(View::text) {
        Some("completed") => State::Completed,
        Some("started") => State::Started,
        Some("scheduled") => State::Scheduled,
        None if completed_ns.is_some() => State::Completed,
        None if started_ns.is_some() => State::Started,
        None => State::Scheduled,
        Some(other) => return Err(format!("state is {other}, expected scheduled, started or completed")),
    };
    let is_p2p = view.get("is_p2p").and_then(View::truth);
    let is_p2p = is_p2p.unwrap_or_else(|| transfer(&name).is_some());
    let (inputs, outputs) = (elements(view, "input_sizes"), elements(view, "output_sizes"));
    let duration = view.get("duration_ms").and_then(View::number).filter(|ms| (0.0..1e9).contains(ms));
    Ok(Entry {
        pg_id: count("pg_id").unwrap_or(u64::MAX),
        group,
        collective_seq: count("collective_seq_id")?,
        p2p_seq: count("p2p_seq_id").unwrap_or(0),
        name,
        created_ns: time("time_created_ns")?.ok_or("time_created_ns is missing; expected nanoseconds")?,
        started_ns,
        completed_ns,
        duration_ns: duration.map(|ms| (ms * 1e6) as i64),
        state,
        is_p2p,
        elements: (inputs, outputs),
        dtype: dtype(view),
        called_at: called_at(view),
    })
}

/// Elements of all tensors together.
fn elements(entry: View<'_>, key: &str) -> u64 {
    let tensors = entry.get(key).and_then(View::items).unwrap_or_default();
    let of = |tensor: View<'_>| {
        let dims = tensor.items().unwrap_or_default();
        dims.into_iter()
            .map(|dim| dim.whole().and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
            .fold(1_u64, u64::saturating_mul)
    };
    tensors.into_iter().map(of).fold(0, u64::saturating_add)
}

fn dtype(entry: View<'_>) -> String {
    let of = |key: &str| -> Vec<&str> {
        entry.get(key).and_then(View::items).unwrap_or_default().into_iter().filter_map(View::text).collect()
    };
    let mut all = of("input_dtypes");
    if all.is_empty() {
        all = of("output_dtypes");
    }
    all.dedup();
    match all[..] {
        [one] => one.to_owned(),
        [] => String::new(),
        _ => "mixed".to_owned(),
    }
}

/// The innermost frame that is not PyTorch's own, or the innermost one.
fn called_at(entry: View<'_>) -> Option<String> {
    let frames = entry.get("frames")?.items()?;
    let own = frames.iter().find(|frame| {
        let file = file(**frame);
        !file.is_empty() && !file.contains("torch/")
    });
    let frame = *own.or(frames.first())?;
    let name = frame.get("name").and_then(View::text)?;
    let line = frame.get("line").and_then(View::whole)?;
    Some(format!("{name} ({}:{line})", file(frame)))
}

fn file(frame: View<'_>) -> &str {
    frame.get("filename").and_then(View::text).unwrap_or("")
}

/// Who sends to whom, by ranks in the group: "send 0->1", "recv 1<-0".
#[must_use]
pub fn transfer(name: &str) -> Option<(bool, u32, u32)> {
    let (what, ranks) = name.split_once(' ')?;
    let (is_send, arrow) = match what {
        "send" => (true, "->"),
        "recv" => (false, "<-"),
        _ => return None,
    };
    let (own, peer) = ranks.trim().split_once(arrow)?;
    Some((is_send, own.trim().parse().ok()?, peer.trim().parse().ok()?))
}

/// Bytes of one element.
#[must_use]
pub fn element_bytes(dtype: &str) -> u64 {
    match dtype {
        "Double" | "Long" | "UInt64" | "ComplexFloat" => 8,
        "Float" | "Int" | "UInt32" | "ComplexHalf" => 4,
        "Half" | "BFloat16" | "Short" | "UInt16" => 2,
        "ComplexDouble" => 16,
        "Byte" | "Char" | "Bool" => 1,
        other if other.starts_with("Float8") => 1,
        _ => 0,
    }
}
