//! Model tasks: what a JobMaster sees of a TaskManager, without data and without threads.
//!
//! Readers send counted records, every task aligns barriers, and sinks write what they get in
//! transactions. A task does a little at each step, in an order that the simulation chooses.

use crate::ledger::{Ledger, Transaction};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use streamrt_checkpoint::{OperatorEntry, Stored, SubtaskSnapshot};
use streamrt_graph::Head;
use streamrt_jobmanager::job_master::Version;
use streamrt_rpc::{FromTaskManager, Scope, SubtaskReport, WireError, Wish};
use streamrt_types::code;

/// Records that each reader has in all.
pub const RECORDS: u64 = 300;

/// What a task sends to another one.
#[derive(Debug, Clone, Copy)]
enum Element {
    Record(u64),
    Barrier(u64),
    End,
}

/// What outlives all processes, beside the log and the manifests.
#[derive(Debug, Default)]
pub struct Outside {
    pub ledger: Ledger,
    /// The states that checkpoints refer to, by path.
    objects: BTreeMap<String, TaskState>,
}

/// The state of a task in a checkpoint.
#[derive(Debug, Clone, Default)]
struct TaskState {
    position: u64,
    /// Pre-committed, and not known to be committed.
    promised: Vec<Transaction>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Reading,
    /// All is written, and a checkpoint is to commit it.
    Ended,
    Gone,
}

#[derive(Debug)]
struct Task {
    /// Its number among the readers of the job.
    reader: Option<u64>,
    is_sink: bool,
    predecessors: Vec<usize>,
    successors: Vec<usize>,
    region: usize,
    progress: Progress,
    position: u64,
    channels: BTreeMap<usize, VecDeque<Element>>,
    /// Channels that have not ended.
    open: BTreeSet<usize>,
    aligning: Option<u64>,
    arrived: BTreeSet<usize>,
    last_checkpoint: u64,
    written: Vec<u64>,
    promised: Vec<(u64, Transaction)>,
    commands: VecDeque<Command>,
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Trigger(u64),
    Complete(u64),
    Abort(u64),
}

#[derive(Debug, Clone, Default)]
struct Region {
    generation: u64,
    is_running: bool,
    tasks: Vec<usize>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Model {
    tasks: Vec<Task>,
    regions: Vec<Region>,
    job: String,
    drains: bool,
    /// What tasks go on from, by (vertex, subtask); None: it has finished.
    opened: BTreeMap<(u32, u32), Option<TaskState>>,
    places: Vec<(u32, u32)>,
}

/// What tasks have to say.
pub type Told = Vec<FromTaskManager>;

impl Model {
    /// Reads what the tasks of a snapshot go on from.
    ///
    /// # Errors
    /// If something is gone that a checkpoint names.
    pub fn open(
        &mut self,
        version: &Version,
        subtasks: &[SubtaskSnapshot],
        outside: &Outside,
    ) -> Result<(), String> {
        self.places = version.places();
        self.opened.clear();
        for subtask in subtasks {
            let state = match (&subtask.object, subtask.finished) {
                (_, true) => None,
                (None, false) => Some(TaskState::default()),
                (Some(object), false) => {
                    let state = outside.objects.get(&object.path).cloned();
                    Some(state.ok_or_else(|| format!("{} is gone", object.path))?)
                }
            };
            let place = (subtask.vertex, subtask.subtask);
            self.opened.insert(place, state);
        }
        Ok(())
    }

    /// The transactions that a snapshot promises, of these tasks.
    pub fn promised(
        version: &Version,
        subtasks: &[SubtaskSnapshot],
        tasks: &[usize],
        outside: &Outside,
    ) -> Vec<Transaction> {
        let places = version.places();
        let is_wanted = |subtask: &&SubtaskSnapshot| {
            let place = (subtask.vertex, subtask.subtask);
            tasks.iter().any(|task| places[*task] == place)
        };
        let wanted = subtasks.iter().filter(is_wanted);
        let objects = wanted.filter_map(|subtask| subtask.object.as_ref());
        let states = objects.filter_map(|object| outside.objects.get(&object.path));
        states.flat_map(|state| state.promised.clone()).collect()
    }

    /// The tasks of a scope.
    pub fn tasks_of(version: &Version, scope: Scope) -> Vec<usize> {
        match scope {
            Scope::Job => (0..version.execution.subtasks.len()).collect(),
            Scope::Region { region, .. } => version.tasks_of(region),
        }
    }

