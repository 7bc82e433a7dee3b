//! The disk from outside, as the states see it: one program for all suites.

mod damage;
mod memory;
mod model;
mod support;
