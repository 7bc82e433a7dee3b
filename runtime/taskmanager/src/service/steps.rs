//! The steps that a JobMaster asks for, one after the other: reading what tasks go on from, settling
//! sinks, making tasks, making the code of an upgrade.

use super::{OpenedSnapshot, RegionTasks, Shared};
use crate::attempt::{self, ReadyRegion};
use crate::control::Control;
use crate::definition::Definition;
use crate::disks::Disks;
use crate::factory::Factory;
use crate::fits;
use crate::mailbox::Report;
use crate::metrics::JobMetrics;
use crate::rates::Rates;
use crate::replaceable::UserCode;
use crate::restored::Restored;
use crate::settle::{settle, settle_region};
use crate::snapshot_states::checked;
use crate::uploader::{Begin, Reports, Snapshots, Uploader};
use std::sync::Arc;
use streamrt_checkpoint::{Snapshot, Store};
use streamrt_connector::{JobTraits, remarks};
use streamrt_rpc::{Answered, JobPlan, Opened, Restore, Scope, ToTaskManager};
use streamrt_types::{Error, Result};

impl Shared {
    pub(super) fn carry_out(self: &Arc<Shared>, message: ToTaskManager) -> Result<Answered> {
        match message {
            ToTaskManager::Open {
                scope,
                version,
                plan,
                restore,
                job,
                ..
            } => {
                let definition = self.define(version, &plan)?;
                self.open(scope, version, &definition, restore, &job)
                    .map(Answered::Opened)
            }
            ToTaskManager::Settle {
                scope,
                version,
                plan,
                job,
                generation,
                promised,
                interruptible,
                ..
            } => {
                let definition = self.define(version, &plan)?;
                let restored = promised.map(|restore| self.read(restore, &definition));
                let restored = restored.transpose()?;
                let control = match interruptible {
                    true => Control::before_tasks(&self.ends),
                    false => Control::default(),
                };
                let factory = Factory {
                    definition: &definition,
                    control: Arc::new(control),
                    job: job.into(),
                    generation,
                    restored: Arc::default(),
                };
                match scope {
                    Scope::Job => settle(&factory, restored.as_deref())?,
                    Scope::Region {
                        region,
                        old_generation,
                        ..
                    } => {
                        let vertices = &definition.graph.regions()[region];
                        settle_region(&factory, restored.as_deref(), vertices, old_generation)?;
                    }
                }
                Ok(Answered::Settled)
            }
            ToTaskManager::Prepare {
                scope,
                job,
                generation,
                ..
            } => self.prepare(scope, &job, generation),
            ToTaskManager::PrepareUpgrade {
                version,
                plan,
                in_place,
                ..
            } => self.prepare_upgrade(version, &plan, in_place),
            _ => Err(Error::internal("only steps are answered")),
        }
    }

    /// The definition of a version; made when it is named first.
    fn define(&self, version: u32, plan: &JobPlan) -> Result<Arc<Definition>> {
        let mut state = self.lock();
        if let Some(known) = state.definitions.get(&version) {
            return Ok(known.clone());
        }
        if let Some(backend) = state.backend.take() {
            let disks = Disks::new(backend, &plan.configuration)?;
            state.around.disks = Some(Arc::new(disks));
        }
        let around = state.around.clone();
        drop(state);
        let definition = Arc::new(Definition::new(plan, &around)?);
        self.lock().definitions.insert(version, definition.clone());
        Ok(definition)
    }

