//! Tests of jobs without Wasm: a harness that stands in for the host at the `invoke` boundary.

use crate::env::Env;
use crate::error::{Outcome, Result};
use crate::glue::build_job;
use streamrt_wit::Plan;

/// The plan of a job, as the host would get it.
///
/// # Errors
/// What `describe` would say.
pub fn plan<O: Outcome>(job: fn(&mut Env) -> O, args: impl IntoIterator<Item = impl Into<String>>) -> Result<Plan> {
    let args: Vec<String> = args.into_iter().map(Into::into).collect();
    build_job(job, &args).map(|built| built.plan)
}
