//! The REST interface of a cluster: what runs, how it goes, and its metrics, for dashboards,
//! scripts and Prometheus.
//!
//! 1. [`ClusterApi`] is all that it knows of a cluster; a `streamrt run` is a cluster of one job.
//! 2. Reading is as Flink's REST: the same paths, and of its answers the fields that have a meaning
//!    here (`rest`).
//! 3. `/metrics` is Prometheus' text, under Flink's names (`prometheus`).
//! 4. It listens on loopback only, and a page in a browser can neither read nor change anything:
//!    requests name this host, and none comes from another origin (`server`).

mod api;
mod prometheus;
mod rest;
mod server;

pub use api::{
    CheckpointDetails, ClusterApi, Edge, JobDetails, SubtaskCheckpoint, SubtaskDetails,
    VertexDetails,
};
pub use server::{Bound, Server};
