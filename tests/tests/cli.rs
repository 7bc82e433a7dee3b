//! `streamrt run` as a user meets it: results only where the sink says, a summary, and a clean end
//! on Ctrl-C.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use streamrt_tests::binary::{LIMIT, Running, component, outputs, run, streamrt};
use streamrt_tests::data;
use tempfile::TempDir;

/// The arguments of word-count over a port.
fn over_socket(port: u16, output: Option<&Path>) -> Vec<String> {
    let wasm = component("word-count").to_str().unwrap().to_owned();
    let mut args = vec![
        "run".to_owned(),
        wasm,
        "--".to_owned(),
        "--host".to_owned(),
        "localhost".to_owned(),
        "--port".to_owned(),
        port.to_string(),
    ];
    if let Some(folder) = output {
        args.extend(["--output".to_owned(), folder.to_str().unwrap().to_owned()]);
    }
    args
}

/// A job that reads from us, and our end of its connection.
fn start_over_socket(output: Option<&Path>) -> (Running, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let running = Running::start(streamrt(over_socket(
        listener.local_addr().unwrap().port(),
        output,
    )));
    let (stream, _) = listener.accept().unwrap();
    (running, stream)
}

#[test]
fn without_an_output_the_words_are_printed() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("text");
    data::write(&file, &["to be or", "not to  be"]);
    let wasm = component("word-count");
    let finished = run([
        "run".as_ref(),
        wasm.as_os_str(),
        "--".as_ref(),
        "--input".as_ref(),
        file.as_os_str(),
    ])
    .succeeded();
    let mut lines: Vec<&str> = finished.stdout.lines().collect();
    lines.sort_unstable();
    let expected = [
        ("be", 1),
        ("be", 2),
        ("not", 1),
        ("or", 1),
        ("to", 1),
        ("to", 2),
    ];
    assert_eq!(
        lines,
        expected.map(|(word, count)| format!(r#"{{"word":"{word}","count":{count}}}"#))
    );
    assert!(
        finished.stderr.contains("2 records in, 6 out"),
        "no summary: {}",
        finished.stderr
    );
}

#[test]
fn ctrl_c_ends_an_unbounded_job_with_what_it_has() {
    let folder = TempDir::new().unwrap();
    let (running, mut stream) = start_over_socket(Some(folder.path()));
    stream.write_all(b"to be or not to be\n").unwrap();
    wait_for_rows(folder.path());
    running.interrupt();
    running.finish(LIMIT).succeeded();
    assert_eq!(outputs(folder.path()).lines("").len(), 6);
    drop(stream);
}

/// Waits until the sink has begun a file, which it does with its first row.
fn wait_for_rows(folder: &Path) {
    let begun =
        |folder: &Path| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    let deadline = std::time::Instant::now() + LIMIT;
    while !begun(folder) {
        assert!(
            std::time::Instant::now() < deadline,
            "no row after {LIMIT:?}"
        );
        // Another process makes the file, and nothing tells us: we can only look again.
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn ctrl_c_ends_a_job_that_waits_for_its_first_record() {
    let (running, stream) = start_over_socket(None);
    running.interrupt();
    assert_eq!(running.finish(LIMIT).succeeded().stdout, "");
    drop(stream);
}

#[test]
fn a_job_without_records_ends_by_itself() {
    let folder = TempDir::new().unwrap();
    let (file, output) = (folder.path().join("empty"), folder.path().join("out"));
    data::write(&file, &[]);
    for example in ["word-count", "hot-items", "sensor-alerts", "session-clicks"] {
        let wasm = component(example);
        let front = [
            "run".as_ref(),
            wasm.as_os_str(),
            "--parallelism".as_ref(),
            "7".as_ref(),
        ];
        let args = [
            "--".as_ref(),
            "--input".as_ref(),
            file.as_os_str(),
            "--output".as_ref(),
            output.as_os_str(),
        ];
        run(front.into_iter().chain(args)).succeeded();
        assert!(outputs(&output).0.is_empty());
    }
}

#[test]
fn the_summary_can_be_read_by_machines() {
    let folder = TempDir::new().unwrap();
    let (wasm, input, output) = (
        component("hot-items"),
        data::example("hot-items").join("input"),
        folder.path().join("out"),
    );
    let front = [
        "run".as_ref(),
        wasm.as_os_str(),
        "--output".as_ref(),
        "json".as_ref(),
        "--".as_ref(),
    ];
    let args = [
        "--input".as_ref(),
        input.as_os_str(),
        "--output".as_ref(),
        output.as_os_str(),
    ];
    let finished = run(front.into_iter().chain(args)).succeeded();
    assert_eq!(
        finished.stdout, "",
        "results go where the sink says and nowhere else"
    );
    let last = finished.stderr.lines().last().expect("a summary");
    let summary: serde_json::Value =
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}"));
    assert_eq!(
        (&summary["event"], &summary["records_in"]),
        (&"summary".into(), &6823.into()),
        "{last}"
    );
}

#[test]
fn inspect_says_what_a_component_holds() {
    let said = |name: &str| {
        run(["inspect".as_ref(), component(name).as_os_str()])
            .succeeded()
            .stdout
    };
    let alerts = said("sensor-alerts");
    for word in ["process", "readings", "streamrt:plugin", "digest"] {
        assert!(alerts.contains(word), "`{word}` is missing in: {alerts}");
    }
    assert!(said("deduplicate").contains("deduplicate"));
}
