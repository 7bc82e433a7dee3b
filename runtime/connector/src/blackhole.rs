//! The sink `blackhole`: drops every row, for measurements. It has no options.

use serde::Deserialize;
use streamrt_operator::Sink;
use streamrt_types::{Batch, Result};

/// There are none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlackholeOptions {}

pub struct BlackholeSink;

impl BlackholeSink {
    pub fn new(_options: BlackholeOptions) -> BlackholeSink {
        BlackholeSink
    }
}

impl Sink for BlackholeSink {
    fn write(&mut self, _batch: &Batch) -> Result<()> {
        Ok(())
    }

    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
