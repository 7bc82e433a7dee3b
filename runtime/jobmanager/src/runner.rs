//! What runs jobs, as the Dispatcher sees it.

use crate::{Blobs, End, JobId, Outcome, Specification, Version};
use streamrt_types::Result;

/// Starts jobs. Guest code runs here alone, also to describe a component.
pub trait JobRunner: Send + Sync + 'static {
    /// A job that was read and checked, and does not run yet.
    type Prepared: Send;
    type Job: RunningJob;

    /// Reads a job: compiles its components if they are new, lets them describe themselves, and
    /// refuses what can be refused before anything runs.
    ///
    /// # Errors
    /// Whatever is wrong with the job.
    fn prepare(
        &self,
        id: &JobId,
        specification: &Specification,
        blobs: &Blobs,
    ) -> Result<Self::Prepared>;

    /// Whether anything is kept of a job that another JobManager may have started: what that left
    /// is committed or withdrawn by a start.
    ///
    /// # Errors
    /// S7001, with where it was, if the job is known to have run (`has_run`) and nothing is left:
    /// from its beginning it would write its results once more.
    fn is_kept(&self, id: &JobId, specification: &Specification, has_run: bool) -> Result<bool>;

    /// The slots that the job needs.
    fn n_slots(&self, prepared: &Self::Prepared) -> u32;

    /// Starts a job, from its newest checkpoint if there is one; None if it has finished already.
    ///
    /// # Errors
    /// Whatever keeps it from running.
    fn start(&self, id: &JobId, prepared: Self::Prepared) -> Result<Option<Self::Job>>;
}

/// A job that runs; all of these may be called from any thread.
pub trait RunningJob: Send + Sync + 'static {
    /// Whether something of it was kept when it started, from which the next start goes on. A
    /// job that waits to be tried for the first time has nothing yet.
    fn is_kept(&self) -> bool;

    /// Lets `then` be called with its end, on a thread of the job; called once.
    fn on_end(&self, then: Box<dyn FnOnce(End) + Send>);

    /// Ends it with a last checkpoint, and does not wait for that.
    fn stop(&self);

    /// Ends it at once, and does not wait for that.
    fn cancel(&self);

    /// Lets the sources end as if their input had, and ends the job when everything has fired;
    /// with a savepoint there if `folder` says so, for which it waits.
    ///
    /// # Errors
    /// S7009 if the savepoint failed.
    fn drain(&self, folder: Option<&str>) -> Result<Option<u64>>;

    /// Makes a savepoint, and waits for it; with `stop` the job ends with it.
    ///
    /// # Errors
    /// S7009 if it failed, `Invalid` if the folder is not empty.
    fn savepoint(&self, folder: &str, stop: bool) -> Result<u64>;

    /// Puts another version in the place of the one that runs, and waits until it has taken over.
    ///
    /// # Errors
    /// S7011 if it cannot keep the state, and whatever is wrong with it; the old one runs on.
    fn upgrade(&self, version: &Version, blobs: &Blobs) -> Result<Outcome>;
}