    /// Reads what tasks go on from, and checks that it fits.
    fn open(
        &self,
        scope: Scope,
        version: u32,
        definition: &Arc<Definition>,
        restore: Option<Restore>,
        job: &str,
    ) -> Result<Opened> {
        let operators = definition.operators();
        let snapshot = restore.as_ref().map(|restore| load(restore, definition));
        let snapshot = snapshot.transpose()?;
        let restored = match scope {
            Scope::Region { region, counts, .. } => {
                let vertices = &definition.graph.regions()[region];
                let of_region: Vec<_> = operators
                    .iter()
                    .filter(|operator| vertices.contains(&(operator.vertex as usize)))
                    .cloned()
                    .collect();
                let read =
                    |snapshot: &Snapshot| Restored::read_region(snapshot, &of_region, counts);
                snapshot.as_ref().map(read).transpose()?.unwrap_or_default()
            }
            Scope::Job => {
                let restored = snapshot.as_ref().map(Restored::read).transpose()?;
                let restored = restored.unwrap_or_default();
                fits::check_backend(&restored, definition)?;
                restored.places.check_sources(definition)?;
                restored.places.check_sinks(definition, job)?;
                fits::check_uids(&restored, &operators, definition)?;
                if snapshot.is_some() {
                    fits::name_new_operators(&restored, definition);
                }
                restored
            }
        };
        let traits = JobTraits {
            has_checkpoints: definition.configuration.checkpoint_interval_ms.is_some(),
            is_bounded: definition.is_bounded(),
        };
        let nodes = definition.graph.stream.nodes.iter();
        let opened = Opened {
            dead_letters: restored.dead_letters(),
            is_bounded: traits.is_bounded,
            remarks: remarks(nodes.map(|node| (&*node.uid, &node.body)), traits)?,
            operators,
        };
        let mut state = self.lock();
        state.current = Some(version);
        if scope == Scope::Job {
            // One that is put back comes with its plan.
            state.definitions.retain(|number, _| *number == version);
        }
        state.opened = Some(OpenedSnapshot {
            scope,
            restore,
            restored: Arc::new(restored),
        });
        Ok(opened)
    }

    /// What a snapshot holds; one that was opened is not read again.
    fn read(&self, restore: Restore, definition: &Definition) -> Result<Arc<Restored>> {
        let opened = self.lock().opened.clone();
        match opened.filter(|opened| opened.restore.as_ref() == Some(&restore)) {
            Some(opened) => Ok(opened.restored),
            None => Restored::read(&load(&restore, definition)?).map(Arc::new),
        }
    }

    fn prepare(self: &Arc<Shared>, scope: Scope, job: &str, generation: u64) -> Result<Answered> {
        let (definition, opened) = {
            let state = self.lock();
            (state.definition()?, state.opened.clone())
        };
        let opened = opened.filter(|opened| opened.scope == scope);
        let restored = opened.map(|opened| opened.restored).unwrap_or_default();
        match scope {
            Scope::Job => self.prepare_job(&definition, restored, job, generation)?,
            Scope::Region { region, .. } => {
                let reports = self.lock().reports.clone();
                let ready = self.build(
                    &definition,
                    &restored,
                    region,
                    (job, generation),
                    reports.as_ref(),
                )?;
                let begin = begin(&definition, Some(region), generation, restored);
                self.put_region(region, ready);
                if let Some(reports) = reports {
                    reports.send(Report::Begin(begin));
                }
            }
        }
        self.lock().opened = None;
        Ok(Answered::Prepared)
    }

    fn prepare_job(
        self: &Arc<Shared>,
        definition: &Arc<Definition>,
        restored: Arc<Restored>,
        job: &str,
        generation: u64,
    ) -> Result<()> {
        let n_regions = definition.graph.regions().len();
        let is_durable = definition.configuration.checkpoint_interval_ms.is_some();
        let snapshots = Arc::<Snapshots>::default();
        let begin = begin(definition, None, generation, restored.clone());
        let reports = match is_durable {
            true => Some(self.start_uploader(definition, &begin, &snapshots)?),
            false => None,
        };
        {
            let mut state = self.lock();
            state.memory = Arc::new(definition.configuration.process_memory());
            state.regions = (0..n_regions).map(|_| RegionTasks::default()).collect();
            state.mailboxes = definition.execution.subtasks.iter().map(|_| None).collect();
            state.metrics = JobMetrics {
                dead_letters_before: restored.dead_letters(),
                ..JobMetrics::default()
            };
            (state.reports, state.snapshots, state.code) = (reports.clone(), snapshots, None);
            state.rates = Rates::new(state.around.clock.elapsed());
        }
        for region in 0..n_regions {
            let name = (job, generation);
            let ready = self.build(definition, &restored, region, name, reports.as_ref())?;
            self.put_region(region, ready);
        }
        Ok(())
    }

    fn start_uploader(
        self: &Arc<Shared>,
        definition: &Definition,
        begin: &Begin,
        snapshots: &Arc<Snapshots>,
    ) -> Result<Reports> {
        let tell = self.tell.clone();
        let uploader = Uploader::new(
            store_of(definition)?,
            snapshots.clone(),
            (definition.max_parallelism, definition.disks.clone()),
            begin,
            names(definition),
            Box::new(move |told| tell(told)),
        );
        let strand = self.lock().uploads.strand();
        Ok(Reports::new(strand, uploader))
    }

