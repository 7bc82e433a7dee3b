//! A simulation of the control of a job: the real JobMaster, checkpoint protocol and log, over a
//! store and a TaskManager that fail, with model tasks. Everything happens in the order of one
//! seeded random source, so that a seed that finds something finds it again.
//!
//! 1. For a while faults are injected ([`Fault`]), and users want things; then nothing fails any
//!    more, and the job has to end. 2. Model tasks read counted records, align barriers, and write
//!    what they read in transactions, which a [`ledger::Ledger`] keeps. 3. At every moment no record
//!    is committed twice; when the input has been read to its end, each one is, once, and nothing
//!    is left uncommitted.
//!
//! # Source
//! The way of working is that of the simulators of FoundationDB and TigerBeetle: faults first, then
//! liveness.

mod cluster;
pub mod ledger;
mod model;
mod process;
mod random;
mod scenario;
mod world;

pub use random::Random;
pub use scenario::Fault;
pub use world::Report;

/// Runs a job, and a cluster of jobs.
///
/// # Errors
/// The invariant that does not hold.
pub fn run(seed: u64) -> Result<Report, String> {
    let mut report = world::run(seed)?;
    let cluster = cluster::run_cluster(seed).map_err(|found| format!("in a cluster: {found}"))?;
    report.hash = report.hash.rotate_left(1) ^ cluster.hash;
    report.n_events += cluster.n_events;
    for (fault, n) in cluster.faults {
        *report.faults.entry(fault).or_default() += n;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds that the test command runs; `cargo xtask sim` runs as many as one likes.
    const SEEDS: u64 = 200;

    #[test]
    fn no_record_is_lost_or_doubled_whatever_fails() {
        let mut injected = std::collections::BTreeMap::<Fault, u64>::new();
        for seed in 0..SEEDS {
            let report = run(seed).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
            let again = run(seed).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
            assert_eq!(report.hash, again.hash, "seed {seed} is not reproducible");
            for (fault, n) in report.faults {
                *injected.entry(fault).or_default() += n;
            }
        }
        for fault in Fault::ALL {
            let n = injected.get(&fault).copied().unwrap_or_default();
            assert!(n > 0, "{} was never injected", fault.name());
        }
    }
}
