//! Jobs of every kind, for a comparison of the SDK's test harness with the host: `--scenario NAME`
//! chooses one. Each reads rows from the sources `a` and, if it has two, `b`, and writes lines of
//! text to the sinks `out` and `late`.

use streamrt_sdk::prelude::*;

/// What the sources return. Times in ms.
#[derive(Record, Clone, Debug, PartialEq)]
pub struct Row {
    pub key: String,
    pub value: i64,
    pub price: Option<f64>,
    pub time: i64,
}

/// The names of all scenarios.
pub const SCENARIOS: &[&str] = &[
    "tumbling",
    "sliding-with-lateness",
    "sliding-with-gaps",
    "sessions",
    "sessions-of-rows",
    "sessions-folded",
    "sessions-reduced",
    "counts",
    "counts-of-rows",
    "global",
    "folded",
    "reduced-then",
    "rows-of-windows",
    "running",
    "timers",
    "ranks",
    "computed-key",
    "union",
    "punctuated",
];

/// Everything that the host aggregates.
#[derive(Record, Clone, Debug)]
struct All {
    key: String,
    window_start: i64,
    window_end: i64,
    rows: i64,
    sum: i64,
    mean: f64,
    least: Option<f64>,
    greatest: String,
    total: Option<f64>,
    first: i64,
    last: Option<f64>,
}

/// Without the bounds of a window.
#[derive(Record, Clone, Debug)]
struct Running {
    key: String,
    rows: i64,
    sum: i64,
    mean: Option<f64>,
    last: i64,
}

/// The rows of a key in a window.
#[derive(Record, Clone, Debug)]
struct Counted {
    key: String,
    window_end: i64,
    rows: i64,
}

#[derive(Record, Clone, Debug, Default)]
struct Range {
    least: i64,
    greatest: i64,
    text: String,
}

/// Least and greatest value, and the keys in their order.
struct Ranges;

impl AggregateFunction for Ranges {
    type In = Row;
    type Accumulator = Range;
    type Out = Range;

    fn create(&mut self) -> Range {
        Range {
            least: i64::MAX,
            greatest: i64::MIN,
            text: String::new(),
        }
    }

    fn add(&mut self, row: &Row, range: &mut Range) -> Result<()> {
        let other = Range {
            least: row.value,
            greatest: row.value,
            text: row.value.to_string(),
        };
        self.merge(range, &other)
    }

    fn merge(&mut self, range: &mut Range, other: &Range) -> Result<()> {
        (range.least, range.greatest) = (
            range.least.min(other.least),
            range.greatest.max(other.greatest),
        );
        range.text = format!("{} {}", range.text, other.text);
        Ok(())
    }

    fn result(&mut self, range: &Range) -> Result<Range> {
        Ok(range.clone())
    }
}

/// Reports what it sees of a window and its rows.
struct Told<T>(std::marker::PhantomData<T>);

impl<T: Record + std::fmt::Debug> WindowFunction for Told<T> {
    type In = T;
    type Key = String;
    type Out = String;

    fn process(
        &mut self,
        window: &Window<String>,
        rows: &mut Rows<'_, T>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        let mut text = format!(
            "{} [{}, {}) {}",
            window.key,
            window.start,
            window.end,
            rows.len()
        );
        while let Some(row) = rows.next() {
            text += &format!(" {row:?}");
        }
        out.collect(text);
        out.collect(format!("{} once more", window.key));
        Ok(())
    }
}

fn told<T>() -> Told<T> {
    Told(std::marker::PhantomData)
}

const ODD: OutputTag<String> = OutputTag::new("odd");

/// Uses every kind of keyed state, timers and a side output.
#[derive(Default)]
struct Timed {
    last: ValueState<i64>,
    all: ListState<i64>,
    by_value: MapState<i64, i64>,
    total: ReducingState<i64>,
}

impl ProcessFunction for Timed {
    type In = Row;
    type Key = String;
    type Out = String;

    fn open(&mut self, setup: &mut Setup) {
        self.last = setup.value("last");
        self.all = setup.list("all");
        self.by_value = setup.map("by-value");
        self.total = setup.reducing("total", |total, added: &i64| *total += added);
    }

