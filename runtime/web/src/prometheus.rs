//! Metrics in the text format of Prometheus, under the names that Flink's reporter gives them.
//!
//! Counters of Flink are gauges there as well, because a job that restarts begins anew.

use crate::api::{JobDetails, SubtaskDetails, VertexDetails};
use crate::status::CheckpointDetails;
use std::collections::BTreeMap;

/// Metrics of a subtask: name, help, value.
type OfSubtask = (
    &'static str,
    &'static str,
    fn(&SubtaskDetails) -> Option<i64>,
);

const OF_SUBTASKS: [OfSubtask; 10] = [
    (
        "flink_taskmanager_job_task_numRecordsIn",
        "Records that the subtask has got.",
        |s| Some(s.records_in as i64),
    ),
    (
        "flink_taskmanager_job_task_numRecordsOut",
        "Records that the subtask has sent.",
        |s| Some(s.records_out as i64),
    ),
    (
        "flink_taskmanager_job_task_operator_numLateRecordsDropped",
        "Records behind the watermark.",
        |s| Some(s.late_records as i64),
    ),
    (
        "flink_taskmanager_job_task_currentInputWatermark",
        "The watermark of the subtask, in ms.",
        |s| s.watermark,
    ),
    (
        "flink_taskmanager_job_task_accumulateBusyTimeMs",
        "How long it has worked, in ms.",
        |s| Some(s.busy_ms as i64),
    ),
    (
        "flink_taskmanager_job_task_accumulateIdleTimeMs",
        "How long it has waited for input, in ms.",
        |s| Some(s.idle_ms as i64),
    ),
    (
        "flink_taskmanager_job_task_accumulateBackPressuredTimeMs",
        "How long it has waited for room, in ms.",
        |s| Some(s.back_pressured_ms as i64),
    ),
    (
        "flink_taskmanager_job_task_busyTimeMsPerSecond",
        "How long it has worked of each second lately, in ms.",
        |s| Some(s.busy_ms_per_second as i64),
    ),
    (
        "flink_taskmanager_job_task_idleTimeMsPerSecond",
        "How long it has waited for input of each second lately, in ms.",
        |s| Some(s.idle_ms_per_second as i64),
    ),
    (
        "flink_taskmanager_job_task_backPressuredTimeMsPerSecond",
        "How long it has waited for room of each second lately, in ms.",
        |s| Some(s.back_pressured_ms_per_second as i64),
    ),
];

/// All metrics of these jobs, each with its checkpoints.
pub(crate) fn text(jobs: &[(JobDetails, Vec<CheckpointDetails>)]) -> String {
    let mut text = String::new();
    for (name, help, value) in OF_SUBTASKS {
        head(&mut text, name, help);
        for (job, vertex, index, subtask) in subtasks(jobs) {
            if let Some(value) = value(subtask) {
                sample(&mut text, name, job, &place(vertex, index), value);
            }
        }
    }
    of_user_code(&mut text, jobs);
    of_jobs(&mut text, jobs);
    text
}

/// The labels of a subtask.
fn place(vertex: &VertexDetails, index: usize) -> String {
    format!(
        r#",task_id="{}",task_name="{}",subtask_index="{index}""#,
        vertex.id,
        label(&vertex.name)
    )
}

/// What user code counts, under its names after the scope of Flink's operators. A name that stands
/// in for another one after it was made a name of Prometheus shows both as samples.
fn of_user_code(text: &mut String, jobs: &[(JobDetails, Vec<CheckpointDetails>)]) {
    let mut by_name: BTreeMap<String, Vec<(&JobDetails, String, i64)>> = BTreeMap::new();
    for (job, vertex, index, subtask) in subtasks(jobs) {
        for (name, n) in &subtask.user {
            let labels = format!(r#"{},name="{}""#, place(vertex, index), label(name));
            let samples = by_name.entry(metric(name)).or_default();
            samples.push((job, labels, *n));
        }
    }
    for (name, samples) in by_name {
        head(text, &name, "Counted by the job's own code.");
        for (job, labels, n) in samples {
            sample(text, &name, job, &labels, n);
        }
    }
}

/// As Flink's reporter does it: whatever a name of Prometheus may not have becomes `_`.
fn metric(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = name.chars().map(allowed).collect();
    format!("flink_taskmanager_job_task_operator_user_{name}")
}

fn subtasks(
    jobs: &[(JobDetails, Vec<CheckpointDetails>)],
) -> impl Iterator<Item = (&JobDetails, &VertexDetails, usize, &SubtaskDetails)> {
    jobs.iter().flat_map(|(job, _)| {
        job.vertices
            .iter()
            .flat_map(move |vertex| subtasks_of(job, vertex))
    })
}

fn subtasks_of<'a>(
    job: &'a JobDetails,
    vertex: &'a VertexDetails,
) -> impl Iterator<Item = (&'a JobDetails, &'a VertexDetails, usize, &'a SubtaskDetails)> {
    vertex
        .subtasks
        .iter()
        .enumerate()
        .map(move |(index, subtask)| (job, vertex, index, subtask))
}

