//! Splits as rows, so that they travel on an ordinary edge.

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use std::sync::Arc;
use streamrt_operator::Split;
use streamrt_types::{Batch, Error, Result};

/// One row for each split.
pub fn to_batch(splits: &[Split]) -> Result<Batch> {
    let columns: [(&str, ArrayRef); 3] = [
        (
            "number",
            Arc::new(UInt64Array::from_iter_values(
                splits.iter().map(|split| split.number),
            )),
        ),
        (
            "name",
            Arc::new(StringArray::from_iter_values(
                splits.iter().map(|split| &split.name),
            )),
        ),
        (
            "detail",
            Arc::new(StringArray::from_iter_values(
                splits.iter().map(|split| &split.detail),
            )),
        ),
    ];
    let batch = RecordBatch::try_from_iter(columns)
        .map_err(|e| Error::internal("splits make no batch").with_source(e))?;
    Ok(Batch::new(batch))
}

/// The splits of rows that [`to_batch`] made.
pub fn from_batch(batch: &Batch) -> Vec<Split> {
    let columns = &batch.columns;
    let (numbers, names, details) = (
        columns.column(0).as_primitive::<UInt64Type>(),
        columns.column(1).as_string::<i32>(),
        columns.column(2).as_string::<i32>(),
    );
    let split = |row| Split {
        number: numbers.value(row),
        name: Arc::from(names.value(row)),
        detail: details.value(row).to_owned(),
    };
    (0..batch.n_rows()).map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_survive_the_trip() {
        let splits = vec![Split {
            number: 3,
            name: Arc::from("a.csv"),
            detail: "{\"start\":0}".to_owned(),
        }];
        assert_eq!(from_batch(&to_batch(&splits).unwrap()), splits);
    }
}
