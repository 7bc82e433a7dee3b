//! Cases, every order of events at small bounds, and the store that fails for the tests of this
//! crate.

mod coordinator;
mod coordinator_cases;
mod explore;
pub(crate) mod faulty;
mod log;
mod rules;
