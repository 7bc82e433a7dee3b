//! What the tasks of a process are told, and what they do.

use super::{Happening, World, ms};
use crate::model::{Model, Told};
use crate::scenario::Fault;
use std::sync::Arc;
use streamrt_checkpoint::Snapshot;
use streamrt_jobmanager::job_master::Version;
use streamrt_rpc::{
    Answered, FromTaskManager, JobPlan, Opened, Restore, Scope, ToTaskManager, WireError,
};
use streamrt_types::code;

impl World {
    pub(super) fn to_tasks(&mut self, number: usize, message: ToTaskManager) -> Result<(), String> {
        if !self.processes[number].is_alive {
            return Ok(());
        }
        if let ToTaskManager::Trigger { checkpoint, .. } = message {
            self.repeat_stale(number, checkpoint);
        }
        let tasks = &mut self.processes[number].tasks;
        match message {
            ToTaskManager::Start { scope } => tasks.start(scope),
            ToTaskManager::Trigger {
                checkpoint,
                tasks: triggered,
                ..
            } => tasks.trigger(checkpoint, &triggered),
            ToTaskManager::Complete { checkpoint } => tasks.complete(checkpoint),
            ToTaskManager::Abort { checkpoint } => tasks.abort(checkpoint),
            ToTaskManager::Wish { wish } => tasks.wish(wish),
            ToTaskManager::Cancel { regions } => {
                let told = tasks.cancel(&regions);
                self.tell(number, told);
            }
            step => self.take_step(number, step)?,
        }
        Ok(())
    }

    fn take_step(&mut self, number: usize, message: ToTaskManager) -> Result<(), String> {
        let fails = self.hits(Fault::StepFails, 30);
        let (step, answered) = match message {
            ToTaskManager::Open {
                step,
                version,
                plan,
                restore,
                ..
            } => (step, self.open(number, version, &plan, restore)?),
            ToTaskManager::Settle {
                step,
                scope,
                version,
                plan,
                job,
                promised,
                ..
            } => {
                let version = version_of(version, &plan)?;
                self.settle(&version, scope, &job, promised, fails)?;
                (step, Answered::Settled)
            }
            ToTaskManager::Prepare {
                step,
                scope,
                job,
                generation,
            } => {
                let process = &mut self.processes[number];
                let version = process.version.clone().ok_or("nothing was opened")?;
                process.tasks.prepare(&version, scope, &job, generation);
                (step, Answered::Prepared)
            }
            ToTaskManager::PrepareUpgrade { step, .. } => (step, Answered::UpgradePrepared),
            other => return Err(format!("{other:?} is no step")),
        };
        let result = match fails {
            true => Err(WireError::new(code::STORE, "what it needs is away")),
            false => Ok(answered),
        };
        self.tell(number, vec![FromTaskManager::Answer { step, result }]);
        Ok(())
    }

    fn open(
        &mut self,
        number: usize,
        version: u32,
        plan: &JobPlan,
        restore: Option<Restore>,
    ) -> Result<Answered, String> {
        let version = version_of(version, plan)?;
        let snapshot = restore.map(|restore| self.load(&restore)).transpose()?;
        let manifest = snapshot.as_ref().map(Snapshot::manifest);
        // Tasks are of the version that their snapshot names, or of the one that is put back.
        if let Some(manifest) = manifest {
            let named = manifest.plugins.iter().chain(&manifest.before);
            let mut digests = named.map(|plugin| &plugin.digest);
            if !digests.any(|digest| *digest == plan.components[0].digest) {
                let checkpoint = manifest.checkpoint;
                return Err(format!(
                    "checkpoint {checkpoint} goes on with another version than it names"
                ));
            }
        }
        let subtasks = manifest.map_or(&[][..], |manifest| &manifest.subtasks);
        let process = &mut self.processes[number];
        process.tasks.open(&version, subtasks, &self.outside)?;
        let operators = Model::operators(&version);
        process.version = Some(version);
        Ok(Answered::Opened(Opened {
            operators,
            ..Opened::default()
        }))
    }

    fn settle(
        &mut self,
        version: &Version,
        scope: Scope,
        job: &str,
        promised: Option<Restore>,
        fails: bool,
    ) -> Result<(), String> {
        let snapshot = promised.map(|restore| self.load(&restore)).transpose()?;
        let tasks = Model::tasks_of(version, scope);
        let listed = snapshot.as_ref().map_or_else(Vec::new, |snapshot| {
            let subtasks = &snapshot.manifest().subtasks;
            Model::promised(version, subtasks, &tasks, &self.outside)
        });
        for (n, transaction) in listed.iter().enumerate() {
            // It may fail half-way.
            if fails && n % 2 == 1 {
                return Ok(());
            }
            self.outside.ledger.commit(transaction)?;
        }
        if !fails {
            let ledger = &mut self.outside.ledger;
            ledger.withdraw(job, &tasks, &listed);
        }
        Ok(())
    }

    /// A task of a process does a little.
    pub(super) fn step(&mut self, number: usize) -> Result<(), String> {
        if !self.processes[number].is_alive {
            return Ok(());
        }
        let running = self.processes[number].tasks.running();
        if !running.is_empty() {
            let task = running[self.random.below(running.len() as u64) as usize];
            let told = self.step_task(number, task)?;
            self.tell(number, told);
        }
        let soon = self.now + ms(2 + self.random.below(20));
        self.at(soon, Happening::Steps(number));
        Ok(())
    }

    fn step_task(&mut self, number: usize, task: usize) -> Result<Told, String> {
        if self.hits(Fault::TaskFails, 1000) {
            let tasks = &mut self.processes[number].tasks;
            let error = WireError::new(code::STORE, "a disk is gone");
            return Ok(tasks.end_region(tasks.region_of(task), error));
        }
        let tasks = &mut self.processes[number].tasks;
        let told = tasks.step(task, &mut self.outside)?;
        match self.hits(Fault::Declined, 1000) {
            true => Ok(told.into_iter().map(declined).collect()),
            false => Ok(told),
        }
    }
}

fn declined(told: FromTaskManager) -> FromTaskManager {
    match told {
        FromTaskManager::Acknowledged {
            task,
            generation,
            checkpoint,
            ..
        } => FromTaskManager::Declined {
            task,
            generation,
            checkpoint,
            reason: "the disk is full".into(),
        },
        other => other,
    }
}

fn version_of(number: u32, plan: &JobPlan) -> Result<Arc<Version>, String> {
    let max = Some(plan.max_parallelism);
    let version = Version::new(number, plan.clone(), max);
    version.map(Arc::new).map_err(|e| e.to_string())
}
