//! The test guest of upgrades: it reports for every row which version processed it in the first
//! task, and which in the second.
//!
//! A test makes another version by writing another text over [`VERSION`] in the component. One that
//! ends in `fails` fails at the first row, one that ends in `later` at the row [`LATER`] and those
//! after it.

use streamrt_sdk::prelude::*;

const LATER: i64 = 60_000;

const VERSION: &str = "the version of this guest is: first";

/// The compiler must not know the text, which differs in other versions.
fn version() -> String {
    std::hint::black_box(VERSION).to_owned()
}

#[derive(Record, Clone)]
struct Number {
    n: i64,
    key: i64,
}

#[derive(Record, Clone)]
struct Mapped {
    n: i64,
    key: i64,
    mapped_by: String,
}

#[derive(Record)]
struct Counted {
    n: i64,
    key: i64,
    /// Rows of the key so far.
    seen: i64,
    mapped_by: String,
    counted_by: String,
}

#[derive(Default)]
struct Count {
    seen: ValueState<i64>,
}

impl ProcessFunction for Count {
    type In = Mapped;
    type Key = i64;
    type Out = Counted;
    const TIME: bool = false;
    const TIMERS: bool = false;

    fn open(&mut self, setup: &mut Setup) {
        self.seen = setup.value("seen");
    }

    fn on_element(
        &mut self,
        row: &Mapped,
        _: &mut Context<'_, i64>,
        out: &mut Collector<Counted>,
    ) -> Result<()> {
        let seen = self.seen.get().unwrap_or(0) + 1;
        self.seen.set(seen);
        let Mapped { n, key, mapped_by } = row.clone();
        out.collect(Counted {
            n,
            key,
            seen,
            mapped_by,
            counted_by: version(),
        });
        Ok(())
    }
}

fn mapped(row: &Number) -> Mapped {
    let mapped_by = version();
    assert!(!mapped_by.ends_with("fails"), "this version fails");
    assert!(
        !(mapped_by.ends_with("later") && row.n >= LATER),
        "this version fails at row {}",
        row.n
    );
    Mapped {
        n: row.n,
        key: row.key,
        mapped_by,
    }
}

fn job(env: &mut Env) {
    let (input, output) = (env.arg_or("input", "input"), env.arg_or("output", "out"));
    let numbers = env
        .source("numbers", File::csv::<Number>(input))
        .map("mapped", mapped);
    numbers
        .key_by(Mapped::KEY)
        .process("counted", Count::default())
        .sink("output", File::json(output));
}

streamrt_sdk::job!(job);

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_sdk::testing;

    #[test]
    fn rows_are_counted_by_key() {
        let mut counted = testing::harness(job, [""]).operator("counted");
        for n in 1..=2 {
            counted.push(mapped(&Number { n, key: 7 }), 0);
            let row = counted.output::<Counted>().remove(0);
            assert_eq!((row.n, row.key, row.seen), (n, 7, n));
            assert_eq!(
                (row.mapped_by.as_str(), row.counted_by.as_str()),
                (VERSION, VERSION)
            );
        }
    }
}
