//! The jobs of the engine's benchmark, as plans.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use streamrt_graph::JobSpec;
use streamrt_minicluster::{JobHandle, JobToRun, MiniCluster, Submission};
use streamrt_state_rocksdb::RocksBackend;
use streamrt_taskmanager::StateBackend;
use streamrt_types::{BackendKind, Configuration};
use streamrt_wit::{Field, Plan, Schema};

/// How a job runs.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub configuration: Configuration,
    /// The savepoint that it goes on from.
    pub from: Option<String>,
}

impl Settings {
    /// With keyed state on disk in `folder`, and this much memory for it.
    pub fn on_disk(mut self, folder: &Path, memory_bytes: usize) -> Settings {
        self.configuration.state_backend = BackendKind::Rocksdb;
        self.configuration.state_memory_bytes = memory_bytes;
        self.configuration.state_dir = Some(folder.display().to_string());
        self
    }

    fn state(&self) -> Result<Option<StateBackend>> {
        let Some(folder) = self.configuration.state_dir.as_ref() else {
            return Ok(None);
        };
        let backend = Arc::new(RocksBackend::new(self.configuration.state_disk_bytes())?);
        Ok(Some(StateBackend {
            backend,
            folder: folder.into(),
        }))
    }

    /// With checkpoints in `folder`.
    pub fn with_checkpoints(folder: &Path, interval_ms: u64) -> Settings {
        let checkpoint_dir = Some(folder.display().to_string());
        let configuration = Configuration {
            checkpoint_dir,
            checkpoint_interval_ms: Some(interval_ms),
            ..Configuration::default()
        };
        Settings {
            configuration,
            from: None,
        }
    }
}

/// A job over Nexmark bids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// The whole bid, from the source to the sink.
    Bid,
    /// Running count and sum for a number of keys.
    Keyed { keys: u64 },
    /// Count by key in tumbling windows of 10 s of event time.
    Tumbling { keys: u64 },
}

impl Job {
    pub fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Job::Bid => &[
                ("auction", "i64"),
                ("bidder", "i64"),
                ("price", "i64"),
                ("channel", "string"),
                ("url", "string"),
                ("date_time", "i64"),
                ("extra", "string"),
            ],
            Job::Keyed { .. } => &[("auction", "i64"), ("price", "i64")],
            Job::Tumbling { .. } => &[("auction", "i64"), ("date_time", "i64")],
        }
    }

    /// The columns with their types.
    pub fn fields(self) -> Result<Schema> {
        let field = |(name, data_type): &(&str, &str)| {
            Ok(Field::new(
                *name,
                serde_json::from_value(Value::from(*data_type))?,
            ))
        };
        self.columns().iter().map(field).collect()
    }

    /// Options of the source.
    pub fn options(self, rows: u64) -> Value {
        match self {
            Job::Bid => json!({ "rows": rows }),
            Job::Keyed { keys } | Job::Tumbling { keys } => {
                json!({ "rows": rows, "auctions": keys })
            }
        }
    }

    fn schema(self) -> Value {
        self.columns()
            .iter()
            .map(|(name, data_type)| json!({ "name": name, "type": data_type }))
            .collect()
    }

    /// The plan; results go to `sink`, a body.
    fn plan(self, rows: u64, sink: &Value) -> Value {
        let source = json!({"id": 0, "uid": "bids", "body": {"kind": "source", "connector": "nexmark", "options": self.options(rows), "schema": self.schema()}});
        let by_auction = |node: u32| json!([{"node": node, "partitioning": {"kind": "hash", "columns": ["auction"]}}]);
        let key = json!({"name": "auction", "from": {"kind": "key", "column": "auction"}});
        let aggregate = |name: &str, index: u32| json!({"name": name, "from": {"kind": "aggregate", "index": index}});
        let operators = match self {
            Job::Bid => vec![],
            Job::Keyed { .. } => vec![
                json!({"id": 1, "uid": "totals", "inputs": by_auction(0), "body": {"kind": "aggregate",
                "aggregates": [{"function": "count"}, {"function": "sum", "column": "price"}],
                "columns": [key, aggregate("count", 0), aggregate("sum", 1)]}}),
            ],
            Job::Tumbling { .. } => vec![
                json!({"id": 1, "uid": "times", "inputs": [{"node": 0}], "body": {"kind": "timestamps",
                    "time": {"kind": "column", "column": "date_time", "unit": "milliseconds"}, "generator": {"kind": "bounded", "bound-ms": 0}}}),
                json!({"id": 2, "uid": "counts", "inputs": by_auction(1), "body": {"kind": "window",
                    "assigner": {"kind": "tumbling", "size-ms": 10_000},
                    "contents": {"kind": "builtin", "aggregates": [{"function": "count"}],
                        "columns": [key, {"name": "window_end", "from": {"kind": "window-end"}}, aggregate("count", 0)]}}}),
            ],
        };
        let last = operators.len();
        let sink = json!({"id": last + 1, "uid": "out", "inputs": [{"node": last}], "body": sink});
        let nodes: Vec<Value> = std::iter::once(source)
            .chain(operators)
            .chain([sink])
            .collect();
        json!({ "version": 1, "nodes": nodes })
    }

    /// User functions that the job's nodes call.
    pub fn n_functions(self) -> usize {
        let plan = self.plan(0, &blackhole());
        plan["nodes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|node| node["body"]["kind"] == "function")
            .count()
    }

    fn submitted(
        self,
        rows: u64,
        parallelism: u32,
        sink: &Value,
        settings: Settings,
    ) -> Result<JobHandle> {
        let plan =
            Plan::from_json(&self.plan(rows, sink).to_string()).map_err(anyhow::Error::msg)?;
        let job = JobSpec::from_plan("bench", Arc::new(plan));
        let state = settings.state()?;
        let Settings {
            configuration,
            from,
        } = settings;
        let grants = Default::default();
        match MiniCluster::default().submit(JobToRun {
            job,
            plugins: Vec::new(),
            configuration,
            parallelism,
            from,
            grants,
            state,
            before: None,
        })? {
            Submission::Started(job) => Ok(job),
            Submission::Finished => bail!("a job in a new folder cannot have finished before"),
        }
    }

    /// Starts the job to a blackhole, in one subtask.
    pub fn start(self, rows: u64, settings: Settings) -> Result<JobHandle> {
        self.submitted(rows, 1, &blackhole(), settings)
    }

    /// Runs the job to a blackhole.
    pub fn to_blackhole(self, rows: u64, parallelism: u32) -> Result<()> {
        self.submitted(rows, parallelism, &blackhole(), Settings::default())?
            .wait()?;
        Ok(())
    }

    /// Runs the job into a folder, as JSON lines.
    pub fn to_files(self, rows: u64, folder: &Path, settings: Settings) -> Result<()> {
        let sink = json!({"kind": "sink", "connector": "file", "options": {"path": folder}});
        self.submitted(rows, 1, &sink, settings)?.wait()?;
        Ok(())
    }
}

fn blackhole() -> Value {
    json!({"kind": "sink", "connector": "blackhole"})
}