    fn build(
        &self,
        definition: &Arc<Definition>,
        restored: &Arc<Restored>,
        region: usize,
        (job, generation): (&str, u64),
        reports: Option<&Reports>,
    ) -> Result<(u64, Arc<Control>, ReadyRegion)> {
        let memory = self.lock().memory.clone();
        let control = Arc::new(Control::new(&self.ends, reports.is_some(), &memory));
        let factory = Factory {
            definition,
            control: control.clone(),
            job: job.into(),
            generation,
            restored: restored.clone(),
        };
        let vertices = &definition.graph.regions()[region];
        let ready = attempt::build(&factory, vertices, reports)?;
        Ok((generation, control, ready))
    }

    fn put_region(&self, number: usize, ready: (u64, Arc<Control>, ReadyRegion)) {
        let (generation, control, ready) = ready;
        let mut state = self.lock();
        for (task, mailbox) in ready.mailboxes {
            state.mailboxes[task] = Some(mailbox);
        }
        match number < state.metrics.regions.len() {
            true => state.metrics.regions[number] = ready.metrics,
            false => state.metrics.regions.push(ready.metrics),
        }
        state.regions[number] = RegionTasks {
            generation,
            control,
            prepared: ready.tasks,
            ..RegionTasks::default()
        };
    }

    /// Makes instances of a version's code: for the tasks that run, or once in vain, so that what
    /// cannot be made is refused while the old version runs on.
    fn prepare_upgrade(&self, version: u32, plan: &JobPlan, in_place: bool) -> Result<Answered> {
        let definition = self.define(version, plan)?;
        let factory = |control: Arc<Control>| Factory {
            definition: &definition,
            control,
            job: "".into(),
            generation: 0,
            restored: Arc::default(),
        };
        if !in_place {
            for vertices in definition.graph.regions() {
                attempt::build(&factory(Arc::default()), &vertices, None)?;
            }
            return Ok(Answered::UpgradePrepared);
        }
        let subtasks = definition.execution.subtasks.iter();
        let mut code: Vec<UserCode> = subtasks.map(|_| UserCode::new()).collect();
        for (number, vertices) in definition.graph.regions().iter().enumerate() {
            let control = self.lock().regions.get(number).map(|r| r.control.clone());
            let factory = factory(control.unwrap_or_default());
            for (task, subtask) in definition.tasks_of(vertices) {
                code[task] = factory.user_code(subtask)?;
            }
        }
        self.lock().code = Some((version, code));
        Ok(Answered::UpgradePrepared)
    }
}

fn store_of(definition: &Definition) -> Result<Store> {
    let none = || Error::internal("a job without checkpoints has no store");
    let dir = definition.configuration.checkpoint_dir.as_deref();
    Store::open(dir.ok_or_else(none)?)
}

/// The snapshot that a JobMaster names.
fn load(restore: &Restore, definition: &Definition) -> Result<Snapshot> {
    let dir = definition.configuration.checkpoint_dir.as_deref();
    let own = dir.map(Store::open).transpose()?;
    let own = own.filter(|own| own.location() == restore.location);
    let mut published = restore.published.clone();
    match own {
        Some(own) => {
            published.location = None;
            Snapshot::load(&own, &published).and_then(checked)
        }
        None => {
            let store = Store::existing(&restore.location)?;
            Snapshot::load(&store, &published).and_then(checked)
        }
    }
}

/// The (vertex, subtask, name) of every task.
fn names(definition: &Definition) -> Vec<(u32, u32, String)> {
    let subtasks = definition.execution.subtasks.iter();
    let name = |subtask: &streamrt_graph::Subtask| {
        let vertex = &definition.graph.vertices[subtask.vertex];
        let name = vertex.subtask_name(subtask.index);
        (subtask.vertex as u32, subtask.index, name)
    };
    subtasks.map(name).collect()
}

fn begin(
    definition: &Definition,
    region: Option<usize>,
    generation: u64,
    restored: Arc<Restored>,
) -> Begin {
    let vertices: Vec<usize> = match region {
        Some(region) => definition.graph.regions().swap_remove(region),
        None => (0..definition.graph.vertices.len()).collect(),
    };
    let operators = definition.operators().into_iter();
    Begin {
        tasks: definition
            .tasks_of(&vertices)
            .map(|(task, _)| task)
            .collect(),
        generation,
        operators: operators
            .filter(|operator| vertices.contains(&(operator.vertex as usize)))
            .collect(),
        restored,
    }
}
