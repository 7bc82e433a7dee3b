//! Aggregates that the host computes by column, and how their results become the fields of a
//! record.
//!
//! Each field of the output record is filled by name: first by a term that says `.to(name)`, then
//! by a key column of that name, then, after a window, by `window_start` and `window_end`.

use crate::error::{Error, Result};
use crate::record::{Column, Record};
use crate::stream::{not_there, words};
use crate::value::Value;
use streamrt_wit::{
    AggregateFunction, BuiltinAggregate, DataType, Field, ResultColumn, ResultSource, Schema,
};

/// Something that can fill a field of the result: an aggregate, a key column, a bound of the
/// window.
#[derive(Debug, Clone)]
pub struct Term {
    what: What,
    name: Option<String>,
}

#[derive(Debug, Clone)]
enum What {
    Aggregate {
        function: AggregateFunction,
        column: Option<Field>,
    },
    Key(String),
    WindowStart,
    WindowEnd,
}

impl Term {
    fn of(what: What) -> Term {
        Term { what, name: None }
    }

    /// Names the field of the output record that it fills.
    pub fn to(self, field: &str) -> Term {
        Term {
            name: Some(field.to_owned()),
            ..self
        }
    }
}

fn over<T, V: Value>(function: AggregateFunction, column: Column<T, V>) -> Term {
    Term::of(What::Aggregate {
        function,
        column: Some(column.field()),
    })
}

/// Counts rows, as `i64`.
pub fn count() -> Term {
    Term::of(What::Aggregate {
        function: AggregateFunction::Count,
        column: None,
    })
}

/// Adds up a column: `i64` for signed integers, `u64` for unsigned ones, `f64` for floats. An
/// overflow is an error.
pub fn sum<T, V: Value>(column: Column<T, V>) -> Term {
    over(AggregateFunction::Sum, column)
}

/// The least value of a column.
pub fn min<T, V: Value>(column: Column<T, V>) -> Term {
    over(AggregateFunction::Min, column)
}

/// The greatest value of a column.
pub fn max<T, V: Value>(column: Column<T, V>) -> Term {
    over(AggregateFunction::Max, column)
}

/// The mean of a column, as `f64`.
pub fn avg<T, V: Value>(column: Column<T, V>) -> Term {
    over(AggregateFunction::Avg, column)
}

/// The value of the row with the least event time; among equals, the first to arrive.
pub fn first<T, V: Value>(column: Column<T, V>) -> Term {
    over(AggregateFunction::First, column)
}

/// The value of the row with the greatest event time; among equals, the last to arrive.
pub fn last<T, V: Value>(column: Column<T, V>) -> Term {
    over(AggregateFunction::Last, column)
}

/// A key column, to give it another name: `key(Click::USER).to("user_id")`.
pub fn key<T, V>(column: Column<T, V>) -> Term {
    Term::of(What::Key(column.name().to_owned()))
}

/// The first ms of the window, as `i64`.
pub fn window_start() -> Term {
    Term::of(What::WindowStart)
}

/// The first ms after the window, as `i64`.
pub fn window_end() -> Term {
    Term::of(What::WindowEnd)
}

/// Terms, checked against the input and the output record.
#[derive(Debug, Default)]
pub(crate) struct Aggregates {
    pub(crate) aggregates: Vec<BuiltinAggregate>,
    pub(crate) columns: Vec<ResultColumn>,
}

impl Aggregates {
    /// # Errors
    /// If a field has no source or another type, a term has no field, or a column cannot be
    /// aggregated in this way.
    pub(crate) fn build<T: Record, O: Record>(
        uid: &str,
        keys: &[Field],
        terms: impl IntoIterator<Item = Term>,
        window: bool,
    ) -> Result<Aggregates> {
        let terms: Vec<Term> = terms.into_iter().collect();
        let output = O::schema();
        if let Some(term) = terms.iter().find(|term| {
            !output
                .iter()
                .any(|field| Some(&field.name) == term.name.as_ref())
        }) {
            return Err(Error::columns(match &term.name {
                Some(name) => format!(
                    "{uid}: the output record has no field {name}; it has {}",
                    names(&output)
                ),
                None => format!(
                    "{uid}: an aggregate does not say which field it fills: add .to(\"field\")"
                ),
            }));
        }
        let place = Place {
            uid,
            input: &T::schema(),
            keys,
            terms: &terms,
            window,
        };
        let mut built = Aggregates::default();
        output
            .iter()
            .try_for_each(|field| place.fill(field, &mut built))?;
        Ok(built)
    }
}

