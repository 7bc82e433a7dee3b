//! The function with two inputs, wired by a `job.toml`.

use std::process::Command;

use streamrt_tests::binary::{Finished, LIMIT, Running, component, streamrt};

use crate::jobs::{Job, expected_alerts, lines};

const TOML: &str = r#"
name = "alerts"

[[source]]
uid = "limits"
connector = "file"
path = "input/limits.csv"
format = "csv"
columns = [ { name = "sensor", type = "string" }, { name = "highest", type = "i64" }, { name = "time", type = "i64" } ]
[source.watermarks]
column = "time"
unit = "milliseconds"
bound = "0ms"

[[source]]
uid = "readings"
connector = "file"
path = "input/readings.csv"
format = "csv"
columns = [ { name = "number", type = "i64" }, { name = "sensor", type = "string" }, { name = "value", type = "i64" }, { name = "time", type = "i64" } ]
[source.watermarks]
column = "time"
unit = "milliseconds"
bound = "0ms"

[[operator]]
uid = "alerts"
component = "rules.wasm"
function = "alerts"
input = "readings"
broadcast = "limits"
key = ["sensor"]
args = { input = "none", output = "none" }

[[sink]]
uid = "out"
connector = "file"
path = "out"
input = "alerts"
"#;

fn run(job: &Job, toml: &str, parallelism: &str) -> Finished {
    std::fs::write(job.path("job.toml"), toml).unwrap();
    std::fs::copy(component("rules"), job.path("rules.wasm")).unwrap();
    let mut command: Command = streamrt(["run", "job.toml", "--parallelism", parallelism]);
    command.current_dir(job.path(""));
    Running::start(command).finish(LIMIT)
}

#[test]
fn a_job_file_connects_a_broadcast_input() {
    for parallelism in ["1", "3"] {
        let job = Job::new();
        run(&job, TOML, parallelism).succeeded();
        assert_eq!(
            lines(&job.path("out")),
            expected_alerts(),
            "parallelism {parallelism}"
        );
    }
}

#[test]
fn a_wrong_second_input_is_refused_with_a_sentence() {
    let job = Job::new();
    let refused = |from: &str, to: &str, code: &str| {
        assert!(TOML.contains(from), "nothing to replace");
        run(&job, &TOML.replace(from, to), "1")
            .failed_with(code)
            .names("node `alerts`")
    };
    refused("broadcast = \"limits\"\n", "", "S2006").names("`broadcast` in a job.toml");
    refused("broadcast = \"limits\"", "broadcast = \"limit\"", "S2002").names("limit");
    refused(
        "broadcast = \"limits\"",
        "broadcast = \"readings\"",
        "S2005",
    )
    .names("highest");
}
