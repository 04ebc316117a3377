//! 500 nodes, and everything that should not make C4 do harm. Figures are printed: `cargo test -p c4-controller storm --
//! --nocapture`.

use super::*;

const NODES: usize = 500;
/// Nodes of one job.
const OF_A_JOB: usize = 8;
/// Jobs.
const JOBS: u32 = (NODES / OF_A_JOB) as u32;
/// Length of a storm.
const SECONDS: u64 = 3600;

/// How orders are answered.
#[derive(Clone, Copy, PartialEq)]
enum Actuators {
    Work,
    TimeOut,
    /// After the order's own time is over.
    Late,
    Lie,
}

/// A cluster of 62 jobs, each with a spare.
struct Cluster {
    steer: Steer,
    incarnations: BTreeMap<JobId, u32>,
    lost: u32,
    actuators: Actuators,
    late: Vec<(Timestamp, Order)>,
    ordered: BTreeMap<Step, u32>,
    isolated: BTreeSet<NodeName>,
    restarts: BTreeMap<JobId, u32>,
}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name().cmp(other.name())
    }
}

fn node(index: usize) -> NodeName {
    NodeName(format!("n{index:03}"))
}

fn job_of(index: usize) -> JobId {
    JobId(format!("job-{:02}", index / OF_A_JOB))
}

impl World for Cluster {
    fn job(&self, job: &JobId) -> Option<JobFacts> {
        let number: usize = job.0.strip_prefix("job-")?.parse().ok()?;
        let place = |index: usize| Place {
            node: node(number * OF_A_JOB + index),
            first_rank: (index * 8) as u32,
            ranks: 8,
        };
        let layout = placement::Layout {
            places: (0..OF_A_JOB).map(place).collect(),
            spares: vec![NodeName(format!("spare-{number}"))],
            least_ranks: 0,
        };
        let incarnation = self.incarnations.get(job).copied().unwrap_or(0);
        Some(JobFacts { incarnation, means: Ok(Means::Agents(layout)), ..facts(0, &[]) })
    }
    fn cluster(&self) -> ClusterFacts {
        ClusterFacts { jobs: JOBS, nodes: NODES as u32, lost: self.lost, ..ClusterFacts::default() }
    }
}

impl Cluster {
    fn new(actuators: Actuators) -> Self {
        let config = Config { mode: Mode::Auto, ..Config::default() };
        Self {
            steer: Steer::new(config, at(0)),
            incarnations: BTreeMap::new(),
            lost: 0,
            actuators,
            late: Vec::new(),
            ordered: BTreeMap::new(),
            isolated: BTreeSet::new(),
            restarts: BTreeMap::new(),
        }
    }

    fn fault(&self, index: usize, id: &str, since: Timestamp, hardware: bool) -> Finding {
        let job = job_of(index);
        let incarnation = self.incarnations.get(&job).copied().unwrap_or(0);
        let mut finding = blaming(&format!("{id}-{index}-{incarnation}"), incarnation, &node(index).0);
        (finding.job, finding.since, finding.detected) = (job, since, since);
        finding.suspects[0].rank = Some(index as u32);
        if hardware {
            let cause = serde_json::json!({"origin": "hardware", "severity": "fatal"});
            finding.evidence.insert("cause".into(), cause);
        }
        finding
    }

    /// A second of the cluster's life with these findings open.
    fn second(&mut self, findings: &[Finding], now: Timestamp) {
        let mut steer = std::mem::replace(&mut self.steer, Steer::new(Config::default(), now));
        let mut queue = VecDeque::from(steer.review(findings, self, now));
        queue.extend(steer.tick(now));
        let (due, late) = std::mem::take(&mut self.late).into_iter().partition(|(when, _)| *when <= now);
        self.late = late;
        let due: Vec<(Timestamp, Order)> = due;
        for (_, order) in due {
            queue.extend(self.answer(&mut steer, &order, true, now));
        }
        while let Some(output) = queue.pop_front() {
            match output {
                Output::Persist { token, .. } => queue.extend(steer.persisted(token, Ok(()), now)),
                Output::Order(order) => {
                    *self.ordered.entry(order.step).or_default() += 1;
                    match self.actuators {
                        Actuators::Work => queue.extend(self.answer(&mut steer, &order, true, now)),
                        Actuators::Lie => queue.extend(self.answer(&mut steer, &order, false, now)),
                        Actuators::Late => self.late.push((now.after(order.timeout_us + 500_000), *order)),
                        Actuators::TimeOut => {}
                    }
                }
                _ => {}
            }
        }
        self.steer = steer;
        self.check(now);
    }

    fn answer(&mut self, steer: &mut Steer, order: &Order, true_answer: bool, now: Timestamp) -> Vec<Output> {
        if let (true, Step::Start, Some((job, incarnation, _))) = (true_answer, order.step, order.restart()) {
            let known = self.incarnations.entry(job.clone()).or_default();
            if *known == incarnation {
                *known += 1;
                *self.restarts.entry(job.clone()).or_default() += 1;
            }
        }
        let facts = order.restart().and_then(|(job, ..)| self.job(job));
        steer.answered(order, Ok(String::new()), facts.as_ref(), now)
    }

