//! The source `datagen`: rows from a seed, for tests, demonstrations and measurements.
//!
//! Every value is a function of (seed, column, row number), so the rows of a job are the same for
//! any number of splits and any batch size. Split s of n has the rows s, s + n, s + 2n and so on,
//! and positions count the rows of the split from 1. Whole columns are made at once. There are no
//! nulls. A reader that resumes at a position makes the rows from there on; its rate begins with
//! its clock.

use crate::{once, options, position};
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type,
};
use arrow_array::{ArrayRef, BinaryArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, SchemaRef};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use streamrt_operator::{ReaderPoll, Source, Split, SplitEnumerator, SplitReader};
use streamrt_types::{Batch, Clock, Error, Origin, Result, Rows};

/// Options of the source `datagen`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DatagenOptions {
    /// Rows per second of all splits together, by the clock. Default: as fast as they are taken.
    #[serde(default)]
    pub rate: Option<f64>,
    /// The number of rows of all splits together. Default: no end.
    #[serde(default)]
    pub rows: Option<u64>,
    /// The seed of the random values. Default 0.
    #[serde(default)]
    pub seed: u64,
    /// How many splits there are. Default: the parallelism of the source.
    #[serde(default)]
    pub splits: Option<u32>,
    /// One generator per column, by name. Default: `{"kind": "random"}`.
    #[serde(default)]
    pub fields: BTreeMap<String, Generator>,
}

/// How the values of a column are made.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "kind"
)]
pub enum Generator {
    /// `start + step * row`, counting rows of all splits from 0; wraps around at the end of the
    /// type. Strings get the digits, booleans whether it is odd.
    Sequence {
        /// Default 0.
        #[serde(default)]
        start: i64,
        /// Default 1.
        #[serde(default = "one")]
        step: i64,
    },
    /// Evenly spread values.
    Random {
        /// Numbers: the least value. Default 0.
        #[serde(default)]
        min: Option<f64>,
        /// Numbers: the greatest value, inclusive in columns of whole numbers. Default: the
        /// greatest of the type up to 2^53, or 1 in columns of floating point numbers.
        #[serde(default)]
        max: Option<f64>,
        /// Strings and binaries: characters from a to z. Default 8.
        #[serde(default)]
        length: Option<usize>,
        /// Strings and binaries: how many different ones there are. Default: no limit.
        #[serde(default)]
        cardinality: Option<u64>,
    },
}

fn one() -> i64 {
    1
}

const RANDOM: Generator = Generator::Random {
    min: None,
    max: None,
    length: None,
    cardinality: None,
};

/// The most characters in a string of the generator: 65,536 rows of it stay within 32-bit offsets.
const LENGTH_MAX: usize = 16 << 10;

/// The most splits: as many as there may be readers.
const SPLITS_MAX: u32 = 32_768;

/// The greatest whole number that the options, which are floating point numbers, give exactly.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Makes rows. It is public because a test that owns the clock makes it itself.
pub struct DatagenSource {
    options: DatagenOptions,
    schema: SchemaRef,
    columns: Arc<[Column]>,
    clock: Arc<dyn Clock>,
}

impl DatagenSource {
    /// `clock` limits the rate.
    ///
    /// # Errors
    /// `Invalid` if an option does not fit, or names a column that the schema does not have.
    pub fn new(
        options: DatagenOptions,
        schema: SchemaRef,
        clock: Arc<dyn Clock>,
    ) -> Result<DatagenSource> {
        let refuse = |reason: String| Err(options::refuse("datagen", &reason));
        if let Some(rate) = options
            .rate
            .filter(|rate| !rate.is_finite() || *rate <= 0.0)
        {
            return refuse(format!("`rate` is {rate}, but it must be more than 0"));
        }
        if let Some(n) = options.splits.filter(|n| !(1..=SPLITS_MAX).contains(n)) {
            return refuse(format!(
                "`splits` is {n}, but it must be from 1 to {SPLITS_MAX}"
            ));
        }
        if let Some(name) = options
            .fields
            .keys()
            .find(|name| schema.field_with_name(name).is_err())
        {
            return refuse(format!(
                "`fields` names the column `{name}`, which the schema does not have"
            ));
        }
        let column = |(i, field): (usize, &Arc<Field>)| {
            Column::new(
                field,
                options.fields.get(field.name()).unwrap_or(&RANDOM),
                mix(options.seed ^ mix(i as u64 + 1)),
            )
        };
        let columns = schema
            .fields()
            .iter()
            .enumerate()
            .map(column)
            .collect::<Result<Arc<[Column]>>>()?;
        Ok(DatagenSource {
            options,
            schema,
            columns,
            clock,
        })
    }
}

