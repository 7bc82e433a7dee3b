//! Window functions: user code that gets the rows of a window, or the result of the aggregate
//! before it, when the window fires.

use crate::bindings::streamrt::plugin::types::Section;
use crate::chain::Whole;
use crate::column::{Table, find, fixed, plain, section, u32_bytes};
use crate::error::{Error, Result};
use crate::fold::find_section;
use crate::key::Key;
use crate::record::Record;
use crate::transform::Collector;
use streamrt_wit::codes::{self, buffer, call};

/// User code that is called when a window fires.
///
/// # Source
/// Flink's ProcessWindowFunction.
pub trait WindowFunction: 'static {
    /// The rows: those of the window, or the result of the aggregate before it.
    type In: Record;
    /// The key, as the function wants to see it; `()` if it does not.
    type Key: Key;
    /// What a window gives.
    type Out: Record;

    /// Makes records from a window.
    ///
    /// # Errors
    /// An error fails the window.
    fn process(
        &mut self,
        window: &Window<Self::Key>,
        rows: &mut Rows<'_, Self::In>,
        out: &mut Collector<Self::Out>,
    ) -> Result<()>;
}

/// The window that fires.
#[derive(Debug, Clone, PartialEq)]
pub struct Window<K> {
    /// Its key.
    pub key: K,
    /// Its first ms since the epoch.
    pub start: i64,
    /// The first ms after it.
    pub end: i64,
    /// The watermark, in ms.
    pub watermark: i64,
    /// The clock of the host, in ms.
    pub processing_time: i64,
}

/// The rows of a window, in the order of their arrival.
pub struct Rows<'a, T: Record> {
    columns: T::Columns<'a>,
    next: usize,
    end: usize,
    row: T,
}

impl<T: Record> Rows<'_, T> {
    /// The next row, which is valid until the one after it is asked for.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not lend its row"
    )]
    pub fn next(&mut self) -> Option<&T> {
        if self.next == self.end {
            return None;
        }
        T::load(&mut self.row, &self.columns, self.next);
        self.next += 1;
        Some(&self.row)
    }

    /// How many rows are left.
    pub fn len(&self) -> usize {
        self.end - self.next
    }

    /// Whether no row is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The running form of a window function.
pub(crate) struct WindowWhole<F: WindowFunction> {
    function: F,
    out: Collector<F::Out>,
}

impl<F: WindowFunction> WindowWhole<F> {
    pub(crate) fn new(function: F) -> Self {
        WindowWhole {
            function,
            out: Collector::new(),
        }
    }
}

impl<F: WindowFunction> Whole for WindowWhole<F> {
    fn invoke(&mut self, call: u16, input: &[Section]) -> Result<Vec<Section>> {
        if call != call::WINDOW {
            return Err(Error::unknown(format!(
                "a window function does not know call {call}"
            )));
        }
        self.out.reset();
        let (slots, rows) = (
            find_section(input, codes::section::SLOTS)?,
            find_section(input, codes::section::ROWS)?,
        );
        let columns = F::In::columns(&Table::of(rows, F::In::schema().len()))?;
        let n_slots = slots.rows as usize;
        let keys = F::Key::columns(&Table::of(slots, F::Key::schema().len()))?;
        let ends = fixed::<4>(
            find(slots, buffer::OFFSETS).unwrap_or_default(),
            n_slots + 1,
        )?;
        let mut window = first_window::<F::Key>(input);
        let mut rows = Rows {
            columns,
            next: 0,
            end: 0,
            row: F::In::empty(),
        };
        for slot in 0..n_slots {
            F::Key::load(&mut window.key, &keys, slot);
            (window.start, window.end) = (
                bound(slots, buffer::WINDOW_START, slot),
                bound(slots, buffer::WINDOW_END, slot),
            );
            (rows.next, rows.end) = (
                u32::from_le_bytes(ends[slot]) as usize,
                u32::from_le_bytes(ends[slot + 1]) as usize,
            );
            self.out.begin(slot as u32);
            self.function.process(&window, &mut rows, &mut self.out)?;
        }
        let out = self.out.finish(n_slots);
        let origin = out
            .origin
            .map(|origin| plain(buffer::ORIGIN, u32_bytes(&origin)))
            .into_iter()
            .collect();
        Ok(vec![section(
            codes::section::ROWS,
            0,
            out.n_rows,
            origin,
            out.columns,
        )])
    }
}

fn first_window<K: Key>(input: &[Section]) -> Window<K> {
    let clock = input
        .iter()
        .find(|section| section.role == codes::section::CLOCK)
        .and_then(|clock| find(clock, buffer::CLOCK));
    let read = |i: usize| {
        clock
            .and_then(|bytes| fixed::<8>(bytes, 3).ok())
            .map_or(i64::MIN, |times| i64::from_le_bytes(times[i]))
    };
    Window {
        key: K::empty(),
        start: 0,
        end: 0,
        watermark: read(0),
        processing_time: read(2),
    }
}

/// A bound of a slot's window; windows without bounds, such as count windows, are sent none.
fn bound(slots: &Section, role: u16, slot: usize) -> i64 {
    let bytes = find(slots, role).and_then(|bytes| bytes.as_chunks::<8>().0.get(slot));
    bytes.map_or(0, |bytes| i64::from_le_bytes(*bytes))
}
