//! The job as a whole, as far as a single communicator has to know of it.
//!
//! It is looked at once a second at most, and who does the same work ([`roles`]) only when somebody has joined or
//! a communicator's rhythm became known: both cost as much as the job has ranks.

use std::collections::{BTreeMap, HashMap};

use crate::{
    model::{Comm, Comms, Job},
    nodes::Nodes,
    observation::{NicClass, Timestamp},
    roles,
    slow::Counts,
};

/// Least time between two looks.
const SURVEY_US: u64 = 1_000_000;
/// Iterations of the job before ranks are compared: the first ones take several times as long, unevenly.
const SETTLED: u64 = 5;
/// The same as time, where the largest communicator shows no iterations, nothing is under way in it, and those that do show
/// some do not join its members…
const SETTLED_US: u64 = 60_000_000;
/// … or whatever is: the first iterations of a large job take minutes.
const SETTLED_AT_LAST_US: u64 = 600_000_000;

/// Up to so many members there are few to compare with each other: what they differ by may be any one's doing. Then it takes so many
/// communicators, of which one may hold a slow rank, to know how long others work; those count in which that is less than so many times as
/// long or as short, since communicators without names are not known to be of one kind.
const FEW: u32 = 3;
const ENOUGH_ALIKE: usize = 4;
const NEAR: f32 = 4.0 / 3.0;

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) at: Timestamp,
    /// Somebody has joined a communicator since.
    pub(crate) changed: bool,
    /// Communicators whose rhythm was known.
    pub(crate) known: usize,
    /// The longest pattern of any communicator, 0 while none is known.
    pub(crate) iteration_us: u64,
    /// When it was first looked at.
    pub(crate) began: Option<Timestamp>,
    /// Whether the job is past its first iterations.
    pub(crate) settled: bool,
    /// How often ranks were late in communicators of each kind.
    pub(crate) totals: HashMap<u64, Counts>,
    /// Which state of the nodes' NIC classes was looked at.
    classes: u64,
}

impl Survey {
    /// Counts of all communicators of a kind but one, which had this part in them.
    pub(crate) fn elsewhere(&self, kind: u64, own: &Counts) -> Counts {
        let mut counts = self.totals.get(&kind).copied().unwrap_or_default();
        for (total, own) in counts.iter_mut().zip(own) {
            *total = ((total.0 - own.0).max(0.0), (total.1 - own.1).max(0.0));
        }
        counts
    }
}

/// Looks at the job as a whole.
pub(crate) fn look(job: &mut Job, nodes: &Nodes, now: Timestamp) {
    if now.micros_since(job.survey.at) < SURVEY_US {
        return;
    }
    job.survey.at = now;
    let known = job.comms.values().filter(|comm| comm.rhythm.known()).count();
    let (changed, classes) = (job.survey.changed, nodes.classes());
    if changed || classes != job.survey.classes {
        job.survey.classes = classes;
        compare_classes(job, nodes);
    }
    if changed || known != job.survey.known {
        (job.survey.changed, job.survey.known) = (false, known);
        let apart = roles::apart(&job.comms, &job.processes);
        for (id, comm) in job.comms.iter_mut() {
            comm.judged = !apart.contains(id);
        }
        let joining = job.comms.values().filter(|comm| comm.judged && comm.members.len() > 1);
        job.stages.set(roles::of(joining, &job.processes));
    }
    if let Some(first) = job.by_rank.get(&0).and_then(|id| job.processes.get(id)) {
        for (id, comm_rank) in first.memberships.iter() {
            if let Some(comm) = job.comms.get_mut(id) {
                comm.first = Some(*comm_rank);
            }
        }
    }
    count(job, now);
    compare_work(job);
    job.pace.explain(&job.comms, now);
}

/// Adds up what communicators have seen.
fn count(job: &mut Job, now: Timestamp) {
    let survey = &mut job.survey;
    survey.totals.clear();
    survey.iteration_us = 0;
    for comm in job.comms.values_mut() {
        let iteration_us = comm.rhythm.shape().map_or(0, |shape| shape.duration_us);
        survey.iteration_us = survey.iteration_us.max(iteration_us);
        comm.counted = if comm.judged { comm.slowness.counts() } else { Counts::default() };
        add(survey.totals.entry(comm.kind).or_default(), &comm.counted);
    }
    for comm in job.comms.values_mut() {
        comm.elsewhere = survey.elsewhere(comm.kind, &comm.counted);
    }
    // The largest communicators have the whole iteration for their pattern, or one of them has. In the first iteration nothing
    // has come to an end there, while the groups of a layer have had many turns of their pattern.
    let used = || job.comms.values().filter(|comm| comm.enqueued_max > 0);
    let size = used().map(|comm| comm.size).max();
    let mut largest = used().filter(|comm| Some(comm.size) == size);
    let began = *survey.began.get_or_insert(now);
    let elapsed_us = now.micros_since(began);
    survey.settled = elapsed_us >= SETTLED_AT_LAST_US
        || (size.is_some()
            && largest.all(|comm| {
                let enough = || elapsed_us >= SETTLED_US || is_joined_by_others(comm, &job.comms);
                iterates(comm) || (is_idle(comm) && enough())
            }));
    let whole = |comm: &&Comm| {
        comm.rhythm
            .shape()
            .is_some_and(|shape| shape.duration_us.saturating_mul(3) >= survey.iteration_us * 2)
    };
    let kept = job.pace.clock().and_then(|id| job.comms.get(&id)).is_some_and(|comm| whole(&comm));
    if !kept {
        let clock = job.comms.values().filter(whole).max_by_key(|comm| (comm.size, comm.completed_max));
        job.pace.set_clock(clock.map(|comm| comm.id));
    }
}

