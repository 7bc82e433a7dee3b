//! An attempt to run a job: the threads of its regions, which fail one by one, and those of its
//! checkpoints, which they share.
//!
//! A region that failed starts again from the newest checkpoint while the others run on:
//! 1. Its tasks are gone. Behind their last report, the coordinator hears of it, aborts what is
//!    pending, and begins nothing ([`Suspend`]).
//! 2. Its sinks are settled, and its tasks are built anew, under a generation of their own: names
//!    of transactions are never used twice.
//! 3. Before their first report the coordinator and the uploader hear of the new ones ([`Resume`]).
//!
//! Invariant: of a region there is never more than one set of tasks, and no checkpoint holds states
//! of two.
//!
//! # Source
//! Flink's `RestartPipelinedRegionFailoverStrategy`.

use crate::attempt::{self, ReadyRegion};
use crate::checkpoints::{self, Checkpoints, Ending};
use crate::control::{Control, Controls};
use crate::durable::{self, Durable};
use crate::factory::{Definition, Factory};
use crate::job::{Current, JobMetrics, Shared};
use crate::job_state::JobState;
use crate::kept_region::{KeptRegion, RegionBeginning};
use crate::mailbox::{Mailbox, Report};
use crate::restored::Restored;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use streamrt_checkpoint::{OperatorEntry, unique_token};
use streamrt_types::{Error, Result};

/// So often regions start again without a checkpoint between them. Each time the sinks of the
/// others keep what they have pre-committed, which some systems hold little of, so then the whole
/// job starts again.
const SUSPENDED_MAX: u32 = 3;

/// The tasks with these numbers are gone, and will run again.
pub struct Suspend {
    pub tasks: Vec<usize>,
    /// `None`: the job ends, and they will not.
    pub reply: Sender<Result<Option<Suspended>>>,
}

/// What a region that failed can go on from.
pub struct Suspended {
    pub kept: KeptRegion,
    /// All its tasks have carried out the commits of all checkpoints up to this one.
    pub committed: u64,
}

/// Tasks that run again.
pub struct Resume {
    /// What they go on from; 0: nothing.
    pub checkpoint: u64,
    pub restored: Arc<Restored>,
    pub operators: Vec<OperatorEntry>,
    /// By the numbers of the tasks.
    pub mailboxes: Vec<(usize, Arc<Mailbox>)>,
}

struct Region {
    vertices: Vec<usize>,
    generation: u64,
    /// Empty when they have been joined.
    threads: Vec<JoinHandle<()>>,
    /// Of those, the ones that have not said that they end.
    running: usize,
}

/// See the module.
pub(crate) struct Attempt {
    controls: Arc<Controls>,
    regions: Vec<Region>,
    /// Told the region of each task that ends.
    ended: (Sender<usize>, Receiver<usize>),
    checkpoints: Option<Checkpoints>,
    /// How often regions were suspended behind this checkpoint.
    suspended: (u64, u32),
}

