//! session-clicks: the sessions of each user, and how many clicks each had.
//!
//! Everything here is a kernel of the host: the guest only says what is wired to what, and brings
//! late times into ms.

use streamrt_sdk::prelude::*;

/// A line of UserBehavior.csv.
#[derive(Record, Clone, Debug, PartialEq)]
struct Behaviour {
    user: i64,
    item: i64,
    category: i64,
    behaviour: String,
    /// Seconds on the way in, ms on the way out.
    time: i64,
}

/// A session; `end` is its last click and the gap.
#[derive(Record)]
struct UserSession {
    user: i64,
    start: i64,
    end: i64,
    clicks: i64,
}

fn in_ms(late: &Behaviour) -> Behaviour {
    Behaviour {
        time: late.time * 1000,
        ..late.clone()
    }
}

fn job(env: &mut Env) -> Result<()> {
    let (input, output) = (env.arg_or("input", "input"), env.arg_or("output", "out"));
    let sessions = env
        .source("behaviours", File::csv::<Behaviour>(input))
        .watermarks(Watermarks::bounded(Behaviour::TIME.seconds(), secs(2)))
        .key_by(Behaviour::USER)
        .window(Session::with_gap(minutes(30)))
        .aggregate::<UserSession>(
            "sessions",
            [
                window_start().to("start"),
                window_end().to("end"),
                count().to("clicks"),
            ],
        );
    sessions.sink("output", File::json(&output));
    sessions
        .late()
        .map("late-in-ms", in_ms)
        .sink("late", File::json(format!("{output}/late")));
    Ok(())
}

streamrt_sdk::job!(job);

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_sdk::testing;

    #[test]
    fn late_clicks_leave_in_ms() {
        let click = |time| Behaviour {
            user: 1,
            item: 2,
            category: 3,
            behaviour: "pv".to_owned(),
            time,
        };
        let mut late = testing::harness(job, [""; 0]).operator("late-in-ms");
        late.push(click(-7), -7_000);
        assert_eq!(late.output::<Behaviour>(), [click(-7_000)]);
    }
}