    /// What must hold at every moment.
    fn check(&mut self, now: Timestamp) {
        self.isolated.extend(self.steer.isolated_nodes().cloned());
        let budget = rails::node_budget(&self.steer.config, NODES as u32) as usize;
        assert!(self.steer.taken(now).len() <= budget, "more nodes are out than the rails allow");
        let recent = self.steer.restarted(now);
        assert!(recent.len() <= self.steer.config.restarts_per_hour as usize, "{recent:?}");
        let jobs: BTreeSet<&JobId> = recent.into_iter().collect();
        assert!(jobs.len() <= rails::job_budget(&self.steer.config, JOBS) as usize, "{jobs:?}");
        let worst = self.restarts.values().max().copied().unwrap_or(0);
        assert!(worst <= self.steer.config.max_restarts, "a job was restarted {worst} times");
    }

    fn print(&self, storm: &str) {
        let restarts: u32 = self.restarts.values().sum();
        let worst = self.restarts.values().max().copied().unwrap_or(0);
        let orders: u32 = self.ordered.values().sum();
        println!(
            "{storm}: {} of {NODES} nodes isolated, {restarts} restarts of {} jobs (one job at most {worst}), {orders} orders",
            self.isolated.len(),
            self.restarts.len(),
        );
    }
}

/// Runs a storm: which findings are open in each second, and how many agents are out of sight.
fn storm(
    name: &str,
    actuators: Actuators,
    weather: impl Fn(&Cluster, u64) -> (Vec<Finding>, u32),
) -> Cluster {
    let mut cluster = Cluster::new(actuators);
    for second in 0..SECONDS {
        let (findings, lost) = weather(&cluster, second);
        cluster.lost = lost;
        cluster.second(&findings, at(second));
    }
    cluster.print(name);
    cluster
}

#[test]
fn a_switch_dies_and_nobody_is_isolated() {
    let after = storm("a switch dies", Actuators::Work, |cluster, second| {
        let faults = (100..132).map(|index| cluster.fault(index, "f", at(60), false));
        if second < 60 { (Vec::new(), 0) } else { (faults.collect(), 32) }
    });
    assert!(after.isolated.is_empty());
    // While 32 agents are out of sight, restarts help nobody.
    assert!(after.restarts.is_empty());
}

#[test]
fn the_controllers_own_network_breaks_and_nothing_is_done() {
    let after = storm("the controller's network breaks", Actuators::Work, |cluster, second| {
        let faults = [5, 105, 205].map(|index| cluster.fault(index, "f", at(60), true));
        if second < 60 { (Vec::new(), 0) } else { (faults.to_vec(), 400) }
    });
    assert!(after.ordered.is_empty());
}

#[test]
fn an_agent_that_lies_costs_no_more_than_the_rails_allow() {
    // It blames another node in every job, every minute, and says that the hardware says so.
    let after = storm("an agent lies", Actuators::Work, |cluster, second| {
        let minute = second / 60;
        let index = (minute as usize * 37) % (NODES - OF_A_JOB);
        (vec![cluster.fault(index, &format!("m{minute}"), at(minute * 60), true)], 0)
    });
    assert!(after.isolated.len() <= 2, "{:?}", after.isolated);
    // Each of the 62 jobs was accused; as many were restarted as the rails allow.
    assert_eq!(after.restarts.len(), rails::job_budget(&after.steer.config, JOBS) as usize);
}

#[test]
fn a_fault_that_flaps_every_30_s_is_answered_a_few_times() {
    let after = storm("a fault flaps every 30 s", Actuators::Work, |cluster, second| {
        let on = second % 60 < 30;
        let fault = cluster.fault(42, &format!("m{}", second / 60), at(second / 60 * 60), false);
        (on.then_some(fault).into_iter().collect(), 0)
    });
    assert_eq!(after.restarts.values().sum::<u32>(), 3, "the limit of one job");
    assert!(after.isolated.len() <= 1);
}

#[test]
fn two_jobs_that_blame_one_node_isolate_one_node() {
    let after = storm("two jobs blame one node", Actuators::Work, |cluster, second| {
        let mut other = cluster.fault(17, "b", at(100), true);
        other.suspects[0].node = Some(node(8));
        let faults = vec![cluster.fault(8, "a", at(100), true), other];
        if (100..400).contains(&second) { (faults, 0) } else { (Vec::new(), 0) }
    });
    assert_eq!(after.isolated, BTreeSet::from([node(8)]));
    assert!(after.restarts.values().all(|restarts| *restarts <= 3));
}

#[test]
fn actuators_that_time_out_answer_late_or_lie_are_given_up() {
    for (name, actuators) in [
        ("the actuator times out", Actuators::TimeOut),
        ("the actuator answers late", Actuators::Late),
        ("the actuator says done and does nothing", Actuators::Lie),
    ] {
        let after = storm(name, actuators, |cluster, second| {
            (if second < 100 { Vec::new() } else { vec![cluster.fault(8, "f", at(100), false)] }, 0)
        });
        let orders: u32 = after.ordered.values().sum();
        assert!(orders <= 4, "{name}: {:?}", after.ordered);
        assert!(after.restarts.is_empty() || actuators == Actuators::Late, "{name}: {:?}", after.restarts);
        assert_eq!(after.steer.view().actions.len(), 1);
        assert!(matches!(after.steer.view().actions[0].state, State::Failed { .. }), "{name}");
    }
}
