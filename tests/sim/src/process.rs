//! A process of a simulation: the JobMaster of the job, and its tasks.

use crate::model::Model;
use crate::random::Random;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use streamrt_checkpoint::Store;
use streamrt_jobmanager::job_master::{
    Action, Core, JobStore, Now, Outcome, StoreFailure, StoreReply, StoreRequest, Submission,
    Version,
};
use streamrt_rpc::{JobPlan, WireError};
use streamrt_types::code;

/// See the module.
pub(crate) struct Process {
    pub core: Core,
    pub tasks: Model,
    store: JobStore,
    /// Nobody knows whether the last entry of the log was written.
    is_lost: bool,
    /// When the store, and each line, is free for the next one.
    pub store_free: Duration,
    pub to_tasks_free: Duration,
    pub to_core_free: Duration,
    /// The version that was opened last.
    pub version: Option<Arc<Version>>,
    pub is_alive: bool,
    pub ended: Option<Result<Outcome, WireError>>,
}

impl Process {
    /// A process begins: what it does first.
    pub fn start(
        plan: JobPlan,
        store: &Store,
        seed: u64,
        now: Now,
    ) -> Result<(Process, Vec<Action>), String> {
        let submission = Submission {
            plan,
            from: None,
            before: None,
        };
        let tokens = Mutex::new(Random::new(seed));
        let token = move || tokens.lock().map(|mut r| r.token()).unwrap_or_default();
        let started = Core::new(submission, now, Box::new(token));
        let (core, first) = started.map_err(|e| e.to_string())?;
        let components = Arc::new(|digest: &str| Ok(Arc::new(digest.as_bytes().to_vec())));
        let process = Process {
            core,
            tasks: Model::default(),
            store: JobStore::over(store.clone(), components),
            is_lost: false,
            store_free: now.elapsed,
            to_tasks_free: now.elapsed,
            to_core_free: now.elapsed,
            version: None,
            is_alive: true,
            ended: None,
        };
        Ok((process, first))
    }

    /// Carries out a request to the store, or fails as the faults say.
    pub fn ask_store(
        &mut self,
        request: StoreRequest,
        committed: u64,
        (refuses, is_silent): (bool, bool),
    ) -> Result<StoreReply, StoreFailure> {
        let request = match request {
            // Savepoints lie in the one store there is.
            StoreRequest::OpenSavepoint { location } => {
                return Ok(StoreReply::SavepointOpened { location });
            }
            StoreRequest::ClearSavepoint { .. } => return Ok(StoreReply::SavepointCleared),
            StoreRequest::Publish(mut publication) => {
                publication.savepoint = None;
                StoreRequest::Publish(publication)
            }
            other => other,
        };
        let is_look = matches!(request, StoreRequest::Look { .. });
        let takes_over = matches!(
            request,
            StoreRequest::TakeOver(_) | StoreRequest::GiveUp { .. }
        );
        let failure = |message: &str, leads| StoreFailure {
            error: WireError::new(code::STORE, message),
            leads,
        };
        if self.is_lost && !takes_over && !is_look {
            return Err(failure("nobody knows who leads", false));
        }
        if refuses {
            return Err(failure("the store is away", !takes_over && !self.is_lost));
        }
        let result = self.store.carry_out(request, committed);
        if is_silent && !is_look {
            self.is_lost = true;
            return Err(failure("the store did not answer", false));
        }
        self.is_lost &= !(takes_over && result.is_ok());
        result
    }
}
