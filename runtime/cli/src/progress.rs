//! What `streamrt run` says about a running job, on stderr: a live line on a terminal, else a line
//! now and then, and the summary.
//!
//! Rendering is pure: from what was counted to text.

use serde_json::{Value, json};
use std::time::Duration;
use streamrt_jobmanager::job_master::{CheckpointReport, CheckpointStatus};
use streamrt_minicluster::Summary;
use streamrt_taskmanager::Progress;
use streamrt_types::{WATERMARK_MAX, WATERMARK_MIN};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One line that is written over again.
    Live,
    /// A line now and then.
    Plain,
    /// A JSON object now and then.
    Json,
}

impl Style {
    /// Time between two lines.
    pub fn interval(self) -> Duration {
        match self {
            Style::Live => Duration::from_millis(500),
            Style::Plain | Style::Json => Duration::from_secs(10),
        }
    }

    /// The line for `now`; rates are those since `before`.
    pub fn progress(self, before: &Progress, now: &Progress) -> String {
        match self {
            // Back to the first column, and what stood there is erased: the cursor never leaves the
            // line.
            Style::Live => format!("\r{}\x1b[K", line(before, now)),
            Style::Plain => format!("{}\n", line(before, now)),
            Style::Json => format!("{}\n", object("progress", now)),
        }
    }

    /// The closing line. `stopped`: the job was ended from outside.
    pub fn summary(self, summary: &Summary, stopped: bool) -> String {
        let text = match self {
            Style::Json => {
                let mut object = object("summary", summary);
                object["stopped"] = Value::Bool(stopped);
                object["state"] = json!(if stopped { "stopped" } else { "finished" });
                return format!("{object}\n");
            }
            Style::Live => "\r\x1b[K",
            Style::Plain => "",
        };
        let end = if stopped { "stopped" } else { "finished" };
        let Progress {
            records_in,
            records_out,
            late_records,
            dead_letters,
            elapsed,
            ..
        } = summary;
        let before = before(summary);
        format!(
            "{text}{end}: {records_in} records in, {records_out} out, {late_records} late, {dead_letters} dead letters{before}, {:.2} s\n{}",
            elapsed.as_secs_f64(),
            dropped(summary.dropped_at_end) + &dropped_timers(summary)
        )
    }
}

/// What is said of dead letters of earlier starts; nothing if there were none.
fn before(summary: &Progress) -> String {
    match summary.dead_letters_before {
        0 => String::new(),
        before => format!(
            " ({} dead letters since the job was first started)",
            before + summary.dead_letters
        ),
    }
}

/// What is said of timers that were registered too late to fire; nothing if there were none.
fn dropped_timers(summary: &Progress) -> String {
    match (&summary.dropped_timer, summary.dropped_timers) {
        (_, 0) => String::new(),
        (first, n) => {
            let first = first.as_deref().unwrap_or_default();
            format!(
                "{n} timers were registered by timers that the end of the input fired, and do not fire themselves; one of them: {first}\n"
            )
        }
    }
}

/// What is said of windows and timers that the end of the input has taken away; nothing if there
/// were none.
fn dropped(n: u64) -> String {
    let kept = "with `-D end-of-input.processing-time=fire` only the timers are that a firing at the end registers";
    if n == 0 {
        String::new()
    } else {
        format!(
            "{n} windows and timers of processing time were not due at the end, and are dropped; {kept}\n"
        )
    }
}

/// What a checkpoint cost that counts, or has failed, as a line of JSON.
pub fn checkpoint(report: &CheckpointReport) -> String {
    let CheckpointReport {
        checkpoint,
        kind,
        status,
        triggered_ms,
        duration_us,
        ..
    } = report;
    let mut object = json!({"event": "checkpoint", "checkpoint": checkpoint, "kind": kind, "triggered_ms": triggered_ms,
        "duration_us": duration_us, "bytes": report.bytes(), "full_bytes": report.full_bytes()});
    match status {
        CheckpointStatus::Failed { reason } => {
            (object["status"], object["reason"]) = (json!("failed"), json!(reason))
        }
        CheckpointStatus::Published => object["status"] = json!("published"),
        CheckpointStatus::Pending => object["status"] = json!("pending"),
    }
    format!("{object}\n")
}

fn line(before: &Progress, now: &Progress) -> String {
    let seconds = now
        .elapsed
        .saturating_sub(before.elapsed)
        .as_secs_f64()
        .max(1e-3);
    let rate = |before: u64, now: u64| thousands(now.saturating_sub(before) as f64 / seconds);
    let (records_in, records_out) = (
        rate(before.records_in, now.records_in),
        rate(before.records_out, now.records_out),
    );
    let watermark = now.watermark.map_or("none".to_owned(), iso_time);
    format!(
        "in {records_in}/s  out {records_out}/s  watermark {watermark}  back-pressure {:.0} %",
        now.back_pressure * 100.0
    )
}