impl Attempt {
    /// Builds and starts all tasks.
    ///
    /// # Errors
    /// What is wrong with the job, or does not fit what the checkpoint kept.
    pub fn start(
        definition: &Arc<Definition>,
        durable: Option<Durable>,
        restored: &Arc<Restored>,
        shared: &Shared,
    ) -> Result<Attempt> {
        let regions = definition.graph.regions();
        let controls = Arc::new(Controls::new(
            regions.len(),
            &shared.wishes,
            durable.is_some(),
            definition.configuration.process_memory(),
        ));
        let (job, generation) = match &durable {
            Some(durable) => (durable.job(), durable.generation()),
            None => (durable::job_id(&unique_token()), 1),
        };
        let (reports, reported) = channel();
        let reports_to = durable.as_ref().map(|_| &reports);
        let mut metrics = JobMetrics {
            dead_letters_before: restored.dead_letters(),
            ..JobMetrics::default()
        };
        let (mut tasks, mut mailboxes) = (Vec::new(), Vec::new());
        for (number, vertices) in regions.iter().enumerate() {
            let (control, job, restored) = (controls.region(number), job.clone(), restored.clone());
            let factory = Factory {
                definition,
                control,
                job,
                generation,
                restored,
            };
            let ready = attempt::build(&factory, vertices, reports_to)?;
            tasks.push(ready.tasks);
            mailboxes.extend(ready.mailboxes);
            metrics.regions.push(ready.metrics);
        }
        mailboxes.sort_by_key(|(task, _)| *task);
        let mailboxes = mailboxes.into_iter().map(|(_, mailbox)| mailbox).collect();
        let lines = (reports, reported);
        if let Some(durable) = &durable {
            shared
                .wishes
                .next_attempt(|store| durable.published_in(store));
        }
        let start = |durable| {
            checkpoints::start(
                durable,
                restored,
                mailboxes,
                lines,
                controls.clone(),
                shared,
            )
        };
        let checkpoints = durable.map(start).transpose()?;
        let messages = checkpoints
            .as_ref()
            .map(|checkpoints| checkpoints.messages.clone());
        shared.begin(Current {
            state: JobState::Running,
            controls: controls.clone(),
            metrics,
            messages,
        });
        let region = |vertices| Region {
            vertices,
            generation,
            threads: Vec::new(),
            running: 0,
        };
        let regions = regions.into_iter().map(region).collect();
        let mut attempt = Attempt {
            controls,
            regions,
            ended: channel(),
            checkpoints,
            suspended: (0, 0),
        };
        for (number, tasks) in tasks.into_iter().enumerate() {
            if let Err(error) = attempt.start_tasks(number, tasks) {
                attempt.fail(error);
                while attempt.next_end().is_some() {}
                return attempt.finish()?.0.and_then(|()| {
                    Err(Error::internal("an attempt that did not start has ended"))
                });
            }
        }
        Ok(attempt)
    }

    fn start_tasks(&mut self, number: usize, tasks: Vec<attempt::Ready>) -> Result<()> {
        let (region, control) = (&mut self.regions[number], self.controls.region(number));
        for task in tasks {
            let ended = self.ended.0.clone();
            // Whoever waits for it is gone only when the process ends.
            region
                .threads
                .push(attempt::start(task, control.clone(), move || {
                    ended.send(number).unwrap_or_default()
                })?);
            region.running += 1;
        }
        Ok(())
    }

    /// Waits until all tasks of a region have ended: its number, and how. `None` when there is no
    /// such region any more.
    pub fn next_end(&mut self) -> Option<(usize, Result<()>)> {
        while self.regions.iter().any(|region| region.running > 0) {
            let Ok(number) = self.ended.1.recv() else {
                return None;
            };
            let region = &mut self.regions[number];
            region.running -= 1;
            if region.running == 0 {
                let control = self.controls.region(number);
                for thread in region.threads.drain(..) {
                    if thread.join().is_err() {
                        control.fail(Error::internal("a task thread could not be joined"));
                    }
                }
                return Some((number, control.take_error().map_or(Ok(()), Err)));
            }
        }
        None
    }

    /// Whether a region can start again while others run.
    pub fn has_others(&self) -> bool {
        self.regions.len() > 1 && !self.controls.is_failed()
    }

    /// Ends all regions.
    pub fn fail(&self, error: Error) {
        self.controls.fail(error);
    }

