//! Decides about jobs: which there are, and for each of them what is to happen next.
//!
//! Nothing here knows operators, state, channels or guest code: jobs are plans and configurations,
//! and what runs them is spoken to in the messages of `streamrt-rpc`.

pub mod job_master;
