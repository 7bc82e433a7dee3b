//! The coordinator in every order of events, at small bounds.
//!
//! 1. Hostile: any input at any moment, also ones that no task would send. Nothing may break the
//!    rules.
//! 2. Honest: tasks that keep to their contract, with queues between them and the coordinator,
//!    faults and slow reports. The rules hold, every published checkpoint is a consistent cut, and
//!    from every state that can be reached the job can still come to its end.
//!
//! States are visited once; the sets of states are finite because numbers, ticks and faults are
//! bounded.

mod hostile;

use self::hostile::requests;
use crate::coordinator::{Action, Coordinator, Settings, TaskNode, Topology};
use crate::requests::Request;
use crate::tests::explore::{explore, reaching};
use crate::tests::rules::Rules;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(15);
const FIRST: u64 = 5;

/// What a task acknowledges with: itself, the checkpoint, whether its end is in it.
pub type Snapshot = (usize, u64, bool);
type Machine = Coordinator<Snapshot>;

fn machine(predecessors: &[&[usize]], tolerable_failures: u32) -> Machine {
    let task = |(task, predecessors): (usize, &&[usize])| TaskNode {
        name: format!("t{task}"),
        predecessors: predecessors.to_vec(),
    };
    let topology = Topology {
        tasks: predecessors.iter().enumerate().map(task).collect(),
    };
    let (interval, first_checkpoint) = (Some(INTERVAL), FIRST);
    let common = Settings {
        interval,
        min_pause: Duration::ZERO,
        timeout: TIMEOUT,
        tolerable_failures,
        retained: 1,
        first_checkpoint,
        published: vec![3],
    };
    Coordinator::new(common, topology)
}

const CHAIN_2: &[&[usize]] = &[&[], &[0]];
const CHAIN_3: &[&[usize]] = &[&[], &[0], &[1]];
const JOIN: &[&[usize]] = &[&[], &[], &[0, 1]];
const FORK: &[&[usize]] = &[&[], &[0], &[0]];
/// A chain, and a task beside it.
const REGIONS: &[&[usize]] = &[&[], &[0], &[]];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    Tick(Duration),
    Acknowledged(usize, u64, bool),
    Declined(usize, u64),
    Ended(usize),
    Finished(usize),
    Published(u64),
    PublishFailed(u64),
    Committed(usize, u64),
    Request(Request),
    Suspend(Vec<usize>),
    Resume,
}