    pub fn operators(version: &Version) -> Vec<OperatorEntry> {
        let vertices = version.graph.vertices.iter().enumerate();
        let operator = |(vertex, found): (usize, &streamrt_graph::JobVertex)| OperatorEntry {
            uid: format!("v{vertex}"),
            vertex: vertex as u32,
            parallelism: found.parallelism,
        };
        vertices.map(operator).collect()
    }

    /// Makes the tasks of a scope.
    pub fn prepare(&mut self, version: &Version, scope: Scope, job: &str, generation: u64) {
        match scope {
            Scope::Job => {
                job.clone_into(&mut self.job);
                self.tasks = make_all(version);
                let region = |number| Region {
                    generation,
                    is_running: false,
                    tasks: version.tasks_of(number),
                };
                self.regions = (0..version.regions.len()).map(region).collect();
            }
            Scope::Region { region, .. } => self.regions[region].generation = generation,
        }
        let tasks = Model::tasks_of(version, scope);
        for (number, task) in make_all(version).into_iter().enumerate() {
            if tasks.contains(&number) {
                self.tasks[number] = task;
                self.restore(number);
            }
        }
    }

    fn restore(&mut self, number: usize) {
        let state = self.opened.get(&self.places[number]);
        let task = &mut self.tasks[number];
        match state {
            None => {}
            // It runs, finds nothing to do, and says so.
            Some(None) => task.position = u64::MAX,
            Some(Some(state)) => task.position = state.position,
        }
    }

    pub fn start(&mut self, scope: Scope) {
        for (number, region) in self.regions.iter_mut().enumerate() {
            region.is_running |= match scope {
                Scope::Job => true,
                Scope::Region { region, .. } => region == number,
            };
        }
    }

    pub fn wish(&mut self, wish: Wish) {
        self.drains |= wish == Wish::Drain;
    }

    pub fn trigger(&mut self, checkpoint: u64, tasks: &[usize]) {
        for task in tasks {
            let commands = &mut self.tasks[*task].commands;
            commands.push_back(Command::Trigger(checkpoint));
        }
    }

    pub fn complete(&mut self, checkpoint: u64) {
        self.command_all(Command::Complete(checkpoint));
    }

    pub fn abort(&mut self, checkpoint: u64) {
        self.command_all(Command::Abort(checkpoint));
    }

    fn command_all(&mut self, command: Command) {
        let tasks = self.tasks.iter_mut();
        tasks.for_each(|task| task.commands.push_back(command));
    }

    /// The numbers of tasks that may do something.
    pub fn running(&self) -> Vec<usize> {
        let regions = self.regions.iter().filter(|region| region.is_running);
        regions
            .flat_map(|region| region.tasks.clone())
            .filter(|task| self.tasks[*task].progress != Progress::Gone)
            .collect()
    }

    /// All tasks of a region are gone: because one failed, or because they were told to.
    pub fn end_region(&mut self, number: usize, error: WireError) -> Told {
        let region = self.regions.get_mut(number);
        let Some(region) = region.filter(|region| region.is_running) else {
            return Vec::new();
        };
        region.is_running = false;
        vec![FromTaskManager::RegionEnded {
            region: number,
            generation: region.generation,
            error: Some(error),
        }]
    }

    pub fn cancel(&mut self, regions: &[usize]) -> Told {
        let cancelled = || WireError::new(code::CANCELLED, "the job was cancelled");
        regions
            .iter()
            .flat_map(|region| self.end_region(*region, cancelled()))
            .collect()
    }

    pub fn region_of(&self, task: usize) -> usize {
        self.tasks[task].region
    }

    /// Lets a task do a little.
    ///
    /// # Errors
    /// What the ledger says, which is a violation.
    pub fn step(&mut self, number: usize, outside: &mut Outside) -> Result<Told, String> {
        let mut told = Vec::new();
        while let Some(command) = self.tasks[number].commands.pop_front() {
            self.obey(number, command, outside, &mut told)?;
        }
        if self.tasks[number].progress == Progress::Reading {
            self.read(number, outside, &mut told)?;
            self.emit(number);
            self.end_if_done(number, &mut told);
        }
        told.extend(self.region_is_over(number));
        Ok(told)
    }

    fn region_is_over(&mut self, number: usize) -> Option<FromTaskManager> {
        let number = self.tasks[number].region;
        let is_gone = |task: &usize| self.tasks[*task].progress == Progress::Gone;
        let is_over = self.regions[number].tasks.iter().all(is_gone);
        let region = &mut self.regions[number];
        if !(is_over && region.is_running) {
            return None;
        }
        region.is_running = false;
        Some(FromTaskManager::RegionEnded {
            region: number,
            generation: region.generation,
            error: None,
        })
    }

