//! A JobManager that a test starts, ends and starts again, and the commands to it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use streamrt_tests::binary::{Finished, LIMIT, Running, streamrt};
use tempfile::TempDir;

/// A folder for a JobManager and its jobs.
pub struct Cluster {
    folder: TempDir,
    pub process: Option<Running>,
    pub address: String,
    options: Vec<String>,
}

impl Cluster {
    pub fn start(options: &[&str]) -> Cluster {
        let mut cluster = Cluster {
            folder: TempDir::new().unwrap(),
            process: None,
            address: String::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        cluster.go_on();
        cluster
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    pub fn jobmanager(&self) -> Command {
        let dir = self.text("cluster");
        let mut command = streamrt(["jobmanager", "--embedded", "--rest", "127.0.0.1:0"]);
        command.args(["--dir", &dir]).args(&self.options);
        command
    }

    /// Starts the JobManager, again if it ran before.
    pub fn go_on(&mut self) {
        let process = Running::start(self.jobmanager());
        process.says("whoever may use this machine");
        let said = process.said();
        let (_, rest) = said.split_once("JobManager at http://").unwrap();
        self.address = rest.split(' ').next().unwrap().to_owned();
        self.process = Some(process);
    }

    /// Ends it as a power failure would, and returns what it had said.
    pub fn kill(&mut self) -> String {
        let mut process = self.process.take().unwrap();
        process.kill();
        process.finish(LIMIT).stderr
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = streamrt(args);
        command
            .current_dir(self.folder.path())
            .env("STREAMRT_CLUSTER", format!("http://{}", self.address));
        command
    }

    pub fn tell(&self, args: &[&str]) -> Finished {
        Running::start(self.command(args)).finish(LIMIT)
    }

    pub fn list(&self, further: &[&str]) -> Vec<Value> {
        let args = [&["list", "--output", "json"][..], further].concat();
        let listed = self.tell(&args).succeeded().stdout;
        listed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub fn info(&self, job: &str) -> Value {
        let told = self.tell(&["info", job, "--output", "json"]).succeeded();
        serde_json::from_str(&told.stdout).unwrap()
    }

    /// Waits until a job is in a state, and returns what is known of it then.
    #[track_caller]
    pub fn await_state(&self, job: &str, state: &str) -> Value {
        self.await_info(job, |info| info["state"] == state)
    }

    #[track_caller]
    pub fn await_info(&self, job: &str, is: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let info = self.info(job);
            if is(&info) {
                return info;
            }
            assert!(start.elapsed() < LIMIT, "{info}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Writes a job file that makes numbers for ever, under a name.
    pub fn numbers(&self, name: &str) -> String {
        let text = format!(
            "name = \"{name}\"\n{}",
            "\
[[source]]
uid = \"numbers\"
connector = \"datagen\"
rate = 100
columns = [{ name = \"n\", type = \"i64\" }]
[[sink]]
uid = \"out\"
input = \"numbers\"
connector = \"blackhole\"
"
        );
        let file = format!("{name}.toml");
        std::fs::write(self.path(&file), text).unwrap();
        file
    }

    /// Deploys a job that makes numbers, and returns its id.
    #[track_caller]
    pub fn deploy(&self, name: &str, further: &[&str]) -> String {
        let file = self.numbers(name);
        let args = [&["deploy", &file][..], further].concat();
        let id = self.tell(&args).succeeded().stdout.trim().to_owned();
        assert_eq!(id.len(), 32, "{id}");
        id
    }

    /// Status and body of the answer to a request.
    pub fn request(&self, head: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.request_text(head, body);
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    pub fn request_text(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let text = format!(
            "{head}\r\nHost: {}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}",
            self.address
        );
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
            process.ends_within(LIMIT);
        }
    }
}
