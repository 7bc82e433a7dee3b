//! What holds in a cluster, at every moment and at the end.

use super::{Cluster, SLOTS};
use std::collections::BTreeSet;
use streamrt_checkpoint::EndState;
use streamrt_jobmanager::Phase;
use streamrt_jobmanager::dispatcher::Core;

/// So many records may be committed of a job that is to end when its JobManager is killed: its last
/// checkpoint had promised them.
const RUNS_ON: usize = 400;

impl Cluster {
    /// Jobs that run, and that nobody has ended, do not need more slots than there are.
    pub(super) fn check_slots(&self) -> Result<(), String> {
        let running = self.jobs.values().filter(|fate| fate.is_started);
        let needed: u32 = running
            .filter(|fate| !fate.is_to_end)
            .map(|fate| fate.n_slots)
            .sum();
        match needed > SLOTS {
            true => Err(format!(
                "jobs that run need {needed} slots, and there are {SLOTS}"
            )),
            false => Ok(()),
        }
    }

    /// Two jobs of one name that users know of do not live at the same time, unless it was said that
    /// the end of one could not be kept.
    pub(super) fn check_names(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        let jobs = self.core.iter().flat_map(Core::jobs);
        for (id, job) in jobs.filter(|(_, job)| job.phase() != Phase::Ended) {
            let fate = self.jobs.get(id);
            let is_accepted = fate.is_some_and(|fate| fate.is_accepted && !fate.is_warned);
            if let Ok(registered) = job.registered()
                && is_accepted
                && !names.insert(registered.specification.name.clone())
            {
                let name = &registered.specification.name;
                return Err(format!("two jobs `{name}` have not ended"));
            }
        }
        Ok(())
    }

    /// When nothing happens any more, each job has ended, as the registry knows.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let core = self.core.as_ref().ok_or("no JobManager is left")?;
        if let Some((request, _)) = self.asking.first_key_value() {
            return Err(format!("the request {request} was never answered"));
        }
        if let Some((request, _)) = self.submitting.first_key_value() {
            return Err(format!("the submission {request} was never answered"));
        }
        for (id, fate) in self.jobs.iter().filter(|(_, fate)| fate.is_accepted) {
            let job = core.job(id).ok_or_else(|| format!("job {id} is gone"))?;
            let kept = job
                .registered()
                .as_ref()
                .ok()
                .and_then(|job| job.end.clone());
            let Some((end, _)) = kept.filter(|_| job.phase() == Phase::Ended) else {
                return Err(format!("job {id} has no end: {:?}", job.phase()));
            };
            if end.state == EndState::Finished {
                fate.world.check_all_committed()?;
                let more = fate.wanted_at.map(|n| fate.world.n_committed() - n);
                if more.is_some_and(|more| more > RUNS_ON) {
                    return Err(format!("job {id} ran to its end, and was to end before"));
                }
            }
        }
        Ok(())
    }
}
