//! The test guest of state with a time to live, and of reducing and aggregating state: it does what
//! its rows say.
//!
//! `scenario.txt` beside it is run twice: in the test harness of the SDK, below, and through the
//! plugin host by `tests/tests/states.rs`.

use streamrt_sdk::prelude::*;

/// What to do with which state: `value set 5`.
#[derive(Record, Clone)]
pub struct Command {
    key: String,
    text: String,
}

/// The mean of integers.
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
    fn add(&mut self, row: &i64, accumulator: &mut SumAndCount) -> Result<()> {
        accumulator.sum += row;
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

/// A state of each kind.
#[derive(Default)]
struct States {
    value: ValueState<i64>,
    renewed: ValueState<String>,
    shown: ValueState<i64>,
    list: ListState<i64>,
    renewed_list: ListState<i64>,
    map: MapState<i64, bool>,
    total: ReducingState<i64>,
    mean: AggregatingState<Mean>,
    kept: ReducingState<i64>,
}

impl ProcessFunction for States {
    type In = Command;
    type Key = ();
    type Out = String;
    const TIME: bool = false;
    const TIMERS: bool = false;

    fn open(&mut self, setup: &mut Setup) {
        let ttl = Ttl::of(millis(10));
        self.value = setup.value("value").ttl(millis(10));
        self.renewed = setup.value("renewed").ttl(ttl.on_read_and_write());
        self.shown = setup
            .value("shown")
            .ttl(ttl.return_expired_if_not_cleaned_up());
        self.list = setup.list("list").ttl(ttl);
        self.renewed_list = setup.list("renewed-list").ttl(ttl.on_read_and_write());
        self.map = setup.map("map").ttl(ttl);
        self.total = setup
            .reducing("total", |sum: &mut i64, other| *sum += other)
            .ttl(ttl);
        self.mean = setup.aggregating("mean", Mean).ttl(ttl);
        self.kept = setup.reducing("kept", |sum: &mut i64, other| *sum += other);
    }

    fn on_element(
        &mut self,
        command: &Command,
        _: &mut Context<'_, ()>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        let mut words = command.text.split(' ');
        let (state, verb) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let number = words
            .next()
            .map_or(Ok(0), |word| word.parse())
            .map_err(|_| Error::new("the last word is no number"))?;
        out.collect(self.obey(state, verb, number)?);
        Ok(())
    }
}

/// What there is, in words.
fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or("none".to_owned(), |value| value.to_string())
}

fn all(values: impl IntoIterator<Item = i64>) -> String {
    values
        .into_iter()
        .map(|value| value.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

impl States {
    fn obey(&mut self, state: &str, verb: &str, number: i64) -> Result<String> {
        Ok(match (state, verb) {
            ("value", "get") => text(self.value.get()),
            ("renewed", "get") => text(self.renewed.get()),
            ("shown", "get") => text(self.shown.get()),
            ("list", "get") => all(self.list.get()?),
            ("renewed-list", "get") => all(self.renewed_list.get()?),
            ("map", "get") => if self.map.contains(&number)? {
                "yes"
            } else {
                "no"
            }
            .to_owned(),
            ("map", "entries") => all(self.map.entries()?.into_iter().map(|(key, _)| key)),
            ("total", "get") => text(self.total.get()),
            ("mean", "get") => text(self.mean.get()?),
            ("kept", "get") => text(self.kept.get()),
            _ => {
                self.write(state, verb, number)?;
                "-".to_owned()
            }
        })
    }

    fn write(&mut self, state: &str, verb: &str, number: i64) -> Result<()> {
        match (state, verb) {
            ("value", "set") => self.value.set(number),
            ("renewed", "set") => self.renewed.set(number.to_string()),
            ("shown", "set") => self.shown.set(number),
            ("list", "add") => self.list.add(number),
            ("renewed-list", "add") => self.renewed_list.add(number),
            ("map", "put") => self.map.put(number, true),
            ("total", "add") => self.total.add(number),
            ("mean", "add") => self.mean.add(&number)?,
            ("mean", "clear") => self.mean.clear(),
            ("kept", "add") => self.kept.add(number),
            _ => return Err(Error::new(format!("there is no {state} {verb}"))),
        }
        Ok(())
    }
}

fn job(env: &mut Env) {
    let commands = env.source(
        "commands",
        File::csv::<Command>(env.arg_or("input", "input")),
    );
    commands
        .key_by(Command::KEY)
        .process("states", States::default())
        .sink("answers", Print);
}

streamrt_sdk::job!(job);

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_sdk::testing;

    #[test]
    fn the_scenario_in_the_harness_of_the_sdk() {
        let mut states = testing::harness(job, [""]).operator("states");
        for line in include_str!("../scenario.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
        {
            let (step, answer) = line.split_once(" =>").expect("a line has an answer");
            let mut words = step.splitn(3, ' ');
            let mut word = || {
                words
                    .next()
                    .expect("a line has time, key and command")
                    .to_owned()
            };
            states.processing_time(word().parse().expect("a line begins with a time"));
            states.push(
                Command {
                    key: word(),
                    text: word(),
                },
                0,
            );
            assert_eq!(states.output::<String>(), [answer.trim()], "{line}");
        }
        let counts = ["value", "list", "map", "total", "mean", "kept"]
            .map(|state| states.state_entries(state));
        assert_eq!(
            counts,
            [0, 0, 0, 0, 0, 1],
            "what was read when it was expired is gone"
        );
    }
}
