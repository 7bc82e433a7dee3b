//! The host's aggregates, plainly: what each of them makes of the rows of a group, one row after
//! the other.
//!
//! # Source
//! SQL's aggregates as Flink computes them: nulls do not take part, and an aggregate over nothing
//! but nulls is null (count: 0). NaN is the greatest of the floats.

use super::flow::Row;
use super::frame::Frame;
use super::operator::KeyBytes;
use crate::column::{OwnedColumn, Table};
use crate::dynamic::{Cell, cell};
use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::collections::HashMap;
use streamrt_wit::{
    AggregateFunction, BuiltinAggregate, DataType, Field, ResultColumn, ResultSource, Schema,
};

/// One aggregate of one group.
#[derive(Clone, Default)]
struct Accumulator {
    /// Values that took part.
    n: i64,
    whole: i128,
    float: f64,
    /// For minimum, maximum, first and last: the value, as a column of one row, and its time.
    value: Option<(OwnedColumn, i64)>,
}

/// The aggregates of one group.
#[derive(Clone)]
pub(super) struct Group(Vec<Accumulator>);

impl Group {
    pub(super) fn new(n_aggregates: usize) -> Group {
        Group(vec![Accumulator::default(); n_aggregates])
    }

    /// Adds a row, which has a time of its own or counts as being at 0.
    pub(super) fn add(&mut self, aggregates: &[BuiltinAggregate], row: &Row) -> Result<()> {
        let time = row.time.unwrap_or_default();
        aggregates
            .iter()
            .zip(&mut self.0)
            .try_for_each(|(aggregate, accumulator)| match &aggregate.column {
                None => {
                    accumulator.n += 1;
                    Ok(())
                }
                Some(name) => accumulator.add(
                    aggregate.function,
                    &row.columns.select(std::iter::once(name.clone())),
                    time,
                ),
            })
    }

    /// The columns of the result.
    pub(super) fn result(&self, spec: &Spec<'_>, key: &Frame, window: (i64, i64)) -> Frame {
        let column = |column: &ResultColumn| -> (Field, OwnedColumn) {
            let field = |data_type, nullable| Field {
                name: column.name.clone(),
                data_type,
                nullable,
            };
            match &column.from {
                ResultSource::Key { column: name } => {
                    let key = key.select(std::iter::once(name.clone()));
                    (
                        field(key.schema[0].data_type, key.schema[0].nullable),
                        key.columns[0].clone(),
                    )
                }
                ResultSource::WindowStart => {
                    (field(DataType::I64, false), eight(window.0.to_le_bytes()))
                }
                ResultSource::WindowEnd => {
                    (field(DataType::I64, false), eight(window.1.to_le_bytes()))
                }
                ResultSource::Aggregate { index } => {
                    let (aggregate, accumulator) =
                        (&spec.aggregates[*index as usize], &self.0[*index as usize]);
                    let read = spec
                        .input
                        .iter()
                        .find(|field| aggregate.column.as_ref() == Some(&field.name));
                    let (data_type, nullable, made) = accumulator.result(aggregate.function, read);
                    (field(data_type, nullable), made)
                }
            }
        };
        let (schema, columns) = spec.columns.iter().map(column).unzip();
        Frame {
            n_rows: 1,
            schema,
            columns,
        }
    }
}

/// What is aggregated, and into which columns.
pub(super) struct Spec<'a> {
    pub(super) aggregates: &'a [BuiltinAggregate],
    pub(super) columns: &'a [ResultColumn],
    /// The columns of the rows.
    pub(super) input: &'a Schema,
}

fn eight(bytes: [u8; 8]) -> OwnedColumn {
    OwnedColumn {
        validity: None,
        offsets: None,
        data: bytes.to_vec(),
    }
}

/// The only value of a frame with one column and one row.
fn only(frame: &Frame) -> Result<Cell<'_>> {
    value_of(&frame.columns[0], frame.schema[0].data_type)
}

fn value_of(column: &OwnedColumn, data_type: DataType) -> Result<Cell<'_>> {
    cell(
        data_type,
        &Table {
            n_rows: 1,
            columns: vec![column.raw()],
        },
        0,
        0,
    )
}

impl Accumulator {
    fn add(&mut self, function: AggregateFunction, column: &Frame, time: i64) -> Result<()> {
        let value = only(column)?;
        if value == Cell::Null {
            return Ok(());
        }
        self.n += 1;
        match function {
            AggregateFunction::Count => Ok(()),
            AggregateFunction::Sum | AggregateFunction::Avg => self.sum(function, value),
            _ if !self.is_displaced(function, value, column.schema[0].data_type, time)? => Ok(()),
            _ => {
                self.value = Some((column.columns[0].clone(), time));
                Ok(())
            }
        }
    }

