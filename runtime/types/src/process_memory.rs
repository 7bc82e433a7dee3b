//! The memory of the process, with a limit at which a job ends before the kernel ends the process.
//!
//! 1. Whoever works asks before each batch and each call of user code. Once per [`LOOK_MS`] one of
//!    them looks up what the process holds.
//! 2. Beyond the limit everyone who asks is told to end, and reports what its operators hold.
//! 3. After [`REPORT_MS`] each composes the error from all reports: those that grow have asked by
//!    then.
//!
//! What is looked up is the memory of the whole process and not a sum over states, because no
//! operator could count much of it: what the allocator keeps, instances of plugins, batches, and
//! snapshots on their way to the store.

use crate::code;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// New memory grows by some ten MB in this time.
const LOOK_MS: u64 = 10;

const REPORT_MS: u64 = 300;

/// The number of operators that the error names.
const NAMED: usize = 3;

/// See the module. The default has no limit.
#[derive(Debug)]
pub struct ProcessMemory {
    limit_bytes: u64,
    start: Instant,
    /// When it was last looked up, in ms from the start.
    looked_ms: AtomicU64,
    /// What was found beyond the limit, and when, in ms from the start; 0 before that.
    found_bytes: AtomicU64,
    found_ms: AtomicU64,
    /// Bytes by uid.
    holders: Mutex<BTreeMap<String, u64>>,
}

impl Default for ProcessMemory {
    fn default() -> ProcessMemory {
        ProcessMemory::new(u64::MAX)
    }
}

impl ProcessMemory {
    pub fn new(limit_bytes: u64) -> ProcessMemory {
        ProcessMemory {
            limit_bytes,
            start: Instant::now(),
            looked_ms: AtomicU64::new(0),
            found_bytes: AtomicU64::new(0),
            found_ms: AtomicU64::new(0),
            holders: Mutex::default(),
        }
    }

    /// Cheap enough for each batch and each call.
    ///
    /// # Errors
    /// `PROCESS_MEMORY` (S5012), without saying who holds it, if the process holds more than it
    /// may.
    #[inline]
    pub fn check(&self) -> Result<()> {
        if self.limit_bytes == u64::MAX {
            return Ok(());
        }
        let now_ms = self.now_ms();
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        let is_due = now_ms >= looked_ms + LOOK_MS;
        if is_due
            && self
                .looked_ms
                .compare_exchange(looked_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.found(held_bytes(), now_ms);
        }
        match self.found_bytes.load(Ordering::Acquire) {
            0 => Ok(()),
            bytes => Err(self.error(bytes, "")),
        }
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn found(&self, bytes: u64, now_ms: u64) {
        if bytes > self.limit_bytes && self.found_bytes.load(Ordering::Relaxed) == 0 {
            self.found_ms.store(now_ms, Ordering::Relaxed);
            self.found_bytes.store(bytes, Ordering::Release);
        }
    }

    /// Takes what the operators of a task hold, by uid, waits for those of others, and returns the
    /// error that names them.
    pub fn report<'a>(&self, holders: impl IntoIterator<Item = (&'a str, usize)>) -> Error {
        for (uid, bytes) in holders {
            *self
                .holders
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(uid.to_owned())
                .or_default() += bytes as u64;
        }
        let report_ms = self.found_ms.load(Ordering::Relaxed) + REPORT_MS;
        std::thread::sleep(Duration::from_millis(
            report_ms.saturating_sub(self.now_ms()),
        ));
        let mut holders: Vec<(String, u64)> = self
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .into_iter()
            .collect();
        holders.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let shown: Vec<String> = holders
            .iter()
            .filter(|(_, bytes)| *bytes >= 1 << 20)
            .take(NAMED)
            .map(|(uid, bytes)| format!("`{uid}` {}", mib(*bytes)))
            .collect();
        let state = if shown.is_empty() {
            "; no operator has 1 MiB of state".to_owned()
        } else {
            format!("; state: {}", shown.join(", "))
        };
        self.error(self.found_bytes.load(Ordering::Acquire), &state)
    }

    fn error(&self, bytes: u64, state: &str) -> Error {
        let (held, limit) = (mib(bytes), mib(self.limit_bytes));
        Error::new(
            code::PROCESS_MEMORY,
            format!(
                "the process has {held} of memory, and may have {limit} (`memory.process-size`){state}"
            ),
        )
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// What the process holds that no file could give again, in bytes; 0 if the system does not report
/// it.
fn held_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&status, "RssAnon:") + kilobytes(&status, "VmSwap:")
}

