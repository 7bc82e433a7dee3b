//! Columns that own their bytes, with their schema: what the harness keeps of rows, keys and state.

use crate::bindings::streamrt::plugin::types::Section;
use crate::column::{OwnedColumn, RawColumn, Table, bit, gather};
use crate::error::Result;
use crate::record::Record;
use crate::stream::words;
use crate::value::Value;
use streamrt_wit::{DataType, Field, Schema};

/// Rows in columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Frame {
    pub(super) n_rows: usize,
    pub(super) schema: Schema,
    pub(super) columns: Vec<OwnedColumn>,
}

impl Frame {
    pub(super) fn of<T: Record>(rows: &[T]) -> Frame {
        let (mut builder, mut columns) = (T::Builder::default(), Vec::new());
        rows.iter().for_each(|row| T::push(row, &mut builder));
        T::finish(&mut builder, &mut columns);
        Frame {
            n_rows: rows.len(),
            schema: T::schema(),
            columns,
        }
    }

    /// The columns of a section.
    pub(super) fn received(section: &Section, schema: &Schema) -> Frame {
        let table = Table::of(section, schema.len());
        let all: Vec<u32> = (0..section.rows).collect();
        let columns = table
            .columns
            .iter()
            .zip(schema)
            .map(|(column, field)| gather(*column, field.data_type, &all));
        Frame {
            n_rows: section.rows as usize,
            schema: schema.clone(),
            columns: columns.collect(),
        }
    }

    pub(super) fn records<T: Record>(&self) -> Result<Vec<T>> {
        let table = Table {
            n_rows: self.n_rows,
            columns: self.columns.iter().map(OwnedColumn::raw).collect(),
        };
        let columns = T::columns(&table)?;
        Ok((0..self.n_rows)
            .map(|row| crate::state::loaded(&columns, row))
            .collect())
    }

    /// The rows as records of the test.
    ///
    /// # Panics
    /// If `T` has other columns.
    #[track_caller]
    pub(super) fn typed<T: Record>(&self) -> Vec<T> {
        let (have, want) = (described(&self.schema), described(&T::schema()));
        assert!(
            self.schema == T::schema(),
            "the output has the columns ({have}), not ({want})"
        );
        match self.records() {
            Ok(records) => records,
            Err(error) => panic!("the output cannot be read: {error}"),
        }
    }

    pub(super) fn rows(&self, indices: &[u32]) -> Frame {
        let columns = self
            .columns
            .iter()
            .zip(&self.schema)
            .map(|(column, field)| gather(column.raw(), field.data_type, indices));
        Frame {
            n_rows: indices.len(),
            schema: self.schema.clone(),
            columns: columns.collect(),
        }
    }

    pub(super) fn row(&self, row: usize) -> Frame {
        self.rows(&[row as u32])
    }

    /// Whether there is a column of this name and type that holds no nulls where none are expected.
    pub(super) fn has(&self, wanted: &Field) -> bool {
        let fits = |field: &Field| {
            field.data_type == wanted.data_type && (wanted.nullable || !field.nullable)
        };
        self.schema
            .iter()
            .any(|field| field.name == wanted.name && fits(field))
    }

    /// The columns of these names, in this order.
    pub(super) fn select(&self, names: impl Iterator<Item = String>) -> Frame {
        let index = |name: &String| self.schema.iter().position(|field| field.name == *name);
        let find = |name| {
            index(&name).unwrap_or_else(|| panic!("the row that was pushed has no column {name}"))
        };
        let (schema, columns) = names
            .map(find)
            .map(|i| (self.schema[i].clone(), self.columns[i].clone()))
            .unzip();
        Frame {
            n_rows: self.n_rows,
            schema,
            columns,
        }
    }

    /// The columns of both, side by side.
    pub(super) fn beside(mut self, other: Frame) -> Frame {
        self.schema.extend(other.schema);
        self.columns.extend(other.columns);
        self
    }

    /// The columns from `at` on go into the second frame.
    pub(super) fn split(mut self, at: usize) -> (Frame, Frame) {
        let second = Frame {
            n_rows: self.n_rows,
            schema: self.schema.split_off(at),
            columns: self.columns.split_off(at),
        };
        (self, second)
    }

