//! A whole job under test: every operator of its graph, as one subtask runs them, a row at a time.
//!
//! 1. A row goes from its source along every edge, depth first, as far as it goes; then the next
//!    one is pushed.
//! 2. What an operator sends stands in the order of Flink: a row, then the watermark that it
//!    raises; results of a window, then the watermark that fired it.
//! 3. A kill drops all code and runs the job function again. What survives is what a host keeps:
//!    state, timers, windows, watermarks.
//!
//! Invariant: nothing here depends on a real clock, on threads or on batches, so a test gives the
//! same each time.

use super::aggregate::Running;
use super::flow::{END, Element, Out, Row, Timestamps, Valve, rows_of};
use super::frame::{Frame, described};
use super::operator::Operator;
use super::windows::{Called, Contents, Windows};
use super::{key_columns, stateless, uids};
use crate::chain::Maker;
use crate::env::{Built, Env};
use crate::error::{Error, Outcome, Result};
use crate::glue::build_job;
use crate::record::Record;
use std::collections::HashSet;
use streamrt_wit::{
    Body, Function, FunctionKind, Node, OutputColumns, Plan, TimeSource, WindowContents,
};

/// Builds a job for a test of the whole of it: rows are pushed into its sources, and what comes out
/// at its sinks are vectors. Sources and sinks themselves are not run: no file is read or written,
/// and a sink of your own gets no calls, for which there is [`sink`](super::sink).
///
/// It runs as one subtask. With more of them, or over several sources, the order of rows of
/// different keys is not known.
///
/// ```
/// use streamrt_sdk::prelude::*;
/// use streamrt_sdk::testing;
///
/// #[derive(Record, Clone, Debug, PartialEq)]
/// struct Reading { sensor: String, time: i64, celsius: f64 }
///
/// #[derive(Record, Clone, Debug, PartialEq)]
/// struct Hottest { sensor: String, window_end: i64, celsius: f64 }
///
/// fn job(env: &mut Env) -> Result<()> {
///     env.source("readings", File::csv::<Reading>(env.arg("input")?))
///         .watermarks(Watermarks::bounded(Reading::TIME, secs(2)))
///         .key_by(Reading::SENSOR)
///         .window(Tumbling::of(minutes(1)))
///         .aggregate::<Hottest>("hottest", [max(Reading::CELSIUS).to("celsius")])
///         .sink("out", File::json("out"));
///     Ok(())
/// }
///
/// let mut job = testing::job(job, ["--input", "readings.csv"]);
/// let reading = |time, celsius| Reading { sensor: "a".into(), time, celsius };
/// job.push("readings", [reading(0, 20.0), reading(59_999, 21.0)]);
/// job.kill();
/// job.push("readings", [reading(61_999, 5.0)]);
/// assert_eq!(job.output::<Hottest>("out"), []);
/// job.push("readings", [reading(62_000, 6.0)]);
/// assert_eq!(job.output::<Hottest>("out"), [Hottest { sensor: "a".into(), window_end: 60_000, celsius: 21.0 }]);
/// job.finish();
/// assert_eq!(job.output::<Hottest>("out"), [Hottest { sensor: "a".into(), window_end: 120_000, celsius: 6.0 }]);
/// ```
///
/// # Panics
/// If the job does not build, with the sentence that the user would see.
#[track_caller]
pub fn job<O: Outcome + 'static>(
    job: fn(&mut Env) -> O,
    args: impl IntoIterator<Item = impl Into<String>>,
) -> Job {
    let args: Vec<String> = args.into_iter().map(Into::into).collect();
    match Job::new(Box::new(move || build_job(job, &args))) {
        Ok(job) => job,
        Err(error) => panic!("the job does not build: {error}"),
    }
}

/// A job under test. Its times are virtual: watermarks follow from the rows that are pushed, and
/// the clock stands still at 0 until the test moves it.
pub struct Job {
    build: Box<dyn Fn() -> Result<Built>>,
    plan: Plan,
    operators: Vec<JobOperator>,
    now_ms: i64,
    kills: bool,
}

/// An operator of the job.
struct JobOperator {
    node: Node,
    valve: Valve,
    work: Work,
    /// For a sink: the rows that it has received.
    rows: Vec<Frame>,
}

enum Work {
    /// A source, whose rows the test pushes, or a sink, whose rows it takes.
    Edge,
    Timestamps(Timestamps),
    Function(Box<Operator>),
    Aggregate(Running),
    Windows(Windows),
}

/// The functions of a built job, each to be taken once.
struct Functions(Built);

