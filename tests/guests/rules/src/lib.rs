//! A job with every kind of operator state: limits that are broadcast alongside keyed readings,
//! batches of readings in a list that is redistributed, and a list of which every subtask gets
//! everything.
//!
//! Its alerts do not depend on the order in which the two inputs come: a reading waits until event
//! time has passed it, and then meets the newest limit that is not newer than itself. With
//! `--write-anywhere` the wrong side writes broadcast state.

use streamrt_sdk::prelude::*;

#[derive(Record, Clone, Debug, PartialEq)]
pub struct Reading {
    pub number: i64,
    pub sensor: String,
    pub value: i64,
    pub time: i64,
}

/// The highest value of `sensor` that is not an alert, from `time` on.
#[derive(Record, Clone, Debug, PartialEq)]
pub struct Limit {
    pub sensor: String,
    pub highest: i64,
    pub time: i64,
}

#[derive(Record, Clone, Debug, PartialEq)]
pub struct Alert {
    pub number: i64,
    pub highest: i64,
}

#[derive(Default)]
pub struct Alerts {
    /// Limits by sensor and time.
    limits: BroadcastState<(String, i64), i64>,
    waiting: ListState<Reading>,
    write_anywhere: bool,
}

impl BroadcastProcessFunction for Alerts {
    type In = Reading;
    type Broadcast = Limit;
    type Key = String;
    type Out = Alert;

    fn open(&mut self, setup: &mut Setup) {
        self.limits = setup.broadcast("limits");
        self.waiting = setup.list("waiting");
    }

    fn on_element(
        &mut self,
        reading: &Reading,
        ctx: &mut Context<'_, String>,
        _: &mut Collector<Alert>,
    ) -> Result<()> {
        if self.write_anywhere {
            self.limits.put((reading.sensor.clone(), 0), 0)?;
        }
        self.waiting.add(reading.clone());
        ctx.register_event_timer(reading.time);
        Ok(())
    }

    fn on_broadcast(
        &mut self,
        limit: &Limit,
        _: &mut BroadcastContext<'_>,
        _: &mut Collector<Alert>,
    ) -> Result<()> {
        self.limits
            .put((limit.sensor.clone(), limit.time), limit.highest)
    }

    fn on_timer(
        &mut self,
        time: i64,
        ctx: &mut Context<'_, String>,
        out: &mut Collector<Alert>,
    ) -> Result<()> {
        let sensor = ctx.key().clone();
        let limits = self.limits.entries()?;
        let newest = limits
            .iter()
            .rev()
            .find(|((of, since), _)| *of == sensor && *since <= time);
        let (due, later): (Vec<Reading>, Vec<Reading>) = self
            .waiting
            .get()?
            .into_iter()
            .partition(|reading| reading.time <= time);
        self.waiting.update(later);
        let Some((_, highest)) = newest else {
            return Ok(());
        };
        for reading in due.iter().filter(|reading| reading.value > *highest) {
            out.collect(&Alert {
                number: reading.number,
                highest: *highest,
            });
        }
        Ok(())
    }
}

/// Holds readings back until there are three.
#[derive(Default)]
pub struct Batches {
    held: ListState<i64>,
}

impl ProcessFunction for Batches {
    type In = Reading;
    type Key = ();
    type Out = i64;
    const TIME: bool = false;
    const TIMERS: bool = false;

    fn open(&mut self, setup: &mut Setup) {
        self.held = setup.operator_list("held");
    }

    fn on_element(
        &mut self,
        reading: &Reading,
        _: &mut Context<'_, ()>,
        out: &mut Collector<i64>,
    ) -> Result<()> {
        self.held.add(reading.number);
        if self.held.len()? >= 3 {
            self.held.for_each(|number| out.collect(number))?;
            self.held.clear();
        }
        if reading.value < 0 {
            Err(Error::new("a negative value"))
        } else {
            Ok(())
        }
    }
}

/// Remembers the numbers of all readings, and reports which it knows.
#[derive(Default)]
pub struct Known {
    numbers: ListState<i64>,
}

impl ProcessFunction for Known {
    type In = Reading;
    type Key = ();
    type Out = String;
    const TIME: bool = false;
    const TIMERS: bool = false;

    fn open(&mut self, setup: &mut Setup) {
        self.numbers = setup.union_list("numbers");
    }

    fn on_element(
        &mut self,
        reading: &Reading,
        _: &mut Context<'_, ()>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        self.numbers.add(reading.number);
        let known: Vec<String> = self.numbers.get()?.iter().map(i64::to_string).collect();
        out.collect(&known.join(" "));
        if reading.value < 0 {
            Err(Error::new("a negative value"))
        } else {
            Ok(())
        }
    }
}

fn job(env: &mut Env) -> Result<()> {
    let (input, output) = (env.arg("input")?, env.arg("output")?);
    let limits = env
        .source("limits", File::csv::<Limit>(format!("{input}/limits.csv")))
        .watermarks(Watermarks::bounded(Limit::TIME, millis(0)))
        .broadcast();
    let readings = env.source(
        "readings",
        File::csv::<Reading>(format!("{input}/readings.csv")),
    );
    let alerts = Alerts {
        write_anywhere: env.flag("write-anywhere"),
        ..Alerts::default()
    };
    readings
        .watermarks(Watermarks::bounded(Reading::TIME, millis(0)))
        .key_by(Reading::SENSOR)
        .connect(&limits)
        .process("alerts", alerts)
        .sink("alerts-out", File::json(format!("{output}/alerts")));
    readings
        .rebalance()
        .process("batches", Batches::default())
        .sink("batches-out", File::json(format!("{output}/batches")));
    readings
        .filter("few", |reading: &Reading| reading.number % 100 == 0)
        .process("known", Known::default())
        .sink("known-out", Blackhole);
    Ok(())
}
streamrt_sdk::job!(job);
