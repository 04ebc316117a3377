//! How much of its time each rank works by itself, window by window. In a job whose ranks wait for each other, all take
//! the same time for an iteration; they differ in how much of it they work and how much they wait. Work is what is
//! recorded as computation, or else the time in which the rank is in no operation. Only durations on a rank's own clock
//! count; clocks need to agree no better than windows are long.

use crate::analyze::{
    blocked::Background,
    recording::{Process, Recording},
};

/// Share of a window that must have been recorded for it to count.
const LEAST_COVERED: f64 = 0.1;

/// Windows over a recording, each some iterations long. They follow the job, not the clock: a pause of ten iterations is
/// one odd window, not ten.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    /// Where each begins, and where the last one ends.
    bounds_ns: Vec<i64>,
}

impl Windows {
    /// At least one window; bounds must rise.
    pub(super) fn new(bounds_ns: Vec<i64>) -> Option<Self> {
        let rising = bounds_ns.windows(2).all(|pair| pair[0] < pair[1]);
        (bounds_ns.len() > 1 && rising).then_some(Self { bounds_ns })
    }

    pub(super) fn number(&self) -> usize {
        self.bounds_ns.len() - 1
    }

    fn of(&self, ns: i64) -> Option<usize> {
        let window = self.bounds_ns.partition_point(|bound| *bound <= ns).checked_sub(1)?;
        (window < self.number()).then_some(window)
    }

    /// When a window begins, or the one before it ends.
    pub(super) fn begin_ns(&self, window: usize) -> i64 {
        self.bounds_ns[window.min(self.number())]
    }

    fn length_ns(&self, window: usize) -> i64 {
        self.bounds_ns[window + 1] - self.bounds_ns[window]
    }
}

/// What counts as work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Recorded computations.
    Computed,
    /// Time outside of operations.
    NotWaiting,
}

/// Time of a rank in one window.
#[derive(Clone, Copy, Debug, Default)]
struct Time {
    work_ns: i64,
    covered_ns: i64,
}

struct Event {
    start_ns: i64,
    end_ns: i64,
    blocks: bool,
    /// Whether it takes from the work before it: what was waited for in the background.
    arrives: bool,
}

/// Share of each window that a rank worked; none where too little of it was recorded.
pub(super) fn shares(
    recording: &Recording,
    place: usize,
    background: &Background,
    windows: &Windows,
    measure: Measure,
) -> Vec<Option<f64>> {
    let process = &recording.processes[place];
    let mut times = vec![Time::default(); windows.number()];
    let mut events = events(process, place, background);
    events.sort_unstable_by_key(|event| (event.start_ns, event.end_ns));
    let holes = holes(process, &events);
    // Covered is what lies between the first and last event, without the holes.
    if let (Some(first), Some(last)) = (events.first(), events.iter().map(|event| event.end_ns).max()) {
        spread(first.start_ns, last, windows, &mut times, |time, ns| time.covered_ns += ns);
        for (from, until) in &holes {
            spread(*from, *until, windows, &mut times, |time, ns| time.covered_ns -= ns);
        }
    }
    match measure {
        Measure::Computed => {
            let mut until = i64::MIN;
            for compute in &process.computes {
                let end = compute.end_ns.unwrap_or(compute.start_ns);
                spread(compute.start_ns.max(until), end, windows, &mut times, |time, ns| time.work_ns += ns);
                until = until.max(end);
            }
        }
        Measure::NotWaiting => not_waiting(&events, &holes, windows, &mut times),
    }
    let share = |(window, time): (usize, Time)| {
        let covered = time.covered_ns as f64;
        let least = windows.length_ns(window) as f64 * LEAST_COVERED;
        (covered >= least).then(|| (time.work_ns as f64 / covered).clamp(0.0, 1.0))
    };
    times.into_iter().enumerate().map(share).collect()
}