/// Whether enough iterations were seen of it.
fn iterates(comm: &Comm) -> bool {
    comm.rhythm.iterations() >= SETTLED
}

/// Whether nothing is under way in it.
fn is_idle(comm: &Comm) -> bool {
    comm.completed_max == comm.enqueued_max
}

/// Whether all members of a communicator iterate together in others, so that it is not one that they use at the end of an
/// iteration only: many programs use the one of all ranks to begin with, and then never again.
fn is_joined_by_others(comm: &Comm, comms: &Comms) -> bool {
    let busy = || comms.values().filter(|other| other.size > 1 && !is_idle(other));
    let iterating = || comms.values().filter(|other| other.id != comm.id && iterates(other));
    busy().all(iterates) && roles::joins(iterating(), comm.members.values().map(|member| member.process))
}

/// Notes for each small communicator how long ranks work that do the same as its members.
fn compare_work(job: &mut Job) {
    for role in &job.stages.roles {
        let small = || role.comms.iter().filter_map(|id| job.comms.get(id)).filter(|comm| comm.size <= FEW);
        let mut kinds: HashMap<u64, [Vec<f32>; 2]> = HashMap::new();
        for (kind, worked) in small().filter_map(|comm| Some((comm.kind, comm.slowness.worked()?))) {
            let known = kinds.entry(kind).or_default();
            known.iter_mut().zip(worked).for_each(|(known, worked)| known.push(worked));
        }
        kinds.values_mut().flatten().for_each(|known| known.sort_unstable_by(f32::total_cmp));
        for id in &role.comms {
            let Some(comm) = job.comms.get_mut(id) else { continue };
            let known = kinds.get(&comm.kind).zip(comm.slowness.worked());
            comm.work_elsewhere = known.and_then(|(known, worked)| {
                Some([usual_near(&known[0], worked[0])?, usual_near(&known[1], worked[1])?])
            });
        }
    }
}

/// The median of those among sorted values that are near one of them, if there are enough.
fn usual_near(sorted: &[f32], one: f32) -> Option<f32> {
    let low = sorted.partition_point(|value| value * NEAR < one);
    let high = sorted.partition_point(|value| *value <= one * NEAR);
    let near = sorted.get(low..high)?;
    (near.len() >= ENOUGH_ALIKE).then(|| near[near.len() / 2])
}

/// Notes which members have NICs of another class than others.
fn compare_classes(job: &mut Job, nodes: &Nodes) {
    let mut numbers: BTreeMap<Option<&NicClass>, u16> = BTreeMap::new();
    for process in job.processes.values() {
        let next = u16::try_from(numbers.len()).unwrap_or(u16::MAX);
        numbers.entry(nodes.nic_class(&process.info.node)).or_insert(next);
    }
    let (processes, several) = (&job.processes, numbers.len() > 1);
    for comm in job.comms.values_mut() {
        comm.classes = BTreeMap::new();
        if several {
            let class = |process| Some(numbers[&nodes.nic_class(&processes.get(&process)?.info.node)]);
            let members = comm.members.iter();
            comm.classes =
                members.filter_map(|(rank, member)| Some((rank, class(member.process)?))).collect();
        }
    }
}

fn add(total: &mut Counts, more: &Counts) {
    for (total, more) in total.iter_mut().zip(more) {
        *total = (total.0 + more.0, total.1 + more.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_compared_with_what_is_near_it() {
        let sorted = [0.1, 0.1, 9.0, 9.5, 10.0, 10.5, 11.0, 40.0];
        assert_eq!(usual_near(&sorted, 10.5), Some(10.0));
        assert_eq!(usual_near(&sorted, 9.0), Some(10.0));
        assert_eq!(usual_near(&sorted, 0.1), None, "others do something else");
        assert_eq!(usual_near(&sorted, 40.0), None, "nobody works for nearly as long");
        assert_eq!(usual_near(&[0.0; 4], 0.0), Some(0.0));
    }
}
