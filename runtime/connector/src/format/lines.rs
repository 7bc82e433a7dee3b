//! Raw lines: one column with the line as it is. Called by [`super::BlockDecoder`].

use super::columns::Columns;
use super::{Format, Refusal, take_texts};
use crate::record_buffer::Block;
use arrow_array::{BinaryArray, RecordBatch};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use std::sync::Arc;

pub struct LinesFormat {
    schema: SchemaRef,
    columns: Columns,
}

impl LinesFormat {
    pub fn new(schema: SchemaRef) -> LinesFormat {
        LinesFormat {
            columns: Columns::new(schema.clone()),
            schema,
        }
    }
}

impl Format for LinesFormat {
    fn decode(
        &mut self,
        block: Block<'_>,
        refused: &mut Vec<Refusal>,
    ) -> Result<RecordBatch, ArrowError> {
        if *self.schema.field(0).data_type() == DataType::Binary {
            let lines = BinaryArray::from_iter_values(block.texts());
            return RecordBatch::try_new(self.schema.clone(), vec![Arc::new(lines)]);
        }
        take_texts(block, refused, |text| {
            let taken = text.and_then(|text| self.columns.push(0, text));
            self.columns.end_row(taken.is_ok());
            taken
        });
        self.columns.finish()
    }
}
