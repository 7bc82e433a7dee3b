//! The core, event by event.
