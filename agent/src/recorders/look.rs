//! One look at one process: what is read of it, what that says, and its end.

use c4_detect::observation::{ProcessEnd, ProcessState};
use tracing::{info, warn};

use super::{ExitStatus, Known, PATIENCE_NS, RecorderHandle, RecorderSource, Sample, Sampler, SourceError};
use crate::{procfs, report::Report};

/// What was read of a process.
pub(super) struct Read {
    alive: Result<bool, SourceError>,
    stat: Option<procfs::ProcessStat>,
    sample: Result<Sample, SourceError>,
}

pub(super) enum Look {
    Alive { urgent: bool },
    Ended,
}

impl<S: RecorderSource> Sampler<S> {
    pub(super) fn read(&mut self, name: &str) -> Option<Read> {
        let tracked = self.tracked.get_mut(name)?;
        // Life first, contents second: what is read after the death is everything there will ever be.
        let alive = tracked.handle.alive();
        let stat = procfs::find(&self.settings.proc_root, tracked.identity.pid, tracked.identity.start_ticks);
        let sample = tracked.read();
        if let Ok(sample) = &sample {
            self.transfers.take(tracked.uid, &sample.communicators, &sample.operations);
        }
        Some(Read { alive, stat, sample })
    }

    pub(super) fn look(&mut self, name: &str, read: Read, now_ns: u64, reports: &mut Vec<Report>) -> Look {
        let Some(tracked) = self.tracked.get_mut(name) else { return Look::Alive { urgent: false } };
        let Read { alive, stat, sample } = read;
        let (transfers, node) = (&self.transfers, &self.settings.node);
        let (nics, gpus) = (&self.nics, &self.gpus);
        let looked = sample.and_then(|sample| tracked.look(&sample, transfers, node, nics, gpus, now_ns));
        let pid = tracked.identity.pid;
        if let Err(error) = alive.as_ref().map(|_| ()).and(looked.as_ref().map(|_| ())) {
            self.errors += 1;
            let since = *tracked.failing_since_ns.get_or_insert(now_ns);
            if now_ns.saturating_sub(since) >= PATIENCE_NS
                && !std::mem::replace(&mut tracked.failure_reported, true)
            {
                warn!(recorder = %name, %error, "cannot read this recorder any more");
            }
        } else {
            tracked.failing_since_ns = None;
            tracked.failure_reported = false;
        }
        reports.extend(looked.unwrap_or_default());
        if let Some((job, collectives)) = tracked.take_collectives() {
            self.collectives.entry(job).or_default().merge(&collectives);
        }
        let (signal, code) = stat.map_or((None, None), |stat| (stat.signal(), stat.exit_code()));
        // One that was killed holds its lock until its GPU has given everything back, and its peers may be faster to
        // end of its loss.
        if signal.is_some() || !alive.unwrap_or(true) {
            tracked.ended_by = ExitStatus { code, signal };
            // The lock goes a moment before the parent hears of it: wait one sample for the exit status.
            // Windows are not to show it as one that lives.
            tracked.state = ProcessState::Zombie;
            if let Some(since_ns) = self.unwatched_since_ns
                && tracked.lived_ns.is_none()
                && !tracked.waited_for_exit
            {
                let lived_ns = tracked.lived_until(now_ns).max(since_ns);
                tracked.lived_ns = Some(lived_ns);
            }
            let unknown = tracked.ended_by == ExitStatus::default() && self.exits.get(pid) == Known::Running;
            if unknown && !std::mem::replace(&mut tracked.waited_for_exit, true) {
                return Look::Alive { urgent: false };
            }
            return Look::Ended;
        }
        let before = tracked.state;
        tracked.state = stat.map_or(ProcessState::Unknown, |stat| stat.state);
        let stopped = tracked.state == ProcessState::Stopped && before != ProcessState::Stopped;
        Look::Alive { urgent: tracked.becomes_urgent(self.settings.overdue, now_ns) || stopped }
    }

    pub(super) fn bury(&mut self, name: String, now_ns: u64) -> Option<Report> {
        let tracked = self.tracked.remove(&name)?;
        let (dropped, unread) = tracked.losses();
        self.buried_losses.0 = self.buried_losses.0.saturating_add(dropped);
        self.buried_losses.1 = self.buried_losses.1.saturating_add(unread);
        self.evidence.add(name, now_ns);
        let process = tracked.process?;
        let status = match self.exits.get(tracked.identity.pid) {
            Known::Ended(status) => status,
            Known::Stranger | Known::Running => tracked.ended_by,
        };
        let (finalized, found) = (tracked.finalized(), tracked.lived_ns.is_some());
        info!(
            pid = tracked.identity.pid,
            finalized,
            exit_code = status.code,
            signal = status.signal,
            found,
            "a training process ended"
        );
        Some(Report::ProcessEnded(ProcessEnd {
            process,
            ago_us: now_ns.saturating_sub(tracked.lived_ns.unwrap_or(now_ns)) / 1_000,
            finalized,
            exit_code: status.code,
            signal: status.signal,
            found,
        }))
    }
}