impl Functions {
    fn take(&mut self, number: u32) -> Result<(Function, Maker)> {
        let maker = self
            .0
            .makers
            .get_mut(number as usize)
            .and_then(Option::take);
        let maker = maker.ok_or_else(|| {
            Error::host(format!("the function {number} is called by two operators"))
        })?;
        Ok((self.0.plan.functions[number as usize].clone(), maker))
    }

    fn called(&mut self, number: u32) -> Result<Called> {
        let (function, maker) = self.take(number)?;
        Ok((function.clone(), stateless(function, maker)?))
    }

    fn contents(&mut self, contents: &WindowContents) -> Result<Contents> {
        Ok(match contents {
            WindowContents::Builtin {
                aggregates,
                columns,
            } => Contents::Builtin(aggregates.clone(), columns.clone()),
            WindowContents::Aggregate { function, then } => Contents::Aggregate(
                self.called(*function)?,
                then.map(|then| self.called(then)).transpose()?,
            ),
            WindowContents::Process { function } => Contents::Process(self.called(*function)?),
        })
    }

    fn work(&mut self, node: &Node) -> Result<Work> {
        let key = key_columns(node).unwrap_or_default();
        Ok(match &node.body {
            Body::Source { .. } | Body::Sink { .. } | Body::FunctionSink { .. } => Work::Edge,
            Body::Timestamps {
                time,
                generator,
                idle_ms,
            } => {
                let function = match time {
                    TimeSource::Function { function } => Some(self.take(*function)?),
                    TimeSource::Column { .. } => None,
                };
                Work::Timestamps(Timestamps::new(
                    time.clone(),
                    generator.clone(),
                    *idle_ms,
                    function,
                )?)
            }
            Body::Function { function } => Work::Function(Box::new(Operator::new(
                key_columns(node),
                self.take(*function)?,
                None,
            ))),
            Body::Aggregate {
                aggregates,
                columns,
            } => Work::Aggregate(Running::new(aggregates.clone(), columns.clone(), key)),
            Body::Window {
                assigner,
                allowed_lateness_ms,
                contents,
            } => Work::Windows(Windows::new(
                assigner.clone(),
                *allowed_lateness_ms,
                key,
                self.contents(contents)?,
            )),
        })
    }

    /// Gives an operator new code, which knows nothing but what is kept for it.
    fn replace(&mut self, node: &Node, work: &mut Work) -> Result<()> {
        match (&node.body, work) {
            (Body::Function { function }, Work::Function(operator)) => {
                operator.replace_code(self.take(*function)?.1)
            }
            (
                Body::Timestamps {
                    time: TimeSource::Function { function },
                    ..
                },
                Work::Timestamps(timestamps),
            ) => {
                timestamps.function = Some(self.called(*function)?);
            }
            (Body::Window { contents, .. }, Work::Windows(windows)) => {
                windows.contents = self.contents(contents)?
            }
            _ => {}
        }
        Ok(())
    }
}

impl JobOperator {
    /// What an operator sends when an element comes along its edge `edge`.
    fn take(&mut self, edge: usize, element: Element, now_ms: i64) -> Result<Vec<Out>> {
        let events = match element {
            Element::Row(row) => return self.row(edge, row, now_ms),
            Element::Watermark(watermark) => self.valve.watermark(edge, watermark),
            Element::Idle(idle) => self.valve.idle(edge, idle),
        };
        let mut out = Vec::new();
        for event in events {
            match (event, &mut self.work) {
                (Element::Watermark(watermark), Work::Timestamps(timestamps)) => {
                    out.extend(to_all(timestamps.upstream(watermark)))
                }
                (Element::Watermark(watermark), _) => {
                    out.extend(self.rise(watermark)?);
                    out.push((None, Element::Watermark(watermark)));
                }
                (other, _) => out.push((None, other)),
            }
        }
        Ok(out)
    }

    fn row(&mut self, edge: usize, row: Row, now_ms: i64) -> Result<Vec<Out>> {
        let split = row.split;
        match &mut self.work {
            Work::Edge if self.node.body.is_sink() => {
                self.rows.push(row.columns);
                Ok(Vec::new())
            }
            Work::Edge => Ok(vec![(Some(0), Element::Row(row))]),
            Work::Timestamps(timestamps) => timestamps.row(row, now_ms).map(to_all),
            Work::Function(operator) => {
                match self.node.inputs[edge].input {
                    0 => operator.row(row.columns, row.time)?,
                    _ => operator.second_row(row.columns, row.time)?,
                }
                Ok(rows_of(operator.sent(), split))
            }
            Work::Aggregate(running) => Ok(vec![(Some(0), Element::Row(running.row(row)?))]),
            Work::Windows(windows) => windows.row(row),
        }
    }