impl Source for DatagenSource {
    fn bounded(&self) -> bool {
        self.options.rows.is_some()
    }

    fn stays_open(&self) -> bool {
        true
    }

    fn enumerator(&self, restored: Option<&str>) -> Result<Box<dyn SplitEnumerator>> {
        let n_splits = self.options.splits;
        once::enumerator("datagen", restored, move |parallelism| {
            let n = n_splits.unwrap_or(parallelism).max(1);
            (0..n)
                .map(|i| Split {
                    number: i.into(),
                    name: format!("datagen {i}").into(),
                    detail: format!("[{i},{n}]"),
                })
                .collect()
        })
    }

    fn open(&self, split: &Split, position: Option<&str>) -> Result<Box<dyn SplitReader>> {
        let (first, step): (u64, NonZeroU64) = position::read(&split.name, &split.detail)?;
        let n_rows = match position {
            None => 0,
            Some(text) => position::read::<DatagenPosition>(&split.name, text)?.rows,
        };
        let row = n_rows
            .checked_mul(step.get())
            .and_then(|row| row.checked_add(first));
        let row =
            row.ok_or_else(|| position::damaged(&split.name, position.unwrap_or_default()))?;
        Ok(Box::new(DatagenReader {
            name: split.name.clone(),
            number: split.number,
            schema: self.schema.clone(),
            columns: self.columns.clone(),
            end: self.options.rows.unwrap_or(u64::MAX),
            rate: self
                .options
                .rate
                .map(|rows_per_second| Rate::new(rows_per_second, row - first, self.clock.clone())),
            row,
            n_rows,
            step: step.get(),
        }))
    }
}

/// Where a reader resumes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DatagenPosition {
    /// How many rows of the split were made.
    rows: u64,
}

struct DatagenReader {
    name: Arc<str>,
    number: u64,
    schema: SchemaRef,
    columns: Arc<[Column]>,
    /// The rows of all splits.
    end: u64,
    rate: Option<Rate>,
    /// The next row, by the count of all splits, and the distance to the one after.
    row: u64,
    step: u64,
    /// How many rows of this split were made.
    n_rows: u64,
}

impl DatagenReader {
    /// The row, by the count of all splits, before which all are due; or in how many ms the next
    /// one is.
    fn due(&self) -> std::result::Result<u64, u64> {
        match &self.rate {
            None => Ok(self.end),
            Some(rate) => rate.due(self.row).map(|due| due.min(self.end)),
        }
    }

    fn make(&mut self, n_rows: usize) -> Result<Batch> {
        let rows = RowNumbers {
            first: self.row,
            step: self.step,
            n: n_rows,
        };
        let columns = self
            .columns
            .iter()
            .map(|column| column.make(rows))
            .collect();
        let columns = RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| {
            Error::internal("generated columns do not fit their schema").with_source(e)
        })?;
        let origin = Origin {
            split: self.name.clone(),
            split_number: self.number,
            rows: Rows::Range {
                first: self.n_rows + 1,
            },
        };
        self.row += self.step * n_rows as u64;
        self.n_rows += n_rows as u64;
        Ok(Batch {
            origin: Some(origin),
            ..Batch::new(columns)
        })
    }
}

impl SplitReader for DatagenReader {
    fn poll(&mut self, rows: usize, _timeout: Duration) -> Result<ReaderPoll> {
        if self.row >= self.end {
            return Ok(ReaderPoll::Finished);
        }
        match self.due() {
            Ok(due) => {
                let n_rows = (due - self.row).div_ceil(self.step).min(rows as u64);
                self.make(n_rows as usize).map(ReaderPoll::Batch)
            }
            Err(ms) => Ok(ReaderPoll::Pending { ms }),
        }
    }

    fn position(&self) -> String {
        position::write(&DatagenPosition { rows: self.n_rows })
    }
}

/// How fast rows become due.
struct Rate {
    /// Rows per second of all splits together.
    rows_per_second: f64,
    /// The rows before this one, by the count of all splits, were due when the reader was opened.
    first_row: u64,
    /// When that was, by the monotonic clock.
    start_ms: i64,
    clock: Arc<dyn Clock>,
}

impl Rate {
    fn new(rows_per_second: f64, first_row: u64, clock: Arc<dyn Clock>) -> Rate {
        Rate {
            rows_per_second,
            first_row,
            start_ms: clock.monotonic_ms(),
            clock,
        }
    }