fn of_jobs(text: &mut String, jobs: &[(JobDetails, Vec<CheckpointDetails>)]) {
    let uptime = |job: &JobDetails, _: &[CheckpointDetails]| Some(job.status.elapsed_ms as i64);
    of_each_job(
        text,
        jobs,
        "flink_jobmanager_job_uptime",
        "How long the job has run, in ms.",
        uptime,
    );
    let restarts = |job: &JobDetails, _: &[CheckpointDetails]| Some(job.status.restarts as i64);
    of_each_job(
        text,
        jobs,
        "flink_jobmanager_job_numRestarts",
        "How often tasks of it were started again.",
        restarts,
    );
    let completed = |of: fn(&CheckpointDetails) -> u64| {
        move |_: &JobDetails, all: &[CheckpointDetails]| {
            all.iter()
                .rev()
                .find(|c| c.is_completed())
                .map(|c| of(c) as i64)
        }
    };
    let name = "flink_jobmanager_job_lastCheckpointDuration";
    of_each_job(
        text,
        jobs,
        name,
        "From the beginning of the last completed checkpoint to its end, in ms.",
        completed(|c| c.duration_us / 1000),
    );
    let name = "flink_jobmanager_job_lastCheckpointSize";
    of_each_job(
        text,
        jobs,
        name,
        "What it has written, in bytes.",
        completed(CheckpointDetails::bytes),
    );
    let name = "flink_jobmanager_job_lastCheckpointFullSize";
    of_each_job(
        text,
        jobs,
        name,
        "All that it refers to, in bytes.",
        completed(CheckpointDetails::full_bytes),
    );
}

fn of_each_job(
    text: &mut String,
    jobs: &[(JobDetails, Vec<CheckpointDetails>)],
    name: &str,
    help: &str,
    value: impl Fn(&JobDetails, &[CheckpointDetails]) -> Option<i64>,
) {
    head(text, name, help);
    for (job, checkpoints) in jobs {
        value(job, checkpoints)
            .into_iter()
            .for_each(|value| sample(text, name, job, "", value));
    }
}

fn head(text: &mut String, name: &str, help: &str) {
    text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
}

fn sample(text: &mut String, name: &str, job: &JobDetails, labels: &str, value: i64) {
    text.push_str(&format!(
        "{name}{{job_id=\"{}\",job_name=\"{}\"{labels}}} {value}\n",
        label(&job.status.id),
        label(&job.status.name)
    ));
}

/// The value of a label, as the format writes it.
fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{CheckpointStatus, JobStatus};

    #[test]
    fn each_subtask_and_each_job_has_its_samples() {
        let subtask = SubtaskDetails {
            records_in: 7,
            watermark: None,
            user: vec![("bad-lines".into(), 3)],
            ..SubtaskDetails::default()
        };
        let subtasks = vec![
            subtask.clone(),
            SubtaskDetails {
                watermark: Some(-5),
                ..subtask
            },
        ];
        let vertex = VertexDetails {
            id: "0a".into(),
            name: "say \"hi\"\nback\\slash".into(),
            subtasks,
            ..VertexDetails::default()
        };
        let job = JobDetails {
            status: JobStatus {
                id: "1f".into(),
                name: "words".into(),
                elapsed_ms: 12,
                ..JobStatus::default()
            },
            vertices: vec![vertex],
            ..JobDetails::default()
        };
        let failed = CheckpointDetails {
            status: CheckpointStatus::Failed {
                reason: "full".into(),
            },
            duration_us: 9_000,
            ..CheckpointDetails::default()
        };
        let completed = CheckpointDetails {
            status: CheckpointStatus::Published,
            duration_us: 3_500,
            ..CheckpointDetails::default()
        };
        let text = text(&[(job, vec![completed, failed])]);
        let labels = r#"job_id="1f",job_name="words",task_id="0a",task_name="say \"hi\"\nback\\slash",subtask_index"#;
        for line in [
            format!("flink_taskmanager_job_task_numRecordsIn{{{labels}=\"0\"}} 7"),
            format!("flink_taskmanager_job_task_numRecordsIn{{{labels}=\"1\"}} 7"),
            format!("flink_taskmanager_job_task_currentInputWatermark{{{labels}=\"1\"}} -5"),
            format!(
                "flink_taskmanager_job_task_operator_user_bad_lines{{{labels}=\"1\",name=\"bad-lines\"}} 3"
            ),
            r#"flink_jobmanager_job_uptime{job_id="1f",job_name="words"} 12"#.into(),
            r#"flink_jobmanager_job_lastCheckpointDuration{job_id="1f",job_name="words"} 3"#.into(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(
            text.lines()
                .filter(|line| line.contains("currentInputWatermark{"))
                .count(),
            1,
            "one has no watermark"
        );
        assert!(
            text.lines()
                .all(|line| line.starts_with("# ") || line.matches("} ").count() == 1)
        );
    }
}