    /// Starts a region again that was suspended. False if the job ends, and it is not to run again.
    ///
    /// # Errors
    /// As [`Attempt::start`]. Behind another [`Attempt::suspend`] it may be tried again.
    pub fn restart(&mut self, number: usize, next: Next, shared: &Shared) -> Result<bool> {
        if self.controls.is_failed() {
            return Ok(false);
        }
        let control = self.controls.restart(number);
        let factory = Factory {
            control,
            definition: &next.definition,
            job: next.job,
            generation: next.generation,
            restored: next.restored,
        };
        let vertices = &self.regions[number].vertices;
        let reports = self
            .checkpoints
            .as_ref()
            .map(|checkpoints| &checkpoints.reports);
        let ReadyRegion {
            tasks,
            mailboxes,
            metrics,
        } = attempt::build(&factory, vertices, reports)?;
        let mut current = shared.current();
        (current.state, current.metrics.regions[number]) = (JobState::Running, metrics);
        drop(current);
        if let Some(checkpoints) = &self.checkpoints {
            let (checkpoint, restored, operators) =
                (next.checkpoint, factory.restored.clone(), next.operators);
            checkpoints.report(Report::Resume(Resume {
                checkpoint,
                restored,
                operators,
                mailboxes,
            }))?;
        }
        self.regions[number].generation = next.generation;
        // Some of its tasks may run: none must be started beside them.
        Ok(self
            .start_tasks(number, tasks)
            .map_err(|error| self.fail(error))
            .is_ok())
    }

    /// Holds the checkpoints back for a region whose tasks have all ended, and settles its sinks.
    /// Returns what it goes on from; `None` if the job ends, or is to start again as a whole.
    ///
    /// # Errors
    /// If what the region goes on from cannot be read, or its sinks cannot be settled. It may be
    /// tried again.
    pub fn suspend(&mut self, number: usize, shared: &Shared) -> Result<Option<Next>> {
        let Some(checkpoints) = &self.checkpoints else {
            return Ok(Some(Next::from_the_start(shared.definition())));
        };
        let region = &self.regions[number];
        let (reply, answer) = channel();
        let tasks = shared
            .definition()
            .tasks_of(&region.vertices)
            .map(|(task, _)| task)
            .collect();
        let gone = |_| Error::internal("the coordinator of checkpoints is gone");
        let asked = checkpoints
            .report(Report::Suspend(Suspend { tasks, reply }))
            .and_then(|()| answer.recv().map_err(gone));
        let suspended = asked.unwrap_or_else(|error| {
            self.fail(error);
            Ok(None)
        });
        let Some(Suspended { kept, committed }) = suspended? else {
            return Ok(None);
        };
        let n_before = if self.suspended.0 == kept.history.last_checkpoint {
            self.suspended.1
        } else {
            0
        };
        self.suspended = (kept.history.last_checkpoint, n_before + 1);
        if n_before == SUSPENDED_MAX {
            return Ok(None);
        }
        let beginning = kept.settle(
            Control::before_tasks(&shared.wishes),
            &region.vertices,
            region.generation,
            committed,
        )?;
        Ok(Some(Next::new(kept, beginning)))
    }

    /// Waits for the end of the checkpoints, when no region runs any more. The first value is what
    /// ended them, the second what is left.
    pub fn finish(self) -> Result<(Result<()>, Option<Ending>)> {
        let ending = self.checkpoints.map(Checkpoints::join).transpose()?;
        Ok((self.controls.take_error().map_or(Ok(()), Err), ending))
    }
}

/// What the new tasks of a region are made from.
pub(crate) struct Next {
    definition: Arc<Definition>,
    job: Arc<str>,
    generation: u64,
    restored: Arc<Restored>,
    checkpoint: u64,
    operators: Vec<OperatorEntry>,
}

impl Next {
    fn new(kept: KeptRegion, beginning: RegionBeginning) -> Next {
        let RegionBeginning {
            restored,
            checkpoint,
            operators,
        } = beginning;
        Next {
            generation: kept.generation(),
            definition: kept.definition,
            job: kept.job,
            restored,
            checkpoint,
            operators,
        }
    }

    /// Of a job without checkpoints. It names its transactions as another job would.
    fn from_the_start(definition: Arc<Definition>) -> Next {
        let (job, restored) = (durable::job_id(&unique_token()), Arc::default());
        Next {
            definition,
            job,
            generation: 1,
            restored,
            checkpoint: 0,
            operators: Vec::new(),
        }
    }
}