    fn on_element(
        &mut self,
        row: &Row,
        ctx: &mut Context<'_, String>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        let before = self.last.get();
        self.last.set(row.value);
        self.all.add(row.value);
        let seen = self.by_value.get(&row.value)?.unwrap_or(0) + 1;
        self.by_value.put(row.value, seen);
        self.total.add(row.value);
        if row.value % 2 == 1 {
            ctx.side(&ODD, format!("{} {}", ctx.key(), row.value));
        }
        if let Some(before) = before.filter(|before| before % 5 == 0) {
            ctx.delete_event_timer(row.time.div_euclid(20) * 20 + 20 + before % 2);
        }
        ctx.register_event_timer(row.time.div_euclid(20) * 20 + 20);
        ctx.register_event_timer(row.time.div_euclid(20) * 20 + 21);
        out.collect(format!(
            "{} {:?} {before:?} {seen} at {:?}",
            ctx.key(),
            row.value,
            ctx.timestamp()
        ));
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, String>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        let (all, total) = (self.all.get()?, self.total.get());
        out.collect(format!("{} timer {time} {all:?} {total:?}", ctx.key()));
        if time % 20 == 1 {
            self.all.clear();
        }
        Ok(())
    }
}

/// The most frequent keys of a window: after its end all counts are there.
#[derive(Default)]
struct Ranks {
    counts: ListState<Counted>,
}

impl ProcessFunction for Ranks {
    type In = Counted;
    type Key = i64;
    type Out = String;

    fn open(&mut self, setup: &mut Setup) {
        self.counts = setup.list("counts");
    }

    fn on_element(
        &mut self,
        counted: &Counted,
        ctx: &mut Context<'_, i64>,
        _: &mut Collector<String>,
    ) -> Result<()> {
        self.counts.add(counted.clone());
        ctx.register_event_timer(counted.window_end + 1);
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, i64>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        let mut counts = self.counts.get()?;
        counts.sort_by_key(|counted| (-counted.rows, counted.key.clone()));
        self.counts.clear();
        let keys: Vec<String> = counts
            .iter()
            .map(|counted| format!("{} {}", counted.key, counted.rows))
            .collect();
        out.collect(format!("{} at {time}: {}", ctx.key(), keys.join(", ")));
        Ok(())
    }
}

/// A source whose rows are at most `bound_ms` out of order.
fn source(env: &mut Env, uid: &str, bound_ms: u64) -> Stream<Row> {
    let rows = File::csv::<Row>(format!("{}/{uid}.csv", env.arg_or("input", "input")));
    env.source(uid, rows)
        .watermarks(Watermarks::bounded(Row::TIME, millis(bound_ms)))
}

fn sink<T: Record + std::fmt::Debug>(env: &Env, uid: &str, rows: &Stream<T>) {
    let output = format!("{}/{uid}", env.arg_or("output", "output"));
    rows.map(&format!("{uid}-text"), |row: &T| format!("{row:?}"))
        .sink(uid, File::json(output));
}

fn all() -> [streamrt_sdk::Term; 8] {
    [
        count().to("rows"),
        sum(Row::VALUE).to("sum"),
        avg(Row::VALUE).to("mean"),
        min(Row::PRICE).to("least"),
        max(Row::KEY).to("greatest"),
        sum(Row::PRICE).to("total"),
        first(Row::VALUE).to("first"),
        last(Row::PRICE).to("last"),
    ]
}

/// Windows by key, from the assigner on.
fn windows(
    env: &mut Env,
    assigner: impl Into<streamrt_sdk::Assigner>,
) -> WindowedStream<Row, String> {
    source(env, "a", 20).key_by(Row::KEY).window(assigner)
}

fn ends<O: Record + std::fmt::Debug>(env: &Env, windows: WindowResult<O, Row>) {
    sink(env, "late", &windows.late());
    sink(env, "out", &windows);
}

