//! How much time a rank spends by itself, compared with before it came late.
//!
//! Where ranks compute beside collectives and receives, whoever waits in one computes on, and that time is hidden in it. So a rank
//! that a slow link or a slow stage holds up has more time outside of communication than its peers, though it works no longer:
//! theirs is hidden, its own is not. But it has little more than it had before: what the job takes longer, it spends in
//! communication. A rank that is late by its own doing has, by about as much as it is late and as the job takes longer.
//! Where ranks wait for each other in sends and receives, as the stages of a pipeline do, collectives come after the waits, and who
//! is slow is hardly late to them. But of all ranks it alone works longer than before, by about as much as the job takes longer
//! ([`only_one`]).
//!
//! Of these two the one is taken that is nearer to what is seen (for equal errors on both sides, the likelier one). Differences
//! against its peers and against itself are both looked at, as in a comparison of differences before and after an event.

/// Samples that make known what is usual, and the part of a new one in it after that.
const KNOWN: usize = 6;
const FOLLOWS: f32 = 0.03;
/// By how much a sample counts at most, as a share of what is usual.
const MOST: f32 = 0.25;
/// Below which part of its lateness a rank works longer by so little that it is late for another reason.
const BY_ITSELF: f64 = 0.5;
/// Up to which part of what one works longer the others may, too, for it to be the only one.
const OTHERS: f64 = 0.25;

/// What is usual for each operation, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PerOperation {
    /// Time by itself, beside sends and without them.
    own: [f32; 2],
    /// All the time that passes.
    wall: f32,
}

/// The same, while it becomes known and follows.
#[derive(Clone, Debug)]
pub(super) enum OwnUsual {
    /// The first samples.
    Unknown(Vec<PerOperation>),
    Known(PerOperation),
}

impl Default for OwnUsual {
    fn default() -> Self {
        Self::Unknown(Vec::new())
    }
}

impl OwnUsual {
    /// Takes in a sample in which the rank was not late.
    pub(super) fn push(&mut self, own_ns: [u64; 2], wall_ns: u64, operations: u64) {
        if operations == 0 {
            return;
        }
        let per_operation = |ns: u64| ns as f32 / operations as f32;
        let now = PerOperation { own: own_ns.map(per_operation), wall: per_operation(wall_ns) };
        match self {
            Self::Unknown(first) => {
                first.push(now);
                if first.len() >= KNOWN {
                    *self = Self::Known(medians(first));
                }
            }
            Self::Known(usual) => {
                let PerOperation { own: [own, silent], wall } = usual;
                for (usual, now) in [(own, now.own[0]), (silent, now.own[1]), (wall, now.wall)] {
                    let most = *usual * MOST;
                    *usual += (now - *usual).clamp(-most, most) * FOLLOWS;
                }
            }
        }
    }

    /// It, once it is known.
    pub(super) fn get(&self) -> Option<PerOperation> {
        match self {
            Self::Unknown(_) => None,
            Self::Known(usual) => Some(*usual),
        }
    }
}

/// Of each time by itself: a job's first iterations may take many times as long.
fn medians(of: &[PerOperation]) -> PerOperation {
    let median = |time: fn(&PerOperation) -> f32| {
        let mut times: Vec<f32> = of.iter().map(time).collect();
        let middle = times.len() / 2;
        *times.select_nth_unstable_by(middle, f32::total_cmp).1
    };
    PerOperation { own: [median(|one| one.own[0]), median(|one| one.own[1])], wall: median(|one| one.wall) }
}

/// Whether a rank that was late by a part of the time worked longer than it did before, which is what makes it late by its own
/// doing; also if that is not known. `stretches_ns` are its longest stretches by itself and those of its peers, where they are told.
pub(super) fn is_longer(
    before: Option<PerOperation>,
    own_ns: [u64; 2],
    operations: u64,
    wall_ns: u64,
    late: f64,
    stretches_ns: Option<[u64; 2]>,
) -> bool {
    let Some(before) = before else { return true };
    let (longer, late_ns) = (more(wall_ns, before.wall, operations), late * wall_ns as f64);
    // Whatever makes it late makes the job take that much longer. If it does not, something else has changed meanwhile, and what
    // was usual before that is no measure.
    if !is_costly(before, operations, wall_ns, late) {
        return is_all_along(own_ns[0], late_ns, stretches_ns);
    }
    rise(before, own_ns, operations) >= BY_ITSELF * longer.max(late_ns)
}

/// Whether a rank that was late works longer also in its longest stretch by itself, by about the same part; also if that is not known.
/// Whose host is only a step behind the others' is behind at every operation, since it launches each a little later, and seems to work longer in
/// every gap between two, though nobody loses time by it. In a long one it does not: there it is the GPU that takes its time.
pub(super) fn is_all_along(own_ns: u64, late_ns: f64, stretches_ns: Option<[u64; 2]>) -> bool {
    stretches_ns.is_none_or(|[own, peers]| {
        let longer = own as f64 - peers as f64;
        longer * own_ns as f64 >= BY_ITSELF * late_ns * own as f64
    })
}

/// Whether the job takes longer than before by about the part of the time by which a rank is late.
pub(super) fn is_costly(before: PerOperation, operations: u64, wall_ns: u64, late: f64) -> bool {
    more(wall_ns, before.wall, operations) >= BY_ITSELF * late * wall_ns as f64
}

/// By how much longer a rank worked than it did before, in nanoseconds.
pub(super) fn rise(before: PerOperation, own_ns: [u64; 2], operations: u64) -> f64 {
    let [beside, without] = rises(before, own_ns, operations);
    beside.min(without)
}

