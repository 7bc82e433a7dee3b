//! The REST interface of a cluster: what runs, how it goes, and its metrics, for dashboards,
//! scripts and Prometheus.
//!
//! 1. [`ClusterApi`] is all that it knows of a cluster; a `streamrt run` is a cluster of one job.
//! 2. Reading is as Flink's REST: the same paths, and of its answers the fields that have a meaning
//!    here (`rest`).
//! 3. Writing is our own, under `/v1` (`v1`): what takes time is answered with a trigger.
//! 4. `/metrics` is Prometheus' text, under Flink's names (`prometheus`).
//! 5. It listens on loopback or at a socket in a private folder, and a page in a browser can
//!    neither read nor change anything: requests name this host, and none comes from another origin
//!    (`server`).
//! 6. [`Client`] asks the paths under `/v1`.

mod api;
mod client;
mod failed;
mod openapi;
mod prometheus;
mod query;
mod rest;
mod server;
mod status;
mod v1;

pub use api::{
    Checkpointing, ClusterApi, Edge, JobDetails, JobName, Slots, SubtaskDetails, VertexDetails,
};
pub use client::{Client, Place};
pub use openapi::openapi;
pub use server::{Access, Bound, Server};
pub use status::{
    CheckpointDetails, CheckpointStatus, JobStatus, LogEntry, Resolved, State, SubtaskCheckpoint,
    resolve,
};
pub use v1::{
    Accepted, Begun, Cancel, Checkpoints, ClusterStatus, Jobs, Logs, Savepoint, Stop, Upgrade,
};
