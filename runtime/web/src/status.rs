//! Jobs and checkpoints as `/v1` shows them, for the server and its clients.

use serde::{Deserialize, Serialize};
use streamrt_jobmanager::Failure;
use streamrt_types::LogLine;
use utoipa::ToSchema;

/// What a job does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is read; components that are new are compiled.
    #[default]
    Preparing,
    /// It waits for slots.
    Waiting,
    /// What its checkpoints hold is restored.
    Starting,
    /// It has not run yet: something that it needs is away.
    Created,
    Running,
    /// A part of it, or all, failed and waits to run again.
    Restarting,
    /// A user has stopped it, or drains it.
    Stopping,
    Cancelling,
    /// By itself.
    Finished,
    /// With a checkpoint from which it can go on.
    Stopped,
    Cancelled,
    Failed,
    /// What was kept of it cannot be read.
    Unreadable,
}

impl State {
    /// As in the answers.
    pub fn name(self) -> &'static str {
        match self {
            State::Preparing => "preparing",
            State::Waiting => "waiting",
            State::Starting => "starting",
            State::Created => "created",
            State::Running => "running",
            State::Restarting => "restarting",
            State::Stopping => "stopping",
            State::Cancelling => "cancelling",
            State::Finished => "finished",
            State::Stopped => "stopped",
            State::Cancelled => "cancelled",
            State::Failed => "failed",
            State::Unreadable => "unreadable",
        }
    }

    /// Flink's name for it. Flink knows no state for a job that is being stopped: it runs until
    /// its last checkpoint is there, and then has finished.
    pub fn in_flink(self) -> &'static str {
        match self {
            State::Preparing | State::Starting => "INITIALIZING",
            State::Waiting | State::Created => "CREATED",
            State::Running | State::Stopping => "RUNNING",
            State::Restarting => "RESTARTING",
            State::Cancelling => "CANCELLING",
            State::Finished | State::Stopped => "FINISHED",
            State::Cancelled => "CANCELED",
            State::Failed | State::Unreadable => "FAILED",
        }
    }

    /// Whether nothing happens to it any more.
    pub fn is_end(self) -> bool {
        matches!(
            self,
            State::Finished | State::Stopped | State::Cancelled | State::Failed | State::Unreadable
        )
    }
}

/// A job at a glance. What is counted is counted since it was started last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobStatus {
    pub id: String,
    pub name: String,
    pub state: State,
    /// Why it failed, or cannot be read; while it restarts, after what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Failure>,
    /// While it waits: so many slots are not free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_slots: Option<u32>,
    /// Subtasks of each operator that names no number itself.
    pub parallelism: u32,
    pub records_in: u64,
    pub records_out: u64,
    pub late_records: u64,
    pub dead_letters: u64,
    /// How long it has run, in ms.
    pub elapsed_ms: u64,
    /// When it was accepted, in ms since the epoch.
    pub started_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<i64>,
    /// Where its checkpoints are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_dir: Option<String>,
    /// The one that it went on from when it was started last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_from: Option<u64>,
    /// The one that it was stopped with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<u64>,
    /// How often its tasks were started again since this process started it.
    #[serde(default)]
    pub restarts: u64,
    /// Whether each component of a job that runs had to be compiled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// What a user should know of its sources and sinks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// How far a checkpoint has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CheckpointStatus {
    #[default]
    Pending,
    Published,
    Failed {
        reason: String,
    },
}

/// A checkpoint, as it is at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointDetails {
    pub checkpoint: u64,
    /// `checkpoint`, `savepoint` or `upgrade`.
    pub kind: String,
    pub status: CheckpointStatus,
    /// When it began, in ms since the epoch.
    pub triggered_ms: i64,
    /// From its beginning until it was published or given up.
    pub duration_us: u64,
    /// Those that have written their state, in the order of the tasks.
    pub subtasks: Vec<SubtaskCheckpoint>,
}

