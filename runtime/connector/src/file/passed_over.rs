//! Files that are not read, and are reported instead: those that disappeared before they were
//! begun, and what was appended to one that was read.

use super::FileSplit;
use crate::enumerator::absolute;
use crate::file_name;
use crate::position;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use streamrt_operator::{PoisonLine, ReaderPoll, SplitReader};
use streamrt_types::{Error, Result, code};

/// What to do about a file that is gone when its turn comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// The job ends, and resumes when the file is back.
    #[default]
    Fail,
    /// It is reported and skipped.
    Skip,
}

/// Where a reader of such a file resumes: nowhere.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PassedOver {
    passed_over: bool,
}

/// Reports once, and has no rows.
struct Reporter {
    reports: Vec<PoisonLine>,
}

/// The reader of a file that is to be reported for `reason`.
pub fn reader(reason: &str) -> Box<dyn SplitReader> {
    Box::new(Reporter {
        reports: vec![PoisonLine::passed_over(reason)],
    })
}

/// The reader of a split that needs none: it is a report, or was one. `None` if it is to be read.
pub fn reported(split: &FileSplit, position: Option<&str>) -> Option<Box<dyn SplitReader>> {
    match position {
        Some(text) if position::read::<PassedOver>(&split.path, text).is_ok() => {
            Some(Box::new(Reporter {
                reports: Vec::new(),
            }))
        }
        _ => split.report.as_deref().map(reader),
    }
}

/// What becomes of a split that could not be opened, because of `error`.
///
/// # Errors
/// The error, unless it says that the file is gone, was never begun, and such files are skipped.
pub fn meet_missing(
    split: &FileSplit,
    error: Error,
    missing: Missing,
) -> Result<Box<dyn SplitReader>> {
    if error.code() != code::FILE_MISSING {
        return Err(error);
    }
    let path = absolute(&file_name::to_path(&split.path));
    match missing {
        Missing::Skip => Ok(reader(&format!(
            "{path} was found, and was gone before it was read"
        ))),
        Missing::Fail => {
            let what = "was found, and was gone before it was read: put it back, or let such files be passed over by `missing = \"skip\"`";
            Err(Error::new(code::FILE_MISSING, format!("{path} {what}")).with_source(error))
        }
    }
}

impl SplitReader for Reporter {
    fn poll(&mut self, _rows: usize, _timeout: Duration) -> Result<ReaderPoll> {
        Ok(ReaderPoll::Finished)
    }

    fn position(&self) -> String {
        position::write(&PassedOver { passed_over: true })
    }

    fn take_poison(&mut self) -> Vec<PoisonLine> {
        std::mem::take(&mut self.reports)
    }
}
