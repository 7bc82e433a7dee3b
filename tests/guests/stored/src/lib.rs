//! The test guest of stored formats: a job with every kind of state that a snapshot can hold.
//!
//! What it writes follows only from its input, whenever it is stopped and whatever it resumes from.
//! `tests/src/fixtures.rs` keeps its snapshots by each version of streamrt, and
//! `tests/tests/formats.rs` resumes from all of them.

use streamrt_sdk::prelude::*;

#[derive(Record, Clone)]
struct Event {
    key: i64,
    n: i64,
    time: i64,
}

/// The least `n` that counts for a key, from `time` on.
#[derive(Record, Clone)]
struct Limit {
    key: i64,
    least: i64,
    time: i64,
}

/// The mean of numbers.
#[derive(Default)]
struct Mean;

#[derive(Record, Clone)]
struct SumAndCount {
    sum: i64,
    count: i64,
}

impl AggregateFunction for Mean {
    type In = i64;
    type Accumulator = SumAndCount;
    type Out = f64;

    fn create(&mut self) -> SumAndCount {
        SumAndCount { sum: 0, count: 0 }
    }
    fn add(&mut self, n: &i64, accumulator: &mut SumAndCount) -> Result<()> {
        accumulator.sum += n;
        accumulator.count += 1;
        Ok(())
    }
    fn merge(&mut self, accumulator: &mut SumAndCount, other: &SumAndCount) -> Result<()> {
        accumulator.sum += other.sum;
        accumulator.count += other.count;
        Ok(())
    }
    fn result(&mut self, accumulator: &SumAndCount) -> Result<f64> {
        Ok(accumulator.sum as f64 / accumulator.count as f64)
    }
}

/// Keyed state of each kind, and timers: a timer tells what the states hold.
#[derive(Default)]
struct Keyed {
    value: ValueState<i64>,
    text: ValueState<String>,
    for_ever: ValueState<i64>,
    list: ListState<i64>,
    map: MapState<i64, i64>,
    total: ReducingState<i64>,
    mean: AggregatingState<Mean>,
}

/// Elements that a list keeps.
const LAST: usize = 5;

impl ProcessFunction for Keyed {
    type In = Event;
    type Key = i64;
    type Out = String;

    fn open(&mut self, setup: &mut Setup) {
        self.value = setup.value("value");
        self.text = setup.value("text");
        // A fixture is read many years after it was made.
        self.for_ever = setup.value("for-ever").ttl(hours(24 * 365 * 200));
        self.list = setup.list("list");
        self.map = setup.map("map");
        self.total = setup.reducing("total", |sum: &mut i64, other| *sum += other);
        self.mean = setup.aggregating("mean", Mean);
    }

    fn on_element(
        &mut self,
        event: &Event,
        ctx: &mut Context<'_, i64>,
        _: &mut Collector<String>,
    ) -> Result<()> {
        if event.n < 0 {
            return Err(Error::new("a number is negative"));
        }
        self.value.set(self.value.get().unwrap_or(0) + 1);
        self.text.set(format!("the last was {}", event.n));
        self.for_ever.set(event.n);
        let mut last = self.list.get()?;
        last.push(event.n);
        self.list
            .update(last.split_off(last.len().saturating_sub(LAST)));
        self.map.put(event.n % 7, event.time);
        self.total.add(event.n);
        self.mean.add(&event.n)?;
        ctx.register_event_timer(event.time + 5_000);
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, i64>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        let key = *ctx.key();
        let list: Vec<String> = self.list.get()?.iter().map(i64::to_string).collect();
        let map: Vec<String> = self
            .map
            .entries()?
            .into_iter()
            .map(|(rest, time)| format!("{rest}={time}"))
            .collect();
        let (value, for_ever) = (
            self.value.get().unwrap_or(0),
            self.for_ever.get().unwrap_or(-1),
        );
        let (text, total, mean) = (
            self.text.get().unwrap_or_default(),
            self.total.get().unwrap_or(0),
            self.mean.get()?.unwrap_or(0.0),
        );
        out.collect(&format!(
            "{key} at {time}: {value}, {text}, {for_ever}, [{}], {{{}}}, {total}, {mean}",
            list.join(" "),
            map.join(" ")
        ));
        Ok(())
    }
}

/// Broadcast state alongside keyed state: an event waits until event time has passed it, and then
/// meets the newest limit that is not newer.
#[derive(Default)]
struct Limited {
    limits: BroadcastState<(i64, i64), i64>,
    waiting: ListState<Event>,
}

impl BroadcastProcessFunction for Limited {
    type In = Event;
    type Broadcast = Limit;
    type Key = i64;
    type Out = Event;

    fn open(&mut self, setup: &mut Setup) {
        self.limits = setup.broadcast("limits");
        self.waiting = setup.list("waiting");
    }

    fn on_element(
        &mut self,
        event: &Event,
        ctx: &mut Context<'_, i64>,
        _: &mut Collector<Event>,
    ) -> Result<()> {
        self.waiting.add(event.clone());
        ctx.register_event_timer(event.time);
        Ok(())
    }

