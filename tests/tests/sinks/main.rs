//! Sinks and stores that are real: files that roll, Parquet, PostgreSQL, an object store, a disk
//! that is full. Each under kills and failures, with what is committed read by programs that share
//! no code with the engine.

mod disk;
mod files;
mod job;
mod postgres;
mod postgres_rows;
mod postgres_tls;
mod s3;
