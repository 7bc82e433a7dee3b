//! A JobManager and what users do with it: deploy, list, stop, and start it again after a crash,
//! as if nothing had happened.

mod jobmanager;

use std::path::Path;
use std::process::Command;

use jobmanager::Cluster;
use serde_json::Value;
use streamrt_tests::binary::{Finished, LIMIT, Running, binary, component, outputs, run};
use streamrt_tests::{data, oracle};

/// The command line of an example over its shipped input, which takes about so many seconds.
fn example(cluster: &Cluster, name: &str, seconds: f64) -> Vec<String> {
    let text = data::shipped(name);
    let lines = data::in_time_order(name, &text);
    let input = cluster.path(&format!("{name}.input"));
    data::write(&input, &lines);
    let rate = (lines.len() as f64 / seconds) as u64 + 1;
    let output = cluster.path(&format!("{name}.out"));
    let mut args = vec![
        "deploy".to_owned(),
        component(name).to_string_lossy().into_owned(),
        "--parallelism=2".into(),
        "-Dcheckpoint.interval=40ms".into(),
        format!("-Dsource.rate={rate}"),
    ];
    args.extend(data::options(name, &output));
    args.extend(["--".into(), "--input".into(), input.display().to_string()]);
    args.extend(data::output(name, &output));
    args
}