/// What a checkpoint cost one subtask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubtaskCheckpoint {
    /// As in `count (2/4)`.
    pub name: String,
    /// From the first barrier to the last.
    pub alignment_us: u64,
    /// On the task's thread.
    pub sync_us: u64,
    /// To turn the frozen state into bytes and to write it.
    pub async_us: u64,
    /// Written for this checkpoint.
    pub bytes: u64,
    /// All that the checkpoint refers to.
    pub full_bytes: u64,
}

impl CheckpointDetails {
    /// Written by all subtasks.
    pub fn bytes(&self) -> u64 {
        self.subtasks.iter().map(|subtask| subtask.bytes).sum()
    }

    /// All that it refers to.
    pub fn full_bytes(&self) -> u64 {
        self.subtasks.iter().map(|subtask| subtask.full_bytes).sum()
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.status == CheckpointStatus::Published
    }
}

/// A line that a job has said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// In ms since the epoch.
    pub at_ms: i64,
    /// The generation of the attempt that said it; 0 if none had begun.
    pub attempt: u64,
    /// The thread that said it, which is called by its task.
    pub task: String,
    pub message: String,
}

impl From<LogLine> for LogEntry {
    fn from(line: LogLine) -> LogEntry {
        let LogLine {
            at_ms,
            attempt,
            task,
            message,
        } = line;
        LogEntry {
            at_ms,
            attempt,
            task,
            message,
        }
    }
}

/// Which job is meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The one at this place.
    One(usize),
    None,
    /// The ids of those that it fits.
    Several(Vec<String>),
}

/// The job of this id, of this name, or whose id alone begins with it. If several have one name,
/// the one that runs is meant, or the newest of those that have ended.
///
/// `jobs` are ids, names, and whether each has ended, the oldest first.
pub fn resolve(jobs: &[(&str, &str, bool)], reference: &str) -> Resolved {
    let places = |fits: &dyn Fn(&(&str, &str, bool)) -> bool| -> Vec<usize> {
        (0..jobs.len()).filter(|at| fits(&jobs[*at])).collect()
    };
    let by_id = places(&|(id, ..)| *id == reference);
    let live = places(&|(_, name, has_ended)| *name == reference && !has_ended);
    let mut ended = places(&|(_, name, has_ended)| *name == reference && *has_ended);
    ended.drain(..ended.len().saturating_sub(1));
    let is_prefix = !reference.is_empty();
    let by_prefix = places(&|(id, ..)| is_prefix && id.starts_with(reference));
    let found = [by_id, live, ended, by_prefix]
        .into_iter()
        .find(|found| !found.is_empty())
        .unwrap_or_default();
    match found[..] {
        [] => Resolved::None,
        [only] => Resolved::One(only),
        _ => Resolved::Several(found.iter().map(|at| jobs[*at].0.to_owned()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_meant_by_its_id_its_name_or_a_beginning_of_its_id() {
        let jobs = [
            ("a1b2", "words", true),
            ("a1c3", "words", true),
            ("b000", "a1", false),
            ("c111", "twins", false),
            ("c222", "twins", false),
        ];
        let several =
            |ids: &[&str]| Resolved::Several(ids.iter().map(|id| (*id).to_owned()).collect());
        for (reference, expected) in [
            ("a1b2", Resolved::One(0)),
            ("a1b", Resolved::One(0)),
            ("words", Resolved::One(1)),
            ("a1", Resolved::One(2)),
            ("a", several(&["a1b2", "a1c3"])),
            ("twins", several(&["c111", "c222"])),
            ("c2", Resolved::One(4)),
            ("", Resolved::None),
            ("d", Resolved::None),
        ] {
            assert_eq!(resolve(&jobs, reference), expected, "{reference}");
        }
    }

    #[test]
    fn names_of_states_are_those_of_the_answers() {
        for state in [State::Preparing, State::Cancelled, State::Unreadable] {
            assert_eq!(serde_json::json!(state), state.name());
        }
        assert!(State::Stopped.is_end() && !State::Stopping.is_end());
    }
}
