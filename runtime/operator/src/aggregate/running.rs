//! The running aggregate: one output row per input row, with the aggregates of its key after it.
//!
//! 1. The keys of the batch are hashed and upserted at once.
//! 2. Each aggregate runs one loop over the rows, which updates the accumulators and writes its
//!    output column.
//!
//! Rows, times and marks keep their places, so results do not depend on the batch size. A
//! checkpoint shares the table's pages.

use super::Accumulators;
use super::state::AggregateState;
use crate::keyed::BatchKeys;
use crate::operator::{Operator, OperatorContext, Output};
use crate::ports::detached_times;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Field, Schema, SchemaRef};
use serde_json::Value;
use std::sync::Arc;
use streamrt_state::{EntryId, KeyTable, KeyedSnapshot, OperatorSnapshot, OperatorState, Resident};
use streamrt_types::state_types::{AGGREGATES, running_types};
use streamrt_types::{Batch, Error, KeyGroupRange, Result, Times, code};
use streamrt_wit::{BuiltinAggregate, ResultColumn, ResultSource};

/// The operator of `Body::Aggregate`.
pub struct RunningAggregateOperator {
    uid: Arc<str>,
    keys: BatchKeys,
    /// Its table has no key groups until the operator is opened.
    state: AggregateState,
    columns: Vec<Column>,
    schema: SchemaRef,
    entries: Vec<EntryId>,
    created: Vec<u32>,
}

/// Where an output column comes from.
#[derive(Clone, Copy)]
enum Column {
    /// An input column, as it is.
    Input(usize),
    Aggregate(usize),
}

impl RunningAggregateOperator {
    /// Aggregates rows of the schema `input` by the columns `key_columns`.
    ///
    /// # Errors
    /// `Invalid` if a column is not there, is not part of the key, has a type that cannot be
    /// aggregated in this way, or belongs to a window.
    pub fn new(
        input: &SchemaRef,
        key_columns: Vec<usize>,
        aggregates: &[BuiltinAggregate],
        columns: &[ResultColumn],
    ) -> Result<RunningAggregateOperator> {
        let accumulators = Accumulators::new(aggregates, input)?;
        let mut sources = Vec::with_capacity(columns.len());
        let mut fields = Vec::with_capacity(columns.len());
        for column in columns {
            let (source, field) = resolve(column, input, &key_columns, &accumulators)?;
            sources.push(source);
            fields.push(field.clone().with_name(&column.name));
        }
        let keys = BatchKeys::new(input, key_columns)?;
        let table = KeyTable::new(keys.kind(), accumulators.bytes(), KeyGroupRange::all(1), 1);
        Ok(RunningAggregateOperator {
            uid: "".into(),
            keys,
            state: AggregateState {
                accumulators,
                table,
                tier: None,
            },
            columns: sources,
            schema: Arc::new(Schema::new(fields)),
            entries: Vec::new(),
            created: Vec::new(),
        })
    }

    /// The schema of the output.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What the bytes of the state in a snapshot mean.
    fn types(&self) -> Value {
        running_types(&self.keys.types(), self.state.accumulators.types())
    }

    fn aggregate(&mut self, batch: &Batch) -> Result<RecordBatch> {
        let place = |e: Error| e.at(format_args!("operator `{}`", self.uid));
        let (hashes, keys) = self.keys.read(&batch.columns).map_err(place)?;
        self.state.prepare(hashes, keys).map_err(place)?;
        let AggregateState {
            accumulators,
            table,
            ..
        } = &mut self.state;
        table.upsert(hashes, keys, &mut self.entries, &mut self.created);
        let results =
            accumulators.update_running(table, &self.entries, &batch.columns, batch.times());
        let results = results.map_err(|overflow| {
            let key = self.keys.describe(&batch.columns, overflow.position);
            accumulators.overflow(overflow, &self.uid, &key)
        })?;
        self.state.changed(&self.entries);
        let column = |column: &Column| -> ArrayRef {
            match *column {
                Column::Input(index) => batch.columns.column(index).clone(),
                Column::Aggregate(index) => results[index].clone(),
            }
        };
        RecordBatch::try_new(
            self.schema.clone(),
            self.columns.iter().map(column).collect(),
        )
        .map_err(|e| {
            Error::internal(format!(
                "operator `{}`: the aggregates do not fit their schema",
                self.uid
            ))
            .with_source(e)
        })
    }