    fn sum(&mut self, function: AggregateFunction, value: Cell<'_>) -> Result<()> {
        let within = match value {
            Cell::I32(value) => self.whole(i128::from(value), i64::MIN.into()..=i64::MAX.into()),
            Cell::I64(value) => self.whole(i128::from(value), i64::MIN.into()..=i64::MAX.into()),
            Cell::U32(value) => self.whole(i128::from(value), 0..=u64::MAX.into()),
            Cell::U64(value) => self.whole(i128::from(value), 0..=u64::MAX.into()),
            Cell::F32(value) => self.float(f64::from(value)),
            Cell::F64(value) => self.float(value),
            _ => return Err(Error::host("a sum is of numbers")),
        };
        // A mean is computed exactly, and cannot overflow.
        if within || function == AggregateFunction::Avg {
            Ok(())
        } else {
            Err(Error::new("a sum has left the range of its type"))
        }
    }

    fn whole(&mut self, value: i128, range: std::ops::RangeInclusive<i128>) -> bool {
        self.whole += value;
        range.contains(&self.whole)
    }

    fn float(&mut self, value: f64) -> bool {
        self.float += value;
        true
    }

    /// Whether a value takes the place of the one that is kept.
    fn is_displaced(
        &self,
        function: AggregateFunction,
        value: Cell<'_>,
        data_type: DataType,
        time: i64,
    ) -> Result<bool> {
        let Some((kept, kept_at)) = &self.value else {
            return Ok(true);
        };
        let order = order(value, value_of(kept, data_type)?);
        Ok(match function {
            AggregateFunction::Min => order == Ordering::Less,
            AggregateFunction::Max => order == Ordering::Greater,
            AggregateFunction::First => time < *kept_at,
            _ => time >= *kept_at,
        })
    }

    /// Type, nullability and value of the result; `read` is the column that is aggregated.
    fn result(
        &self,
        function: AggregateFunction,
        read: Option<&Field>,
    ) -> (DataType, bool, OwnedColumn) {
        let Some(field) = read.filter(|_| function != AggregateFunction::Count) else {
            return (DataType::I64, false, eight(self.n.to_le_bytes()));
        };
        let is_float = matches!(field.data_type, DataType::F32 | DataType::F64);
        let (data_type, value) = match function {
            AggregateFunction::Sum if is_float => (DataType::F64, eight(self.float.to_le_bytes())),
            AggregateFunction::Sum if matches!(field.data_type, DataType::U32 | DataType::U64) => {
                (DataType::U64, eight((self.whole as u64).to_le_bytes()))
            }
            AggregateFunction::Sum => (DataType::I64, eight((self.whole as i64).to_le_bytes())),
            AggregateFunction::Avg => {
                let total = if is_float {
                    self.float
                } else {
                    self.whole as f64
                };
                (DataType::F64, eight((total / self.n as f64).to_le_bytes()))
            }
            _ => (
                field.data_type,
                self.value
                    .as_ref()
                    .map_or_else(|| nothing(field), |(value, _)| value.clone()),
            ),
        };
        let validity = (self.n == 0).then(|| vec![0]);
        (data_type, field.nullable, OwnedColumn { validity, ..value })
    }
}

/// A column of one null.
fn nothing(field: &Field) -> OwnedColumn {
    Frame::zeros(&vec![field.clone()], 1).columns.swap_remove(0)
}

fn order(a: Cell<'_>, b: Cell<'_>) -> Ordering {
    match (a, b) {
        (Cell::Bool(a), Cell::Bool(b)) => a.cmp(&b),
        (Cell::I32(a), Cell::I32(b)) => a.cmp(&b),
        (Cell::I64(a), Cell::I64(b)) => a.cmp(&b),
        (Cell::U32(a), Cell::U32(b)) => a.cmp(&b),
        (Cell::U64(a), Cell::U64(b)) => a.cmp(&b),
        (Cell::F32(a), Cell::F32(b)) => a.total_cmp(&b),
        (Cell::F64(a), Cell::F64(b)) => a.total_cmp(&b),
        (Cell::String(a), Cell::String(b)) => a.cmp(b),
        (Cell::Binary(a), Cell::Binary(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}

/// The running aggregates of all keys: one row out for each row in.
pub(super) struct Running {
    aggregates: Vec<BuiltinAggregate>,
    columns: Vec<ResultColumn>,
    key: Vec<String>,
    groups: HashMap<KeyBytes, Group>,
}

impl Running {
    pub(super) fn new(
        aggregates: Vec<BuiltinAggregate>,
        columns: Vec<ResultColumn>,
        key: Vec<String>,
    ) -> Running {
        Running {
            aggregates,
            columns,
            key,
            groups: HashMap::new(),
        }
    }

    pub(super) fn row(&mut self, row: Row) -> Result<Row> {
        let key = row.columns.select(self.key.iter().cloned());
        let group = self
            .groups
            .entry(key.bytes())
            .or_insert_with(|| Group::new(self.aggregates.len()));
        group.add(&self.aggregates, &row)?;
        let spec = Spec {
            aggregates: &self.aggregates,
            columns: &self.columns,
            input: &row.columns.schema,
        };
        Ok(Row {
            columns: group.result(&spec, &key, (0, 0)),
            ..row
        })
    }
}
