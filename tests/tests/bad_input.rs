//! What is wrong with a component, a record, a file or a socket gets one sentence with a stable
//! code and the place; nothing panics.
//!
//! Wrong job graphs stand in `job_toml.rs`; the host's side of guests that break the interface in
//! `plugin_host.rs`.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use streamrt_tests::binary::{Finished, component, outputs, run};
use streamrt_tests::data;
use tempfile::TempDir;

/// Runs a file of these bytes as a component.
fn run_bytes(bytes: &[u8]) -> Finished {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("plugin.wasm");
    std::fs::write(&file, bytes).unwrap();
    run(["run".as_ref(), file.as_os_str()]).names("plugin.wasm")
}

#[test]
fn files_that_are_no_component_of_ours() {
    let whole = std::fs::read(component("word-count")).unwrap();
    let wat = |text: &str| wat::parse_str(text).unwrap();
    for (bytes, code) in [
        (b"just text".to_vec(), "S1001"),
        (Vec::new(), "S1001"),
        (b"\0asm".to_vec(), "S1003"),
        (wat("(module)"), "S1002"),
        (whole[..whole.len() / 2].to_vec(), "S1003"),
        (whole[..whole.len() - 1].to_vec(), "S1003"),
        (wat("(component)"), "S1004"),
        (
            wat(
                r#"(component (instance $i) (export "streamrt:plugin/operator@9.0.0" (instance $i)))"#,
            ),
            "S1005",
        ),
    ] {
        run_bytes(&bytes).failed_with(code);
    }
}

#[test]
fn a_component_that_is_not_there() {
    run(["run", "nowhere.wasm"])
        .failed_with("S3001")
        .names("nowhere.wasm");
}

/// Runs an example over lines of its input.
struct Case {
    folder: TempDir,
    example: &'static str,
}

impl Case {
    fn new(example: &'static str, lines: &[&str]) -> Case {
        let folder = TempDir::new().unwrap();
        data::write(&folder.path().join("input.csv"), lines);
        Case { folder, example }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, options: &[&str]) -> Finished {
        self.run_with(options, &[])
    }

    /// Runs it with options of ours, and arguments of the plugin.
    fn run_with(&self, options: &[&str], arguments: &[&str]) -> Finished {
        let (wasm, input, output) = (
            component(self.example),
            self.path("input.csv"),
            self.path("out"),
        );
        let front = ["run".as_ref(), wasm.as_os_str()]
            .into_iter()
            .chain(options.iter().map(AsRef::as_ref));
        let folders = [
            "--".as_ref(),
            "--input".as_ref(),
            input.as_os_str(),
            "--output".as_ref(),
            output.as_os_str(),
        ];
        run(front
            .chain(folders)
            .chain(arguments.iter().map(AsRef::as_ref)))
    }

    fn main_lines(&self) -> Vec<String> {
        outputs(&self.path("out")).lines("").to_vec()
    }
}

const GOOD: [&str; 2] = ["1,100,7,pv,1511658000", "2,100,7,pv,1511658001"];
const RANKED: [&str; 1] = [r#"{"window_end":1511658300000,"rank":1,"item":100,"count":2}"#];

/// A bad line between good ones fails the job, or is left out and kept as a dead letter.
#[track_caller]
fn check_poison(bad: &str) {
    let case = Case::new("hot-items", &[GOOD[0], bad, GOOD[1]]);
    case.run(&[]).failed_with("S3003").names("input.csv");
    let letters = format!("poison.dead-letters={}", case.path("letters").display());
    let finished = case
        .run(&["-D", "poison.policy=skip", "-D", &letters])
        .succeeded();
    assert!(
        finished.stderr.contains("1 dead letter"),
        "the skipped line is not counted: {}",
        finished.stderr
    );
    let lines = case.main_lines();
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.contains("1511658300000"))
            .collect::<Vec<_>>(),
        RANKED,
        "{bad}"
    );
    let letters = outputs(&case.path("letters"));
    assert_eq!(letters.lines("").len(), 1, "{letters:?}");
    assert!(letters.lines("")[0].contains("input.csv"), "{letters:?}");
}

#[test]
fn lines_that_do_not_fit_are_poison_records() {
    for bad in [
        "1,100,7,pv",
        "1,100,7,pv,soon",
        "1,100,7,pv,1511658000,6",
        "1,1e99,7,pv,1511658000",
        "x",
    ] {
        check_poison(bad);
    }
}

