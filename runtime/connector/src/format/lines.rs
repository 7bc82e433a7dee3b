//! Raw lines: one column with the line as it is. Called by [`super::BlockDecoder`].

use super::{Format, check_utf8};
use crate::record_buffer::Block;
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use std::sync::Arc;

pub struct LinesFormat {
    schema: SchemaRef,
}

impl LinesFormat {
    pub fn new(schema: SchemaRef) -> LinesFormat {
        LinesFormat { schema }
    }
}

impl Format for LinesFormat {
    fn decode(&mut self, block: Block<'_>) -> Result<RecordBatch, ArrowError> {
        let binary = BinaryArray::from_iter_values(block.texts());
        let column: ArrayRef = match self.schema.field(0).data_type() {
            DataType::Binary => Arc::new(binary),
            _ => {
                check_utf8(block)?;
                let (offsets, values, nulls) = binary.into_parts();
                Arc::new(StringArray::try_new(offsets, values, nulls)?)
            }
        };
        RecordBatch::try_new(self.schema.clone(), vec![column])
    }

    fn reason(&self, _record: &[u8], _error: &ArrowError) -> String {
        "it is not UTF-8".to_owned()
    }
}
