//! `streamrt checkpoints`: what the last checkpoints of a running job cost, as a whole and for each
//! subtask.

use crate::args::{CheckpointsArgs, Format};
use crate::{jobs, print};
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use streamrt_types::Result;
use streamrt_web::{CheckpointDetails, CheckpointStatus, SubtaskCheckpoint};

/// Prints the last checkpoints, the newest last.
///
/// # Errors
/// If there is no such job.
pub fn checkpoints(args: &CheckpointsArgs) -> Result<()> {
    let reports = jobs::checkpoints(&args.job, args.last)?;
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as i64;
    let text = match args.output {
        Format::Json => reports
            .iter()
            .map(|report| format!("{}\n", serde_json::json!(report)))
            .collect(),
        Format::Text => text(&reports, args.subtasks, now_ms),
    };
    print(&text)
}

fn text(reports: &[CheckpointDetails], subtasks: bool, now_ms: i64) -> String {
    let mut text = String::new();
    for report in reports {
        let ago = Duration::from_millis(now_ms.saturating_sub(report.triggered_ms).max(0) as u64);
        let (written, full) = (report.bytes(), report.full_bytes());
        let _ = writeln!(
            text,
            "{:<8} {:<10} {:<9} {:>8.1} s ago {:>9.1} ms {written:>13} bytes written {full:>13} in full",
            report.checkpoint,
            report.kind,
            status(report),
            ago.as_secs_f64(),
            ms(report.duration_us),
        );
        if let CheckpointStatus::Failed { reason } = &report.status {
            let _ = writeln!(text, "         {reason}");
        }
        report
            .subtasks
            .iter()
            .filter(|_| subtasks)
            .for_each(|subtask| text += &line(subtask));
    }
    text
}

fn status(report: &CheckpointDetails) -> &'static str {
    match report.status {
        CheckpointStatus::Pending => "pending",
        CheckpointStatus::Published => "published",
        CheckpointStatus::Failed { .. } => "failed",
    }
}

fn line(subtask: &SubtaskCheckpoint) -> String {
    let SubtaskCheckpoint {
        name,
        alignment_us,
        sync_us,
        async_us,
        bytes,
        full_bytes,
    } = subtask;
    let (alignment, sync, asynchronous) = (ms(*alignment_us), ms(*sync_us), ms(*async_us));
    format!(
        "         {name:<32} alignment {alignment:>8.1} ms  sync {sync:>8.1} ms  async {asynchronous:>8.1} ms {bytes:>13} bytes {full_bytes:>13} in full\n"
    )
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_checkpoint_and_on_demand_for_each_subtask() {
        let subtask = |name: &str, bytes| SubtaskCheckpoint {
            name: name.into(),
            alignment_us: 1500,
            bytes,
            full_bytes: 10,
            ..SubtaskCheckpoint::default()
        };
        let report = |checkpoint, status| CheckpointDetails {
            checkpoint,
            kind: "checkpoint".into(),
            status,
            triggered_ms: 1000,
            duration_us: 2500,
            subtasks: vec![subtask("count (1/2)", 3), subtask("count (2/2)", 4)],
        };
        let reports = [
            report(7, CheckpointStatus::Published),
            report(
                8,
                CheckpointStatus::Failed {
                    reason: "the disk is full".into(),
                },
            ),
        ];
        let short = text(&reports, false, 3000);
        assert_eq!(short.lines().count(), 3);
        assert!(
            short.starts_with(
                "7        checkpoint published      2.0 s ago       2.5 ms             7 bytes written            20 in full\n"
            ),
            "{short}"
        );
        assert!(short.contains("failed") && short.ends_with("the disk is full\n"));
        let long = text(&reports, true, 3000);
        assert_eq!(
            long.matches("count (2/2)                      alignment      1.5 ms")
                .count(),
            2,
            "{long}"
        );
    }
}