/// Where a field may get its value from.
struct Place<'a> {
    uid: &'a str,
    input: &'a Schema,
    keys: &'a [Field],
    terms: &'a [Term],
    window: bool,
}

impl Place<'_> {
    fn fill(&self, field: &Field, built: &mut Aggregates) -> Result<()> {
        let uid = self.uid;
        let what = self.source(&field.name).ok_or_else(|| {
            let bounds = if self.window {
                ", window_start or window_end"
            } else {
                ""
            };
            let fills = if self.keys.is_empty() {
                String::new()
            } else {
                format!(" ({})", names(self.keys))
            };
            Error::columns(format!(
                "{uid}: nothing fills the field {}: it is no aggregate, key column{fills}{bounds}",
                field.name
            ))
        })?;
        let (from, made) = self.made(&what, built)?;
        if made != (field.data_type, field.nullable) {
            let (want, got) = (
                words(field.data_type, field.nullable),
                words(made.0, made.1),
            );
            return Err(Error::columns(format!(
                "{uid}: the field {} has type {want}, but what fills it has type {got}",
                field.name
            )));
        }
        built.columns.push(ResultColumn {
            name: field.name.clone(),
            from,
        });
        Ok(())
    }

    fn source(&self, name: &str) -> Option<What> {
        let named = self
            .terms
            .iter()
            .find(|term| term.name.as_deref() == Some(name));
        named.map(|term| term.what.clone()).or_else(|| match name {
            _ if self.keys.iter().any(|key| key.name == name) => Some(What::Key(name.to_owned())),
            "window_start" if self.window => Some(What::WindowStart),
            "window_end" if self.window => Some(What::WindowEnd),
            _ => None,
        })
    }

    /// What a term makes, and its type.
    fn made(
        &self,
        what: &What,
        built: &mut Aggregates,
    ) -> Result<(ResultSource, (DataType, bool))> {
        let uid = self.uid;
        Ok(match what {
            What::WindowStart | What::WindowEnd if !self.window => {
                return Err(Error::job(format!(
                    "{uid}: window_start and window_end need a window"
                )));
            }
            What::WindowStart => (ResultSource::WindowStart, (DataType::I64, false)),
            What::WindowEnd => (ResultSource::WindowEnd, (DataType::I64, false)),
            What::Key(column) => {
                let key = self.keys.iter().find(|key| key.name == *column);
                let key = key.ok_or_else(|| {
                    Error::columns(format!(
                        "{uid}: {column} is no key column; those are {}",
                        names(self.keys)
                    ))
                })?;
                (
                    ResultSource::Key {
                        column: column.clone(),
                    },
                    (key.data_type, key.nullable),
                )
            }
            What::Aggregate { function, column } => {
                let index = built.aggregates.len() as u32;
                let made = self.aggregate_type(*function, column.as_ref())?;
                built.aggregates.push(BuiltinAggregate {
                    function: *function,
                    column: column.as_ref().map(|field| field.name.clone()),
                });
                (ResultSource::Aggregate { index }, made)
            }
        })
    }

    fn aggregate_type(
        &self,
        function: AggregateFunction,
        column: Option<&Field>,
    ) -> Result<(DataType, bool)> {
        let Some(column) = column else {
            return Ok((DataType::I64, false));
        };
        if !self.input.contains(column) {
            return Err(not_there(self.uid, column, self.input));
        }
        let number = !matches!(
            column.data_type,
            DataType::Bool | DataType::String | DataType::Binary
        );
        match function {
            AggregateFunction::Count => Ok((DataType::I64, false)),
            AggregateFunction::Min
            | AggregateFunction::Max
            | AggregateFunction::First
            | AggregateFunction::Last => Ok((column.data_type, column.nullable)),
            AggregateFunction::Sum | AggregateFunction::Avg if !number => Err(Error::columns(
                format!("{}: the column {} holds no numbers", self.uid, column.name),
            )),
            AggregateFunction::Avg => Ok((DataType::F64, column.nullable)),
            AggregateFunction::Sum => Ok((wide(column.data_type), column.nullable)),
        }
    }
}

fn names(fields: &[Field]) -> String {
    fields
        .iter()
        .map(|field| field.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

/// The type of a sum.
fn wide(data_type: DataType) -> DataType {
    match data_type {
        DataType::F32 | DataType::F64 => DataType::F64,
        DataType::U32 | DataType::U64 => DataType::U64,
        _ => DataType::I64,
    }
}