    /// Fires what a watermark makes due.
    fn rise(&mut self, watermark: i64) -> Result<Vec<Out>> {
        match &mut self.work {
            Work::Function(operator) => {
                operator.rise(watermark)?;
                Ok(rows_of(operator.sent(), None))
            }
            Work::Windows(windows) => windows.rise(watermark),
            _ => Ok(Vec::new()),
        }
    }

    /// Fires what the clock makes due.
    fn tick(&mut self, now_ms: i64) -> Result<Vec<Out>> {
        match &mut self.work {
            Work::Function(operator) => {
                operator.tick(now_ms)?;
                Ok(rows_of(operator.sent(), None))
            }
            Work::Windows(windows) => windows.tick(now_ms),
            Work::Timestamps(timestamps) => Ok(to_all(timestamps.tick(now_ms))),
            _ => Ok(Vec::new()),
        }
    }
}

/// Elements for the main output, or for all of them.
fn to_all(elements: Vec<Element>) -> Vec<Out> {
    let port = |element: &Element| matches!(element, Element::Row(_)).then_some(0);
    elements
        .into_iter()
        .map(|element| (port(&element), element))
        .collect()
}

impl Job {
    fn new(build: Box<dyn Fn() -> Result<Built>>) -> Result<Job> {
        let mut functions = Functions(build()?);
        let plan = functions.0.plan.clone();
        let operator = |node: &Node| {
            let (valve, work) = (Valve::new(node.inputs.len()), functions.work(node)?);
            Ok(JobOperator {
                node: node.clone(),
                valve,
                work,
                rows: Vec::new(),
            })
        };
        let operators = plan.nodes.iter().map(operator).collect::<Result<_>>()?;
        Ok(Job {
            build,
            plan,
            operators,
            now_ms: 0,
            kills: false,
        })
    }

    /// Pushes rows into the source `uid`, one after the other, each as far as it goes.
    ///
    /// # Panics
    /// If there is no such source, its rows are other records, or a function fails.
    #[track_caller]
    pub fn push<T: Record>(&mut self, uid: &str, rows: impl IntoIterator<Item = T>) {
        if let Err(error) = self.try_push(uid, rows) {
            panic!("{error}");
        }
    }

    /// Like [`Job::push`], for rows that a function refuses. What came before the refused row stays
    /// done.
    ///
    /// # Errors
    /// The function's own error, with the uid of its operator in front.
    #[track_caller]
    pub fn try_push<T: Record>(
        &mut self,
        uid: &str,
        rows: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let source = self.source(uid);
        let Body::Source { schema, .. } = &self.plan.nodes[source].body else {
            return Ok(());
        };
        let (given, wanted) = (described(&T::schema()), described(schema));
        assert!(
            T::schema() == *schema,
            "the rows of the source {uid} are ({wanted}), not ({given})"
        );
        for row in rows {
            let row = Row {
                columns: Frame::of(std::slice::from_ref(&row)),
                time: None,
                split: Some(source as u32),
            };
            self.before_call()?;
            self.send(source, vec![(Some(0), Element::Row(row))])?;
        }
        Ok(())
    }

    /// Moves the clock to the given time in ms: timers and windows of processing time fire, and
    /// sources that are silent for too long turn idle.
    ///
    /// # Panics
    /// If a function fails.
    #[track_caller]
    pub fn processing_time(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        for operator in 0..self.operators.len() {
            if let Err(error) = self.tick(operator) {
                panic!("{error}");
            }
        }
    }

    fn tick(&mut self, operator: usize) -> Result<()> {
        self.before_call()?;
        let now_ms = self.now_ms;
        let out = self.operators[operator]
            .tick(now_ms)
            .map_err(|error| self.at(operator, error))?;
        self.send(operator, out)
    }

    /// Ends the source `uid`: what waits for its watermark alone fires.
    ///
    /// # Panics
    /// If there is no such source, or a function fails.
    #[track_caller]
    pub fn end(&mut self, uid: &str) {
        let source = self.source(uid);
        if let Err(error) = self.send(source, vec![(None, Element::Watermark(END))]) {
            panic!("{error}");
        }
    }

    /// Ends all sources: every window and event-time timer that is left fires.
    ///
    /// # Panics
    /// If a function fails.
    #[track_caller]
    pub fn finish(&mut self) {
        let sources: Vec<String> = self
            .plan
            .nodes
            .iter()
            .filter(|node| node.inputs.is_empty())
            .map(|node| node.uid.clone())
            .collect();
        for uid in sources {
            self.end(&uid);
        }
    }