    /// Rows of zeros, empty strings and nulls.
    pub(super) fn zeros(schema: &Schema, n_rows: usize) -> Frame {
        let column = |field: &Field| OwnedColumn {
            validity: None,
            offsets: matches!(field.data_type, DataType::String | DataType::Binary)
                .then(|| vec![0; 4 * n_rows + 4]),
            data: vec![
                0;
                if matches!(field.data_type, DataType::String | DataType::Binary) {
                    0
                } else {
                    8 * n_rows
                }
            ],
        };
        let wide = Frame {
            n_rows,
            schema: schema.clone(),
            columns: schema.iter().map(column).collect(),
        };
        wide.rows(&(0..n_rows as u32).collect::<Vec<_>>())
    }

    /// The rows of all of them, one after the other.
    pub(super) fn concat(schema: &Schema, frames: &[&Frame]) -> Frame {
        let n_rows = frames.iter().map(|frame| frame.n_rows).sum();
        let column = |(i, field): (usize, &Field)| {
            let parts: Vec<_> = frames
                .iter()
                .map(|frame| (frame.columns[i].raw(), frame.n_rows))
                .collect();
            concat(field.data_type, &parts, n_rows)
        };
        Frame {
            n_rows,
            schema: schema.clone(),
            columns: schema.iter().enumerate().map(column).collect(),
        }
    }

    /// The column of this name as values.
    pub(super) fn values<V: Value>(&self, name: &str) -> Result<Vec<V>> {
        let column = self.select(std::iter::once(name.to_owned()));
        let table = Table {
            n_rows: self.n_rows,
            columns: column.columns.iter().map(OwnedColumn::raw).collect(),
        };
        let values = crate::record::decode::<V>(&table, 0)?;
        let value = |row| {
            let mut value = V::empty();
            value.assign(V::get(&values, row));
            value
        };
        Ok((0..self.n_rows).map(value).collect())
    }

    /// Bytes that are equal for equal rows, and only for those.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.columns
            .iter()
            .flat_map(|column| {
                [
                    (column.data.len() as u32).to_le_bytes().to_vec(),
                    column.data.clone(),
                ]
            })
            .flatten()
            .collect()
    }
}

/// Columns in words, such as `user: i64, name: option of string`.
pub(super) fn described(schema: &[Field]) -> String {
    schema
        .iter()
        .map(|field| format!("{}: {}", field.name, words(field.data_type, field.nullable)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn concat(data_type: DataType, parts: &[(RawColumn<'_>, usize)], n_rows: usize) -> OwnedColumn {
    let valid =
        |(column, row): (RawColumn<'_>, usize)| column.validity.is_none_or(|bits| bit(bits, row));
    let rows = || {
        parts
            .iter()
            .flat_map(|(column, n)| (0..*n).map(|row| (*column, row)))
    };
    let validity = rows()
        .any(|at| !valid(at))
        .then(|| bits(rows().map(valid), n_rows));
    match data_type {
        DataType::Bool => OwnedColumn {
            validity,
            offsets: None,
            data: bits(rows().map(|(column, row)| bit(column.data, row)), n_rows),
        },
        DataType::String | DataType::Binary => {
            let (mut offsets, mut data) = (0i32.to_le_bytes().to_vec(), Vec::new());
            for (column, row) in rows() {
                let end =
                    |i: usize| i32::from_le_bytes(column.offsets.as_chunks::<4>().0[i]) as usize;
                data.extend_from_slice(&column.data[end(row)..end(row + 1)]);
                offsets.extend((data.len() as i32).to_le_bytes());
            }
            OwnedColumn {
                validity,
                offsets: Some(offsets),
                data,
            }
        }
        _ => OwnedColumn {
            validity,
            offsets: None,
            data: parts
                .iter()
                .flat_map(|(column, _)| column.data.to_vec())
                .collect(),
        },
    }
}

fn bits(values: impl Iterator<Item = bool>, n_rows: usize) -> Vec<u8> {
    let mut bits = vec![0; n_rows.div_ceil(8)];
    values
        .enumerate()
        .for_each(|(i, value)| bits[i / 8] |= u8::from(value) << (i % 8));
    bits
}