/// The line of this name in a file of the system that counts in kB; 0 if there is none.
fn kilobytes(text: &str, name: &str) -> u64 {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.trim().strip_suffix("kB"));
    rest.and_then(|n| n.trim().parse::<u64>().ok())
        .map_or(0, |n| n << 10)
}

/// The default limit of a process: four fifths of the memory of the machine, or of the control
/// group (a container) if that has less. The rest is for files that the system keeps in memory, for
/// other processes, and for what grows until the next look.
pub fn default_limit_bytes() -> u64 {
    let machine = kilobytes(
        &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        "MemTotal:",
    );
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = group_files(&group)
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    let least = limits.chain((machine > 0).then_some(machine)).min();
    least.map_or(u64::MAX, |bytes| bytes / 5 * 4)
}

/// The files that may hold a limit for the process: of its group, and of all around it. In a
/// container, whose root is that of its group, that is the last one. A file without a limit says
/// `max`.
fn group_files(groups: &str) -> impl Iterator<Item = std::path::PathBuf> {
    let of_line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let groups = Path::new(path.trim_start_matches('/'))
            .ancestors()
            .map(|group| Path::new(root).join(group).join(file));
        Some(groups.collect::<Vec<_>>())
    };
    groups
        .lines()
        .filter_map(of_line)
        .flatten()
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_most_is_named_once_the_limit_is_passed() {
        let memory = ProcessMemory::new(1 << 40);
        memory.found(1 << 40, 5);
        assert!(memory.check().is_ok());
        memory.found((1 << 40) + (3 << 20), 5);
        assert_eq!(memory.check().unwrap_err().code().id, "S5012");
        memory
            .holders
            .lock()
            .unwrap()
            .insert("lists".into(), 7 << 20);
        let error = memory.report([
            ("lists", 2 << 20),
            ("few", 1000),
            ("a", 1 << 20),
            ("b", 3 << 20),
            ("c", 4 << 20),
        ]);
        let expected = "the process has 1048579 MiB of memory, and may have 1048576 MiB (`memory.process-size`); \
                        state: `lists` 9 MiB, `c` 4 MiB, `b` 3 MiB";
        assert_eq!(error.message(), expected);
    }

    #[test]
    fn without_a_limit_nothing_is_looked_up() {
        assert!(ProcessMemory::default().check().is_ok());
        let block = std::hint::black_box(vec![1u8; 8 << 20]);
        assert!(held_bytes() > block.len() as u64, "{}", held_bytes());
        assert!((1 << 20..u64::MAX).contains(&default_limit_bytes()));
    }

    #[test]
    fn limits_of_a_group_and_of_those_around_it() {
        let files = |groups: &str| {
            group_files(groups)
                .map(|file| file.display().to_string())
                .collect::<Vec<_>>()
        };
        let root = "/sys/fs/cgroup";
        assert_eq!(
            files("0::/a/b\n"),
            [
                format!("{root}/a/b/memory.max"),
                format!("{root}/a/memory.max"),
                format!("{root}/memory.max")
            ]
        );
        let old = "12:cpu,cpuacct:/x\n11:memory:/\n1:name=systemd:/y\n";
        assert_eq!(files(old), [format!("{root}/memory/memory.limit_in_bytes")]);
        assert_eq!(
            kilobytes("VmSwap:\t  12 kB\nRssAnon:\t 3 kB\n", "RssAnon:"),
            3072
        );
    }
}