fn told(cluster: &Cluster, args: &[String]) -> Finished {
    cluster.tell(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[track_caller]
fn assert_whole(cluster: &Cluster, name: &str) {
    let text = data::shipped(name);
    let lines = data::in_time_order(name, &text);
    let expected = oracle::run(name, &lines).unwrap();
    let found = outputs(&cluster.path(&format!("{name}.out")));
    assert_eq!(found, expected, "{name}");
}

#[test]
fn a_job_is_deployed_and_writes_what_a_run_writes() {
    let cluster = Cluster::start(&["--slots", "2"]);
    let mut args = example(&cluster, "word-count", 0.05);
    args.insert(1, "--wait".into());
    let first = told(&cluster, &args).succeeded();
    for said in ["uploaded ", "accepted `word-count` as ", "finished: "] {
        assert!(first.stderr.contains(said), "{said}: {}", first.stderr);
    }
    let ran = cluster.path("ran");
    let (input, output) = (cluster.text("word-count.input"), ran.to_string_lossy());
    let job = component("word-count");
    let job = job.to_string_lossy();
    run([
        "run",
        &job,
        "--parallelism",
        "2",
        "--",
        "--input",
        &input,
        "--output",
        &output,
    ])
    .succeeded();
    assert_eq!(
        outputs(&cluster.path("word-count.out")),
        outputs(&ran),
        "as a run writes it"
    );
    std::fs::remove_dir_all(cluster.path("word-count.out")).unwrap();
    let second = told(&cluster, &args).succeeded();
    assert!(
        second.stderr.contains("word-count.wasm is there already")
            && second
                .stderr
                .contains("`word-count` had been compiled before"),
        "{}",
        second.stderr
    );
    assert!(cluster.list(&[]).is_empty(), "both have ended");
    let ended = cluster.list(&["--all"]);
    let states: Vec<&Value> = ended.iter().map(|job| &job["state"]).collect();
    assert_eq!(states, ["finished", "finished"]);
    assert_eq!(ended[1]["id"], second.stdout.trim());
    let path = format!("GET /jobs/{} HTTP/1.1", second.stdout.trim());
    let (_, shown) = cluster.request(&path, "");
    let read = shown["vertices"][1]["metrics"]["read-records"].as_u64();
    assert!(read > Some(0), "its tasks are shown as they ended: {shown}");
}

#[test]
fn jobs_go_on_exactly_once_after_kills() {
    let mut cluster = Cluster::start(&["--slots", "8"]);
    let examples = ["word-count", "hot-items", "ride-duration", "audit-log"];
    for name in examples {
        told(&cluster, &example(&cluster, name, 2.5)).succeeded();
    }
    for _ in 0..3 {
        for name in examples {
            cluster.await_info(name, |info| {
                info["state"] == "finished" || {
                    let last = cluster.tell(&["checkpoints", name, "--output", "json"]);
                    last.stdout.lines().any(|line| line.contains("published"))
                }
            });
        }
        cluster.kill();
        cluster.go_on();
    }
    for name in examples {
        cluster.await_state(name, "finished");
        assert_whole(&cluster, name);
    }
    let said = cluster.kill();
    assert!(said.contains("goes on from checkpoint"), "{said}");
    cluster.go_on();
    assert_eq!(cluster.list(&["--all"]).len(), examples.len());
    for name in examples {
        assert_eq!(cluster.info(name)["state"], "finished");
        assert_whole(&cluster, name);
    }
}

#[test]
fn what_was_stopped_or_cancelled_stays_so() {
    let mut cluster = Cluster::start(&["--slots", "4"]);
    for name in ["stopped", "cancelled", "saved"] {
        let id = cluster.deploy(name, &[]);
        assert_eq!(cluster.info(&id)["state"], "running");
    }
    cluster.tell(&["stop", "stopped"]).succeeded();
    cluster.tell(&["cancel", "cancelled"]).succeeded();
    let folder = cluster.text("savepoint");
    let saved = cluster
        .tell(&["savepoint", "saved", "savepoint"])
        .succeeded();
    assert_eq!(saved.stdout.trim(), folder);
    cluster
        .tell(&["savepoint", "saved", "savepoint"])
        .failed_with("S2007")
        .names("is not empty");
    cluster
        .tell(&["stop", "stopped"])
        .failed_with("S6007")
        .names("was stopped already");
    cluster.kill();
    cluster.go_on();
    let saved = cluster.await_state("saved", "running");
    assert!(saved["resumed_from"].as_u64().is_some(), "{saved}");
    let stopped = cluster.info("stopped");
    assert!(
        stopped["state"] == "stopped" && stopped["stopped_at"].as_u64().is_some(),
        "{stopped}"
    );
    assert_eq!(cluster.info("cancelled")["state"], "cancelled");
    assert_eq!(cluster.list(&[]).len(), 1);
    // From the savepoint, under another name.
    cluster.deploy("forked", &["--from", "savepoint", "--name", "forked"]);
    let forked = cluster.await_state("forked", "running");
    assert!(forked["resumed_from"].as_u64().is_some(), "{forked}");
}

#[test]
fn which_job_is_meant_is_never_guessed() {
    let cluster = Cluster::start(&["--slots", "40"]);
    let one = cluster.deploy("one", &[]);
    cluster
        .tell(&["deploy", "one.toml"])
        .failed_with("S6006")
        .names(&format!("a job `one` runs already: {one}"));
    // Two of 17 ids begin with the same digit.
    let ids: Vec<String> = (0..16)
        .map(|job| cluster.deploy(&format!("job-{job}"), &[]))
        .chain([one.clone()])
        .collect();
    let digit = |id: &String| id[..1].to_owned();
    let twice = ids
        .iter()
        .map(digit)
        .find(|first| ids.iter().filter(|id| digit(id) == *first).count() > 1)
        .unwrap();
    cluster
        .tell(&["cancel", &twice])
        .failed_with("S6004")
        .names("take more of the id");
    let (status, refused) = cluster.request(&format!("GET /v1/jobs/{twice} HTTP/1.1"), "");
    assert_eq!((status, &refused["code"]), (400, &Value::from("S6009")));
    cluster
        .tell(&["info", "nobody"])
        .failed_with("S6004")
        .names("there is no job `nobody` at http://");
    cluster.tell(&["cancel", &one[..20]]).succeeded();
    assert_eq!(cluster.info(&one)["state"], "cancelled");
    let table = cluster.tell(&["list"]).succeeded().stdout;
    assert_eq!(table.lines().count(), 17, "{table}");
}

#[test]
fn a_bad_request_is_answered_with_a_status_a_code_and_a_sentence() {
    let cluster = Cluster::start(&["--component-size", "1KiB"]);
    let large = component("word-count");
    cluster
        .tell(&["deploy", &large.to_string_lossy()])
        .failed_with("S1020")
        .names("at most 1024 bytes");
    let digest = "0a".repeat(32);
    let put = format!("PUT /v1/components/{digest} HTTP/1.1");
    let (status, refused) = cluster.request(&put, &"x".repeat(1025));
    assert_eq!((status, &refused["code"]), (413, &Value::from("S1020")));
    let (status, refused) = cluster.request(&put, "half an upload");
    assert_eq!((status, &refused["code"]), (400, &Value::from("S6009")));
    let job = format!(
        r#"{{"name":"x","version":{{"file":"x","components":[{{"path":"x","digest":"{digest}"}}]}}}}"#
    );
    let json = "POST /v1/jobs HTTP/1.1\r\nContent-Type: application/json";
    let (status, refused) = cluster.request(json, &job);
    assert_eq!(
        (status, &refused["code"], &refused["message"]),
        (
            409,
            &Value::from("S6008"),
            &Value::from(format!("x: the component {digest} was not uploaded"))
        )
    );
    let form = "POST /v1/jobs HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded";
    assert_eq!(cluster.request(form, &job).0, 415);
    assert!(cluster.list(&["--all"]).is_empty());
}

#[test]
fn what_a_cluster_must_not_keep_or_cannot_know_is_refused() {
    let cluster = Cluster::start(&[]);
    let job = component("word-count");
    let job = job.to_string_lossy();
    cluster
        .tell(&["deploy", &job, "--", "--input", "pg://me:secret@host/db"])
        .failed_with("S2021")
        .names("argument 2 of the job holds a password");
    cluster
        .tell(&[
            "deploy",
            &job,
            "--",
            "--input",
            "words.txt",
            "--output",
            "/tmp/x",
        ])
        .failed_with("S2007")
        .names("reads words.txt, which starts in a folder that a deployed job does not know");
    let garbage = cluster.path("garbage.wasm");
    std::fs::write(&garbage, b"no component").unwrap();
    cluster
        .tell(&["deploy", "garbage.wasm", "--output", "json"])
        .failed_with("S1001");
    let ended = cluster.list(&["--all"]);
    let codes: Vec<&Value> = ended.iter().map(|job| &job["reason"]["code"]).collect();
    assert_eq!(
        codes,
        ["S2007", "S1001"],
        "what was accepted says how it ended"
    );
    let registry = cluster.path("cluster/jobs");
    let holds = |path: &Path| std::fs::read_to_string(path).unwrap().contains("secret");
    let entries = std::fs::read_dir(registry).unwrap().flat_map(|job| {
        let job = job.unwrap().path();
        std::fs::read_dir(job)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    });
    assert!(entries.into_iter().all(|entry| !holds(&entry)));
}

#[test]
fn a_job_that_finds_no_slots_waits_or_fails_and_says_how_many_are_missing() {
    let cluster = Cluster::start(&["--slots", "2"]);
    cluster.deploy("one", &[]);
    let wide = cluster.deploy("wide", &["--parallelism", "2"]);
    let waiting = cluster.info(&wide);
    assert_eq!(
        (&waiting["state"], &waiting["missing_slots"]),
        (&Value::from("waiting"), &Value::from(1))
    );
    cluster
        .tell(&["savepoint", "wide", "x"])
        .failed_with("S7009")
        .names("does not run yet");
    cluster.tell(&["stop", "one"]).succeeded();
    cluster.await_state(&wide, "running");
    let hasty = Cluster::start(&["--slots", "1", "--slot-timeout", "1ms"]);
    let file = hasty.numbers("wide");
    hasty
        .tell(&["deploy", &file, "--parallelism", "3", "--wait"])
        .failed_with("S8003")
        .names("2 slots are missing: the job needs 3, and 1 of 1 are free");
}

#[test]
fn a_damaged_entry_stops_its_job_and_no_other() {
    let mut cluster = Cluster::start(&["--slots", "2"]);
    let (one, two) = (cluster.deploy("one", &[]), cluster.deploy("two", &[]));
    Running::start(cluster.jobmanager())
        .finish(LIMIT)
        .failed_with("S3016")
        .names("another JobManager works in");
    cluster.kill();
    let entry = format!("jobs/{one}/{:020}", 1);
    let path = cluster.path("cluster").join(&entry);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    cluster.go_on();
    cluster.await_state(&two, "running");
    let damaged = cluster.info(&one);
    assert_eq!(damaged["state"], "unreadable");
    let reason = damaged["reason"]["message"].as_str().unwrap();
    assert!(reason.contains(&entry), "{reason}");
    cluster
        .tell(&["stop", &one])
        .failed_with("S7014")
        .names(&entry);
    cluster.tell(&["stop", &two]).succeeded();
}

#[test]
fn without_a_cluster_the_command_that_starts_one_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let job = component("word-count");
    run(["deploy", &job.to_string_lossy(), "--cluster", &address])
        .failed_with("S3015")
        .names("`streamrt jobmanager --embedded --dir DIR` starts one");
    run(["list", "--cluster", "nonsense"]).failed_with("S6004");
}

#[test]
fn a_job_is_upgraded_and_goes_on_so() {
    let mut cluster = Cluster::start(&[]);
    cluster.deploy("numbers", &[]);
    let file = cluster.numbers("numbers");
    let text = std::fs::read_to_string(cluster.path(&file)).unwrap();
    std::fs::write(
        cluster.path("newer.toml"),
        text.replace("rate = 100", "rate = 200"),
    )
    .unwrap();
    let upgraded = cluster
        .tell(&["upgrade", "numbers", "newer.toml"])
        .succeeded();
    assert!(
        upgraded.stdout.starts_with("upgraded at checkpoint "),
        "{}",
        upgraded.stdout
    );
    cluster.kill();
    cluster.go_on();
    let info = cluster.await_state("numbers", "running");
    assert!(info["resumed_from"].as_u64().is_some(), "{info}");
}

#[test]
fn an_interrupted_jobmanager_goes_on_with_its_jobs() {
    let mut cluster = Cluster::start(&[]);
    cluster.deploy("numbers", &[]);
    let process = cluster.process.take().unwrap();
    process.interrupt();
    process.finish(LIMIT).succeeded();
    cluster.go_on();
    let info = cluster.await_state("numbers", "running");
    assert!(info["resumed_from"].as_u64().is_some(), "{info}");
}

#[test]
fn what_a_job_says_is_in_its_log_alone() {
    let mut cluster = Cluster::start(&["--slots", "4"]);
    cluster.deploy("silent", &[]);
    let (input, output) = (cluster.path("input"), cluster.text("out"));
    data::write(&input, &["good", "bad"]);
    let (job, input) = (component("faulty"), input.display().to_string());
    let job = job.to_string_lossy();
    let args = ["--input", &input, "--output", &output, "--how", "print"];
    cluster
        .tell(&[&["deploy", &job, "--wait", "--"][..], &args].concat())
        .succeeded();
    let told = cluster
        .tell(&["logs", "faulty", "--output", "json"])
        .succeeded();
    let said: Vec<Value> = told
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let line = said
        .iter()
        .find(|line| {
            line["message"]
                .as_str()
                .unwrap()
                .contains("eprintln has bad")
        })
        .unwrap_or_else(|| panic!("it is not there: {}", told.stdout));
    assert!(
        line["attempt"].as_u64().unwrap() >= 1
            && line["task"].as_str().is_some_and(|task| !task.is_empty()),
        "{line}"
    );
    let text = cluster
        .tell(&["logs", "faulty", "--last", "1"])
        .succeeded()
        .stdout;
    assert!(text.contains("log has 3"), "{text}");
    let other = cluster.tell(&["logs", "silent"]).succeeded().stdout;
    assert!(!other.contains("bad"), "{other}");
    let said = cluster.kill();
    assert!(said.contains("streamrt: faulty: "), "{said}");
}

#[test]
fn a_shell_completes_the_names_of_jobs() {
    let cluster = Cluster::start(&["--slots", "4"]);
    for name in ["words", "wide", "other"] {
        cluster.deploy(name, &[]);
    }
    let script = "\
source <(streamrt completions bash)
complete_after() {
    COMP_WORDS=(streamrt \"$@\"); COMP_CWORD=$#; COMPREPLY=()
    _streamrt_with_jobs streamrt \"${COMP_WORDS[$COMP_CWORD]}\" \"${COMP_WORDS[$COMP_CWORD-1]}\"
    echo \"${COMPREPLY[*]}\"
}
complete_after stop w
complete_after dep
";
    let folder = binary();
    let folder = folder.parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut bash = Command::new("bash");
    bash.args(["-c", script])
        .env("PATH", format!("{folder}:{path}"))
        .env("STREAMRT_CLUSTER", &cluster.address);
    let completed = Running::start(bash).finish(LIMIT).succeeded().stdout;
    assert_eq!(completed, "words wide\ndeploy\n");
}

#[test]
fn what_user_code_counts_is_among_the_metrics() {
    let cluster = Cluster::start(&["--slots", "1"]);
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port().to_string();
    let job = component("word-count");
    let output = cluster.text("out");
    let mut args = vec!["deploy", job.to_str().unwrap(), "--", "--port", &port];
    args.extend(["--host", "127.0.0.1", "--output", &output]);
    let deployed = cluster.tell(&args).succeeded();
    let (mut client, _) = server.accept().unwrap();
    std::io::Write::write_all(&mut client, b"a b\n\nc\n\n").unwrap();
    let start = std::time::Instant::now();
    loop {
        let (status, text) = cluster.request_text("GET /metrics HTTP/1.1", "");
        assert_eq!(status, 200);
        let value = |name: &str| {
            let sample = text.lines().find(|line| line.contains(name))?;
            sample.rsplit(' ').next()?.parse::<u64>().ok()
        };
        if value("operator_user_empty_lines{") == Some(2) {
            assert_eq!(
                value("flink_jobmanager_job_numRestarts{"),
                Some(0),
                "{text}"
            );
            break;
        }
        assert!(start.elapsed() < LIMIT, "{text}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    cluster
        .tell(&["cancel", deployed.stdout.trim()])
        .succeeded();
}