/// The same beside sends, and without them.
fn rises(before: PerOperation, own_ns: [u64; 2], operations: u64) -> [f64; 2] {
    [0, 1].map(|which| more(own_ns[which], before.own[which], operations))
}

/// What changed for a rank against before, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// By how much longer it worked: by one measure of its time by itself at least, by the other at most.
    rise: f64,
    most: f64,
    /// By how much longer everything took.
    longer: f64,
}

impl Change {
    pub(super) fn of(before: PerOperation, own_ns: [u64; 2], operations: u64, wall_ns: u64) -> Self {
        let [beside, without] = rises(before, own_ns, operations);
        let longer = more(wall_ns, before.wall, operations);
        Self { rise: beside.min(without), most: beside.max(without), longer }
    }
}

/// Which one of several ranks works longer than before, if the others do not, and how much longer the job takes because of that, in
/// nanoseconds. Where all have more to do, those whose work is hidden in receives or sends seem to have less of that: so the others
/// must not work longer by either measure.
pub(super) fn only_one(changes: &[(u32, Change)]) -> Option<(u32, f64)> {
    let (rank, change) = changes.iter().max_by(|(_, a), (_, b)| a.rise.total_cmp(&b.rise))?;
    let others = changes.iter().filter(|(other, _)| other != rank);
    let most = others.map(|(_, other)| other.most).max_by(f64::total_cmp)?;
    let is_why = change.rise >= BY_ITSELF * change.longer && change.longer >= BY_ITSELF * change.rise;
    let alone = most <= OTHERS * change.rise;
    (is_why && alone && change.rise > 0.0).then(|| (*rank, change.rise.min(change.longer)))
}

fn more(ns: u64, usual: f32, operations: u64) -> f64 {
    ns as f64 - f64::from(usual) * operations as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_as_long_as_before_is_not_late_by_itself() {
        let mut usual = OwnUsual::default();
        (0..KNOWN - 1).for_each(|_| usual.push([4_000, 3_000], 5_000, 4));
        assert_eq!(usual.get(), None, "too little was seen");
        assert!(is_longer(usual.get(), [0, 0], 4, 5_000, 0.3, None));
        usual.push([4_000, 3_000], 5_000, 4);
        let usual = usual.get();
        // A third longer, and late by as much.
        assert!(is_longer(usual, [5_300, 4_300], 4, 6_300, 0.2, None));
        assert!(
            !is_longer(usual, [4_100, 3_100], 4, 6_300, 0.2, None),
            "the others wait, and hide what they do"
        );
        assert!(!is_longer(usual, [5_300, 3_000], 4, 6_300, 0.2, None), "it sends for longer");
        assert!(
            !is_longer(usual, [4_700, 3_700], 4, 9_000, 0.08, None),
            "most of what the job takes longer is not its own"
        );
        assert!(is_longer(usual, [3_000, 2_000], 4, 4_000, 0.3, None), "the job got faster, by other means");
    }

    #[test]
    fn whose_host_is_a_step_behind_works_no_longer_in_long_stretches() {
        assert!(is_all_along(2_000, 1_000.0, Some([200, 110])), "twice as long in all");
        assert!(!is_all_along(2_000, 1_000.0, Some([102, 100])), "between operations only");
        assert!(is_all_along(2_000, 1_000.0, Some([1_100, 100])), "it sleeps");
        assert!(is_all_along(2_000, 1_000.0, None));
        let usual = Some(PerOperation { own: [1_000.0; 2], wall: 3_000.0 });
        let faster = |stretches| is_longer(usual, [4_800; 2], 4, 10_000, 0.3, Some(stretches));
        assert!(faster([700, 350]) && !faster([700, 690]), "the job got faster");
    }

    #[test]
    fn one_that_works_longer_than_before_is_told_from_all_that_do() {
        let change = |rise: f64, longer: f64| Change { rise, most: rise, longer };
        let ranks = |changes: [Change; 3]| only_one(&[0, 1, 2].map(|rank| (rank as u32, changes[rank])));
        assert_eq!(ranks([change(1.0, 40.0), change(50.0, 41.0), change(-3.0, 40.0)]), Some((1, 41.0)));
        assert_eq!(
            ranks([change(30.0, 40.0), change(50.0, 40.0), change(0.0, 40.0)]),
            None,
            "so does another"
        );
        let beside_sends = Change { most: 20.0, ..change(0.0, 40.0) };
        assert_eq!(
            ranks([beside_sends, change(50.0, 40.0), change(0.0, 40.0)]),
            None,
            "so does another, perhaps"
        );
        assert_eq!(ranks([change(0.0, 40.0), change(9.0, 40.0), change(0.0, 40.0)]), None, "the network");
        assert_eq!(ranks([change(0.0, 2.0), change(50.0, 2.0), change(0.0, 2.0)]), None, "it costs nothing");
        assert_eq!(only_one(&[(0, change(9.0, 9.0))]), None, "nobody to compare with");
    }

    #[test]
    fn what_takes_long_once_does_not_become_usual() {
        for long in [0, 5, 60] {
            let mut usual = OwnUsual::default();
            (0..70).for_each(|n| usual.push(if n == long { [400_000; 2] } else { [4_000; 2] }, 5_000, 4));
            let PerOperation { own: [usual, _], .. } = usual.get().expect("known");
            assert!((usual - 1_000.0).abs() < 10.0, "{usual}");
        }
    }
}
