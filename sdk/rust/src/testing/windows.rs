//! Windows of a job under test: each row is kept, or folded, in the windows of its key, one after
//! the other, with nothing shared between them.
//!
//! # Source
//! Flink's `WindowOperator` with its default triggers, and its `MergingWindowSet`. If a merged
//! session is already late, the row goes to the late side output.

use super::aggregate::{Group, Spec};
use super::flow::{END, Element, Out, Row};
use super::frame::Frame;
use super::operator::{KeyBytes, added};
use crate::bindings::streamrt::plugin::types::Section;
use crate::chain::Chain;
use crate::column::{i64_bytes, plain, section, u32_bytes};
use crate::error::{Error, Result};
use std::mem::take;
use streamrt_wit::codes::{self, action, buffer, call};
use streamrt_wit::{BuiltinAggregate, Function, FunctionKind, ResultColumn, WindowAssigner};

/// A function of the plugin, ready to be called.
pub(super) type Called = (Function, Chain);

/// What is kept of the rows of a window, and what is made of them.
pub(super) enum Contents {
    Builtin(Vec<BuiltinAggregate>, Vec<ResultColumn>),
    Aggregate(Called, Option<Called>),
    Process(Called),
}

/// A window of a key.
struct Window {
    key: Frame,
    key_bytes: KeyBytes,
    start: i64,
    /// Exclusive; [`END`] for ever.
    end: i64,
    rows: Vec<Row>,
    /// For an aggregate function: the accumulator of the rows so far.
    accumulator: Option<Frame>,
    n_rows: u64,
    /// Whether its end has been reached.
    fired: bool,
}

impl Window {
    fn max_timestamp(&self) -> i64 {
        last_of(self.end)
    }
}

/// The last ms of a window with this end.
fn last_of(end: i64) -> i64 {
    if end == END { END } else { end - 1 }
}

/// The windows of all keys, in the order in which they were opened.
pub(super) struct Windows {
    assigner: WindowAssigner,
    lateness_ms: i64,
    key: Vec<String>,
    pub(super) contents: Contents,
    windows: Vec<Window>,
    /// For windows that go by the clock, the time of the clock minus one.
    watermark: i64,
    now_ms: i64,
}

impl Windows {
    pub(super) fn new(
        assigner: WindowAssigner,
        lateness_ms: u64,
        key: Vec<String>,
        contents: Contents,
    ) -> Windows {
        let lateness_ms = if by_clock(&assigner) {
            0
        } else {
            i64::try_from(lateness_ms).unwrap_or(i64::MAX)
        };
        Windows {
            assigner,
            lateness_ms,
            key,
            contents,
            windows: Vec::new(),
            watermark: i64::MIN,
            now_ms: 0,
        }
    }

    /// Processes a row.
    pub(super) fn row(&mut self, row: Row) -> Result<Vec<Out>> {
        let is_timed = !matches!(
            self.assigner,
            WindowAssigner::Global | WindowAssigner::Count { .. }
        );
        let mut out = if by_clock(&self.assigner) {
            self.advance(self.now_ms - 1)?
        } else {
            Vec::new()
        };
        let time = match row.time {
            _ if by_clock(&self.assigner) => self.now_ms,
            Some(time) => time,
            None if !is_timed => 0,
            None => {
                return Err(Error::new(
                    "a row has no event time: call watermarks in front of the window",
                ));
            }
        };
        let key = row.columns.select(self.key.iter().cloned());
        let live = self.assign(&key, time)?;
        if live.is_empty() && time.saturating_add(self.lateness_ms) <= self.watermark {
            out.push((Some(1), Element::Row(row)));
            return Ok(out);
        }
        for at in live.iter().copied() {
            self.add(at, &row)?;
        }
        // A full window is removed, but then it is the only one.
        for at in live {
            out.extend(self.on_element(at)?);
        }
        Ok(out)
    }

    /// Raises the watermark.
    pub(super) fn rise(&mut self, watermark: i64) -> Result<Vec<Out>> {
        if by_clock(&self.assigner) {
            Ok(Vec::new())
        } else {
            self.advance(watermark)
        }
    }