fn events(process: &Process, place: usize, background: &Background) -> Vec<Event> {
    let mut events = Vec::new();
    for series in &process.series {
        let blocks = !background.has(place, series.comm);
        for operation in &series.operations {
            let Some(end_ns) = operation.ended_ns else { continue };
            events.push(Event { start_ns: operation.entered_ns(), end_ns, blocks, arrives: false });
        }
    }
    for transfer in &process.transfers {
        let Some(end_ns) = transfer.ended_ns else { continue };
        let blocks = !background.transfers(place, transfer.is_send);
        events.push(Event {
            start_ns: transfer.entered_ns(),
            end_ns,
            blocks,
            arrives: !blocks && !transfer.is_send,
        });
    }
    for compute in &process.computes {
        let end_ns = compute.end_ns.unwrap_or(compute.start_ns);
        events.push(Event { start_ns: compute.start_ns, end_ns, blocks: false, arrives: false });
    }
    events
}

/// Time outside of operations that the rank waits in.
fn not_waiting(events: &[Event], holes: &[(i64, i64)], windows: &Windows, times: &mut [Time]) {
    let mut arrivals: Vec<i64> =
        events.iter().filter(|event| event.arrives).map(|event| event.end_ns).collect();
    arrivals.sort_unstable();
    let mut free_ns: Option<i64> = None;
    for event in events.iter().filter(|event| event.blocks) {
        if let Some(from) = free_ns.filter(|from| *from < event.start_ns) {
            // What came in meanwhile may have been waited for: work counts from the last arrival on.
            let at = arrivals.partition_point(|ns| *ns <= event.start_ns);
            let arrived = at.checked_sub(1).map_or(from, |at| arrivals[at].max(from));
            spread(arrived, event.start_ns, windows, times, |time, ns| time.work_ns += ns);
            for (hole_from, hole_until) in overlapping(holes, arrived, event.start_ns) {
                spread(hole_from, hole_until, windows, times, |time, ns| time.work_ns -= ns);
            }
        }
        free_ns = Some(free_ns.map_or(event.end_ns, |free| free.max(event.end_ns)));
    }
}

fn overlapping(holes: &[(i64, i64)], from: i64, until: i64) -> impl Iterator<Item = (i64, i64)> + '_ {
    let first = holes.partition_point(|hole| hole.1 <= from);
    let here = holes[first..].iter().take_while(move |hole| hole.0 < until);
    here.map(move |hole| (hole.0.max(from), hole.1.min(until)))
}

/// Where nothing was recorded: positions are missing, and somewhere between their neighbours is a silence.
fn holes(process: &Process, events: &[Event]) -> Vec<(i64, i64)> {
    let mut jumps: Vec<(i64, i64)> = Vec::new();
    for series in &process.series {
        for pair in series.operations.windows(2) {
            if pair[1].sequence > pair[0].sequence.saturating_add(1) {
                jumps.push((pair[0].last_ns(), pair[1].entered_ns()));
            }
        }
    }
    for pair in process.computes.windows(2) {
        if let (Some(before), Some(after)) = (pair[0].iteration, pair[1].iteration)
            && after > before.saturating_add(1)
        {
            jumps.push((pair[0].end_ns.unwrap_or(pair[0].start_ns), pair[1].start_ns));
        }
    }
    jumps.sort_unstable();
    let mut holes: Vec<(i64, i64)> = Vec::new();
    // For each jump the longest silence within it.
    for (from, until) in jumps {
        if holes.last().is_some_and(|hole| hole.0 >= from && hole.1 <= until) {
            continue;
        }
        let mut at = events.partition_point(|event| event.start_ns < from);
        let mut free = from;
        let mut longest = (from, from);
        while free < until {
            let next = events.get(at).map_or(until, |event| event.start_ns.min(until));
            if next - free > longest.1 - longest.0 {
                longest = (free, next);
            }
            let Some(event) = events.get(at) else { break };
            free = free.max(event.end_ns);
            at += 1;
        }
        if longest.1 > longest.0 && holes.last().is_none_or(|hole| hole.1 <= longest.0) {
            holes.push(longest);
        }
    }
    holes
}

/// Hands the time from `from` to `until` to the windows it lies in.
fn spread(from: i64, until: i64, windows: &Windows, times: &mut [Time], add: impl Fn(&mut Time, i64)) {
    let mut at = from.max(windows.begin_ns(0));
    while at < until {
        let Some(window) = windows.of(at) else { return };
        let end = windows.begin_ns(window + 1).min(until);
        add(&mut times[window], end - at);
        at = end;
    }
}
