//! What flows between the operators of a job under test, and how time passes along: the valve in
//! front of each operator, and the operator that gives rows their event time.

use super::frame::Frame;
use super::operator::Sent;
use crate::chain::{Chain, Maker};
use crate::column::section;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use streamrt_wit::codes::{self, call};
use streamrt_wit::{Function, Generator, TimeSource, TimeUnit};

/// The watermark after which nothing follows.
pub(super) const END: i64 = i64::MAX;

/// A row on its way.
#[derive(Clone)]
pub(super) struct Row {
    /// One row.
    pub(super) columns: Frame,
    /// In ms; `None` as long as nothing has assigned it.
    pub(super) time: Option<i64>,
    /// The source that it comes from, as long as it is the source's row: watermarks are generated
    /// for each by itself.
    pub(super) split: Option<u32>,
}

/// What passes along an edge.
#[derive(Clone)]
pub(super) enum Element {
    Row(Row),
    Watermark(i64),
    /// Whether nothing is to be expected until further notice.
    Idle(bool),
}

/// What an operator sends: to one port, or to all of them.
pub(super) type Out = (Option<u16>, Element);

/// The rows of a call as elements.
pub(super) fn rows_of(sent: Vec<(u16, Sent)>, split: Option<u32>) -> Vec<Out> {
    let mut out = Vec::new();
    for (port, Sent { rows, times }) in sent {
        let row = |(i, time)| Row {
            columns: rows.row(i),
            time,
            split,
        };
        out.extend(
            times
                .into_iter()
                .enumerate()
                .map(|at| (Some(port), Element::Row(row(at)))),
        );
    }
    out
}

#[derive(Clone, Copy)]
struct Edge {
    watermark: i64,
    idle: bool,
}

/// The watermarks of the edges into an operator, as one. The semantics are those of Flink's
/// `StatusWatermarkValve`: an edge that is idle, or has ended, leaves the minimum; one that comes
/// back takes part again once it has reached what went out meanwhile.
pub(super) struct Valve {
    edges: Vec<Edge>,
    pub(super) watermark: i64,
    idle: bool,
}

impl Valve {
    pub(super) fn new(n_edges: usize) -> Valve {
        Valve {
            edges: vec![
                Edge {
                    watermark: i64::MIN,
                    idle: false
                };
                n_edges
            ],
            watermark: i64::MIN,
            idle: false,
        }
    }

    pub(super) fn watermark(&mut self, edge: usize, watermark: i64) -> Vec<Element> {
        let edge = &mut self.edges[edge];
        edge.watermark = edge.watermark.max(watermark);
        self.combined()
    }

    pub(super) fn idle(&mut self, edge: usize, idle: bool) -> Vec<Element> {
        self.edges[edge].idle = idle;
        self.combined()
    }

    /// What is new downstream of the valve.
    fn combined(&mut self) -> Vec<Element> {
        let open = || self.edges.iter().filter(|edge| edge.watermark != END);
        let active = || open().filter(|edge| !edge.idle);
        let idle = open().next().is_some() && active().next().is_none();
        let watermark = match () {
            () if open().next().is_none() => Some(END),
            () if idle => open().map(|edge| edge.watermark).max(),
            () => active()
                .map(|edge| edge.watermark)
                .filter(|watermark| *watermark >= self.watermark)
                .min(),
        };
        self.news(
            watermark.filter(|watermark| *watermark > self.watermark),
            idle,
        )
    }

    /// Active comes before a watermark, idle after it.
    fn news(&mut self, rises: Option<i64>, idle: bool) -> Vec<Element> {
        let changes = (idle != self.idle).then_some(Element::Idle(idle));
        (self.watermark, self.idle) = (rises.unwrap_or(self.watermark), idle);
        let rises = rises.map(Element::Watermark);
        let news = if idle {
            [rises, changes]
        } else {
            [changes, rises]
        };
        news.into_iter().flatten().collect()
    }
}

/// The generator of one source.
struct Split {
    watermark: i64,
    idle: bool,
    last_row_ms: i64,
}

/// Gives rows their event time, and raises the watermark right after the row that raises it.
pub(super) struct Timestamps {
    time: TimeSource,
    generator: Generator,
    idle_ms: Option<i64>,
    pub(super) function: Option<(Function, Chain)>,
    splits: BTreeMap<Option<u32>, Split>,
    watermark: i64,
    idle: bool,
}

impl Timestamps {
    pub(super) fn new(
        time: TimeSource,
        generator: Generator,
        idle_ms: Option<u64>,
        function: Option<(Function, Maker)>,
    ) -> Result<Self> {
        let function = function
            .map(|(function, maker)| {
                Ok::<_, Error>((function.clone(), super::stateless(function, maker)?))
            })
            .transpose()?;
        let idle_ms = idle_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        Ok(Timestamps {
            time,
            generator,
            idle_ms,
            function,
            splits: BTreeMap::new(),
            watermark: i64::MIN,
            idle: false,
        })
    }

    pub(super) fn watermark(&self) -> i64 {
        self.watermark
    }

