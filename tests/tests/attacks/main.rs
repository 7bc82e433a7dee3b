//! Components that are meant to harm whoever runs them: each is refused with a code, or ended at
//! its limit, while the process stays within its limits of memory and time.
//!
//! The attacks are built here, run by the binary as a user would run them, and watched by
//! `streamrt_tests::measured`.

mod calls;
mod components;
mod memory;
mod messages;
mod names;
mod plans;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use streamrt_tests::binary::streamrt;
use streamrt_tests::measured::Limits;
use tempfile::TempDir;

/// For what is refused before it begins: its limits plus 100 MB, and some seconds on a busy
/// machine.
const SOON: Limits = Limits::new(200, 20);

/// One row, 13, by key through the guest.
const JOB: &str = r#"
name = "attack"
[[source]]
uid = "numbers"
connector = "datagen"
rows = 1
fields = { n = { kind = "sequence", start = 13 } }
columns = [{ name = "n", type = "i64" }]
[[operator]]
uid = "double"
component = "attack.wasm"
function = "double"
input = "numbers"
key = ["n"]
[[sink]]
uid = "out"
connector = "blackhole"
input = "double"
"#;

/// The same row, by no key.
fn without_key() -> String {
    JOB.replace("key = [\"n\"]\n", "")
}

/// A folder with a component in it.
struct Attack {
    folder: TempDir,
}

impl Attack {
    fn new(component: &[u8]) -> Attack {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("attack.wasm"), component).unwrap();
        Attack { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `streamrt run` with options of ours, and with arguments of the job.
    fn run(&self, options: &[&str], args: &[&Path]) -> Command {
        let mut command = streamrt(["run"]);
        command
            .arg(self.path("attack.wasm"))
            .args(options)
            .arg("--")
            .args(args);
        // Nothing of it is to stay in the cache of whoever tests.
        command
            .env("XDG_CACHE_HOME", self.path("cache"))
            .current_dir(self.folder.path());
        command
    }

    /// A job.toml with the lines of a source and a sink around the component, run.
    fn run_job(&self, job: &str, options: &[&str]) -> Command {
        let file = self.path("job.toml");
        std::fs::write(&file, job).unwrap();
        let mut command = streamrt(["run"]);
        command
            .arg(file)
            .args(options)
            .env("XDG_CACHE_HOME", self.path("cache"))
            .current_dir(self.folder.path());
        command
    }
}

/// A plan of these nodes and functions.
fn plan(nodes: Vec<Value>, functions: Vec<Value>) -> String {
    json!({"version": 1, "nodes": nodes, "functions": functions}).to_string()
}

/// A node of a plan.
fn node(id: usize, uid: &str, inputs: &[usize], body: Value) -> Value {
    let inputs: Vec<Value> = inputs.iter().map(|input| json!({"node": input})).collect();
    json!({"id": id, "uid": uid, "inputs": inputs, "body": body})
}

/// A source of lines.
fn lines(id: usize, path: &str) -> Value {
    let options = json!({"path": path});
    node(
        id,
        "lines",
        &[],
        json!({"kind": "source", "connector": "file", "options": options, "schema": [{"name": "line", "type": "string"}]}),
    )
}

/// A sink that takes everything.
fn nowhere(id: usize, input: usize) -> Value {
    node(
        id,
        &format!("out{id}"),
        &[input],
        json!({"kind": "sink", "connector": "blackhole"}),
    )
}