    fn generation(&self, number: usize) -> u64 {
        self.regions[self.tasks[number].region].generation
    }

    fn obey(
        &mut self,
        number: usize,
        command: Command,
        outside: &mut Outside,
        told: &mut Told,
    ) -> Result<(), String> {
        let task = &mut self.tasks[number];
        match command {
            // A task with inputs waits for the barrier that they bring.
            Command::Trigger(checkpoint) => {
                if task.open.is_empty() && checkpoint > task.last_checkpoint {
                    self.checkpoint(number, checkpoint, outside, told)?;
                }
            }
            Command::Complete(checkpoint) => self.commit(number, checkpoint, outside, told)?,
            Command::Abort(checkpoint) => {
                task.last_checkpoint = task.last_checkpoint.max(checkpoint);
                let aligning = task.aligning;
                if aligning.is_some_and(|aligning| aligning <= checkpoint) {
                    (task.aligning, task.arrived) = (None, BTreeSet::new());
                }
            }
        }
        Ok(())
    }

    fn commit(
        &mut self,
        number: usize,
        checkpoint: u64,
        outside: &mut Outside,
        told: &mut Told,
    ) -> Result<(), String> {
        let generation = self.generation(number);
        let task = &mut self.tasks[number];
        let is_due = |(made_for, _): &(u64, Transaction)| *made_for <= checkpoint;
        let (due, later): (Vec<_>, Vec<_>) = task.promised.drain(..).partition(is_due);
        task.promised = later;
        for (_, transaction) in &due {
            outside.ledger.commit(transaction)?;
        }
        told.push(FromTaskManager::Committed {
            task: number,
            generation,
            checkpoint,
        });
        let is_all = task.promised.is_empty() && task.written.is_empty();
        if task.progress == Progress::Ended && is_all {
            self.finish(number, told);
        }
        Ok(())
    }

    /// Takes one element of each channel that is not held back.
    fn read(
        &mut self,
        number: usize,
        outside: &mut Outside,
        told: &mut Told,
    ) -> Result<(), String> {
        for from in self.tasks[number].predecessors.clone() {
            let task = &mut self.tasks[number];
            if task.arrived.contains(&from) {
                continue;
            }
            let channel = task.channels.get_mut(&from);
            let Some(element) = channel.and_then(VecDeque::pop_front) else {
                continue;
            };
            match element {
                Element::Record(record) => self.treat(number, record),
                Element::Barrier(checkpoint) if checkpoint > task.last_checkpoint => {
                    if task.aligning.is_none_or(|aligning| aligning < checkpoint) {
                        (task.aligning, task.arrived) = (Some(checkpoint), BTreeSet::new());
                    }
                    task.arrived.insert(from);
                }
                Element::Barrier(_) => {}
                Element::End => drop(task.open.remove(&from)),
            }
            self.check_aligned(number, outside, told)?;
        }
        Ok(())
    }

    fn check_aligned(
        &mut self,
        number: usize,
        outside: &mut Outside,
        told: &mut Told,
    ) -> Result<(), String> {
        let task = &mut self.tasks[number];
        let is_aligned = task.open.iter().all(|open| task.arrived.contains(open));
        match task.aligning {
            Some(checkpoint) if is_aligned => {
                (task.aligning, task.arrived) = (None, BTreeSet::new());
                self.checkpoint(number, checkpoint, outside, told)
            }
            _ => Ok(()),
        }
    }

    fn treat(&mut self, number: usize, record: u64) {
        let task = &mut self.tasks[number];
        if task.is_sink {
            task.written.push(record);
        }
        if let Some(to) = pick(&task.successors, record) {
            self.push(number, to, Element::Record(record));
        }
    }

    fn push(&mut self, from: usize, to: usize, element: Element) {
        if let Some(channel) = self.tasks[to].channels.get_mut(&from) {
            channel.push_back(element);
        }
    }

    /// A reader reads on. An enumerator has nothing to send but barriers, for a while.
    fn emit(&mut self, number: usize) {
        let task = &mut self.tasks[number];
        let Some(reader) = task.reader else {
            task.position = task.position.saturating_add(1);
            return;
        };
        if task.position < RECORDS && !self.drains {
            let record = reader * RECORDS + task.position;
            task.position += 1;
            self.treat(number, record);
        }
    }