    /// Drops all code with what it has in its own memory, as a crash does, and continues with new
    /// code and the state that the host keeps.
    ///
    /// # Panics
    /// If the job does not build the same way again.
    #[track_caller]
    pub fn kill(&mut self) {
        if let Err(error) = self.restart() {
            panic!("{error}");
        }
    }

    /// From now on, kills the job before each row, and before each operator to which the clock is
    /// passed.
    pub fn kill_always(&mut self) {
        self.kills = true;
    }

    /// What the sink `uid` has received since the last look.
    ///
    /// # Panics
    /// If there is no such sink, or `T` is not the record of its rows.
    #[track_caller]
    pub fn output<T: Record>(&mut self, uid: &str) -> Vec<T> {
        let Some(sink) = self
            .operators
            .iter_mut()
            .find(|operator| operator.node.uid == uid && operator.node.body.is_sink())
        else {
            panic!(
                "the job has no sink {uid}; it has {}",
                uids(&self.plan, |node| node.body.is_sink())
            );
        };
        let hidden = hidden_columns(&self.plan);
        let mut records = Vec::new();
        for row in std::mem::take(&mut sink.rows) {
            let shown = row
                .schema
                .iter()
                .map(|field| field.name.clone())
                .filter(|name| !hidden.contains(name.as_str()))
                .collect::<Vec<_>>();
            records.extend(row.select(shown.into_iter()).typed::<T>());
        }
        records
    }

    /// The watermark after the operator `uid`, in ms: `i64::MIN` before the first one, `i64::MAX`
    /// at the end.
    ///
    /// # Panics
    /// If there is no such operator.
    #[track_caller]
    pub fn watermark(&self, uid: &str) -> i64 {
        match self
            .operators
            .iter()
            .find(|operator| operator.node.uid == uid)
        {
            Some(JobOperator {
                work: Work::Timestamps(timestamps),
                valve,
                ..
            }) => timestamps.watermark().max(ended(valve.watermark)),
            Some(operator) => operator.valve.watermark,
            None => panic!(
                "the job has no operator {uid}; it has {}",
                uids(&self.plan, |_| true)
            ),
        }
    }

    #[track_caller]
    fn source(&self, uid: &str) -> usize {
        match self
            .plan
            .nodes
            .iter()
            .position(|node| node.uid == uid && matches!(node.body, Body::Source { .. }))
        {
            Some(source) => source,
            None => panic!(
                "the job has no source {uid}; it has {}",
                uids(&self.plan, |node| node.inputs.is_empty())
            ),
        }
    }

    fn before_call(&mut self) -> Result<()> {
        if self.kills { self.restart() } else { Ok(()) }
    }

    fn restart(&mut self) -> Result<()> {
        let mut functions = Functions((self.build)()?);
        if functions.0.plan != self.plan {
            return Err(Error::job(
                "the job function builds another plan when it runs a second time with the same arguments",
            ));
        }
        let mut operators = self.operators.iter_mut();
        operators.try_for_each(|operator| functions.replace(&operator.node, &mut operator.work))
    }

    /// Sends what an operator gave to the operators that read it, each as far as it goes.
    fn send(&mut self, from: usize, out: Vec<Out>) -> Result<()> {
        for (port, element) in out {
            for (to, edge) in self.readers(from, port) {
                let now_ms = self.now_ms;
                let sent = self.operators[to]
                    .take(edge, element.clone(), now_ms)
                    .map_err(|error| self.at(to, error))?;
                self.send(to, sent)?;
            }
        }
        Ok(())
    }

    /// The operators that read a port of `from`, or any of its ports, with the number of the edge
    /// at each.
    fn readers(&self, from: usize, port: Option<u16>) -> Vec<(usize, usize)> {
        let from = self.plan.nodes[from].id;
        let edges = self
            .plan
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(to, node)| node.inputs.iter().enumerate().map(move |at| (to, at)));
        let reads = edges.filter(|(_, (_, input))| {
            input.node == from && port.is_none_or(|port| input.port == port)
        });
        reads.map(|(to, (edge, _))| (to, edge)).collect()
    }

    fn at(&self, operator: usize, error: Error) -> Error {
        error.at(&self.plan.nodes[operator].uid)
    }
}

fn ended(watermark: i64) -> i64 {
    if watermark == END { END } else { i64::MIN }
}

/// Columns that carry keys, which a host does not give to sinks.
fn hidden_columns(plan: &Plan) -> HashSet<&str> {
    let projections = plan
        .functions
        .iter()
        .filter(|function| function.kind == FunctionKind::KeyProjection);
    let added = projections.filter_map(|function| match &function.outputs.first()?.columns {
        OutputColumns::Extend { schema } => Some(schema),
        _ => None,
    });
    added.flatten().map(|field| field.name.as_str()).collect()
}