    /// The row before which all are due, if `row` is; otherwise in how many ms it will be.
    fn due(&self, row: u64) -> std::result::Result<u64, u64> {
        let elapsed_ms = (self.clock.monotonic_ms() - self.start_ms) as f64;
        let n_due = self
            .first_row
            .saturating_add((elapsed_ms * self.rows_per_second / 1000.0) as u64);
        if n_due > row {
            return Ok(n_due);
        }
        let due_ms = (row - self.first_row + 1) as f64 * 1000.0 / self.rows_per_second;
        Err((due_ms - elapsed_ms).ceil().max(1.0) as u64)
    }
}

/// Numbers of rows, counted over all splits.
#[derive(Debug, Clone, Copy)]
struct RowNumbers {
    first: u64,
    step: u64,
    n: usize,
}

impl RowNumbers {
    fn iter(self) -> impl ExactSizeIterator<Item = u64> {
        (0..self.n).map(move |i| self.first.wrapping_add(self.step.wrapping_mul(i as u64)))
    }
}

/// One column's generator, with its numbers checked.
struct Column {
    data_type: DataType,
    seed: u64,
    values: Values,
}

enum Values {
    Sequence { start: i64, step: i64 },
    Integers { min: i64, n: u64 },
    Floats { min: f64, width: f64 },
    Bools,
    Texts { length: usize, cardinality: u64 },
}

impl Column {
    fn new(field: &Field, generator: &Generator, seed: u64) -> Result<Column> {
        let data_type = field.data_type().clone();
        let values = match *generator {
            Generator::Sequence { start, step } => Values::Sequence { start, step },
            Generator::Random {
                min,
                max,
                length,
                cardinality,
            } => random(field, (min, max), (length, cardinality))?,
        };
        Ok(Column {
            data_type,
            seed,
            values,
        })
    }

    fn make(&self, rows: RowNumbers) -> ArrayRef {
        match self.data_type {
            DataType::Int32 => self.integers::<Int32Type>(rows, |v| v as i32),
            DataType::Int64 => self.integers::<Int64Type>(rows, |v| v),
            DataType::UInt32 => self.integers::<UInt32Type>(rows, |v| v as u32),
            DataType::UInt64 => self.integers::<UInt64Type>(rows, |v| v as u64),
            DataType::Float32 => self.floats::<Float32Type>(rows, |v| v as f32),
            DataType::Float64 => self.floats::<Float64Type>(rows, |v| v),
            DataType::Boolean => Arc::new(self.bools(rows)),
            DataType::Binary => Arc::new(BinaryArray::from(self.strings(rows))),
            _ => Arc::new(self.strings(rows)),
        }
    }

    fn random(&self, row: u64) -> u64 {
        mix(self.seed ^ row)
    }

    fn integers<T: ArrowPrimitiveType>(
        &self,
        rows: RowNumbers,
        cast: impl Fn(i64) -> T::Native,
    ) -> ArrayRef {
        let values: PrimitiveArray<T> = match self.values {
            Values::Integers { min, n } => from_values(rows, |row| {
                cast(min.wrapping_add(scale(self.random(row), n) as i64))
            }),
            Values::Sequence { start, step } => {
                from_values(rows, |row| cast(sequence(start, step, row)))
            }
            _ => from_values(rows, |row| cast(self.random(row) as i64)),
        };
        Arc::new(values)
    }

    fn floats<T: ArrowPrimitiveType>(
        &self,
        rows: RowNumbers,
        cast: impl Fn(f64) -> T::Native,
    ) -> ArrayRef {
        let values: PrimitiveArray<T> = match self.values {
            Values::Sequence { start, step } => {
                from_values(rows, |row| cast(sequence(start, step, row) as f64))
            }
            Values::Floats { min, width } => {
                from_values(rows, |row| cast(min + width * unit(self.random(row))))
            }
            _ => from_values(rows, |row| cast(unit(self.random(row)))),
        };
        Arc::new(values)
    }

    fn bools(&self, rows: RowNumbers) -> BooleanArray {
        match self.values {
            Values::Sequence { start, step } => rows
                .iter()
                .map(|row| Some(sequence(start, step, row) & 1 == 1))
                .collect(),
            _ => rows
                .iter()
                .map(|row| Some(self.random(row) >> 63 == 1))
                .collect(),
        }
    }

