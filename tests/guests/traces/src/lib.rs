//! The test guest of the two traces: tumbling windows of 5 s over `sensor,seconds,temperature`, one
//! line per firing.
//!
//! `--lateness SECONDS` allows lateness. The main output comes from a window-process function: the
//! window, the seconds of its readings in the order in which it sees them, and the watermark at
//! which it fired. `counts/` has the same through aggregates of the host; late readings go to
//! `late/`. Run by `tests/tests/traces.rs`.

use streamrt_sdk::prelude::*;

#[derive(Record, Clone)]
struct Reading {
    sensor: String,
    time: i64,
    temperature: f64,
}

/// One firing of a window.
#[derive(Record)]
struct Firing {
    sensor: String,
    start: i64,
    end: i64,
    times: String,
    watermark: i64,
}

/// One firing, as the host counts it.
#[derive(Record)]
struct Count {
    sensor: String,
    start: i64,
    end: i64,
    n: i64,
    first: i64,
    last: i64,
}

struct Times;

impl WindowFunction for Times {
    type In = Reading;
    type Key = String;
    type Out = Firing;

    fn process(
        &mut self,
        window: &Window<String>,
        rows: &mut Rows<'_, Reading>,
        out: &mut Collector<Firing>,
    ) -> Result<()> {
        let mut times = Vec::new();
        while let Some(reading) = rows.next() {
            times.push(reading.time.to_string());
        }
        let (sensor, times) = (window.key.clone(), times.join(" "));
        out.collect(Firing {
            sensor,
            start: window.start,
            end: window.end,
            times,
            watermark: window.watermark,
        });
        Ok(())
    }
}

fn job(env: &mut Env) -> Result<()> {
    let (input, output, lateness) = (
        env.arg_or("input", "input"),
        env.arg_or("output", "out"),
        secs(env.parse_or("lateness", 0)?),
    );
    let readings = env
        .source("readings", File::csv::<Reading>(input))
        .watermarks(Watermarks::bounded(Reading::TIME.seconds(), secs(2)))
        .key_by(Reading::SENSOR);
    let windows = || {
        readings
            .window(Tumbling::of(secs(5)))
            .allowed_lateness(lateness)
    };
    let firings = windows().process("firings", Times);
    firings.sink("output", File::json(&output));
    firings
        .late()
        .sink("late", File::json(format!("{output}/late")));
    let terms = [
        window_start().to("start"),
        window_end().to("end"),
        count().to("n"),
        first(Reading::TIME).to("first"),
        last(Reading::TIME).to("last"),
    ];
    windows()
        .aggregate::<Count>("counts", terms)
        .sink("counts-output", File::json(format!("{output}/counts")));
    Ok(())
}

streamrt_sdk::job!(job);