    /// Times survive if their column does; otherwise they become an array.
    fn times(&self, batch: &Batch) -> Times {
        let Times::Column(index) = batch.times else {
            return batch.times.clone();
        };
        let kept = self
            .columns
            .iter()
            .position(|column| matches!(column, Column::Input(i) if *i == index));
        kept.map_or_else(|| detached_times(batch), Times::Column)
    }
}

fn resolve<'a>(
    column: &ResultColumn,
    input: &'a SchemaRef,
    key_columns: &[usize],
    accumulators: &'a Accumulators,
) -> Result<(Column, &'a Field)> {
    let refuse = |reason: &str| {
        Error::new(
            code::INVALID_JOB,
            format!("result column `{}`: {reason}", column.name),
        )
    };
    match &column.from {
        ResultSource::Key { column: name } => {
            let found = input
                .column_with_name(name)
                .filter(|(index, _)| key_columns.contains(index));
            let (index, field) =
                found.ok_or_else(|| refuse(&format!("`{name}` is no key column of the input")))?;
            Ok((Column::Input(index), field))
        }
        ResultSource::Aggregate { index } => {
            let field = accumulators
                .fields()
                .nth(*index as usize)
                .ok_or_else(|| refuse("there is no aggregate of this number"))?;
            Ok((Column::Aggregate(*index as usize), field))
        }
        ResultSource::WindowStart | ResultSource::WindowEnd => {
            Err(refuse("a running aggregate has no windows"))
        }
    }
}

impl Operator for RunningAggregateOperator {
    fn open(&mut self, context: &OperatorContext) -> Result<()> {
        self.uid = context.uid.clone();
        let bytes = self.state.accumulators.bytes();
        self.state.table = KeyTable::new(
            self.keys.kind(),
            bytes,
            context.key_groups,
            context.max_parallelism,
        );
        self.state.tier = context.tier(AGGREGATES, &self.types())?;
        Ok(())
    }

