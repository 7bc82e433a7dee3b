//! Sinks in a plan, and their harness.

use streamrt_sdk::prelude::*;
use streamrt_sdk::testing;

/// Appends what it is sent to one file, without a look at the name.
#[derive(Default)]
struct Append {
    folder: Folder,
}

impl WriteAheadSink for Append {
    type In = String;

    fn open(&mut self, setup: &mut SinkSetup) {
        self.folder = setup.folder("out");
    }
    fn send(&mut self, transaction: &str, rows: &[String]) -> Result<()> {
        self.folder.make_folder("days")?;
        self.folder
            .append("days/all", format!("{transaction}: {}\n", rows.join(" ")))
    }
}

/// Begins, and does nothing else.
struct Nothing;

impl TwoPhaseSink for Nothing {
    type In = String;

    fn begin(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
    fn write(&mut self, _: &String) -> Result<()> {
        Err(Error::unavailable("nobody is there"))
    }
    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn commit(&mut self, _: &[u8]) -> Result<()> {
        Err(Error::lost("it is gone"))
    }
    fn abort(&mut self) -> Result<()> {
        Ok(())
    }
    fn abort_unlisted(&mut self, _: &str, _: &[Vec<u8>]) -> Result<()> {
        Ok(())
    }
}

fn job(env: &mut Env) -> Result<()> {
    let lines = env.source("lines", File::lines(env.arg_or("input", "in")));
    lines.two_phase_sink("nothing", Nothing);
    lines
        .write_ahead_sink("append", Append::default())
        .bytes_max(5);
    Ok(())
}

fn library(library: &mut Library) -> Result<()> {
    library.two_phase_sink("nothing", Nothing);
    library.write_ahead_sink("append", Append::default());
    Ok(())
}

#[test]
fn a_plan_says_what_sinks_read_and_ask_for() {
    let plan = serde_json::from_str::<serde_json::Value>(
        &testing::plan(job, ["--input", "x"]).unwrap().to_json(),
    )
    .unwrap();
    let schema = serde_json::json!([{"name": "value", "type": "string"}]);
    let expected = serde_json::json!([
        {"number": 0, "kind": "two-phase-sink", "name": "nothing", "input": schema, "outputs": [], "time": false, "timers": false},
        {"number": 1, "kind": "write-ahead-sink", "name": "append", "input": schema, "outputs": [], "time": false, "timers": false, "grants": ["out"]},
    ]);
    assert_eq!(plan["functions"], expected);
    let bodies = serde_json::json!([
        {"kind": "function-sink", "function": 0}, {"kind": "function-sink", "function": 1, "write-ahead-bytes": 5},
    ]);
    assert_eq!(
        serde_json::json!([plan["nodes"][1]["body"], plan["nodes"][2]["body"]]),
        bodies
    );
    let kinds: Vec<_> = testing::library_plan(library, [""])
        .unwrap()
        .functions
        .into_iter()
        .map(|function| (function.name, function.grants))
        .collect();
    assert_eq!(
        kinds,
        [
            ("nothing".to_owned(), vec![]),
            ("append".to_owned(), vec!["out".to_owned()])
        ]
    );
}

#[test]
fn a_write_ahead_sink_gets_the_rows_of_a_transaction_at_once() {
    let mut sink = testing::write_ahead_sink(Append::default());
    sink.send("t-1", &["a".to_owned(), "b".to_owned()]).unwrap();
    sink.send("t-2", &["c".to_owned()]).unwrap();
    assert_eq!(
        sink.files("out"),
        [("days/all".to_owned(), b"t-1: a b\nt-2: c\n".to_vec())]
    );
}

#[test]
fn errors_say_whether_to_try_again() {
    let mut sink = testing::sink(Nothing);
    sink.begin("t").unwrap();
    assert_eq!(
        sink.write(&["a".to_owned()]).unwrap_err(),
        Error::unavailable("nobody is there")
    );
    assert_eq!(sink.commit(b"t").unwrap_err(), Error::lost("it is gone"));
    sink.abort().unwrap();
    sink.abort_unlisted("", &[]).unwrap();
    assert_eq!(sink.files("out"), []);
}

/// Does something in a folder in memory, as a host would answer it.
#[track_caller]
fn check(work: fn(&Folder) -> Result<()>, refused: bool) {
    struct Do(Folder, fn(&Folder) -> Result<()>);
    impl WriteAheadSink for Do {
        type In = String;
        fn open(&mut self, setup: &mut SinkSetup) {
            self.0 = setup.folder("out");
        }
        fn send(&mut self, _: &str, _: &[String]) -> Result<()> {
            (self.1)(&self.0)
        }
    }
    let mut sink = testing::write_ahead_sink(Do(Folder::default(), work));
    assert_eq!(sink.send("t", &["a".to_owned()]).is_err(), refused);
}

#[test]
fn folders_in_memory_refuse_what_the_host_refuses() {
    check(|folder| folder.write("../x", "x"), true);
    check(|folder| folder.write("/x", "x"), true);
    check(|folder| folder.write("a//x", "x"), true);
    check(|folder| folder.look("a/../x").map(drop), true);
    check(|folder| folder.append("gone/x", "x"), true);
    check(|folder| folder.read("gone").map(drop), true);
    check(|folder| folder.rename("gone", "x"), true);
    check(|folder| folder.sync("gone"), true);
    check(|folder| folder.list("gone").map(drop), true);
    check(
        |folder| {
            folder
                .make_folder("a")
                .and_then(|()| folder.write("a", "x"))
        },
        true,
    );
    check(
        |folder| {
            folder
                .make_folder("a")
                .and_then(|()| folder.write("a/x", "x"))
                .and_then(|()| folder.remove("a").map(drop))
        },
        true,
    );
    check(moves, false);
}

fn moves(folder: &Folder) -> Result<()> {
    folder.make_folder("a")?;
    folder.make_folder("a")?;
    folder.write("a/x", "one")?;
    folder.rename("a", "b")?;
    assert_eq!(
        (folder.read("b/x")?, folder.look("a")?, folder.remove("a")?),
        (b"one".to_vec(), None, false)
    );
    let names: Vec<_> = folder
        .list("b")?
        .into_iter()
        .map(|entry| (entry.name, entry.is_file, entry.size))
        .collect();
    assert_eq!(names, [("x".to_owned(), true, 3)]);
    assert!(folder.list("")?[0].is_folder);
    folder.sync("b/x")?;
    Ok(assert!(folder.remove("b/x")? && folder.remove("b")?))
}