    fn on_broadcast(
        &mut self,
        limit: &Limit,
        _: &mut BroadcastContext<'_>,
        _: &mut Collector<Event>,
    ) -> Result<()> {
        self.limits.put((limit.key, limit.time), limit.least)
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, i64>,
        out: &mut Collector<Event>,
    ) -> Result<()> {
        let key = *ctx.key();
        let limits = self.limits.entries()?;
        let least = limits
            .iter()
            .rev()
            .find(|((of, since), _)| *of == key && *since <= time)
            .map_or(0, |(_, least)| *least);
        let (due, later): (Vec<Event>, Vec<Event>) = self
            .waiting
            .get()?
            .into_iter()
            .partition(|event| event.time <= time);
        self.waiting.update(later);
        due.iter()
            .filter(|event| event.n >= least)
            .for_each(|event| out.collect(event));
        Ok(())
    }
}

/// State that belongs to a subtask and not to a key: it holds events back until there are three,
/// and counts them.
#[derive(Default)]
struct Held {
    held: ListState<i64>,
    all: ListState<i64>,
}

impl ProcessFunction for Held {
    type In = Event;
    type Key = ();
    type Out = String;
    const TIME: bool = false;
    const TIMERS: bool = false;

    fn open(&mut self, setup: &mut Setup) {
        self.held = setup.operator_list("held");
        self.all = setup.union_list("all");
    }

    fn on_element(
        &mut self,
        event: &Event,
        _: &mut Context<'_, ()>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        self.held.add(event.n);
        self.all.add(event.n % 10);
        if self.held.len()? == 3 {
            let held: Vec<String> = self.held.get()?.iter().map(i64::to_string).collect();
            out.collect(&format!("{} of {}", held.join(" "), self.all.len()?));
            self.held.clear();
        }
        Ok(())
    }
}

/// The rows of a window, kept as they are.
struct All;

impl WindowFunction for All {
    type In = Event;
    type Key = i64;
    type Out = String;

    fn process(
        &mut self,
        window: &Window<i64>,
        rows: &mut Rows<'_, Event>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        let mut numbers = Vec::new();
        while let Some(event) = rows.next() {
            numbers.push(event.n.to_string());
        }
        out.collect(&format!(
            "{} from {}: {}",
            window.key,
            window.start,
            numbers.join(" ")
        ));
        Ok(())
    }
}

/// Sends rows into a granted folder; what was sent before under the same name is replaced.
#[derive(Default)]
struct Sender {
    sent: Folder,
}

impl WriteAheadSink for Sender {
    type In = String;

    fn open(&mut self, setup: &mut SinkSetup) {
        self.sent = setup.folder("sent");
    }
    fn send(&mut self, transaction: &str, rows: &[String]) -> Result<()> {
        self.sent.write(
            transaction,
            rows.iter()
                .map(|row| format!("{row}\n"))
                .collect::<String>(),
        )
    }
}

#[derive(Record)]
struct Counted {
    key: i64,
    start: i64,
    count: i64,
    sum: i64,
}

#[derive(Record)]
struct Running {
    key: i64,
    count: i64,
    most: i64,
}

fn job(env: &mut Env) -> Result<()> {
    let (input, output) = (env.arg("input")?, env.arg("output")?);
    let at = |name: &str| format!("{output}/{name}");
    let in_order = || Watermarks::bounded(Event::TIME, millis(0));
    let limits = env.source("limits", File::csv::<Limit>(format!("{input}/limits.csv")));
    let limits = limits
        .watermarks(Watermarks::bounded(Limit::TIME, millis(0)))
        .broadcast();
    let events = env
        .source("events", File::csv::<Event>(format!("{input}/events.csv")))
        .watermarks(in_order());
    let terms = || {
        [
            window_start().to("start"),
            count().to("count"),
            sum(Event::N).to("sum"),
        ]
    };

    let keyed = events.key_by(Event::KEY).process("keyed", Keyed::default());
    keyed.sink("keyed-out", File::json(at("keyed")));
    keyed.write_ahead_sink("sent", Sender::default());
    let positive = events.filter("positive", |event: &Event| event.n >= 0);
    positive
        .key_by(Event::KEY)
        .connect(&limits)
        .process("limited", Limited::default())
        .sink("limited-out", File::json(at("limited")));
    positive
        .global()
        .process("held", Held::default())
        .parallelism(1)
        .sink("held-out", File::json(at("held")));
    positive
        .key_by(Event::KEY)
        .aggregate_running::<Running>("running", [count().to("count"), max(Event::N).to("most")])
        .sink("running-out", File::json(at("running")));
    let keys = || positive.key_by(Event::KEY);
    keys()
        .window(Tumbling::of(secs(30)))
        .aggregate::<Counted>("tumbling", terms())
        .sink("tumbling-out", File::json(at("tumbling")));
    keys()
        .window(Sliding::of(secs(40), secs(10)))
        .aggregate::<Counted>("sliding", terms())
        .sink("sliding-out", File::json(at("sliding")));
    keys()
        .window(Session::with_gap(secs(5)))
        .aggregate::<Counted>("sessions", terms())
        .sink("sessions-out", File::json(at("sessions")));
    keys()
        .window(Tumbling::of(secs(20)))
        .reduce("reduced", |a: &Event, b: &Event| Event {
            n: a.n + b.n,
            ..a.clone()
        })
        .sink("reduced-out", File::json(at("reduced")));
    keys()
        .window(Tumbling::of(secs(25)))
        .process("whole", All)
        .sink("whole-out", File::json(at("whole")));
    Ok(())
}

streamrt_sdk::job!(job);
