//! Side outputs of process functions, by name and type.

use crate::chain::PortRows;
use crate::column::OwnedColumn;
use crate::record::Record;
use std::any::Any;
use std::marker::PhantomData;

/// Names a side output of records of type `T`. Make it a constant, and use the same one in the
/// function and in the job.
pub struct OutputTag<T> {
    name: &'static str,
    record: PhantomData<fn() -> T>,
}

impl<T> OutputTag<T> {
    /// Makes a tag. The name is unique in the operator.
    pub const fn new(name: &'static str) -> Self {
        OutputTag {
            name,
            record: PhantomData,
        }
    }

    /// The output's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// The side outputs that the job uses, with what this call has sent to them.
#[derive(Default)]
pub(crate) struct Sides {
    outputs: Vec<Side>,
}

struct Side {
    name: String,
    port: u16,
    origin: Vec<u32>,
    /// Made by the first record, which alone knows the type.
    rows: Option<Box<dyn Rows>>,
}

trait Rows {
    fn finish(&mut self) -> Vec<OwnedColumn>;
    fn any(&mut self) -> &mut dyn Any;
}

struct Builder<T: Record>(T::Builder);

impl<T: Record> Rows for Builder<T>
where
    T::Builder: 'static,
{
    fn finish(&mut self) -> Vec<OwnedColumn> {
        let mut columns = Vec::new();
        T::finish(&mut self.0, &mut columns);
        columns
    }
    fn any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Sides {
    /// Made from the names of all ports; the main one, number 0, has none.
    pub(crate) fn new(ports: &[String]) -> Sides {
        let side = |(name, port): (&String, u16)| Side {
            name: name.clone(),
            port,
            origin: Vec::new(),
            rows: None,
        };
        Sides {
            outputs: ports.iter().zip(0..).skip(1).map(side).collect(),
        }
    }

    pub(crate) fn collect<T: Record>(&mut self, tag: &OutputTag<T>, record: &T, event: u32) {
        let Some(side) = self.outputs.iter_mut().find(|side| side.name == tag.name()) else {
            return;
        };
        let rows = side
            .rows
            .get_or_insert_with(|| Box::new(Builder::<T>(T::Builder::default())));
        if let Some(builder) = rows.any().downcast_mut::<Builder<T>>() {
            T::push(record, &mut builder.0);
            side.origin.push(event);
        }
    }

    pub(crate) fn reset(&mut self) {
        for side in &mut self.outputs {
            (side.origin, side.rows) = (Vec::new(), None);
        }
    }

    pub(crate) fn finish(&mut self) -> Vec<(u16, PortRows)> {
        let used = self
            .outputs
            .iter_mut()
            .filter(|side| !side.origin.is_empty());
        used.map(|side| {
            (
                side.port,
                PortRows {
                    n_rows: side.origin.len(),
                    columns: side
                        .rows
                        .as_mut()
                        .map(|rows| rows.finish())
                        .unwrap_or_default(),
                    origin: Some(std::mem::take(&mut side.origin)),
                },
            )
        })
        .collect()
    }
}
