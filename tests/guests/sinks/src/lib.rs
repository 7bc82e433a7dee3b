//! The test guest of sinks: a two-phase sink and a write-ahead sink that write lines into a granted
//! folder, and fail as instructed.
//!
//! `--fail-in CALL --how HOW --times N` makes the first N calls with that name fail, counted in the
//! folder `faults`, so that the count outlives the process. Run by `tests/tests/recovery/sinks.rs`.

use std::hint::black_box;

use streamrt_sdk::prelude::*;

/// What fails, how, and how often.
#[derive(Default)]
struct Fault {
    call: String,
    how: String,
    times: u64,
    count: Folder,
}

impl Fault {
    fn of(env: &Env) -> Result<Fault> {
        let (call, how) = (env.arg_or("fail-in", ""), env.arg_or("how", ""));
        Ok(Fault {
            call,
            how,
            times: env.parse_or("times", 1)?,
            count: Folder::default(),
        })
    }

    /// Fails, if it is the turn of this call.
    fn in_call(&self, call: &str, out: &Folder) -> Result<()> {
        if self.call != call || self.count.look("count")?.map_or(0, |file| file.size) >= self.times
        {
            return Ok(());
        }
        self.count.append("count", "x")?;
        match self.how.as_str() {
            "trap" => panic!("this call is more than I can bear"),
            "loop" => spin(),
            "sync-loop" => loop {
                out.sync("")?;
            },
            "write-loop" => loop {
                out.write("filling", "x".repeat(1 << 20))?;
            },
            "unavailable" => Err(Error::unavailable("the archive does not answer")),
            "lost" => Err(Error::lost("the archive has thrown the transaction away")),
            "escape" => out.write("../escaped", "x"),
            "absolute" => out.read("/etc/hostname").map(drop),
            "link" => out.append("link", "x"),
            _ => Err(Error::new("I do not like this call")),
        }
    }
}

/// Ends only when it is stopped from outside.
fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

/// One file per transaction.
struct Files {
    fault: Fault,
    out: Folder,
    transaction: String,
    text: String,
}

impl Files {
    fn new(fault: Fault) -> Files {
        Files {
            fault,
            out: Folder::default(),
            transaction: String::new(),
            text: String::new(),
        }
    }

    fn ask(&mut self, setup: &mut SinkSetup) {
        (self.out, self.fault.count) = (setup.folder("out"), setup.folder("faults"));
    }

    fn in_call(&self, call: &str) -> Result<()> {
        self.fault.in_call(call, &self.out)
    }

    /// Makes a file visible that is there under a hidden name, or has been made visible before.
    fn show(&self, name: &str) -> Result<()> {
        if self.out.look(&format!(".{name}"))?.is_some() {
            self.out.rename(&format!(".{name}"), name)?;
        }
        match self.out.look(name)? {
            Some(_) => self.out.sync(""),
            None => Err(Error::lost(format!("there is no {name}"))),
        }
    }
}

impl TwoPhaseSink for Files {
    type In = String;

    fn open(&mut self, setup: &mut SinkSetup) {
        self.ask(setup);
    }
    fn begin(&mut self, transaction: &str) -> Result<()> {
        (self.transaction, self.text) = (transaction.to_owned(), String::new());
        self.in_call("begin")
    }
    fn write(&mut self, row: &String) -> Result<()> {
        self.out
            .append(&format!(".{}", self.transaction), format!("{row}\n"))?;
        self.text += row;
        self.in_call("write")
    }
    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        if self.text.is_empty() {
            return Ok(None);
        }
        self.out.sync(&format!(".{}", self.transaction))?;
        self.out.sync("")?;
        self.in_call("pre-commit")?;
        Ok(Some(self.transaction.clone().into_bytes()))
    }
    fn commit(&mut self, committable: &[u8]) -> Result<()> {
        self.in_call("commit")?;
        self.show(std::str::from_utf8(committable)?)?;
        self.in_call("committed")
    }
    fn abort(&mut self) -> Result<()> {
        self.in_call("abort")?;
        self.out.remove(&format!(".{}", self.transaction)).map(drop)
    }
    fn abort_unlisted(&mut self, prefix: &str, _: &[Vec<u8>]) -> Result<()> {
        self.in_call("abort-unlisted")?;
        let begin = format!(".{prefix}");
        let mut open = self
            .out
            .list("")?
            .into_iter()
            .map(|entry| entry.name)
            .filter(|name| name.starts_with(&begin));
        open.try_for_each(|name| self.out.remove(&name).map(drop))
    }
}

/// Knows a transaction by its name: what was sent before is replaced.
struct Sender(Files);

impl WriteAheadSink for Sender {
    type In = String;

    fn open(&mut self, setup: &mut SinkSetup) {
        self.0.ask(setup);
    }
    fn send(&mut self, transaction: &str, rows: &[String]) -> Result<()> {
        self.0.in_call("send")?;
        let staged = format!(".{transaction}");
        self.0.out.write(
            &staged,
            rows.iter()
                .map(|row| format!("{row}\n"))
                .collect::<String>(),
        )?;
        self.0.out.rename(&staged, transaction)?;
        self.0.in_call("sent")
    }
}

fn job(env: &mut Env) -> Result<()> {
    let lines = env.source("lines", File::lines(env.arg("input")?));
    match env.arg_or("sink", "two-phase").as_str() {
        "write-ahead" => {
            let node = lines.write_ahead_sink("sink", Sender(Files::new(Fault::of(env)?)));
            node.bytes_max(env.parse_or("bytes", 1 << 20)?);
        }
        _ => lines.two_phase_sink("sink", Files::new(Fault::of(env)?)),
    }
    Ok(())
}

streamrt_sdk::job!(job);
