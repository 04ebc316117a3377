//! What C4's own parts suffer: one thing at a time, for some seconds.

use std::time::Duration;

use clap::ValueEnum;
use rand::{Rng, RngExt};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    nodes::{AGENTS, Nodes},
    pick,
    site::{CONTROLLERS, Site},
};
use crate::etcd::MEMBERS;

/// What is broken is mended after so many milliseconds; and in a hurry.
const HURT_MS: [std::ops::Range<u64>; 2] = [1_500..5_000, 500..2_500];
/// Longest time to make room in etcd.
const MENDED: Duration = Duration::from_secs(120);
/// How wrong clocks are set, in seconds both ways.
const CLOCK_SECONDS: std::ops::Range<i64> = -10 * 3600..10 * 3600;
/// Longest delay of a piece of data on a bad network. Deaths that are told of this much later than others are still put in
/// the right order: beyond some 150 ms they are not, since nobody knows how long the news was on its way.
const DELAY_MS: std::ops::Range<u64> = 20..100;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Wound {
    /// The leader is killed.
    LeaderKilled,
    /// The leader is stopped, perhaps for longer than its lease.
    LeaderStopped,
    /// A controller is killed.
    ControllerKilled,
    /// A controller is cut off from etcd.
    ControllerCut,
    /// What controllers and etcd say to each other takes a random time.
    EtcdDelayed,
    /// A member of etcd is killed.
    MemberKilled,
    /// A member of etcd stands still, as on a disk that stalls.
    MemberStalled,
    /// Two members of etcd are killed.
    QuorumLost,
    /// etcd's disk is full.
    EtcdFull,
    /// Half of the agents are cut off.
    AgentsCut,
    /// What agents and controllers say to each other takes a random time: streams overtake each other.
    AgentsDelayed,
    /// All connections of agents are broken in the midst of what they said.
    AgentsBroken,
    /// A controller's wall clock jumps by hours.
    ControllerClock,
    /// A real node's wall clock jumps by hours.
    NodeClock,
    /// A real agent is killed, and comes back.
    AgentKilled,
    /// A real agent is stopped.
    AgentStopped,
}

impl Wound {
    /// Whether the process of a controller ends of it.
    pub(super) fn ends_controllers(self) -> bool {
        matches!(self, Self::LeaderKilled | Self::ControllerKilled | Self::ControllerClock)
    }
}

/// A wound that is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    wound: Wound,
    whom: usize,
    until: Instant,
}

impl Open {
    /// Does it. Whoever leads suffers if it is meant for the leader.
    pub(super) async fn inflict(
        wound: Wound,
        site: &mut Site,
        nodes: &Nodes,
        hurry: bool,
        rng: &mut (impl Rng + Send),
    ) -> anyhow::Result<Self> {
        let leader = site.leads().await?;
        let (controller, member) = (rng.random_range(0..CONTROLLERS), rng.random_range(0..MEMBERS));
        let (half, agent) = (rng.random_range(0..site.to_controllers.len()), rng.random_range(0..AGENTS));
        let mut whom = match wound {
            Wound::LeaderKilled | Wound::LeaderStopped => leader,
            Wound::MemberKilled | Wound::MemberStalled | Wound::QuorumLost => member,
            Wound::AgentsCut => half,
            Wound::AgentKilled | Wound::AgentStopped => agent,
            _ => controller,
        };
        let delay = Duration::from_millis(rng.random_range(DELAY_MS));
        match wound {
            Wound::LeaderKilled | Wound::ControllerKilled => site.kill(whom),
            Wound::LeaderStopped => site.signal(whom, Signal::STOP),
            Wound::ControllerCut => site.to_etcd[whom].iter().for_each(|proxy| proxy.set(false)),
            Wound::EtcdDelayed => site.to_etcd.iter().flatten().for_each(|proxy| proxy.delay(delay)),
            Wound::MemberKilled => site.etcd.kill(whom),
            Wound::MemberStalled => site.etcd.stall(whom, true),
            Wound::QuorumLost => (1..MEMBERS).for_each(|other| site.etcd.kill((whom + other) % MEMBERS)),
            Wound::EtcdFull => site.etcd.fill()?,
            Wound::AgentsCut => site.to_controllers[whom].iter().for_each(|proxy| proxy.set(false)),
            Wound::AgentsDelayed => {
                site.to_controllers.iter().flatten().for_each(|proxy| proxy.delay(delay));
            }
            Wound::AgentsBroken => {
                site.to_controllers.iter().flatten().for_each(crate::proxy::Proxy::break_all);
            }
            Wound::ControllerClock => site.set_clock(whom, rng.random_range(CLOCK_SECONDS))?,
            Wound::NodeClock => nodes.set_clock(rng.random_range(CLOCK_SECONDS))?,
            Wound::AgentKilled => signal(nodes.agents[whom].process.pid(), Signal::KILL),
            Wound::AgentStopped => signal(nodes.agents[whom].process.pid(), Signal::STOP),
        }
        if wound == Wound::ControllerClock && pick(rng, &[true, false]) {
            // A clock is read when a term begins.
            site.kill(leader);
            whom = leader;
        }
        let until =
            Instant::now() + Duration::from_millis(rng.random_range(HURT_MS[usize::from(hurry)].clone()));
        Ok(Self { wound, whom, until })
    }

    /// Whether it has been open for long enough.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Mends it, once it has been open for long enough.
    pub(super) async fn mend(self, site: &mut Site, nodes: &mut Nodes) -> anyhow::Result<()> {
        sleep_until(self.until).await;
        let whom = self.whom;
        match self.wound {
            Wound::LeaderKilled | Wound::ControllerKilled | Wound::ControllerClock => {
                if site.pids().all(|(index, _)| index != whom) {
                    site.start_controller(whom)?;
                }
            }
            Wound::LeaderStopped => site.signal(whom, Signal::CONT),
            Wound::ControllerCut => site.to_etcd[whom].iter().for_each(|proxy| proxy.set(true)),
            Wound::EtcdDelayed => {
                site.to_etcd.iter().flatten().for_each(|proxy| proxy.delay(Duration::ZERO));
            }
            Wound::MemberKilled => site.etcd.revive(whom)?,
            Wound::MemberStalled => site.etcd.stall(whom, false),
            Wound::QuorumLost => {
                for other in 1..MEMBERS {
                    site.etcd.revive((whom + other) % MEMBERS)?;
                }
            }
            Wound::EtcdFull => {
                let until = Instant::now() + MENDED;
                // Members that have too much to do may not answer in time.
                while let Err(error) = site.etcd.make_room() {
                    anyhow::ensure!(Instant::now() < until, error);
                    sleep(Duration::from_secs(1)).await;
                }
            }
            Wound::AgentsCut => site.to_controllers[whom].iter().for_each(|proxy| proxy.set(true)),
            Wound::AgentsDelayed => {
                site.to_controllers.iter().flatten().for_each(|proxy| proxy.delay(Duration::ZERO));
            }
            Wound::AgentsBroken | Wound::NodeClock => {}
            Wound::AgentKilled => nodes.agents[whom].restart()?,
            Wound::AgentStopped => signal(nodes.agents[whom].process.pid(), Signal::CONT),
        }
        Ok(())
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}