fn feed(machine: &mut Machine, input: &Input) -> Vec<Action<Snapshot>> {
    match input {
        Input::Tick(now) => machine.tick(*now),
        Input::Acknowledged(task, checkpoint, end) => {
            machine.acknowledged(*task, *checkpoint, (*task, *checkpoint, *end))
        }
        Input::Declined(task, checkpoint) => machine.declined(*task, *checkpoint, "no"),
        Input::Ended(task) => machine.ended(*task),
        Input::Finished(task) => machine.finished(*task),
        Input::Published(checkpoint) => machine.published(*checkpoint),
        Input::PublishFailed(checkpoint) => machine.publish_failed(*checkpoint, "full"),
        Input::Committed(task, checkpoint) => machine.committed(*task, *checkpoint),
        Input::Request(request) => machine.request(*request),
        Input::Suspend(tasks) => machine.suspend(tasks),
        Input::Resume => machine.resume(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    Running,
    Ended,
    Finished,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Task {
    life: Life,
    /// The last barrier that it took its snapshot at.
    passed: u64,
    /// The last one that it sent on; none behind its end.
    sent: u64,
    triggered: Option<u64>,
    /// The checkpoint whose snapshot holds its end, and which is published.
    committed: bool,
    /// Reports that the coordinator has not heard, in order.
    reports: VecDeque<Input>,
}

impl Task {
    fn new() -> Task {
        Task {
            life: Life::Running,
            passed: 0,
            sent: 0,
            triggered: None,
            committed: false,
            reports: VecDeque::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    machine: Machine,
    rules: Rules,
    tasks: Vec<Task>,
    /// Being written.
    publishing: Option<u64>,
    /// By task that has ended: the first checkpoint with its end in it.
    ends: BTreeMap<usize, u64>,
    now: Duration,
    ticks: u32,
    faults: u32,
    requests: u32,
    /// The last checkpoint that all tasks were told is over.
    over: u64,
    /// How often a region may fail.
    losses: u32,
    /// Tasks that are gone, and have not been started again.
    gone: &'static [usize],
}

/// Who waits for a commit at its end; the others finish at once.
type Waits = fn(usize) -> bool;

impl World {
    fn tell(&mut self, input: Input) {
        self.rules.hear(&input);
        for action in feed(&mut self.machine, &input) {
            self.rules.check(&input, &action, self.tasks.len());
            self.obey(action);
        }
        self.rules.check_done();
    }

    fn obey(&mut self, action: Action<Snapshot>) {
        match action {
            Action::Trigger {
                checkpoint, tasks, ..
            } => tasks
                .into_iter()
                .for_each(|task| self.tasks[task].triggered = Some(checkpoint)),
            Action::Publish {
                checkpoint,
                snapshots,
                ..
            } => self.publish(checkpoint, &snapshots),
            Action::Complete {
                checkpoint,
                purpose,
            } => {
                self.over = checkpoint;
                for (task, end) in &self.ends {
                    self.tasks[*task].committed |= purpose.commits() && *end <= checkpoint;
                }
                for (task, this) in self
                    .tasks
                    .iter_mut()
                    .enumerate()
                    .filter(|(_, this)| purpose.stops() && this.life != Life::Finished)
                {
                    this.reports.push_back(Input::Committed(task, checkpoint));
                }
            }
            Action::Abort { checkpoint, .. } => self.over = checkpoint,
            Action::Stop
            | Action::Fail { .. }
            | Action::RollBack { .. }
            | Action::Retire { .. }
            | Action::Refuse { .. } => (),
        }
    }

    /// A task without snapshot does not run again: nothing that it did may lie after the barrier
    /// of this checkpoint.
    fn publish(&mut self, checkpoint: u64, snapshots: &[Option<Snapshot>]) {
        for (task, snapshot) in self.tasks.iter().zip(snapshots) {
            assert!(
                snapshot.is_some() || task.life == Life::Finished && task.passed < checkpoint,
                "rows after the barrier are lost"
            );
        }
        self.publishing = Some(checkpoint);
    }

    /// All channels are at the barrier or at their end, and one of them, or a trigger, brings it.
    fn barrier(&self, task: usize, predecessors: &[usize]) -> Option<u64> {
        let this = &self.tasks[task];
        let ended = |from: &&usize| self.tasks[**from].life != Life::Running;
        let brought = predecessors
            .iter()
            .map(|from| self.tasks[*from].sent)
            .max()
            .unwrap_or(0);
        let triggered = this
            .triggered
            .filter(|_| predecessors.iter().all(|from| ended(&from)))
            .unwrap_or(0);
        let number = brought.max(triggered);
        let aligned = predecessors
            .iter()
            .all(|from| ended(&from) || self.tasks[*from].sent >= number);
        (this.life != Life::Finished && number > this.passed && number > self.over && aligned)
            .then_some(number)
    }

    fn pass(&self, task: usize, checkpoint: u64, decline: bool) -> World {
        let mut next = self.clone();
        let this = &mut next.tasks[task];
        (this.passed, this.triggered) = (checkpoint, None);
        let end = this.life == Life::Ended;
        if !end {
            this.sent = checkpoint;
        }
        let input = if decline {
            Input::Declined(task, checkpoint)
        } else {
            Input::Acknowledged(task, checkpoint, end)
        };
        this.reports.push_back(input);
        next.faults -= u32::from(decline);
        if end {
            next.ends.entry(task).or_insert(checkpoint);
        }
        next
    }

    fn end(&self, task: usize, waits: bool) -> World {
        let mut next = self.clone();
        let this = &mut next.tasks[task];
        this.life = if waits { Life::Ended } else { Life::Finished };
        this.reports.push_back(if waits {
            Input::Ended(task)
        } else {
            Input::Finished(task)
        });
        next
    }

    fn with(&self, change: impl FnOnce(&mut World)) -> World {
        let mut next = self.clone();
        change(&mut next);
        next
    }

    fn next(&self, predecessors: &[&[usize]], waits: Waits) -> Vec<World> {
        if self.rules.failed || self.rules.ended {
            return Vec::new();
        }
        let mut all = Vec::new();
        for (task, from) in predecessors.iter().enumerate() {
            if !self.gone.contains(&task) {
                all.extend(self.next_of_task(task, from, waits(task)));
            }
        }
        if let Some(checkpoint) = self.publishing {
            let answer = |world: &mut World, input| {
                world.publishing = None;
                world.tell(input);
            };
            all.push(self.with(|world| answer(world, Input::Published(checkpoint))));
            if self.faults > 0 {
                all.push(self.with(|world| {
                    world.faults -= 1;
                    answer(world, Input::PublishFailed(checkpoint));
                }));
            }
        }
        all.extend(self.time_passes());
        all.extend(self.next_of_regions());
        if self.requests > 0 {
            all.extend(requests(self.requests).map(|request| {
                self.with(|world| {
                    world.requests -= 1;
                    world.tell(Input::Request(request));
                })
            }));
        }
        all
    }

    /// The tasks 0 and 1 fail together; what they reported has been heard. They run again from the
    /// newest checkpoint.
    fn next_of_regions(&self) -> Vec<World> {
        const CHAIN: &[usize] = &[0, 1];
        if !self.gone.is_empty() {
            return vec![self.with(|world| {
                world.gone = &[];
                world.tell(Input::Resume);
            })];
        }
        if self.losses == 0 || self.publishing.is_some() || self.rules.stopped.is_some() {
            return Vec::new();
        }
        let is_heard = CHAIN
            .iter()
            .all(|task| self.tasks[*task].reports.is_empty());
        let runs = CHAIN
            .iter()
            .any(|task| self.tasks[*task].life != Life::Finished);
        if !is_heard || !runs {
            return Vec::new();
        }
        vec![self.with(|world| {
            world.losses -= 1;
            for task in CHAIN {
                world.tasks[*task] = Task::new();
                world.ends.remove(task);
            }
            world.gone = CHAIN;
            world.tell(Input::Suspend(CHAIN.to_vec()));
        })]
    }

    fn next_of_task(&self, task: usize, from: &[usize], waits: bool) -> Vec<World> {
        let (this, mut all) = (&self.tasks[task], Vec::new());
        if let Some(checkpoint) = self.barrier(task, from) {
            all.push(self.pass(task, checkpoint, false));
            if self.faults > 0 {
                all.push(self.pass(task, checkpoint, true));
            }
        }
        // A barrier that stands in a channel comes before the end of the channel.
        let at_end = from
            .iter()
            .all(|from| self.tasks[*from].life != Life::Running);
        let barrier_first = !from.is_empty()
            && from
                .iter()
                .any(|from| self.tasks[*from].sent > this.passed.max(self.over));
        if this.life == Life::Running && at_end && !barrier_first {
            all.push(self.end(task, waits));
        }
        if this.life == Life::Ended && this.committed {
            all.push(self.end(task, false));
        }
        if let Some(report) = this.reports.front().cloned() {
            all.push(self.with(|world| {
                world.tasks[task].reports.pop_front();
                world.tell(report);
            }));
        }
        all
    }

    /// An interval at most as often as allowed, and as often as needed when nothing else is left to
    /// wait for; an expiry as a fault.
    fn time_passes(&self) -> Vec<World> {
        let mut all = Vec::new();
        let tick = |world: &mut World, passes: Duration| {
            world.now += passes;
            world.tell(Input::Tick(world.now));
        };
        let all_ended = self
            .tasks
            .iter()
            .all(|task| task.life != Life::Running && task.reports.is_empty());
        let waits_for_retry = all_ended
            && self
                .tasks
                .iter()
                .any(|task| task.life == Life::Ended && !task.committed);
        if self.rules.pending.is_none()
            && (self.ticks > 0 || waits_for_retry && self.now < 10 * INTERVAL)
        {
            all.push(self.with(|world| {
                world.ticks = world.ticks.saturating_sub(1);
                tick(world, INTERVAL);
            }));
        }
        if self.rules.pending.is_some() && self.publishing.is_none() && self.faults > 0 {
            all.push(self.with(|world| {
                world.faults -= 1;
                tick(world, TIMEOUT);
            }));
        }
        all
    }

    fn is_done(&self) -> bool {
        self.gone.is_empty()
            && self
                .tasks
                .iter()
                .all(|task| task.life == Life::Finished && task.reports.is_empty())
    }

    /// All is committed, and nothing is under way.
    fn is_at_its_end(&self, waits: Waits) -> bool {
        let committed =
            (0..self.tasks.len()).all(|task| !waits(task) || self.tasks[task].committed);
        self.is_done() && committed && self.rules.pending.is_none() && self.rules.open.is_empty()
    }
}

#[derive(Default)]
struct Bounds {
    ticks: u32,
    faults: u32,
    requests: u32,
    losses: u32,
    tolerable_failures: u32,
}

fn explore_honest(predecessors: &[&[usize]], waits: Waits, bounds: Bounds) {
    let start = World {
        machine: machine(predecessors, bounds.tolerable_failures),
        rules: Rules {
            kept: [3].into(),
            ..Rules::default()
        },
        tasks: vec![Task::new(); predecessors.len()],
        publishing: None,
        ends: BTreeMap::new(),
        now: Duration::ZERO,
        ticks: bounds.ticks,
        faults: bounds.faults,
        requests: bounds.requests,
        over: 0,
        losses: bounds.losses,
        gone: &[],
    };
    let (states, edges) = explore(start, |world| world.next(predecessors, waits));
    let ends: Vec<usize> = (0..states.len())
        .filter(|state| is_over(&states[*state], waits))
        .collect();
    let reach = reaching(&edges, &ends);
    let stuck = states.iter().zip(&reach).find(|(_, reaches)| !**reaches);
    assert!(
        stuck.is_none(),
        "of {} states, this one leads nowhere: {:#?}",
        states.len(),
        stuck.unwrap().0
    );
    assert!(states.iter().any(|world| world.is_at_its_end(waits)) && states.len() > 100);
    let failed = |world: &World| world.rules.failed && !world.rules.upgrade_failed;
    assert!(states.iter().any(failed) == (bounds.faults > bounds.tolerable_failures));
}

fn is_over(world: &World, waits: Waits) -> bool {
    world.is_at_its_end(waits) || world.rules.failed || world.rules.ended
}

#[test]
fn honest_tasks_come_to_their_end_and_every_cut_is_consistent() {
    let last_waits: Waits = |task| task == 2;
    for predecessors in [CHAIN_3, JOIN] {
        explore_honest(
            predecessors,
            last_waits,
            Bounds {
                ticks: 2,
                ..Bounds::default()
            },
        );
        explore_honest(
            predecessors,
            last_waits,
            Bounds {
                ticks: 1,
                faults: 1,
                tolerable_failures: 1,
                ..Bounds::default()
            },
        );
    }
    explore_honest(
        FORK,
        |task| task > 0,
        Bounds {
            ticks: 1,
            faults: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn faults_and_savepoints_at_any_moment_do_not_stop_the_job() {
    explore_honest(
        &[&[]],
        |_| true,
        Bounds {
            ticks: 3,
            faults: 2,
            requests: 2,
            tolerable_failures: 2,
            ..Bounds::default()
        },
    );
    explore_honest(
        CHAIN_2,
        |task| task == 1,
        Bounds {
            ticks: 2,
            faults: 2,
            requests: 1,
            tolerable_failures: 2,
            ..Bounds::default()
        },
    );
    explore_honest(
        CHAIN_2,
        |_| true,
        Bounds {
            ticks: 2,
            faults: 2,
            requests: 1,
            ..Bounds::default()
        },
    );
    explore_honest(
        CHAIN_2,
        |_| false,
        Bounds {
            ticks: 2,
            faults: 1,
            requests: 1,
            tolerable_failures: 1,
            ..Bounds::default()
        },
    );
}

#[test]
fn a_region_that_fails_runs_again_while_the_others_run_on() {
    let last_of_each: Waits = |task| task > 0;
    explore_honest(
        REGIONS,
        last_of_each,
        Bounds {
            ticks: 1,
            losses: 2,
            ..Bounds::default()
        },
    );
    explore_honest(
        REGIONS,
        last_of_each,
        Bounds {
            ticks: 1,
            losses: 1,
            requests: 1,
            ..Bounds::default()
        },
    );
    explore_honest(
        CHAIN_2,
        |_| true,
        Bounds {
            ticks: 1,
            faults: 1,
            losses: 1,
            requests: 1,
            tolerable_failures: 1,
        },
    );
}
