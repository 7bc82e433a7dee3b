//! Records every large transfer exactly once, through a sink of its own that has access only to a
//! folder which the user grants.

use std::fmt::Write;

use streamrt_sdk::prelude::*;

/// A line of the input: sender, receiver, amount, seconds since the epoch.
#[derive(Record, Clone)]
struct Transfer {
    from: i64,
    to: i64,
    cents: i64,
    time: i64,
}

/// Text that gathers before it is handed to the host.
const PIECE_BYTES: usize = 64 << 10;

/// One file per transaction: `.NAME.open` until it is committed, `NAME.jsonl` from then on.
#[derive(Default)]
struct AuditLog {
    folder: Folder,
    transaction: String,
    text: String,
    bytes: u64,
}

fn staged(transaction: &str) -> String {
    format!(".{transaction}.open")
}

fn complete(transaction: &str) -> String {
    format!("{transaction}.jsonl")
}

/// The length and the name of what was promised.
fn promise(committable: &[u8]) -> Option<(u64, &str)> {
    let (bytes, transaction) = std::str::from_utf8(committable).ok()?.split_once(' ')?;
    Some((bytes.parse().ok()?, transaction))
}

impl AuditLog {
    fn flush(&mut self) -> Result<()> {
        self.folder.append(&staged(&self.transaction), &self.text)?;
        self.bytes += self.text.len() as u64;
        self.text.clear();
        Ok(())
    }

    fn has(&self, file: &str, bytes: u64) -> Result<bool> {
        Ok(self
            .folder
            .look(file)?
            .is_some_and(|found| found.is_file && found.size == bytes))
    }
}

impl TwoPhaseSink for AuditLog {
    type In = Transfer;

    fn open(&mut self, setup: &mut SinkSetup) {
        self.folder = setup.folder("audit");
    }

    fn begin(&mut self, transaction: &str) -> Result<()> {
        transaction.clone_into(&mut self.transaction);
        (self.text, self.bytes) = (String::new(), 0);
        Ok(())
    }

    fn write(
        &mut self,
        Transfer {
            from,
            to,
            cents,
            time,
        }: &Transfer,
    ) -> Result<()> {
        writeln!(
            self.text,
            r#"{{"from":{from},"to":{to},"cents":{cents},"time":{time}}}"#
        )?;
        if self.text.len() < PIECE_BYTES {
            Ok(())
        } else {
            self.flush()
        }
    }

    /// The file is on the disk before anybody relies on it; its name is, too.
    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        if self.bytes == 0 && self.text.is_empty() {
            return Ok(None);
        }
        self.flush()?;
        self.folder.sync(&staged(&self.transaction))?;
        self.folder.sync("")?;
        Ok(Some(
            format!("{} {}", self.bytes, self.transaction).into_bytes(),
        ))
    }

    /// A rename, which may have been done before, or is being done by another process.
    fn commit(&mut self, committable: &[u8]) -> Result<()> {
        let (bytes, transaction) = promise(committable)
            .ok_or_else(|| Error::lost("the checkpoint holds what this sink did not promise"))?;
        let (staged, complete) = (staged(transaction), complete(transaction));
        if self.has(&staged, bytes)?
            && let Err(error) = self.folder.rename(&staged, &complete)
            && !error.is_missing()
        {
            return Err(error);
        }
        match self.has(&complete, bytes)? {
            true => self.folder.sync(""),
            false => Err(Error::lost(format!(
                "{bytes} bytes were promised in {staged}, but neither it nor {complete} has them"
            ))),
        }
    }

    fn abort(&mut self) -> Result<()> {
        self.folder.remove(&staged(&self.transaction)).map(drop)
    }

    fn abort_unlisted(&mut self, prefix: &str, keep: &[Vec<u8>]) -> Result<()> {
        let keep: Vec<String> = keep
            .iter()
            .filter_map(|kept| Some(staged(promise(kept)?.1)))
            .collect();
        let (begin, end) = (format!(".{prefix}"), ".open");
        let is_left =
            |name: &String| name.starts_with(&begin) && name.ends_with(end) && !keep.contains(name);
        let mut left = self
            .folder
            .list("")?
            .into_iter()
            .map(|entry| entry.name)
            .filter(is_left);
        left.try_for_each(|name| self.folder.remove(&name).map(drop))
    }
}

