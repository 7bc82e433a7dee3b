//! Rows whose columns are known at run time only, for libraries. They are slower than records: each
//! access dispatches on the type of the value.

use crate::builder::ColumnBuilder;
use crate::chain::{Stage, StageInput, StageOutput};
use crate::column::{OwnedColumn, Table};
use crate::error::{Error, Result};
use crate::record::decode;
use crate::value::Value;
use streamrt_wit::{DataType, Schema};

/// A value of any column type, borrowed from a column.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the variants are the column types")]
pub enum Cell<'a> {
    /// No value.
    Null,
    Bool(bool),
    I32(i32),
    I64(i64),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
    String(&'a str),
    Binary(&'a [u8]),
}

macro_rules! any_type {
    ($(($variant:ident, $type:ty)),*) => {
        /// A decoded column of any type.
        enum AnyColumn<'a> {
            $($variant(<Option<$type> as Value>::Column<'a>),)*
        }

        impl<'a> AnyColumn<'a> {
            fn decode(data_type: DataType, table: &Table<'a>, index: usize) -> Result<AnyColumn<'a>> {
                Ok(match data_type {
                    $(DataType::$variant => AnyColumn::$variant(decode::<Option<$type>>(table, index)?),)*
                })
            }

            fn get(&self, row: usize) -> Cell<'a> {
                match self {
                    $(AnyColumn::$variant(column) => <Option<$type> as Value>::get(column, row).map_or(Cell::Null, Cell::$variant),)*
                }
            }
        }

        /// A column of any type in the making.
        enum AnyBuilder {
            $($variant(<Option<$type> as Value>::Builder),)*
        }

        impl AnyBuilder {
            fn new(data_type: DataType) -> AnyBuilder {
                match data_type {
                    $(DataType::$variant => AnyBuilder::$variant(Default::default()),)*
                }
            }

            /// False if the value has another type.
            fn push(&mut self, cell: Cell<'_>) -> bool {
                match (self, cell) {
                    $(
                        (AnyBuilder::$variant(builder), Cell::$variant(value)) => builder.push(Some(value)),
                        (AnyBuilder::$variant(builder), Cell::Null) => builder.push(None),
                    )*
                    _ => return false,
                }
                true
            }

            fn finish(&mut self) -> OwnedColumn {
                match self {
                    $(AnyBuilder::$variant(builder) => builder.finish(),)*
                }
            }
        }
    };
}

any_type!(
    (Bool, bool),
    (I32, i32),
    (I64, i64),
    (U32, u32),
    (U64, u64),
    (F32, f32),
    (F64, f64),
    (String, String),
    (Binary, Vec<u8>)
);

/// The value of a column of any type.
///
/// # Errors
/// If its bytes do not fit.
pub(crate) fn cell<'a>(
    data_type: DataType,
    table: &Table<'a>,
    column: usize,
    row: usize,
) -> Result<Cell<'a>> {
    AnyColumn::decode(data_type, table, column).map(|column| column.get(row))
}

/// The row at work.
pub struct Row<'a> {
    columns: Vec<AnyColumn<'a>>,
    row: usize,
}

impl<'a> Row<'a> {
    /// The value of the n-th column that the function reads; `Cell::Null` where there is no such
    /// column.
    pub fn get(&self, column: usize) -> Cell<'a> {
        self.columns
            .get(column)
            .map_or(Cell::Null, |column| column.get(self.row))
    }

    /// The string in the n-th column, if it is one.
    pub fn str(&self, column: usize) -> Option<&'a str> {
        match self.get(column) {
            Cell::String(text) => Some(text),
            _ => None,
        }
    }
}

/// Takes the values of the appended columns of a row, in order. What is not written is null.
pub struct RowWriter {
    schema: Schema,
    builders: Vec<AnyBuilder>,
    /// Columns of the row at work that are written.
    written: usize,
}

impl RowWriter {
    fn new(schema: Schema) -> RowWriter {
        let builders = schema
            .iter()
            .map(|field| AnyBuilder::new(field.data_type))
            .collect();
        RowWriter {
            schema,
            builders,
            written: 0,
        }
    }

    /// Writes the next column.
    ///
    /// # Errors
    /// If all columns are written, the value has another type, or it is a null that the column must
    /// not hold.
    pub fn push(&mut self, cell: Cell<'_>) -> Result<()> {
        let Some(field) = self.schema.get(self.written) else {
            return Err(Error::new(format!(
                "a row has {} appended columns, not more",
                self.schema.len()
            )));
        };
        let fits = field.nullable || cell != Cell::Null;
        if !fits || !self.builders[self.written].push(cell) {
            return Err(Error::new(format!(
                "the column {} cannot hold {cell:?}",
                field.name
            )));
        }
        self.written += 1;
        Ok(())
    }

    fn end_row(&mut self) -> Result<()> {
        while self.written < self.builders.len() {
            self.push(Cell::Null)?;
        }
        self.written = 0;
        Ok(())
    }
}

/// The running form of a map over columns known at run time.
pub(crate) struct ExtendStage<F> {
    input: Schema,
    appended: Schema,
    map: F,
}

impl<F: FnMut(&Row<'_>, &mut RowWriter) -> Result<()>> ExtendStage<F> {
    pub(crate) fn new(input: Schema, appended: Schema, map: F) -> Self {
        ExtendStage {
            input,
            appended,
            map,
        }
    }
}

impl<F: FnMut(&Row<'_>, &mut RowWriter) -> Result<()>> Stage for ExtendStage<F> {
    fn run(&mut self, input: &StageInput<'_>, out: &mut StageOutput) -> Result<()> {
        let decoded = self
            .input
            .iter()
            .enumerate()
            .map(|(i, field)| AnyColumn::decode(field.data_type, &input.table, i));
        let mut row = Row {
            columns: decoded.collect::<Result<_>>()?,
            row: 0,
        };
        let mut writer = RowWriter::new(self.appended.clone());
        input.try_each(|_, place| {
            row.row = place;
            (self.map)(&row, &mut writer)?;
            writer.end_row()
        })?;
        out.main.n_rows = input.n_rows;
        out.main.columns = writer.builders.iter_mut().map(AnyBuilder::finish).collect();
        Ok(())
    }
}
