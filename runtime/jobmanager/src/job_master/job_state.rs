//! What a job is doing, in the words that people see.

/// What a job is doing, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JobState {
    /// It has not run yet: something that it needs is away.
    #[default]
    Created,
    Running,
    /// A part of it, or all, failed and waits to run again.
    Restarting,
    /// A user has stopped it, or drains it.
    Stopping,
    Cancelling,
}

impl JobState {
    pub fn name(self) -> &'static str {
        match self {
            JobState::Created => "created",
            JobState::Running => "running",
            JobState::Restarting => "restarting",
            JobState::Stopping => "stopping",
            JobState::Cancelling => "cancelling",
        }
    }
}
