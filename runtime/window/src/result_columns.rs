//! The columns that built-in aggregates return: keys, window bounds and results, in the order of
//! the plan.
//!
//! Invariant: the columns have the schema that the planner computed; it is checked here once more
//! when a batch is made.

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use streamrt_types::{Error, Result, code};
use streamrt_wit::{ResultColumn, ResultSource};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A column of the key.
    Key(usize),
    Start,
    End,
    Aggregate(usize),
}

/// The layout of one node's results.
pub(crate) struct ResultColumns {
    schema: SchemaRef,
    sources: Vec<Source>,
}

impl ResultColumns {
    /// `key` are the key columns in their order.
    ///
    /// # Errors
    /// `Invalid` if a column is not in the key, or an aggregate is not there.
    pub(crate) fn new(
        columns: &[ResultColumn],
        key: &Schema,
        n_aggregates: usize,
        schema: SchemaRef,
    ) -> Result<ResultColumns> {
        let refuse = |message: String| Error::new(code::SCHEMA_MISMATCH, message);
        let source = |column: &ResultColumn| match &column.from {
            ResultSource::Key { column } => key
                .index_of(column)
                .map(Source::Key)
                .map_err(|_| refuse(format!("column `{column}` is not in the key of the stream"))),
            ResultSource::WindowStart => Ok(Source::Start),
            ResultSource::WindowEnd => Ok(Source::End),
            ResultSource::Aggregate { index } => match (*index as usize) < n_aggregates {
                true => Ok(Source::Aggregate(*index as usize)),
                false => Err(refuse(format!(
                    "column `{}`: there is no aggregate {index}",
                    column.name
                ))),
            },
        };
        Ok(ResultColumns {
            schema,
            sources: columns.iter().map(source).collect::<Result<_>>()?,
        })
    }

    /// Whether key columns are wanted at all.
    pub(crate) fn needs_keys(&self) -> bool {
        self.sources
            .iter()
            .any(|source| matches!(source, Source::Key(_)))
    }

    /// Assembles the columns of windows; `keys` may be empty if they are not needed.
    pub(crate) fn assemble(
        &self,
        keys: &[ArrayRef],
        start: ArrayRef,
        end: ArrayRef,
        aggregates: &[ArrayRef],
    ) -> Result<RecordBatch> {
        let n_rows = start.len();
        let column = |source: &Source| match *source {
            Source::Key(index) => keys[index].clone(),
            Source::Start => start.clone(),
            Source::End => end.clone(),
            Source::Aggregate(index) => aggregates[index].clone(),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
        RecordBatch::try_new_with_options(
            self.schema.clone(),
            self.sources.iter().map(column).collect(),
            &options,
        )
        .map_err(|e| {
            Error::internal("the results of windows are not what the planner said").with_source(e)
        })
    }
}