#[test]
fn a_line_that_is_too_long_for_memory_is_a_poison_record() {
    let bad = format!("1,100,7,pv,{}", "9".repeat(20_000_000));
    check_poison(&bad);
    let case = Case::new("hot-items", &[GOOD[0], &bad, GOOD[1]]);
    case.run(&[])
        .failed_with("S3003")
        .names("input.csv: line 2 is longer than 16 MiB");
    let letters = format!("poison.dead-letters={}", case.path("letters").display());
    case.run(&["-D", "poison.policy=skip", "-D", &letters])
        .succeeded();
    let letters = outputs(&case.path("letters"));
    let letter = &letters.lines("")[0];
    for part in [
        "input.csv line 2",
        "it is longer than 16 MiB: it has 20000011 bytes",
        "1,100,7,pv,9999",
    ] {
        assert!(
            letter.contains(part),
            "no {part} in {}",
            &letter[..letter.len().min(2000)]
        );
    }
    assert!(letter.len() < 2000, "the whole line is kept");
}

#[test]
fn a_time_that_cannot_be_told_in_ms_is_a_poison_record() {
    Case::new("hot-items", &[GOOD[0], "1,100,7,pv,9223372036854775807"])
        .run(&[])
        .failed_with("S5010")
        .names("9223372036854775807");
}

#[test]
fn a_line_that_the_plugin_refuses_is_a_poison_record() {
    let good = "83.149.9.216 - - 17/05/2015:10:05:03 +0000 GET /page";
    for bad in [
        "83.149.9.216 - - 17/05/2015:10:05:03 +0000 GET",
        "83.149.9.216 - - 17/99/2015:10:05:03 +0000 GET /page",
    ] {
        let case = Case::new("hot-pages", &[good, bad, good]);
        case.run(&[]).failed_with("S4006").names("input.csv");
        case.run(&["-D", "poison.policy=skip"]).succeeded();
        let first = r#"{"window_end":1431857105000,"rank":1,"path":"/page","count":2}"#;
        assert!(
            case.main_lines().iter().any(|line| line == first),
            "{:?}",
            case.main_lines()
        );
    }
}

#[test]
fn arguments_that_do_not_fit() {
    let wasm = component("hot-items");
    let wasm = wasm.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let output = output.to_str().unwrap();
    run(["run", wasm, "--", "--output", output])
        .failed_with("S1012")
        .names("`--allow-path input` allows it");
    run([
        "run",
        wasm,
        "--allow-path",
        "input",
        "--",
        "--output",
        output,
    ])
    .failed_with("S3001")
    .names("input");
    run([
        "run",
        wasm,
        "--",
        "--input",
        "/nowhere/at.all",
        "--output",
        output,
    ])
    .failed_with("S3001")
    .names("/nowhere/at.all");
    run([
        "run",
        wasm,
        "-D",
        "batch.rows=none",
        "--",
        "--input",
        "/tmp",
        "--output",
        output,
    ])
    .failed_with("S2007")
    .names("batch.rows");
    run([
        "run",
        component("word-count").to_str().unwrap(),
        "--",
        "--host",
        "localhost",
        "--port",
        "much",
    ])
    .failed_with("S1008")
    .names("port");
}

#[test]
fn an_output_that_cannot_be_written() {
    let case = Case::new("hot-items", &GOOD);
    std::fs::write(case.path("out"), "a file, where a folder is needed").unwrap();
    case.run(&[]).failed_with("S6003").names("out");
}

fn word_count_of(port: u16, output: &Path) -> Finished {
    let (wasm, port) = (component("word-count"), port.to_string());
    let front = [
        "run".as_ref(),
        wasm.as_os_str(),
        "--".as_ref(),
        "--host".as_ref(),
        "localhost".as_ref(),
    ];
    run(front.into_iter().chain([
        "--port".as_ref(),
        port.as_ref(),
        "--output".as_ref(),
        output.as_os_str(),
    ]))
}

#[test]
fn nobody_listens_at_the_socket() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    word_count_of(port, Path::new("/tmp/never-made"))
        .failed_with("S3004")
        .names(&port.to_string());
}

/// Serves one connection, then closes it.
fn serve(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        listener
            .accept()
            .and_then(|(mut stream, _)| stream.write_all(bytes))
    });
    port
}

#[test]
fn a_socket_that_closes_behind_a_line_ends_the_job() {
    let folder = TempDir::new().unwrap();
    word_count_of(serve(b"to be\nor not\n"), folder.path()).succeeded();
    assert_eq!(outputs(folder.path()).lines("").len(), 4);
}

#[test]
fn a_socket_that_closes_within_a_line_has_it_as_its_last() {
    let folder = TempDir::new().unwrap();
    word_count_of(serve(b"to be\nor no"), folder.path()).succeeded();
    assert_eq!(outputs(folder.path()).lines("").len(), 4);
}

/// So little that a guest which hoards it fails soon, long before its deadline.
const LIMITS: [&str; 2] = ["-D", "plugin.memory=64MiB"];
const LINES: [&str; 4] = ["one", "two", "bad", "three"];

