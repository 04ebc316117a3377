//! What happens to links while jobs run, and what the controller makes of it.

use std::thread;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;

use super::{LIMIT, LOOK_AGAIN, Running, Scene, ideal, slowest};
use crate::ringjob::clock;

/// What became of a link's death; times in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct JobsCut {
    /// Leaf and spine.
    pub link: (usize, usize),
    /// The slowest job's iteration after it, with what routing alone does.
    pub routed_slowest: f64,
    /// From the link's death until all agents knew the ports of the new plan.
    pub seconds: f64,
    /// With what jobs need that are started again then: until each had done three iterations on the new paths.
    pub back: f64,
    /// The slowest job's iteration on connections made after that.
    pub planned_slowest: f64,
    /// What the new plan allows.
    pub ideal: f64,
}

/// What became of a link that lost packets; times in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct JobsLossy {
    /// Leaf and spine.
    pub link: (usize, usize),
    /// It lost one in so many packets.
    pub one_in: u32,
    /// The slowest job's iteration while nobody knew of it.
    pub lossy_slowest: f64,
    /// Until it was named.
    pub found: f64,
    /// The links that were named.
    pub named: Vec<String>,
    /// Until all agents knew the ports of a plan that avoids it.
    pub seconds: f64,
    /// The slowest job's iteration on connections made after that.
    pub planned_slowest: f64,
    /// What that plan allows.
    pub ideal: f64,
    /// From its mending until it was cleared.
    pub cleared: f64,
    /// Findings of other links, all the time.
    pub innocent: usize,
}

/// The link between switches that has most to carry.
fn fullest(plan: &Value) -> anyhow::Result<(usize, usize)> {
    let full = &plan["links"][0];
    let (from, to) = (full["from"].as_str().unwrap_or(""), full["to"].as_str().unwrap_or(""));
    let number = |name: &str, kind: &str| name.strip_prefix(kind).and_then(|n| n.parse::<usize>().ok());
    let link = number(from, "leaf").zip(number(to, "spine"));
    let link = link.or_else(|| number(to, "leaf").zip(number(from, "spine")));
    link.with_context(|| format!("{full} is no link of this fabric"))
}

/// Whether something with two ends is this link, in either direction.
fn is_link((leaf, spine): (usize, usize), ends: [&Value; 2]) -> bool {
    let ends = ends.map(|end| end.as_str().unwrap_or(""));
    ends.contains(&format!("leaf{leaf}").as_str()) && ends.contains(&format!("spine{spine}").as_str())
}

fn is_avoided(paths: &Value, link: (usize, usize)) -> bool {
    let links = paths["links"].as_array().map_or(&[][..], Vec::as_slice);
    let mut own = links.iter().filter(|of| is_link(link, [&of["from"], &of["to"]]));
    own.clone().count() > 0 && own.all(|link| link["planned_utilisation"] == 0.0)
}

