//! Recovery from failures, with the real binary: what is visible is at each moment a part of what a
//! run without failures writes, and in the end it is all of it, once.

mod disks;
mod drains;
mod failpoints;
mod faulty_disks;
mod forks;
mod jobs;
mod kills;
mod refusals;
mod regions;
mod savepoints;
mod sinks;
mod strangers;
mod upgrades;
mod versions;