    fn batch(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()> {
        let columns = self.aggregate(&batch)?;
        let times = self.times(&batch);
        output.batch(
            0,
            Batch {
                columns,
                times,
                marks: batch.marks,
                origin: batch.origin,
            },
        )
    }

    fn state_bytes(&mut self) -> usize {
        self.state.used_bytes()
    }

    fn snapshot(&mut self, _checkpoint: u64) -> Result<OperatorSnapshot> {
        let entries = Box::new(self.state.freeze());
        Ok(OperatorSnapshot {
            keyed: vec![KeyedSnapshot {
                name: AGGREGATES.into(),
                types: self.types(),
                entries,
            }],
            lists: Vec::new(),
        })
    }

    fn restore(&mut self, state: &mut OperatorState) -> Result<()> {
        self.state.restore(AGGREGATES, &self.types(), state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{Harness, batch_of};
    use arrow_array::{Int64Array, StringArray};
    use streamrt_state::{Part, Share};
    use streamrt_types::Mark;
    use streamrt_wit::AggregateFunction;

    fn operator(input: &SchemaRef) -> Result<RunningAggregateOperator> {
        let aggregates = [
            BuiltinAggregate {
                function: AggregateFunction::Count,
                column: None,
            },
            BuiltinAggregate {
                function: AggregateFunction::Sum,
                column: Some("x".into()),
            },
        ];
        let column = |name: &str, from| ResultColumn {
            name: name.into(),
            from,
        };
        RunningAggregateOperator::new(
            input,
            vec![0],
            &aggregates,
            &[
                column("key", ResultSource::Key { column: "k".into() }),
                column("n", ResultSource::Aggregate { index: 0 }),
                column("sum", ResultSource::Aggregate { index: 1 }),
            ],
        )
    }

    fn rows(keys: &[&str], values: &[i64]) -> Batch {
        batch_of([
            ("k", Arc::new(StringArray::from(keys.to_vec())) as ArrayRef),
            ("x", Arc::new(Int64Array::from(values.to_vec()))),
        ])
    }

    fn check(batch_rows: usize) {
        let mut batch = rows(&["a", "b", "a", "a"], &[1, 10, 2, -4]);
        batch.times = Times::Column(1);
        batch.marks = vec![
            Mark {
                row: 1,
                watermark: 5,
            },
            Mark {
                row: 4,
                watermark: 9,
            },
        ];
        let mut harness = Harness::new(operator(batch.columns.schema_ref()).unwrap());
        harness.batches(&batch, batch_rows).unwrap();
        assert_eq!(
            harness.lines(0),
            [
                r#"1 {"key":"a","n":1,"sum":1}"#,
                "mark 5",
                r#"10 {"key":"b","n":1,"sum":10}"#,
                r#"2 {"key":"a","n":2,"sum":3}"#,
                r#"-4 {"key":"a","n":3,"sum":-1}"#,
                "mark 9",
            ]
        );
    }

    #[test]
    fn a_row_comes_out_for_each_row_in() {
        (1..=5).for_each(check);
    }

    fn restored(
        harness: &mut Harness<RunningAggregateOperator>,
        input: &SchemaRef,
        change: impl FnOnce(&mut Part),
    ) -> Result<Harness<RunningAggregateOperator>> {
        let mut object = Vec::new();
        let index =
            harness
                .operator
                .snapshot(1)?
                .write("op", harness.context.max_parallelism, &mut object);
        let mut part = Part {
            object: Arc::new(object),
            index,
        };
        change(&mut part);
        let OperatorContext {
            subtask,
            parallelism,
            key_groups,
            max_parallelism,
            ..
        } = harness.context;
        let share = Share {
            subtask,
            parallelism,
            key_groups,
            max_parallelism,
        };
        let mut next = Harness::new(operator(input)?);
        let mut state = OperatorState::assemble("op", &[Some(part)], share)?;
        next.operator.restore(&mut state)?;
        state.check_taken()?;
        Ok(next)
    }

    #[test]
    fn a_restored_aggregate_goes_on_as_it_was() {
        let batch = rows(&["a", "b", "a", "a", "c", "b"], &[1, 10, 2, -4, 7, 5]);
        let input = batch.columns.schema();
        let mut whole = Harness::new(operator(&input).unwrap());
        whole.batches(&batch, 10).unwrap();
        for cut in 0..=batch.n_rows() {
            let mut harness = Harness::new(operator(&input).unwrap());
            harness.batches(&batch.slice(0, cut), 10).unwrap();
            let mut next = restored(&mut harness, &input, |_| {}).unwrap();
            harness.batches(&rows(&["a"], &[1000]), 10).unwrap();
            next.batches(&batch.slice(cut, batch.n_rows() - cut), 10)
                .unwrap();
            assert_eq!(next.lines(0), whole.lines(0)[cut..]);
        }
    }

    #[test]
    fn a_snapshot_of_other_columns_or_with_damage_is_refused() {
        let batch = rows(&["a", "b"], &[1, 2]);
        let input = batch.columns.schema();
        let mut harness = Harness::new(operator(&input).unwrap());
        harness.batches(&batch, 10).unwrap();
        let other = Arc::new(Schema::new(vec![
            input.field(0).clone(),
            input.field(1).clone().with_nullable(true),
        ]));
        assert_eq!(
            restored(&mut harness, &other, |_| {}).err().unwrap().code(),
            code::STATE_TYPES
        );
        let truncate = |part: &mut Part| Arc::make_mut(&mut part.object).truncate(5);
        assert_eq!(
            restored(&mut harness, &input, truncate)
                .err()
                .unwrap()
                .code(),
            code::SNAPSHOT_DAMAGED
        );
    }

    #[test]
    fn overflow_names_operator_and_key() {
        let batch = rows(&["b", "a", "a"], &[1, i64::MAX, 1]);
        let mut harness = Harness::new(operator(batch.columns.schema_ref()).unwrap());
        let error = harness.batches(&batch, 10).unwrap_err();
        assert_eq!(error.code().id, code::OVERFLOW.id);
        assert_eq!(
            error.message(),
            r#"operator `op`: the sum of `x` of key {"k":"a"} leaves the range of its type"#
        );
    }

    #[test]
    fn columns_that_make_no_sense_are_refused() {
        let input = rows(&[], &[]).columns.schema();
        let message = |from| {
            let column = ResultColumn {
                name: "c".into(),
                from,
            };
            RunningAggregateOperator::new(&input, vec![0], &[], &[column])
                .err()
                .unwrap()
                .message()
                .to_owned()
        };
        assert_eq!(
            message(ResultSource::WindowEnd),
            "result column `c`: a running aggregate has no windows"
        );
        assert_eq!(
            message(ResultSource::Key { column: "x".into() }),
            "result column `c`: `x` is no key column of the input"
        );
        assert_eq!(
            message(ResultSource::Aggregate { index: 1 }),
            "result column `c`: there is no aggregate of this number"
        );
    }
}