impl Scene<'_> {
    fn all_jobs(&self, phase: &str, incarnation: u32) -> anyhow::Result<Vec<Running>> {
        (0..self.trial.jobs).map(|job| self.job(job, phase, Some(incarnation))).collect()
    }

    /// A link that planned flows cross dies, and the controller has to find out.
    pub(super) fn cut(&mut self, plan: &Value, running: Vec<Running>, alone: f64) -> anyhow::Result<JobsCut> {
        let link = fullest(plan)?;
        let died = clock::now();
        self.fabric.set_link(link.0, link.1, false)?;
        let scene = &*self;
        let (routed, planned) = thread::scope(|scope| {
            let routed = scope.spawn(|| scene.iterations("planned"));
            let planned = scene
                .wait_planned(scene.trial.jobs, |paths| is_avoided(paths, link))
                .map(|(paths, _)| (paths, died.elapsed().as_secs_f64()));
            (routed.join(), planned)
        });
        let routed = routed.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        let (paths, seconds) = planned?;
        drop(running);
        let again = clock::now();
        let running = self.all_jobs("mended", 3)?;
        self.wait_running(0..self.trial.jobs, "mended")?;
        let back = seconds + again.elapsed().as_secs_f64();
        let planned = self.iterations("mended")?;
        drop(running);
        let ideal = ideal(alone, paths["max_fabric_utilisation"].as_f64().unwrap_or(1.0));
        Ok(JobsCut {
            link,
            routed_slowest: slowest(&routed),
            seconds,
            back,
            planned_slowest: slowest(&planned),
            ideal,
        })
    }

    /// A link that planned flows cross begins to lose packets, and is mended when the controller has found that out.
    pub(super) fn lose(
        &self,
        plan: &Value,
        running: Vec<Running>,
        one_in: u32,
        alone: f64,
    ) -> anyhow::Result<(JobsLossy, Vec<Running>)> {
        let link = fullest(plan)?;
        let began = clock::now();
        self.fabric.lose(link.0, link.1, one_in)?;
        let (lossy, avoided) = thread::scope(|scope| {
            let lossy = scope.spawn(|| self.iterations("planned"));
            let is_named =
                |open: &[Value]| open.iter().any(|ends| is_link(link, [&ends["src"], &ends["dst"]]));
            let avoided = self.wait_faults(is_named).and_then(|named| {
                let found = began.elapsed().as_secs_f64();
                let (paths, _) = self.wait_planned(self.trial.jobs, |paths| is_avoided(paths, link))?;
                Ok((named, found, paths, began.elapsed().as_secs_f64()))
            });
            (lossy.join(), avoided)
        });
        let lossy = lossy.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        let (named, found, paths, seconds) = avoided?;
        drop(running);
        let running = self.all_jobs("avoiding", 2)?;
        let planned = self.iterations("avoiding")?;
        let mended = clock::now();
        self.fabric.mend(link.1)?;
        self.wait_faults(<[Value]>::is_empty)?;
        let text = |ends: &Value| {
            format!("{} → {}", ends["src"].as_str().unwrap_or("?"), ends["dst"].as_str().unwrap_or("?"))
        };
        let lossy = JobsLossy {
            link,
            one_in,
            lossy_slowest: slowest(&lossy),
            found,
            named: named.iter().map(text).collect(),
            seconds,
            planned_slowest: slowest(&planned),
            ideal: ideal(alone, paths["max_fabric_utilisation"].as_f64().unwrap_or(1.0)),
            cleared: mended.elapsed().as_secs_f64(),
            innocent: self.innocent(link)?,
        };
        Ok((lossy, running))
    }

    /// How many findings accused links of something, and not this one.
    fn innocent(&self, link: (usize, usize)) -> anyhow::Result<usize> {
        let said = self.ask(&["findings", "--all"]).context("the controller does not answer")?;
        let all = said["findings"].as_array().context("no list of findings")?;
        let accuses = |of: &&Value| {
            let suspects = of["suspects"].as_array().map_or(&[][..], Vec::as_slice);
            suspects.iter().any(|of| is_link(link, [&of["link"]["src"], &of["link"]["dst"]]))
        };
        Ok(all.iter().filter(|of| of["kind"] == "path_fault").filter(|of| !accuses(of)).count())
    }

    /// Waits until the links that are accused are such; says which they are.
    pub(super) fn wait_faults(&self, enough: impl Fn(&[Value]) -> bool) -> anyhow::Result<Vec<Value>> {
        let start = clock::now();
        loop {
            let said = self.ask(&["findings"]);
            let all = said.as_ref().and_then(|said| said["findings"].as_array());
            if let Some(all) = all {
                let open = all.iter().filter(|of| of["kind"] == "path_fault" && of["cleared"].is_null());
                let suspects = open.flat_map(|of| of["suspects"].as_array().into_iter().flatten());
                let links: Vec<Value> = suspects.map(|suspect| suspect["link"].clone()).collect();
                if enough(&links) {
                    return Ok(links);
                }
            }
            let late = start.elapsed() > 5 * LIMIT;
            ensure!(
                !late,
                "a link that loses packets is not found, or not cleared: {said:?} {}",
                self.logs()
            );
            thread::sleep(LOOK_AGAIN);
        }
    }
}