/// The guest fails on one line of four: the job ends with the code and the line, or goes on without
/// that line.
#[track_caller]
fn check_faulty(how: &str, limits: &[&str], code: &str, place: &str) {
    let case = Case::new("faulty", &LINES);
    case.run_with(limits, &["--how", how])
        .failed_with(code)
        .names("input.csv")
        .names(place);
    let letters = format!("poison.dead-letters={}", case.path("letters").display());
    let options: Vec<&str> = limits
        .iter()
        .copied()
        .chain(["-D", "poison.policy=skip", "-D", &letters])
        .collect();
    case.run_with(&options, &["--how", how]).succeeded();
    assert_eq!(
        case.main_lines(),
        ["one", "three", "two"].map(|line| format!(r#"{{"line":"{line}"}}"#)),
        "{how}"
    );
    let letters = outputs(&case.path("letters"));
    assert_eq!(letters.lines("").len(), 1, "{how}: {letters:?}");
    let letter = &letters.lines("")[0];
    assert!(
        letter.contains(code) && letter.contains("bad") && letter.contains("input.csv"),
        "{how}: {letter}"
    );
}

#[test]
fn a_guest_that_refuses_a_record() {
    check_faulty("refuse", &[], "S4006", "I do not like this line");
}

#[test]
fn a_guest_that_panics() {
    check_faulty("panic", &[], "S4001", "this line is more than I can bear");
}

#[test]
fn a_guest_that_loops_for_ever() {
    check_faulty("loop", &["-D", "plugin.deadline=300ms"], "S4002", "line 3");
}

#[test]
fn a_guest_that_allocates_without_end() {
    check_faulty("allocate", &LIMITS, "S4003", "line 3");
}

#[test]
fn a_guest_that_recurses_without_end() {
    check_faulty("recurse", &[], "S4004", "line 3");
}

#[test]
fn a_guest_that_returns_without_end() {
    let case = Case::new("faulty", &LINES);
    let options = ["-D", "plugin.output=8MiB", "-D", "plugin.memory=512MiB"];
    case.run_with(&options, &["--how", "flood"])
        .failed_with("S4008");
}

/// Lines in the order of the output, which is that of the alphabet.
fn passed(lines: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = lines
        .iter()
        .map(|line| format!(r#"{{"line":"{line}"}}"#))
        .collect();
    lines.sort();
    lines
}

#[test]
fn a_function_that_is_slow_but_in_time_for_every_record() {
    // One takes some 20 ms, all of them twice the deadline.
    let lines: Vec<String> = (0..40).map(|n| format!("busy {}", 10 + n % 5)).collect();
    let case = Case::new(
        "faulty",
        &lines.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    case.run(&["-D", "plugin.deadline=400ms"]).succeeded();
    assert_eq!(case.main_lines(), passed(&lines));
}

#[test]
fn a_record_that_takes_longer_than_the_deadline() {
    let case = Case::new("faulty", &["one", "busy 1000000", "two"]);
    let report = case
        .run(&["-D", "plugin.deadline=200ms"])
        .failed_with("S4002");
    report.names("input.csv line 2").names("within 200 ms");
}

#[test]
fn records_that_make_more_together_than_one_call_may_return() {
    let lines = ["wide 3"; 12].map(String::from);
    let case = Case::new("faulty", &lines.each_ref().map(String::as_str));
    case.run(&["-D", "plugin.output=8MiB"]).succeeded();
    assert_eq!(case.main_lines().len(), 36);
}

#[test]
fn how_many_records_of_a_batch_are_bad_does_not_matter() {
    let lines: Vec<String> = (0..29)
        .map(|n| {
            if n % 3 == 1 {
                "bad".to_owned()
            } else {
                format!("line{n}")
            }
        })
        .collect();
    let case = Case::new(
        "faulty",
        &lines.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let good: Vec<String> = lines
        .iter()
        .filter(|line| *line != "bad")
        .cloned()
        .collect();
    for batch_rows in ["batch.rows=4", "batch.rows=1024"] {
        for how in ["refuse", "panic"] {
            let finished = case
                .run_with(
                    &["-D", "poison.policy=skip", "-D", batch_rows],
                    &["--how", how],
                )
                .succeeded();
            assert_eq!(case.main_lines(), passed(&good), "{how}, {batch_rows}");
            assert!(
                finished.stderr.contains("10 dead letters"),
                "{}",
                finished.stderr
            );
            std::fs::remove_dir_all(case.path("out")).unwrap();
        }
    }
}

#[test]
fn a_guest_that_breaks_the_interface() {
    for how in [
        "lengths",
        "offsets",
        "descending",
        "negative",
        "utf8",
        "missing",
        "rows",
        "port",
        "origin",
    ] {
        Case::new("liar", &["hi"])
            .run_with(&[], &["--how", how])
            .failed_with("S4005")
            .names("liar");
    }
    let honest = Case::new("liar", &["hi"]);
    honest.run(&[]).succeeded();
    assert_eq!(honest.main_lines(), [r#"{"line":"hi","length":2}"#]);
}