    /// Moves the clock.
    pub(super) fn tick(&mut self, now_ms: i64) -> Result<Vec<Out>> {
        self.now_ms = now_ms;
        if by_clock(&self.assigner) {
            self.advance(now_ms - 1)
        } else {
            Ok(Vec::new())
        }
    }

    fn advance(&mut self, watermark: i64) -> Result<Vec<Out>> {
        self.watermark = self.watermark.max(watermark);
        let counts = matches!(self.assigner, WindowAssigner::Count { .. });
        let is_due =
            |window: &Window| !counts && !window.fired && window.max_timestamp() <= self.watermark;
        let mut due: Vec<usize> = (0..self.windows.len())
            .filter(|&at| is_due(&self.windows[at]))
            .collect();
        due.sort_by_key(|&at| self.windows[at].max_timestamp());
        let mut out = Vec::new();
        for at in due {
            self.windows[at].fired = true;
            out.extend(self.fire(at)?);
        }
        let (watermark, lateness_ms) = (self.watermark, self.lateness_ms);
        self.windows.retain(|window| {
            counts || window.max_timestamp().saturating_add(lateness_ms) > watermark
        });
        Ok(out)
    }

    fn is_gone(&self, end: i64) -> bool {
        last_of(end).saturating_add(self.lateness_ms) <= self.watermark
    }

    /// The windows of a row that are still open; those that are missing are opened.
    fn assign(&mut self, key: &Frame, time: i64) -> Result<Vec<usize>> {
        match self.assigner {
            WindowAssigner::Tumbling {
                size_ms, offset_ms, ..
            } => Ok(self.sliding(key, time, (size_ms, size_ms, offset_ms))),
            WindowAssigner::Sliding {
                size_ms,
                slide_ms,
                offset_ms,
                ..
            } => Ok(self.sliding(key, time, (size_ms, slide_ms, offset_ms))),
            WindowAssigner::Session { gap_ms, .. } => Ok(self
                .session(key, (time, time.saturating_add(gap_ms)))?
                .into_iter()
                .collect()),
            WindowAssigner::Global | WindowAssigner::Count { .. } => {
                Ok(vec![self.window(key, (i64::MIN, END))])
            }
        }
    }

    fn sliding(
        &mut self,
        key: &Frame,
        time: i64,
        (size, slide, offset): (i64, i64, i64),
    ) -> Vec<usize> {
        let last = time - (time - offset).rem_euclid(slide);
        let starts = (0..)
            .map(|n| last - n * slide)
            .take_while(|start| *start > time - size);
        let live: Vec<(i64, i64)> = starts
            .map(|start| (start, start + size))
            .filter(|(_, end)| !self.is_gone(*end))
            .collect();
        live.into_iter()
            .map(|bounds| self.window(key, bounds))
            .collect()
    }

    fn window(&mut self, key: &Frame, (start, end): (i64, i64)) -> usize {
        let key_bytes = key.bytes();
        let same = |window: &Window| {
            window.key_bytes == key_bytes && (window.start, window.end) == (start, end)
        };
        if let Some(at) = self.windows.iter().position(same) {
            return at;
        }
        let fired = last_of(end) <= self.watermark;
        let key = key.clone();
        self.windows.push(Window {
            key,
            key_bytes,
            start,
            end,
            rows: Vec::new(),
            accumulator: None,
            n_rows: 0,
            fired,
        });
        self.windows.len() - 1
    }

    /// Merges a new session with those that it touches; `None` if the result is gone already.
    fn session(&mut self, key: &Frame, opened: (i64, i64)) -> Result<Option<usize>> {
        let key_bytes = key.bytes();
        let touches = |window: &Window| {
            window.key_bytes == key_bytes && window.start <= opened.1 && window.end >= opened.0
        };
        let touched: Vec<usize> = (0..self.windows.len())
            .filter(|&at| touches(&self.windows[at]))
            .collect();
        let cover = |(start, end): (i64, i64), &at: &usize| {
            (
                start.min(self.windows[at].start),
                end.max(self.windows[at].end),
            )
        };
        let merged = touched.iter().fold(opened, cover);
        if self.is_gone(merged.1) {
            return Ok(None);
        }
        let Some((&kept, others)) = touched.split_first() else {
            return Ok(Some(self.window(key, opened)));
        };
        // Removed from the back, merged from the front.
        let mut others: Vec<Window> = others
            .iter()
            .rev()
            .map(|&at| self.windows.remove(at))
            .collect();
        others.reverse();
        self.merge(kept, others)?;
        let window = &mut self.windows[kept];
        window.fired = if window.end < merged.1 {
            last_of(merged.1) <= self.watermark
        } else {
            window.fired
        };
        (window.start, window.end) = merged;
        Ok(Some(kept))
    }