fn object(event: &str, progress: &Progress) -> Value {
    json!({
        "event": event,
        "records_in": progress.records_in,
        "records_out": progress.records_out,
        "watermark": progress.watermark,
        "back_pressure": progress.back_pressure,
        "late": progress.late_records,
        "dead_letters": progress.dead_letters,
        "dead_letters_before": progress.dead_letters_before,
        "dropped_timers": progress.dropped_timers,
        "dropped_at_end": progress.dropped_at_end,
        "elapsed_ms": progress.elapsed.as_millis() as u64,
    })
}

/// A number of at most four figures with its unit.
fn thousands(number: f64) -> String {
    match number {
        n if n < 1e4 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1} k", n / 1e3),
        n => format!("{:.1} M", n / 1e6),
    }
}

/// Milliseconds since the epoch as `2017-11-26T01:00:00.000Z`. The watermark after the last record
/// is `end`.
pub fn iso_time(ms: i64) -> String {
    match ms {
        WATERMARK_MAX => return "end".to_owned(),
        WATERMARK_MIN => return "none".to_owned(),
        _ => {}
    }
    let (days, ms_of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil_date(days);
    let (seconds, ms) = (ms_of_day / 1000, ms_of_day % 1000);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// The proleptic Gregorian date of a day since 1970-01-01. Years begin in March, so that the leap
/// day is the last one of its year, and 400 years are a cycle of 146,097 days.
fn civil_date(days: i64) -> (i64, i64, i64) {
    // From 0000-03-01, which is 719,468 days before the epoch.
    let shifted = days + 719_468;
    let (cycle, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (
        cycle * 400 + year + i64::from(month <= 2),
        month,
        day_of_month,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(
        records_in: u64,
        records_out: u64,
        watermark: Option<i64>,
        seconds: u64,
    ) -> Progress {
        let elapsed = Duration::from_secs(seconds);
        Progress {
            records_in,
            records_out,
            watermark,
            back_pressure: 0.25,
            late_records: 3,
            dead_letters: 1,
            dead_letters_before: 0,
            dropped_at_end: 0,
            dropped_timers: 0,
            dropped_timer: None,
            elapsed,
        }
    }

    #[test]
    fn times_are_iso() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (1_511_658_000_000, "2017-11-26T01:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00.000Z"),
            (WATERMARK_MAX, "end"),
        ] {
            assert_eq!(iso_time(ms), expected, "{ms}");
        }
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        iso_time(WATERMARK_MAX - 1);
        iso_time(WATERMARK_MIN + 1);
    }

    #[test]
    fn rates_are_those_since_the_last_line() {
        let (before, now) = (
            progress(1_000, 10, None, 2),
            progress(5_001_000, 30, Some(0), 4),
        );
        let expected =
            "in 2.5 M/s  out 10/s  watermark 1970-01-01T00:00:00.000Z  back-pressure 25 %\n";
        assert_eq!(Style::Plain.progress(&before, &now), expected);
        assert_eq!(
            Style::Live.progress(&before, &now),
            format!("\r{}\x1b[K", expected.trim_end())
        );
    }

    #[test]
    fn summaries() {
        let done = progress(7, 2, None, 3);
        assert_eq!(
            Style::Plain.summary(&done, false),
            "finished: 7 records in, 2 out, 3 late, 1 dead letters, 3.00 s\n"
        );
        let dropped = Style::Plain.summary(
            &Progress {
                dropped_at_end: 2,
                ..done.clone()
            },
            false,
        );
        assert!(dropped.contains("3.00 s\n2 windows and timers of processing time were not due at the end, and are dropped;"), "{dropped}");
        let timers = Progress {
            dropped_timers: 2,
            dropped_timer: Some("operator `op`: timer at 15 ms, key 7".into()),
            ..done.clone()
        };
        let said = Style::Plain.summary(&timers, false);
        assert!(
            said.contains("3.00 s\n2 timers were registered by timers")
                && said.ends_with("operator `op`: timer at 15 ms, key 7\n"),
            "{said}"
        );
        let again = Progress {
            dead_letters_before: 4,
            ..done.clone()
        };
        let expected = "finished: 7 records in, 2 out, 3 late, 1 dead letters (5 dead letters since the job was first started), 3.00 s\n";
        assert_eq!(Style::Plain.summary(&again, false), expected);
        assert!(
            Style::Live
                .summary(&done, true)
                .starts_with("\r\x1b[Kstopped: 7 records in")
        );
        let object: Value = serde_json::from_str(&Style::Json.summary(&done, true)).unwrap();
        assert_eq!(
            (&object["event"], &object["records_in"], &object["stopped"]),
            (&json!("summary"), &json!(7), &json!(true))
        );
        assert_eq!(object["state"], "stopped");
    }
}
