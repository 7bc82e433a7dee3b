//! What a user should know about the sources and sinks of a job before it runs: one line each, and
//! only where it matters.

use crate::options;
use streamrt_types::Result;
use streamrt_wit::{Body, Options};

/// What decides whether a line matters.
#[derive(Debug, Clone, Copy)]
pub struct JobTraits {
    pub has_checkpoints: bool,
    /// Whether it ends by itself.
    pub is_bounded: bool,
}

/// The lines for the nodes of a job, by uid.
///
/// # Errors
/// `Invalid` if two sources read standard input: each would get what the other one left.
pub fn remarks<'a>(
    nodes: impl Iterator<Item = (&'a str, &'a Body)> + Clone,
    job: JobTraits,
) -> Result<Vec<String>> {
    let is_stdin = |(_, body): &(&str, &Body)| matches!(body, Body::Source { connector, options, .. } if reads_stdin(connector, options));
    let readers: Vec<&str> = nodes.clone().filter(is_stdin).map(|(uid, _)| uid).collect();
    if let [first, second, ..] = readers.as_slice() {
        return Err(options::refuse(
            "file",
            &format!("the sources `{first}` and `{second}` both read standard input, but one can"),
        ));
    }
    Ok(nodes
        .filter_map(|(uid, body)| remark(uid, body, job))
        .collect())
}

/// When a file sink shows its results without checkpoints.
const AT_THE_END: &str = "shows what it writes when the job ends, and not if it is killed; with `checkpoint.dir` and `checkpoint.interval` it \
                          does at each checkpoint, with `rolling` when a file is closed";

fn reads_stdin(connector: &str, options: &Options) -> bool {
    connector == "file" && options.get("path").is_some_and(|path| path == "-")
}

fn remark(uid: &str, body: &Body, job: JobTraits) -> Option<String> {
    let once = |what: &str| {
        let lost = "which cannot be read twice: after a crash, what came since the last checkpoint is lost";
        job.has_checkpoints
            .then(|| format!("source `{uid}` reads {what}, {lost}"))
    };
    match body {
        Body::Source { connector, .. } if connector == "socket" => once("a socket"),
        Body::Source {
            connector, options, ..
        } if reads_stdin(connector, options) => once("standard input"),
        Body::Sink {
            connector, options, ..
        } if connector == "file" && !job.has_checkpoints && !job.is_bounded => options
            .get("rolling")
            .is_none()
            .then(|| format!("sink `{uid}` {AT_THE_END}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn source(connector: &str, path: &str) -> Body {
        let options = json!({ "path": path }).as_object().unwrap().clone();
        Body::Source {
            connector: connector.into(),
            options,
            schema: Vec::new(),
        }
    }

    fn sink(connector: &str, options: serde_json::Value) -> Body {
        Body::Sink {
            connector: connector.into(),
            options: options.as_object().unwrap().clone(),
        }
    }

    /// How many lines there are with checkpoints, without them, and without them in a job that
    /// ends.
    fn check(body: &Body, expected: [usize; 3]) {
        let count = |has_checkpoints, is_bounded| {
            remarks(
                [("x", body)].into_iter(),
                JobTraits {
                    has_checkpoints,
                    is_bounded,
                },
            )
            .unwrap()
            .len()
        };
        assert_eq!(
            [count(true, false), count(false, false), count(false, true)],
            expected,
            "{body:?}"
        );
    }

    #[test]
    fn a_line_is_said_where_it_matters() {
        check(&source("file", "-"), [1, 0, 0]);
        check(&source("socket", "-"), [1, 0, 0]);
        check(&source("file", "./-"), [0, 0, 0]);
        check(&sink("file", json!({})), [0, 1, 0]);
        check(
            &sink("file", json!({ "rolling": { "rows": 5 } })),
            [0, 0, 0],
        );
        check(&sink("print", json!({})), [0, 0, 0]);
    }

    #[test]
    fn standard_input_has_one_reader() {
        let stdin = source("file", "-");
        let error = remarks(
            [("a", &stdin), ("b", &stdin)].into_iter(),
            JobTraits {
                has_checkpoints: false,
                is_bounded: true,
            },
        )
        .unwrap_err();
        assert_eq!(
            error.message(),
            "connector `file`: the sources `a` and `b` both read standard input, but one can"
        );
    }
}
