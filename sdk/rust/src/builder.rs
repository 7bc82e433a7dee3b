//! Builders of columns. A finished column is handed over as the bytes that cross the boundary; the
//! builder stays, empty.

use crate::column::OwnedColumn;
use crate::value::Value;

/// Makes one column, value after value.
pub trait ColumnBuilder: Default {
    /// Hands the column over and starts the next one, with room for as much again.
    fn finish(&mut self) -> OwnedColumn;
}

/// Hands a vector over, and leaves one with the same capacity.
fn give<T>(vector: &mut Vec<T>) -> Vec<T> {
    let room = vector.len();
    std::mem::replace(vector, Vec::with_capacity(room))
}

/// Bits, least significant first.
#[derive(Default)]
pub struct BoolBuilder {
    bits: Vec<u8>,
    n: usize,
}

impl BoolBuilder {
    #[inline]
    pub(crate) fn push(&mut self, value: bool) {
        if self.n.is_multiple_of(8) {
            self.bits.push(0);
        }
        if let Some(last) = self.bits.last_mut() {
            *last |= u8::from(value) << (self.n % 8);
        }
        self.n += 1;
    }
}

impl ColumnBuilder for BoolBuilder {
    fn finish(&mut self) -> OwnedColumn {
        self.n = 0;
        OwnedColumn {
            validity: None,
            offsets: None,
            data: give(&mut self.bits),
        }
    }
}

/// Numbers of `N` bytes.
#[derive(Default)]
pub struct FixedBuilder<const N: usize> {
    /// Values, followed by zeroed room: in the loop over the rows, writing there takes less code
    /// than pushing.
    values: Vec<[u8; N]>,
    n: usize,
}

impl<const N: usize> FixedBuilder<N> {
    #[inline]
    pub(crate) fn push(&mut self, value: [u8; N]) {
        match self.values.get_mut(self.n) {
            Some(place) => *place = value,
            None => self.values = grown(std::mem::take(&mut self.values), value),
        }
        self.n += 1;
    }
}

/// Appends a value, making at least as much room again where there is none.
#[cold]
fn grown<const N: usize>(mut values: Vec<[u8; N]>, value: [u8; N]) -> Vec<[u8; N]> {
    let room = (2 * values.len()).max(64);
    values.push(value);
    values.resize(room, [0; N]);
    values
}

impl<const N: usize> ColumnBuilder for FixedBuilder<N> {
    fn finish(&mut self) -> OwnedColumn {
        let n = std::mem::take(&mut self.n);
        let mut values = std::mem::replace(&mut self.values, vec![[0; N]; n]);
        values.truncate(n);
        OwnedColumn {
            validity: None,
            offsets: None,
            data: values.into_flattened(),
        }
    }
}

/// Strings and bytes.
#[derive(Default)]
pub struct BytesBuilder {
    ends: Vec<[u8; 4]>,
    data: Vec<u8>,
}

impl BytesBuilder {
    #[inline]
    pub(crate) fn push(&mut self, value: &[u8]) {
        if self.ends.is_empty() {
            self.ends.push([0; 4]);
        }
        self.data.extend_from_slice(value);
        let end = i32::try_from(self.data.len())
            .expect("a guest's memory is too small for a column of 2 GiB");
        self.ends.push(end.to_le_bytes());
    }
}

impl ColumnBuilder for BytesBuilder {
    fn finish(&mut self) -> OwnedColumn {
        if self.ends.is_empty() {
            self.ends.push([0; 4]);
        }
        OwnedColumn {
            validity: None,
            offsets: Some(give(&mut self.ends).into_flattened()),
            data: give(&mut self.data),
        }
    }
}

/// Values or nulls. The bitmap is sent only if there was a null.
pub struct OptionBuilder<V: Value> {
    valid: BoolBuilder,
    has_null: bool,
    values: V::Builder,
}

impl<V: Value> Default for OptionBuilder<V> {
    fn default() -> Self {
        OptionBuilder {
            valid: BoolBuilder::default(),
            has_null: false,
            values: V::Builder::default(),
        }
    }
}

impl<V: Value> OptionBuilder<V> {
    #[inline]
    pub(crate) fn push(&mut self, value: Option<V::Ref<'_>>) {
        self.valid.push(value.is_some());
        match value {
            Some(value) => V::push(&mut self.values, value),
            None => {
                self.has_null = true;
                V::push(&mut self.values, V::empty().borrowed());
            }
        }
    }
}

impl<V: Value> ColumnBuilder for OptionBuilder<V> {
    fn finish(&mut self) -> OwnedColumn {
        let bits = self.valid.finish().data;
        let validity = std::mem::take(&mut self.has_null).then_some(bits);
        OwnedColumn {
            validity,
            ..self.values.finish()
        }
    }
}