    fn end_if_done(&mut self, number: usize, told: &mut Told) {
        let generation = self.generation(number);
        let task = &self.tasks[number];
        let has_read = match (task.reader, task.predecessors.is_empty()) {
            (Some(_), _) => task.position >= RECORDS || self.drains,
            (None, true) => task.position >= RECORDS / 3 || self.drains,
            (None, false) => true,
        };
        if !task.open.is_empty() || !has_read || task.aligning.is_some() {
            return;
        }
        for to in task.successors.clone() {
            self.push(number, to, Element::End);
        }
        let task = &mut self.tasks[number];
        if task.written.is_empty() && task.promised.is_empty() {
            return self.finish(number, told);
        }
        task.progress = Progress::Ended;
        told.push(FromTaskManager::Ended {
            task: number,
            generation,
        });
    }

    fn finish(&mut self, number: usize, told: &mut Told) {
        self.tasks[number].progress = Progress::Gone;
        told.push(FromTaskManager::Finished {
            task: number,
            generation: self.generation(number),
            dead_letters: 0,
        });
    }

    /// Takes part in a checkpoint: the barrier goes on, results are pre-committed, the state is
    /// written.
    fn checkpoint(
        &mut self,
        number: usize,
        checkpoint: u64,
        outside: &mut Outside,
        told: &mut Told,
    ) -> Result<(), String> {
        let generation = self.generation(number);
        let task = &mut self.tasks[number];
        task.last_checkpoint = checkpoint;
        let written = std::mem::take(&mut task.written);
        if !written.is_empty() {
            let name = (self.job.clone(), generation, number, checkpoint);
            outside.ledger.write(name.clone(), written)?;
            task.promised.push((checkpoint, name));
        }
        let promised = task.promised.iter();
        let state = TaskState {
            position: task.position,
            promised: promised.map(|(_, name)| name.clone()).collect(),
        };
        if task.progress == Progress::Reading {
            for to in task.successors.clone() {
                self.push(number, to, Element::Barrier(checkpoint));
            }
        }
        let (vertex, subtask) = self.places[number];
        let path = format!("chk-{checkpoint}/{generation}-{vertex}-{subtask}");
        outside.objects.insert(path.clone(), state);
        let object = Some(Stored {
            path,
            bytes: 1,
            checksum: "0".into(),
        });
        let snapshot = SubtaskSnapshot {
            vertex,
            subtask,
            object,
            ..SubtaskSnapshot::default()
        };
        told.push(FromTaskManager::Acknowledged {
            task: number,
            generation,
            checkpoint,
            snapshot,
            report: SubtaskReport::default(),
        });
        Ok(())
    }
}

fn pick(successors: &[usize], record: u64) -> Option<usize> {
    let n = successors.len() as u64;
    (n > 0).then(|| successors[(record % n) as usize])
}

fn make_all(version: &Version) -> Vec<Task> {
    let topology = version.topology();
    let region_of = version.region_of();
    let mut n_readers = 0;
    let mut tasks: Vec<Task> = Vec::new();
    for (number, node) in topology.tasks.iter().enumerate() {
        let vertex = &version.graph.vertices[version.execution.subtasks[number].vertex];
        let is_sink = |node: &usize| version.graph.stream.nodes[*node].body.is_sink();
        let mut nodes = vertex.operators.iter().flat_map(|found| &found.nodes);
        let reader = matches!(vertex.head, Head::Reader { .. }).then(|| {
            n_readers += 1;
            n_readers - 1
        });
        let predecessors = node.predecessors.clone();
        let channels = predecessors.iter().map(|from| (*from, VecDeque::new()));
        tasks.push(Task {
            reader,
            is_sink: nodes.any(is_sink),
            channels: channels.collect(),
            open: predecessors.iter().copied().collect(),
            predecessors,
            successors: Vec::new(),
            region: region_of[number],
            progress: Progress::Reading,
            position: 0,
            aligning: None,
            arrived: BTreeSet::new(),
            last_checkpoint: 0,
            written: Vec::new(),
            promised: Vec::new(),
            commands: VecDeque::new(),
        });
    }
    for (number, node) in topology.tasks.iter().enumerate() {
        for from in &node.predecessors {
            tasks[*from].successors.push(number);
        }
    }
    tasks
}

/// Records that all readers of a version have.
pub fn n_records(version: &Version) -> usize {
    let tasks = make_all(version);
    let readers = tasks.iter().filter(|task| task.reader.is_some());
    readers.count() * RECORDS as usize
}
