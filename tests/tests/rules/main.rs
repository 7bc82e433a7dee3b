//! A job with operator state, a broadcast input and bad lines, with the real binary: killed,
//! stopped, rescaled, its results moved away.

mod dead_letters;
mod job_file;
mod jobs;
mod moved;
mod operator_state;