    fn merge(&mut self, kept: usize, others: Vec<Window>) -> Result<()> {
        for other in others {
            let window = &mut self.windows[kept];
            window.n_rows += other.n_rows;
            window.rows.extend(other.rows);
            window.accumulator = match (
                take(&mut window.accumulator),
                other.accumulator,
                &mut self.contents,
            ) {
                (Some(ours), Some(theirs), Contents::Aggregate(called, _)) => {
                    Some(merged(called, &ours, &theirs)?)
                }
                (ours, theirs, _) => ours.or(theirs),
            };
        }
        Ok(())
    }

    fn add(&mut self, at: usize, row: &Row) -> Result<()> {
        let window = &mut self.windows[at];
        window.n_rows += 1;
        let Contents::Aggregate((function, chain), _) = &mut self.contents else {
            window.rows.push(row.clone());
            return Ok(());
        };
        window.accumulator = Some(accumulated(
            function,
            chain,
            window.accumulator.take(),
            row,
        )?);
        Ok(())
    }

    /// The default triggers: a window whose end has passed fires with each row, a full one fires
    /// and is removed.
    fn on_element(&mut self, at: usize) -> Result<Vec<Out>> {
        match self.assigner {
            WindowAssigner::Count { rows } if self.windows[at].n_rows >= rows => {
                let out = self.fire(at)?;
                self.windows.remove(at);
                Ok(out)
            }
            WindowAssigner::Count { .. } => Ok(Vec::new()),
            _ if self.windows[at].max_timestamp() <= self.watermark => self.fire(at),
            _ => Ok(Vec::new()),
        }
    }

    fn fire(&mut self, at: usize) -> Result<Vec<Out>> {
        let window = &self.windows[at];
        let clock = [self.watermark, self.watermark, self.now_ms];
        let results = match &mut self.contents {
            Contents::Builtin(aggregates, columns) => builtin(window, aggregates, columns)?,
            Contents::Process(process) => {
                let rows = window
                    .rows
                    .iter()
                    .map(|row| read_by(&process.0, &row.columns))
                    .collect();
                processed(process, window, rows, clock)?
            }
            Contents::Aggregate((function, chain), then) => {
                let accumulator = window
                    .accumulator
                    .clone()
                    .ok_or_else(|| Error::host("a window without rows does not fire"))?;
                let result = result_of(function, chain, accumulator)?;
                match then {
                    None => result,
                    Some(then) => {
                        let row = read_by(&then.0, &result);
                        processed(then, window, vec![row], clock)?
                    }
                }
            }
        };
        let time = Some(window.max_timestamp());
        let row = |i| {
            (
                Some(0),
                Element::Row(Row {
                    columns: results.row(i),
                    time,
                    split: None,
                }),
            )
        };
        Ok((0..results.n_rows).map(row).collect())
    }
}

fn by_clock(assigner: &WindowAssigner) -> bool {
    match assigner {
        WindowAssigner::Tumbling {
            processing_time, ..
        }
        | WindowAssigner::Sliding {
            processing_time, ..
        }
        | WindowAssigner::Session {
            processing_time, ..
        } => *processing_time,
        WindowAssigner::Global | WindowAssigner::Count { .. } => false,
    }
}

/// The columns that a function reads.
fn read_by(function: &Function, row: &Frame) -> Frame {
    row.select(function.input.iter().map(|field| field.name.clone()))
}

/// A buffer `action` that marks `n` accumulators as present.
fn there(n: usize) -> crate::bindings::streamrt::plugin::types::Buffer {
    plain(buffer::ACTION, vec![action::SET; n])
}

fn accumulator_schema(function: &Function) -> Result<streamrt_wit::Schema> {
    function
        .accumulator
        .clone()
        .ok_or_else(|| Error::host(format!("{}: it declares no accumulator", function.name)))
}