/// `--input` names the transfers; `--cents` says how much is large.
fn job(env: &mut Env) -> Result<()> {
    let large: i64 = env.parse_or("cents", 100_000)?;
    env.source("transfers", File::csv::<Transfer>(env.arg("input")?))
        .filter("large", move |transfer: &Transfer| transfer.cents >= large)
        .two_phase_sink("audit", AuditLog::default());
    Ok(())
}

streamrt_sdk::job!(job);

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_sdk::testing::{self, SinkHarness};

    fn transfers(cents: &[i64]) -> Vec<Transfer> {
        cents
            .iter()
            .map(|&cents| Transfer {
                from: 1,
                to: 2,
                cents,
                time: 3,
            })
            .collect()
    }

    /// The names of the files, and the lines of those that are visible.
    #[track_caller]
    fn check(sink: &SinkHarness, names: &[&str], lines: usize) {
        let files = sink.files("audit");
        assert_eq!(
            files
                .iter()
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>(),
            names
        );
        let visible = files.iter().filter(|(name, _)| !name.starts_with('.'));
        assert_eq!(
            visible
                .map(|(_, text)| text.split(|byte| *byte == b'\n').count() - 1)
                .sum::<usize>(),
            lines
        );
    }

    fn pre_committed(sink: &mut SinkHarness, name: &str, cents: &[i64]) -> Vec<u8> {
        sink.begin(name).unwrap();
        sink.write(&transfers(cents)).unwrap();
        sink.pre_commit().unwrap().unwrap()
    }

    #[test]
    fn a_transaction_is_visible_when_it_is_committed_and_once() {
        let mut sink = testing::sink(AuditLog::default());
        let first = pre_committed(&mut sink, "audit-j-1-0-0", &[5, 6]);
        let second = pre_committed(&mut sink, "audit-j-1-0-1", &[7]);
        check(&sink, &[".audit-j-1-0-0.open", ".audit-j-1-0-1.open"], 0);
        sink.commit(&first).unwrap();
        sink.commit(&first).unwrap();
        sink.commit(&second).unwrap();
        check(&sink, &["audit-j-1-0-0.jsonl", "audit-j-1-0-1.jsonl"], 3);
        sink.begin("audit-j-1-0-2").unwrap();
        assert_eq!(
            sink.pre_commit().unwrap(),
            None,
            "a transaction without rows"
        );
    }

    #[test]
    fn a_recovery_commits_what_was_promised_and_withdraws_the_rest() {
        let mut sink = testing::sink(AuditLog::default());
        let first = pre_committed(&mut sink, "audit-j-1-0-0", &[5]);
        let kept = pre_committed(&mut sink, "audit-j-1-0-1", &[6]);
        pre_committed(&mut sink, "audit-j-1-0-2", &[7]);
        pre_committed(&mut sink, "other-j-1-0-0", &[8]);
        let mut sink = sink.after_crash(AuditLog::default());
        sink.commit(&first).unwrap();
        sink.abort_unlisted("audit-j-", &[kept]).unwrap();
        check(
            &sink,
            &[
                ".audit-j-1-0-1.open",
                ".other-j-1-0-0.open",
                "audit-j-1-0-0.jsonl",
            ],
            1,
        );
    }

    #[test]
    fn an_open_transaction_is_withdrawn() {
        let mut sink = testing::sink(AuditLog::default());
        pre_committed(&mut sink, "a", &vec![9; PIECE_BYTES / 40]);
        sink.abort().unwrap();
        check(&sink, &[], 0);
    }

    #[test]
    fn what_is_gone_is_lost_and_said() {
        let mut sink = testing::sink(AuditLog::default());
        let error = sink.commit(b"5 audit-j-1-0-0").unwrap_err();
        assert_eq!(
            (
                error.code(),
                error.message().contains("5 bytes were promised")
            ),
            (Error::lost("").code(), true)
        );
    }
}
