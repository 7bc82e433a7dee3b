//! What people are told, and how foreign text is shown.
//!
//! Each report is an event of `tracing` with the job, the task and the attempt that it is about;
//! [`say_on_stderr`] lets the program write them to stderr.
//!
//! Guests, files and snapshots have any characters in them, and a terminal takes some as commands:
//! to move the cursor, to overwrite text, to reverse it. They are shown as `\u001b`, which in JSON
//! is the same character. A closed or full stderr is no reason to fail, and one that nobody reads
//! no reason to wait: a thread writes, and when it does not keep up, lines are dropped and counted.

use std::borrow::Cow;
use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Lines that wait to be written; the longest are some KiB.
const LINES_MAX: usize = 1024;

/// How long the end of the program waits for them.
const FAREWELL: Duration = Duration::from_secs(1);

/// A character that a terminal does not show but obeys: C0 except line ends and tabs, DEL, C1, and
/// those that change the direction of text.
fn is_command(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with every character escaped that a terminal would obey.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_command) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_command(c) {
            // All of them have at most four digits, and writing to a string cannot fail.
            true => drop(write!(shown, "\\u{:04x}", u32::from(c))),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// The same for bytes that are UTF-8; other bytes are left as they are.
pub fn printable_bytes(bytes: &[u8]) -> Cow<'_, [u8]> {
    let is_plain = bytes.is_ascii()
        && bytes
            .iter()
            .all(|byte| *byte >= b' ' && *byte != 0x7f || matches!(*byte, b'\n' | b'\t'));
    match std::str::from_utf8(bytes) {
        Ok(text) if !is_plain => match printable(text) {
            Cow::Borrowed(_) => Cow::Borrowed(bytes),
            Cow::Owned(shown) => Cow::Owned(shown.into_bytes()),
        },
        _ => Cow::Borrowed(bytes),
    }
}

/// Reports one thing to people: [`say_line`] with a formatted text.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {
        $crate::say_line(&format!($($arg)*))
    };
}

/// Whether reports are JSON objects, one per line, whose `event` says what each is about.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on everything is reported as JSON.
pub fn say_as_json() {
    AS_JSON.store(true, Ordering::Relaxed);
}

/// Whether [`say_as_json`] was called.
pub fn says_json() -> bool {
    AS_JSON.load(Ordering::Relaxed)
}

/// The target of all reports, as `tracing` calls it.
const TARGET: &str = "streamrt";

/// Reports one thing, and keeps it in the log of the job for which this thread works.
pub fn say_line(text: &str) {
    let message = text.strip_prefix("streamrt: ").unwrap_or(text).trim_end();
    let (job, attempt) = crate::log_ring::keep(message);
    let thread = std::thread::current();
    let task = thread.name();
    tracing::info!(target: TARGET, job, task, attempt, "{text}");
}

/// From now on everything that is reported in this process goes to stderr, too.
pub fn say_on_stderr() {
    // A program that has set another one wants that.
    let _ = tracing::subscriber::set_global_default(Stderr);
}

/// Writes reports, and knows no spans.
struct Stderr;

impl Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET && metadata.is_event()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut report = Report::default();
        event.record(&mut report);
        write_report(report.job.as_deref(), &report.text);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// What is shown of an event.
#[derive(Default)]
struct Report {
    job: Option<String>,
    text: String,
}

impl Visit for Report {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "job" {
            self.job = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.text = format!("{value:?}");
        }
    }
}

/// Further lines are indented, so that no foreign text looks like one of ours. As JSON it is a
/// `status`.
fn write_report(job: Option<&str>, text: &str) {
    let message = text.strip_prefix("streamrt: ").unwrap_or(text).trim_end();
    if says_json() {
        let mut object = serde_json::json!({"event": "status", "message": printable(message)});
        if let Some(job) = job {
            object["job"] = serde_json::json!(job);
        }
        return say_raw(format!("{object}\n"));
    }
    let text = match job {
        Some(job) => Cow::Owned(format!("streamrt: {job}: {message}")),
        None => Cow::Borrowed(text.trim_end()),
    };
    say_raw(format!("{}\n", printable(&text).replace('\n', "\n  ")));
}

/// Writes text to stderr as it is: it must contain nothing foreign.
pub fn say_raw(text: String) {
    let speaker = speaker();
    match speaker.lines.try_send(text) {
        Ok(()) => drop(speaker.n_sent.fetch_add(1, Ordering::SeqCst)),
        Err(_) => drop(speaker.n_left_out.fetch_add(1, Ordering::SeqCst)),
    }
}

/// Waits until everything is written, but not for ever.
pub fn finish_saying() {
    let (speaker, start) = (speaker(), Instant::now());
    let n_sent = speaker.n_sent.load(Ordering::SeqCst);
    while speaker.n_written.load(Ordering::SeqCst) < n_sent && start.elapsed() < FAREWELL {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The writing thread, seen from the others.
struct Speaker {
    lines: SyncSender<String>,
    n_sent: AtomicU64,
    n_written: Arc<AtomicU64>,
    n_left_out: Arc<AtomicU64>,
}

fn speaker() -> &'static Speaker {
    static SPEAKER: OnceLock<Speaker> = OnceLock::new();
    SPEAKER.get_or_init(|| {
        let (lines, waiting) = sync_channel(LINES_MAX);
        let (n_written, n_left_out) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (written, left_out) = (n_written.clone(), n_left_out.clone());
        // Without a thread nobody takes the lines, and they are dropped.
        let _ = std::thread::Builder::new()
            .name("stderr".into())
            .spawn(move || write_lines(&waiting, &written, &left_out));
        Speaker {
            lines,
            n_sent: AtomicU64::new(0),
            n_written,
            n_left_out,
        }
    })
}

fn write_lines(waiting: &Receiver<String>, n_written: &AtomicU64, n_left_out: &AtomicU64) {
    for line in waiting {
        // Whether somebody reads it does not matter.
        let _ = std::io::stderr().write_all(line.as_bytes());
        n_written.fetch_add(1, Ordering::SeqCst);
        let n = n_left_out.swap(0, Ordering::SeqCst);
        if n > 0 {
            let _ = writeln!(
                std::io::stderr(),
                "streamrt: {n} messages were left out, because stderr did not take them in time"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        for (text, expected) in [
            ("plain, grün, 日本\n\tnext", "plain, grün, 日本\n\tnext"),
            ("\x1b[2Jgone\r\x07", r"\u001b[2Jgone\u000d\u0007"),
            ("\u{7f}\u{9b}31m", r"\u007f\u009b31m"),
            (
                "a\u{202e}gnp.exe\u{2069}\u{61c}",
                r"a\u202egnp.exe\u2069\u061c",
            ),
        ] {
            assert_eq!(printable(text), expected);
            assert_eq!(&*printable_bytes(text.as_bytes()), expected.as_bytes());
        }
        assert_eq!(&*printable_bytes(&[0xff, 0x1b]), &[0xff, 0x1b]);
    }
}
