//! Colouring: giving each item one of several colours so that no set has too much of any.
//!
//! In a fabric of three tiers the choice of a path falls apart: first the spine of the own pod (its counterpart in the
//! other pod comes with it), then the core. Each is a colouring: the flows are items, the spines (or cores) colours, and
//! the sets are the flows that leave or enter a leaf, and those that leave or enter its pod. On each side the sets are
//! nested, so equal items can always be spread evenly, and exchanging two colours along a chain gets there: where a set
//! has too much of one colour, some item in it can take the other without harm to the sets on its own side.

/// No set.
pub(crate) const NO_SET: u32 = u32::MAX;

/// How often a limit between what works and what does not is tried.
const ROUNDS: usize = 8;
const ROUNDING: f64 = 1e-9;

/// Something to be coloured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    /// The sets it is in: two on each side, inner one first; [`NO_SET`] for none.
    pub(crate) sets: [u32; 4],
    pub(crate) demand: f64,
}

/// The problem and its solution so far.
#[derive(Debug)]
pub(crate) struct Colouring<'a> {
    items: &'a [Item],
    colours: usize,
    /// By set and colour; a colour without capacity is not for items of that set.
    capacity: &'a [f64],
    load: Vec<f64>,
    colour: Vec<u32>,
    start: Vec<u32>,
    members: Vec<u32>,
    journal: Vec<(u32, u32)>,
    fuel: u64,
}

const NONE: u32 = u32::MAX;

/// Colours items; none for those that no colour is for.
pub(crate) fn colour(items: &[Item], colours: usize, capacity: &[f64]) -> Vec<Option<u32>> {
    let sets = capacity.len().checked_div(colours).unwrap_or(0);
    let mut colouring = Colouring::new(items, colours, capacity, sets);
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    let demand = |item: &u32| items[*item as usize].demand;
    order.sort_by(|a, b| demand(b).total_cmp(&demand(a)).then(a.cmp(b)));
    if colouring.is_even() {
        colouring.halve(order, 0, colours as u32);
        // Those whose colour is not for them.
        let left = (0..items.len() as u32).filter(|item| colouring.colour[*item as usize] == NONE);
        let left = left.collect();
        colouring.greedy(left, 0, colours as u32);
    } else {
        colouring.greedy(order, 0, colours as u32);
    }
    colouring.improve();
    colouring.colour.into_iter().map(|colour| (colour != NONE).then_some(colour)).collect()
}

impl<'a> Colouring<'a> {
    fn new(items: &'a [Item], colours: usize, capacity: &'a [f64], sets: usize) -> Self {
        let mut start = vec![0u32; sets + 1];
        let in_sets = |item: &Item| item.sets.into_iter().filter(|set| *set != NO_SET);
        for set in items.iter().flat_map(in_sets) {
            start[set as usize + 1] += 1;
        }
        for index in 0..sets {
            start[index + 1] += start[index];
        }
        let mut at = start.clone();
        let mut members = vec![0; start[sets] as usize];
        for (number, item) in items.iter().enumerate() {
            for set in in_sets(item) {
                members[at[set as usize] as usize] = number as u32;
                at[set as usize] += 1;
            }
        }
        let colour = vec![NONE; items.len()];
        let fuel = 2_000_000 + 200 * items.len() as u64;
        Self {
            items,
            colours,
            capacity,
            load: vec![0.0; capacity.len()],
            colour,
            start,
            members,
            journal: Vec::new(),
            fuel,
        }
    }

    fn cell(&self, set: u32, colour: u32) -> usize {
        set as usize * self.colours + colour as usize
    }

    fn cells(&self, item: u32, colour: u32) -> impl Iterator<Item = usize> + use<> {
        let colours = self.colours;
        let sets = self.items[item as usize].sets.into_iter().filter(|set| *set != NO_SET);
        sets.map(move |set| set as usize * colours + colour as usize)
    }

    fn may(&self, item: u32, colour: u32) -> bool {
        self.cells(item, colour).all(|cell| self.capacity[cell] > 0.0)
    }

    fn paint(&mut self, item: u32, colour: u32) {
        let (old, demand) = (self.colour[item as usize], self.items[item as usize].demand);
        self.journal.push((item, old));
        self.repaint(item, old, colour, demand);
    }