fn accumulator_of(function: &Function, answer: &[Section]) -> Result<Frame> {
    let state = answer
        .iter()
        .find(|section| section.role == codes::section::STATE);
    let state =
        state.ok_or_else(|| Error::host(format!("{}: it gave no accumulator", function.name)))?;
    Ok(Frame::received(state, &accumulator_schema(function)?))
}

/// An accumulator, or none yet, with a row added.
fn accumulated(
    function: &Function,
    chain: &mut Chain,
    before: Option<Frame>,
    row: &Row,
) -> Result<Frame> {
    let sent = read_by(function, &row.columns);
    let rows = section(
        codes::section::ROWS,
        0,
        1,
        vec![plain(buffer::SLOT, u32_bytes(&[0]))],
        sent.columns,
    );
    let actions = plain(buffer::ACTION, vec![u8::from(before.is_some())]);
    let zeros = Frame::zeros(&accumulator_schema(function)?, 1);
    let state = section(
        codes::section::STATE,
        0,
        1,
        vec![actions],
        before.unwrap_or(zeros).columns,
    );
    accumulator_of(function, &chain.invoke(call::ACCUMULATE, &[rows, state])?)
}

/// Two accumulators merged into one.
fn merged((function, chain): &mut Called, ours: &Frame, theirs: &Frame) -> Result<Frame> {
    let both = Frame::concat(&ours.schema, &[ours, theirs]);
    let slots = plain(buffer::SLOT, u32_bytes(&[0, 0]));
    let state = section(
        codes::section::STATE,
        0,
        2,
        vec![slots, there(2)],
        both.columns,
    );
    accumulator_of(function, &chain.invoke(call::MERGE, &[state])?)
}

/// The result of an accumulator; that of a reduce function is the result.
fn result_of(function: &Function, chain: &mut Chain, accumulator: Frame) -> Result<Frame> {
    if function.kind == FunctionKind::Reduce {
        return Ok(accumulator);
    }
    let state = section(
        codes::section::STATE,
        0,
        1,
        vec![there(1)],
        accumulator.columns,
    );
    let answer = chain.invoke(call::RESULT, &[state])?;
    Ok(Frame::received(
        &answer[0],
        added(&function.outputs[0].columns),
    ))
}

fn builtin(
    window: &Window,
    aggregates: &[BuiltinAggregate],
    columns: &[ResultColumn],
) -> Result<Frame> {
    let mut group = Group::new(aggregates.len());
    window
        .rows
        .iter()
        .try_for_each(|row| group.add(aggregates, row))?;
    let input = window
        .rows
        .first()
        .map(|row| row.columns.schema.clone())
        .unwrap_or_default();
    Ok(group.result(
        &Spec {
            aggregates,
            columns,
            input: &input,
        },
        &window.key,
        (window.start, window.end),
    ))
}

/// Hands rows of a window to a window function.
fn processed(
    (function, chain): &mut Called,
    window: &Window,
    rows: Vec<Frame>,
    clock: [i64; 3],
) -> Result<Frame> {
    let schema = rows
        .first()
        .map(|row| row.schema.clone())
        .unwrap_or_default();
    let all = Frame::concat(&schema, &rows.iter().collect::<Vec<_>>());
    let key = window.key.select(
        function
            .key
            .iter()
            .flatten()
            .map(|field| field.name.clone()),
    );
    let bounds = [
        (buffer::WINDOW_START, window.start),
        (buffer::WINDOW_END, window.end),
    ];
    let bounds = bounds.map(|(role, time)| plain(role, i64_bytes(&[time])));
    let buffers = bounds
        .into_iter()
        .chain([plain(buffer::OFFSETS, u32_bytes(&[0, all.n_rows as u32]))])
        .collect();
    let input = [
        section(codes::section::SLOTS, 0, 1, buffers, key.columns),
        section(codes::section::ROWS, 0, all.n_rows, Vec::new(), all.columns),
        section(
            codes::section::CLOCK,
            0,
            1,
            vec![plain(buffer::CLOCK, i64_bytes(&clock))],
            Vec::new(),
        ),
    ];
    let answer = chain.invoke(call::WINDOW, &input)?;
    Ok(Frame::received(
        &answer[0],
        added(&function.outputs[0].columns),
    ))
}
