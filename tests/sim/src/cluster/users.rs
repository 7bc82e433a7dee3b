//! What users of a cluster do, and that its JobManager is killed.

use super::{Cluster, Fate, Happening, SLOTS};
use crate::scenario::{Fault, digest};
use crate::world::World;
use std::collections::BTreeMap;
use streamrt_jobmanager::dispatcher::{Core, Event};
use streamrt_jobmanager::{Component, JobId, Operation, Specification, Version};

impl Cluster {
    pub(super) fn goes(&mut self, fault: Fault) -> Result<(), String> {
        if self.core.is_none() {
            return Ok(());
        }
        *self.faults.entry(fault).or_default() += 1;
        match fault {
            Fault::Killed => {
                self.note_wanted();
                self.core = None;
                (self.submitting, self.asking) = Default::default();
                for fate in self.jobs.values_mut() {
                    fate.world.kill();
                    fate.commands.clear();
                    (fate.is_started, fate.is_accepted_by_master) = (false, false);
                }
                self.soon(3000, Happening::Opens);
                Ok(())
            }
            Fault::Submits => self.submit(),
            wish => self.wish(wish),
        }
    }

    /// What users were promised when the JobManager died.
    fn note_wanted(&mut self) {
        for (id, job) in self.core.iter().flat_map(Core::jobs) {
            let registered = job.registered().as_ref().ok();
            let is_wanted = registered.is_some_and(|job| job.wanted.is_some() && job.end.is_none());
            if let (true, Some(fate)) = (is_wanted, self.jobs.get_mut(id)) {
                let n = fate.world.n_committed();
                fate.wanted_at = fate.wanted_at.or(Some(n));
            }
        }
    }

    fn submit(&mut self) -> Result<(), String> {
        let token = self.random.token();
        let id = JobId::parse(&token).ok_or("a token is no id")?;
        let component = Component {
            path: "job.wasm".into(),
            digest: digest(0),
        };
        let specification = Specification {
            name: format!("job-{}", self.random.below(6)),
            version: Version {
                file: "job.wasm".into(),
                job_file: None,
                components: vec![component],
            },
            args: Vec::new(),
            parallelism: 1,
            configuration: BTreeMap::new(),
            grants: BTreeMap::new(),
            allowed_paths: Vec::new(),
            allowed_hosts: Vec::new(),
            from: None,
        };
        let fate = Fate {
            world: World::managed(self.random.next())?,
            n_slots: 1 + self.random.below(u64::from(SLOTS)) as u32,
            is_accepted: false,
            is_warned: false,
            has_told_end: false,
            is_to_end: false,
            is_started: false,
            is_accepted_by_master: false,
            wanted_at: None,
            commands: BTreeMap::new(),
        };
        self.jobs.insert(id.clone(), fate);
        self.n_requests += 1;
        self.submitting.insert(self.n_requests, id.clone());
        self.to_core(Event::Submitted {
            request: self.n_requests,
            id,
            specification: Box::new(specification),
        })
    }

    /// A user wants something of some job, whatever its state.
    fn wish(&mut self, fault: Fault) -> Result<(), String> {
        let accepted = self.jobs.iter().filter(|(_, fate)| fate.is_accepted);
        let ids: Vec<JobId> = accepted.map(|(id, _)| id.clone()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = ids[self.random.below(ids.len() as u64) as usize].clone();
        let folder = "savepoint".to_owned();
        let stop = |savepoint: Option<String>, drain| Operation::Stop { savepoint, drain };
        let operation = match fault {
            Fault::Savepoint => Operation::Savepoint { folder },
            Fault::StopWithSavepoint => stop(Some(folder), false),
            Fault::Stop => stop(None, false),
            Fault::Drain => stop(None, true),
            Fault::Cancel => Operation::Cancel,
            _ => Operation::Upgrade {
                version: Version {
                    file: "newer.wasm".into(),
                    job_file: None,
                    components: Vec::new(),
                },
            },
        };
        if let Some(fate) = self.jobs.get_mut(&id) {
            fate.is_to_end |= matches!(operation, Operation::Stop { .. } | Operation::Cancel);
        }
        if self.random.one_in(4) {
            self.soon(60, Happening::Goes(Fault::Killed));
        }
        self.n_requests += 1;
        let request = self.n_requests;
        self.asking.insert(request, id.clone());
        self.to_core(Event::Asked {
            request,
            id,
            operation,
        })
    }
}