    fn repaint(&mut self, item: u32, old: u32, new: u32, demand: f64) {
        for (colour, change) in [(old, -demand), (new, demand)] {
            if colour != NONE {
                for cell in self.cells(item, colour) {
                    self.load[cell] += change;
                }
            }
        }
        self.colour[item as usize] = new;
    }

    fn roll_back(&mut self, mark: usize) {
        while self.journal.len() > mark {
            if let Some((item, old)) = self.journal.pop() {
                let (now, demand) = (self.colour[item as usize], self.items[item as usize].demand);
                self.repaint(item, now, old, demand);
            }
        }
    }

    /// Whether nearly all colours are alike to all sets.
    fn is_even(&self) -> bool {
        let odd = self.capacity.chunks(self.colours).map(|set| {
            let most = set.iter().copied().fold(0.0, f64::max);
            set.iter().filter(|capacity| **capacity < most).count()
        });
        odd.sum::<usize>() * 10 <= self.capacity.len()
    }

    /// Halves items and colours until colours are few or odd in number. On each side items are paired, within their inner
    /// set if possible, else within their outer one. Both pairings together are rings and rows; taking turns along them
    /// parts every pair, so every set is halved but for one item.
    fn halve(&mut self, items: Vec<u32>, from: u32, colours: u32) {
        if colours < 2 || colours % 2 == 1 || items.is_empty() {
            self.greedy(items, from, colours);
            return;
        }
        let mates = [self.pairs(&items, 0), self.pairs(&items, 2)];
        let mut side = vec![NONE; items.len()];
        for start in 0..items.len() {
            if side[start] != NONE {
                continue;
            }
            side[start] = 0;
            // A ring closes evenly, since its links are of either pairing by turns; a row goes on in both directions.
            for first in 0..2 {
                let (mut at, mut by) = (start, first);
                while let Some(mate) = Some(mates[by][at]).filter(|mate| *mate != NONE) {
                    let mate = mate as usize;
                    if side[mate] != NONE {
                        break;
                    }
                    side[mate] = 1 - side[at];
                    (at, by) = (mate, 1 - by);
                }
            }
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (item, side) in items.iter().zip(&side) {
            if *side == 0 { a.push(*item) } else { b.push(*item) }
        }
        self.halve(a, from, colours / 2);
        self.halve(b, from + colours / 2, colours / 2);
    }

    /// Pairs items that share a set on one side; indices into the list.
    fn pairs(&self, items: &[u32], side: usize) -> Vec<u32> {
        let mut mates = vec![NONE; items.len()];
        let sets = self.start.len();
        let mut waiting = vec![NONE; sets];
        for level in 0..3 {
            waiting.fill(NONE);
            let mut any = NONE;
            for index in 0..items.len() as u32 {
                if mates[index as usize] != NONE {
                    continue;
                }
                let slot = match level {
                    2 => &mut any,
                    _ => match self.items[items[index as usize] as usize].sets[side + level] {
                        NO_SET => continue,
                        set => &mut waiting[set as usize],
                    },
                };
                match *slot {
                    NONE => *slot = index,
                    mate => {
                        (mates[index as usize], mates[mate as usize]) = (mate, index);
                        *slot = NONE;
                    }
                }
            }
        }
        mates
    }

    /// Each item in turn to where its fullest set is emptiest, of some colours.
    fn greedy(&mut self, order: Vec<u32>, from: u32, colours: u32) {
        for item in order {
            let demand = self.items[item as usize].demand;
            let mut best = (f64::INFINITY, f64::INFINITY, NONE);
            for colour in (from..from + colours).filter(|colour| self.may(item, *colour)) {
                let (mut max, mut sum) = (0.0f64, 0.0);
                for cell in self.cells(item, colour) {
                    let used = (self.load[cell] + demand) / self.capacity[cell];
                    max = max.max(used);
                    sum += used;
                }
                if (max, sum) < (best.0, best.1) {
                    best = (max, sum, colour);
                }
            }
            if best.2 != NONE {
                self.paint(item, best.2);
            }
        }
    }

    fn fullest(&self) -> f64 {
        let used = self.load.iter().zip(self.capacity).filter(|(_, capacity)| **capacity > 0.0);
        used.map(|(load, capacity)| load / capacity).fold(0.0, f64::max)
    }

    /// No colouring can be below.
    fn floor(&self) -> f64 {
        let sets = self.load.chunks(self.colours).zip(self.capacity.chunks(self.colours));
        let used = sets.map(|(load, capacity)| load.iter().sum::<f64>() / capacity.iter().sum::<f64>());
        used.filter(|used| used.is_finite()).fold(0.0, f64::max)
    }

    /// How full some set is with its largest item alone.
    fn largest(&self) -> f64 {
        let widest = |set: &[f64]| set.iter().copied().fold(0.0, f64::max);
        let widest: Vec<f64> = self.capacity.chunks(self.colours).map(widest).collect();
        let alone = self.items.iter().zip(&self.colour).filter(|(_, colour)| **colour != NONE).flat_map(
            |(item, _)| {
                let sets = item.sets.into_iter().filter(|set| *set != NO_SET);
                sets.map(|set| item.demand / widest[set as usize])
            },
        );
        alone.fold(0.0, f64::max)
    }

    fn improve(&mut self) {
        let (mut low, mut high) = (self.floor(), self.fullest());
        if high <= self.largest() * (1.0 + ROUNDING) {
            return;
        }
        let mut limit = low;
        for _ in 0..ROUNDS {
            if high <= low * (1.0 + 1e-3) {
                return;
            }
            let mark = self.journal.len();
            if self.repair(limit) {
                high = self.fullest();
            } else {
                self.roll_back(mark);
                low = limit;
            }
            limit = (low + high) / 2.0;
        }
    }

    fn room(&self, cell: usize, limit: f64) -> f64 {
        limit * self.capacity[cell] * (1.0 + ROUNDING) - self.load[cell]
    }

    fn repair(&mut self, limit: f64) -> bool {
        let mut before = f64::INFINITY;
        loop {
            let over: Vec<usize> =
                (0..self.load.len()).filter(|cell| self.room(*cell, limit) < 0.0).collect();
            let excess: f64 = over.iter().map(|cell| -self.room(*cell, limit)).sum();
            if over.is_empty() || excess > before * (1.0 - ROUNDING) {
                return over.is_empty();
            }
            before = excess;
            for cell in over {
                while self.room(cell, limit) < 0.0 {
                    if self.fuel == 0 || !self.relieve(cell, limit) {
                        return false;
                    }
                }
            }
        }
    }

    /// The items of a set that have a colour.
    fn having(&mut self, set: u32, colour: u32) -> Vec<u32> {
        let range = self.start[set as usize] as usize..self.start[set as usize + 1] as usize;
        self.fuel = self.fuel.saturating_sub(range.len() as u64);
        self.members[range].iter().copied().filter(|item| self.colour[*item as usize] == colour).collect()
    }

    /// Has one item of a set give up a colour.
    fn relieve(&mut self, cell: usize, limit: f64) -> bool {
        let (set, from) = ((cell / self.colours) as u32, (cell % self.colours) as u32);
        let mut others: Vec<u32> = (0..self.colours as u32).filter(|colour| *colour != from).collect();
        let room = |colouring: &Self, colour: u32| {
            let cell = colouring.cell(set, colour);
            colouring.room(cell, limit) / colouring.capacity[cell].max(f64::MIN_POSITIVE)
        };
        others.retain(|colour| self.capacity[self.cell(set, *colour)] > 0.0);
        others.sort_by(|a, b| room(self, *b).total_cmp(&room(self, *a)).then(a.cmp(b)));
        for to in others.into_iter().take(16) {
            let items = self.having(set, from);
            for item in items.into_iter().take(16) {
                let demand = self.items[item as usize].demand;
                if !self.may(item, to) || self.room(self.cell(set, to), limit) < demand {
                    continue;
                }
                let mark = self.journal.len();
                if self.chain(item, from, to, limit, cell) {
                    return true;
                }
                self.roll_back(mark);
            }
        }
        false
    }

    /// Exchanges two colours from an item on, until all fits. Sets that had too much of the one may have too much of the
    /// other instead.
    fn chain(&mut self, item: u32, s: u32, t: u32, limit: f64, relieved: usize) -> bool {
        let mut moved = std::collections::HashSet::new();
        let mut caps: std::collections::HashMap<usize, f64> = std::collections::HashMap::new();
        let used = self.load[relieved] / self.capacity[relieved];
        let lost = self.items[item as usize].demand / self.capacity[relieved];
        caps.insert(relieved, limit.max(used - lost));
        let mut pending: Vec<usize> = Vec::new();
        let mut next = Some(item);
        for _ in 0..600 {
            if let Some(item) = next.take() {
                let from = self.colour[item as usize];
                let to = if from == s { t } else { s };
                for (old, new) in self.cells(item, from).zip(self.cells(item, to)) {
                    let full = |cell: usize| self.load[cell] / self.capacity[cell];
                    let cap = limit.max(full(new)).max(full(old));
                    caps.entry(new).or_insert(cap);
                }
                self.paint(item, to);
                moved.insert(item);
                // Outer sets last in, first out: an item that helps them can help the inner ones, too.
                pending.extend(self.cells(item, to));
            }
            let Some(cell) = pending.last().copied() else { return true };
            let cap = caps.get(&cell).copied().unwrap_or(limit);
            if self.room(cell, cap) >= 0.0 {
                pending.pop();
                continue;
            }
            if self.fuel == 0 {
                return false;
            }
            next = self.ejected(cell, (s, t), limit, &caps, &moved);
            if next.is_none() {
                return false;
            }
        }
        false
    }

    /// The item that takes the other colour in a set with too much of one: without harm to its own side if possible.
    fn ejected(
        &mut self,
        cell: usize,
        (s, t): (u32, u32),
        limit: f64,
        caps: &std::collections::HashMap<usize, f64>,
        moved: &std::collections::HashSet<u32>,
    ) -> Option<u32> {
        let (set, from) = ((cell / self.colours) as u32, (cell % self.colours) as u32);
        let to = if from == s { t } else { s };
        let items = self.having(set, from);
        let mut best: Option<((f64, f64), u32)> = None;
        for item in items {
            if moved.contains(&item) || !self.may(item, to) {
                continue;
            }
            let demand = self.items[item as usize].demand;
            let sets = self.items[item as usize].sets;
            let left = sets[..2].contains(&set);
            let mut over = (0.0, 0.0);
            for (index, other) in sets.into_iter().enumerate().filter(|(_, set)| *set != NO_SET) {
                let cell = self.cell(other, to);
                let cap =
                    caps.get(&cell).copied().unwrap_or(limit.max(self.load[cell] / self.capacity[cell]));
                let excess = (demand - self.room(cell, cap)).max(0.0) / self.capacity[cell];
                if (index < 2) == left {
                    over.0 += excess;
                } else {
                    over.1 += excess;
                }
            }
            self.fuel = self.fuel.saturating_sub(4);
            if best.as_ref().is_none_or(|(least, _)| over < *least) {
                best = Some((over, item));
                if over == (0.0, 0.0) {
                    break;
                }
            }
        }
        best.map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A permutation of ports between nested sets, at capacity: only even spreading fits.
    #[test]
    fn nested_sets_are_spread_evenly() {
        let (pods, leaves, colours) = (4u32, 3u32, 3u32);
        let ports = pods * leaves * colours;
        for stride in [1u32, 5, 7, 11, 13, 17, 19, 23, 25, 29] {
            let sets = |port: u32| {
                let leaf = port / colours;
                [leaf, pods * leaves + leaf / leaves]
            };
            let side = pods * leaves + pods;
            let items: Vec<Item> = (0..ports)
                .map(|port| {
                    let (a, b) = (sets(port), sets(port * stride % ports));
                    Item { sets: [a[0], a[1], side + b[0], side + b[1]], demand: 1.0 }
                })
                .collect();
            let mut capacity = Vec::new();
            for _ in 0..2 {
                capacity.extend(vec![1.0; (pods * leaves * colours) as usize]);
                capacity.extend(vec![f64::from(leaves); (pods * colours) as usize]);
            }
            let answer = colour(&items, colours as usize, &capacity);
            let mut load = vec![0.0; capacity.len()];
            for (item, colour) in items.iter().zip(answer) {
                for set in item.sets {
                    load[(set * colours + colour.expect("coloured")) as usize] += 1.0;
                }
            }
            let full = load.iter().zip(&capacity).all(|(load, capacity)| load <= capacity);
            assert!(full, "stride {stride}: {load:?}");
        }
    }
}