    pub(super) fn row(&mut self, row: Row, now_ms: i64) -> Result<Vec<Element>> {
        let (time, raised) = self.time_of(&row.columns)?;
        let split = self.splits.entry(row.split).or_insert(Split {
            watermark: i64::MIN,
            idle: false,
            last_row_ms: now_ms,
        });
        split.watermark = raised.map_or(split.watermark, |raised| split.watermark.max(raised));
        (split.idle, split.last_row_ms) = (false, now_ms);
        let mut out = self.status();
        out.push(Element::Row(Row {
            time: Some(time),
            ..row
        }));
        out.extend(self.rise());
        Ok(out)
    }

    /// The time of a row, and the watermark that it raises.
    fn time_of(&mut self, row: &Frame) -> Result<(i64, Option<i64>)> {
        let (time, raised) = match (&self.time, &mut self.function) {
            (TimeSource::Function { .. }, Some((function, chain))) => {
                let sent = row.select(function.input.iter().map(|field| field.name.clone()));
                let answer = chain.invoke(
                    call::PROCESS,
                    &[section(
                        codes::section::ROWS,
                        0,
                        1,
                        Vec::new(),
                        sent.columns,
                    )],
                )?;
                let made = answer.first().map(|answer| {
                    Frame::received(answer, super::operator::added(&function.outputs[0].columns))
                });
                let made = made.ok_or_else(|| Error::host("a timestamps function gave nothing"))?;
                let raised = if made.schema.len() > 1 {
                    made.values::<Option<i64>>("watermark")?[0]
                } else {
                    None
                };
                (made.values::<i64>("time")?[0], raised)
            }
            (TimeSource::Column { column, unit }, _) => {
                (in_ms(row.values::<i64>(column)?[0], *unit), None)
            }
            (TimeSource::Function { .. }, None) => {
                return Err(Error::host("a timestamps function comes with its code"));
            }
        };
        match self.generator {
            Generator::Punctuated => Ok((time, raised)),
            Generator::Bounded { bound_ms } => {
                let bound_ms = i64::try_from(bound_ms).unwrap_or(i64::MAX);
                Ok((time, Some(time.saturating_sub(bound_ms).saturating_sub(1))))
            }
        }
    }

    /// Finds the sources that have been silent for too long.
    pub(super) fn tick(&mut self, now_ms: i64) -> Vec<Element> {
        let Some(idle_ms) = self.idle_ms else {
            return Vec::new();
        };
        self.splits
            .values_mut()
            .for_each(|split| split.idle |= split.last_row_ms.saturating_add(idle_ms) <= now_ms);
        let mut out = self.rise();
        out.extend(self.status());
        out
    }

    /// Watermarks from upstream are generated anew here; the last one is not.
    pub(super) fn upstream(&mut self, watermark: i64) -> Vec<Element> {
        if watermark == END {
            vec![Element::Watermark(END)]
        } else {
            Vec::new()
        }
    }

    fn status(&mut self) -> Vec<Element> {
        let idle = !self.splits.is_empty() && self.splits.values().all(|split| split.idle);
        let changes = std::mem::replace(&mut self.idle, idle) != idle;
        changes.then_some(Element::Idle(idle)).into_iter().collect()
    }

    fn rise(&mut self) -> Vec<Element> {
        let active = self
            .splits
            .values()
            .filter(|split| !split.idle)
            .map(|split| split.watermark)
            .min();
        let watermark = active.or_else(|| self.splits.values().map(|split| split.watermark).max());
        let rises = watermark.filter(|watermark| *watermark > self.watermark);
        self.watermark = rises.unwrap_or(self.watermark);
        rises.map(Element::Watermark).into_iter().collect()
    }
}

/// Rounds down, also before 1970.
fn in_ms(time: i64, unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Seconds => time.saturating_mul(1000),
        TimeUnit::Milliseconds => time,
        TimeUnit::Microseconds => time.div_euclid(1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(elements: Vec<Element>) -> String {
        let word = |element: &Element| match element {
            Element::Row(row) => format!("row {:?}", row.time),
            Element::Watermark(END) => "end".to_owned(),
            Element::Watermark(watermark) => watermark.to_string(),
            Element::Idle(idle) => if *idle { "idle" } else { "active" }.to_owned(),
        };
        elements.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_valve_gives_the_least_of_its_edges() {
        let mut valve = Valve::new(2);
        assert_eq!(words(valve.watermark(0, 5)), "");
        assert_eq!(words(valve.watermark(1, 3)), "3");
        assert_eq!(words(valve.watermark(1, 9)), "5");
        assert_eq!(words(valve.idle(0, true)), "9");
        assert_eq!(words(valve.idle(1, true)), "idle");
        // The first one is below what went out: it does not hold the other back.
        assert_eq!(words(valve.idle(0, false)), "active");
        assert_eq!(
            (words(valve.watermark(0, 8)), words(valve.idle(1, false))),
            (String::new(), String::new())
        );
        assert_eq!(
            (words(valve.watermark(1, 12)), words(valve.watermark(0, 11))),
            ("12".to_owned(), String::new())
        );
        assert_eq!(
            (
                words(valve.watermark(0, END)),
                words(valve.watermark(1, END))
            ),
            (String::new(), "end".to_owned())
        );
    }

    #[test]
    fn times_before_1970_are_cut_downwards() {
        assert_eq!(
            [
                in_ms(-1, TimeUnit::Microseconds),
                in_ms(-1, TimeUnit::Seconds),
                in_ms(7, TimeUnit::Milliseconds)
            ],
            [-1, -1000, 7]
        );
    }
}