// Long: an arm for each scenario.
fn keyed_scenario(env: &mut Env, name: &str) {
    let rows = source(env, "a", if name == "union" { 200 } else { 20 });
    let keyed = rows.key_by(Row::KEY);
    match name {
        "running" => {
            let terms = [
                count().to("rows"),
                sum(Row::VALUE).to("sum"),
                avg(Row::PRICE).to("mean"),
                last(Row::VALUE).to("last"),
            ];
            sink(
                env,
                "out",
                &keyed.aggregate_running::<Running>("running", terms),
            );
        }
        "timers" => {
            let timed = keyed.process("timed", Timed::default());
            sink(env, "late", &timed.side_output(&ODD));
            sink(env, "out", &timed);
        }
        "ranks" => {
            let counts = keyed
                .window(Sliding::of(millis(60), millis(20)))
                .aggregate::<Counted>("counts", [count().to("rows")]);
            sink(
                env,
                "out",
                &counts
                    .key_by(Counted::WINDOW_END)
                    .process("ranks", Ranks::default()),
            );
        }
        "computed-key" => {
            let parity = rows
                .filter("some", |row: &Row| row.value != 3)
                .key_by_fn("parity", |row: &Row| row.value % 2 == 0);
            sink(
                env,
                "out",
                &parity
                    .window(Tumbling::of(millis(50)))
                    .aggregate_with("ranges", Ranges),
            );
        }
        "punctuated" => {
            let plain = env.source(
                "p",
                File::csv::<Row>(format!("{}/a.csv", env.arg_or("input", "input"))),
            );
            rows.sink("unused", Blackhole);
            let marked = plain.watermarks(Watermarks::punctuated(|row: &Row| {
                (row.time, (row.value % 4 == 0).then_some(row.time - 30))
            }));
            ends(
                env,
                marked
                    .key_by(Row::KEY)
                    .window(Tumbling::of(millis(40)))
                    .aggregate::<Counted>("counts", [count().to("rows")]),
            );
        }
        _ => {
            // No row is late, whichever source is read first.
            let union = rows.union(&source(env, "b", 200));
            ends(
                env,
                union
                    .key_by(Row::KEY)
                    .window(Tumbling::of(millis(40)))
                    .aggregate::<Counted>("counts", [count().to("rows")]),
            );
        }
    }
}

/// Builds the scenario that the arguments name.
// Long: an arm for each scenario.
pub fn job(env: &mut Env) -> Result<()> {
    let name = env.arg("scenario")?;
    match name.as_str() {
        "tumbling" => {
            let windows = windows(env, Tumbling::of(millis(40)).offset(millis(7)));
            ends(env, windows.aggregate::<All>("windows", all()));
        }
        "sliding-with-lateness" => {
            let windows =
                windows(env, Sliding::of(millis(50), millis(20))).allowed_lateness(millis(15));
            ends(env, windows.aggregate::<All>("windows", all()));
        }
        "sliding-with-gaps" => {
            let windows = windows(env, Sliding::of(millis(10), millis(25)));
            ends(env, windows.aggregate::<All>("windows", all()));
        }
        "sessions" => {
            let windows = windows(env, Session::with_gap(millis(30)));
            ends(env, windows.aggregate::<All>("windows", all()));
        }
        "sessions-of-rows" => {
            let windows = windows(env, Session::with_gap(millis(30))).allowed_lateness(millis(10));
            ends(env, windows.process("windows", told::<Row>()));
        }
        "sessions-folded" => {
            let windows = windows(env, Session::with_gap(millis(25)));
            ends(
                env,
                windows.aggregate_then("windows", Ranges, told::<Range>()),
            );
        }
        "sessions-reduced" => {
            let windows = windows(env, Session::with_gap(millis(25)));
            ends(
                env,
                windows.reduce("windows", |a: &Row, b: &Row| Row {
                    value: 10 * a.value + b.value,
                    ..b.clone()
                }),
            );
        }
        "counts" => {
            let windows = windows(env, Count::of(3));
            ends(env, windows.aggregate::<All>("windows", all()));
        }
        "counts-of-rows" => {
            let windows = windows(env, Count::of(4));
            ends(env, windows.process("windows", told::<Row>()));
        }
        "global" => {
            let windows = windows(env, Global);
            ends(env, windows.aggregate_with("windows", Ranges));
        }
        "folded" => {
            let windows =
                windows(env, Sliding::of(millis(60), millis(20))).allowed_lateness(millis(20));
            ends(env, windows.aggregate_with("windows", Ranges));
        }
        "reduced-then" => {
            let windows = windows(env, Tumbling::of(millis(30)));
            ends(
                env,
                windows.reduce_then(
                    "windows",
                    |a: &Row, b: &Row| Row {
                        value: a.value.max(b.value),
                        ..a.clone()
                    },
                    told::<Row>(),
                ),
            );
        }
        "rows-of-windows" => {
            let windows =
                windows(env, Sliding::of(millis(40), millis(20))).allowed_lateness(millis(10));
            ends(env, windows.process("windows", told::<Row>()));
        }
        other => keyed_scenario(env, other),
    }
    Ok(())
}

streamrt_sdk::job!(job);