    fn strings(&self, rows: RowNumbers) -> StringArray {
        match self.values {
            Values::Texts {
                length,
                cardinality,
            } => {
                let mut text = String::with_capacity(length);
                let mut builder =
                    arrow_array::builder::StringBuilder::with_capacity(rows.n, rows.n * length);
                for row in rows.iter() {
                    word(
                        self.seed ^ scale(self.random(row), cardinality),
                        length,
                        &mut text,
                    );
                    builder.append_value(&text);
                }
                builder.finish()
            }
            Values::Sequence { start, step } => StringArray::from_iter_values(
                rows.iter()
                    .map(|row| sequence(start, step, row).to_string()),
            ),
            _ => StringArray::from_iter_values(rows.iter().map(|row| self.random(row).to_string())),
        }
    }
}

fn from_values<T: ArrowPrimitiveType>(
    rows: RowNumbers,
    value: impl Fn(u64) -> T::Native,
) -> PrimitiveArray<T> {
    PrimitiveArray::from_iter_values(rows.iter().map(value))
}

fn sequence(start: i64, step: i64, row: u64) -> i64 {
    start.wrapping_add(step.wrapping_mul(row as i64))
}

/// Checks the limits of a random generator against the type of the column.
fn random(
    field: &Field,
    (min, max): (Option<f64>, Option<f64>),
    (length, cardinality): (Option<usize>, Option<u64>),
) -> Result<Values> {
    let refuse = |reason: &str| {
        Err(options::refuse(
            "datagen",
            &format!("column `{}`: {reason}", field.name()),
        ))
    };
    let is_text = matches!(field.data_type(), DataType::Utf8 | DataType::Binary);
    let (has_range, has_text) = (
        min.is_some() || max.is_some(),
        length.is_some() || cardinality.is_some(),
    );
    match field.data_type() {
        DataType::Utf8 | DataType::Binary | DataType::Boolean if has_range => {
            refuse("`min` and `max` are for numbers")
        }
        _ if has_text && !is_text => {
            refuse("`length` and `cardinality` are for strings and binaries")
        }
        DataType::Boolean => Ok(Values::Bools),
        _ if is_text && length.is_some_and(|n| n > LENGTH_MAX) => {
            refuse("`length` must be at most 16384")
        }
        _ if is_text && cardinality == Some(0) => refuse("`cardinality` must be 1 or more"),
        _ if is_text => Ok(Values::Texts {
            length: length.unwrap_or(8),
            cardinality: cardinality.unwrap_or(u64::MAX),
        }),
        DataType::Float32 | DataType::Float64 => {
            let (min, max) = (min.unwrap_or(0.0), max.unwrap_or(1.0));
            if min <= max {
                Ok(Values::Floats {
                    min,
                    width: max - min,
                })
            } else {
                refuse("`min` is greater than `max`")
            }
        }
        whole => {
            let (least, greatest) = range(whole);
            let (min, max) = (min.unwrap_or(0.0).ceil(), max.unwrap_or(greatest).floor());
            match (least..=greatest).contains(&min) && (least..=greatest).contains(&max) {
                true if min <= max => Ok(Values::Integers {
                    min: min as i64,
                    n: (max - min) as u64 + 1,
                }),
                true => refuse("`min` is greater than `max`"),
                false => refuse(&format!(
                    "`min` and `max` must be from {least} to {greatest}"
                )),
            }
        }
    }
}

/// The whole numbers that a column can have and an option can give.
fn range(data_type: &DataType) -> (f64, f64) {
    match data_type {
        DataType::Int32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        DataType::UInt32 => (0.0, f64::from(u32::MAX)),
        DataType::UInt64 => (0.0, EXACT_MAX),
        _ => (-EXACT_MAX, EXACT_MAX),
    }
}

/// Mixes 64 bits so that neighbours have nothing in common (the finaliser of SplitMix64, Steele and
/// others 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Maps 64 random bits to `0..n`, by a multiplication and without a division (Lemire 2019, without
/// the rejection).
fn scale(random: u64, n: u64) -> u64 {
    ((u128::from(random) * u128::from(n)) >> 64) as u64
}

/// Maps 64 random bits to `0.0..1.0`.
fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / EXACT_MAX
}

/// Writes the word with this number.
fn word(number: u64, length: usize, text: &mut String) {
    text.clear();
    let mut bits = mix(number);
    for i in 0..length {
        // Ten letters use up 47 of the 64 bits.
        if i % 10 == 9 {
            bits = mix(bits);
        }
        text.push((b'a' + (bits % 26) as u8) as char);
        bits /= 26;
    }
}

#[cfg(test)]
mod tests;
