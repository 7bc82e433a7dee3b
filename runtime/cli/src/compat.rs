//! `streamrt compat`: what changes between two versions of a job, and whether the state of the old
//! one can be kept.

use crate::args::CompatArgs;
use crate::plugin_file::{Disk, Loader};
use crate::print;
use std::path::Path;
use std::sync::Arc;
use streamrt_graph::{Compatibility, JobSpec, Verdict, compare};
use streamrt_plugin::Engines;
use streamrt_types::{Configuration, Error, Result, code};

/// Prints the verdict on each operator.
///
/// # Errors
/// S7011 if an operator cannot keep its state; whatever is wrong with a component.
pub fn compat(args: &CompatArgs) -> Result<()> {
    let mut loader = Loader::new(
        &Configuration::default(),
        Arc::new(Disk),
        &Engines::default(),
    )?;
    let mut job = |path: &Path| -> Result<JobSpec> {
        let plugin = loader.load(path)?;
        let plan = plugin
            .describe(&args.args)
            .map_err(|e| e.at(path.display()))?;
        Ok(JobSpec::from_plan("", Arc::new(plan)))
    };
    let found = compare(&job(&args.old)?, &job(&args.new)?)?;
    print(&text(&found))?;
    if found.is_compatible() {
        return Ok(());
    }
    Err(Error::new(
        code::INCOMPATIBLE,
        format!(
            "{} cannot keep the state of {}",
            args.new.display(),
            args.old.display()
        ),
    ))
}

fn text(found: &Compatibility) -> String {
    let mut text = String::new();
    for operator in &found.operators {
        let verdict = match operator.verdict {
            Verdict::Keeps => "keeps its state",
            Verdict::StartsEmpty => "starts empty",
            Verdict::Gone => "goes",
            Verdict::Refused => "CANNOT KEEP ITS STATE",
        };
        text += &format!("{:<24} {verdict}\n", operator.uid);
        operator
            .changes
            .iter()
            .for_each(|change| text += &format!("{:<24} {change}\n", ""));
    }
    let shape = match found.same_shape {
        true => {
            "the shape of the graph is the same: `upgrade` gives a running job the new code in place"
        }
        false => {
            "the shape of the graph is another one: `upgrade` stops the job with a checkpoint, and starts the new version from it"
        }
    };
    format!("{text}{shape}\n")
}
