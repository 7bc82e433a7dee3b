//! The functions that `bench plugin` times, each with a native twin in the benchmark, over the same
//! columns; and the jobs of `bench scale`.

use streamrt_sdk::prelude::*;

#[derive(Record, Clone, Debug, PartialEq)]
struct Price {
    price: i64,
}

#[derive(Record, Clone, Debug, PartialEq)]
struct Url {
    url: String,
}

#[derive(Record, Clone, Debug, PartialEq)]
struct Sale {
    auction: i64,
    price: i64,
}

#[derive(Record, Clone, Debug, PartialEq)]
struct Total {
    total: i64,
}

/// The running sum of the prices of a key.
#[derive(Default)]
struct RunningSum {
    total: ValueState<i64>,
}

impl ProcessFunction for RunningSum {
    type In = Sale;
    type Key = ();
    type Out = Total;
    const TIME: bool = false;
    const TIMERS: bool = false;

    fn open(&mut self, setup: &mut Setup) {
        self.total = setup.value("total");
    }

    fn on_element(
        &mut self,
        sale: &Sale,
        _ctx: &mut Context<'_, ()>,
        out: &mut Collector<Total>,
    ) -> Result<()> {
        let total = self.total.update(|total| {
            *total = total.wrapping_add(sale.price);
            *total
        });
        out.collect(Total { total });
        Ok(())
    }
}

#[derive(Record, Clone, Debug, PartialEq)]
struct Number {
    number: i64,
}

#[derive(Record, Clone, Debug, PartialEq)]
struct Wide {
    number: i64,
    text: String,
}

/// Sums up how many bytes a key has had, and passes each row on with that.
#[derive(Default)]
struct Bytes {
    bytes: ValueState<i64>,
}

impl ProcessFunction for Bytes {
    type In = Wide;
    type Key = i64;
    type Out = Total;

    fn open(&mut self, setup: &mut Setup) {
        self.bytes = setup.value("bytes");
    }

    fn on_element(
        &mut self,
        row: &Wide,
        _ctx: &mut Context<'_, i64>,
        out: &mut Collector<Total>,
    ) -> Result<()> {
        let total = self.bytes.update(|bytes| {
            *bytes += row.text.len() as i64;
            *bytes
        });
        out.collect(Total { total });
        Ok(())
    }
}

fn job(env: &mut Env) -> Result<()> {
    match env.arg_or("job", "functions").as_str() {
        "slow" => slow(env),
        "wide" => wide(env),
        "numbers" => numbers(env),
        _ => {
            functions(env);
            Ok(())
        }
    }
}

/// A map that takes long for each row.
fn slow(env: &mut Env) -> Result<()> {
    let spins: u64 = env
        .arg("spins")?
        .parse()
        .map_err(|_| Error::new("--spins is no number"))?;
    let spin = move |row: &Number| {
        let start = row.number as u64;
        let number = (0..spins).fold(start, |number, _| {
            std::hint::black_box(
                number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1),
            )
        });
        Number {
            number: number as i64,
        }
    };
    env.source("numbers", File::csv::<Number>(env.arg("input")?))
        .map("slow", spin)
        .sink("out", Blackhole);
    Ok(())
}

fn wide(env: &mut Env) -> Result<()> {
    let rows = env.source("rows", File::csv::<Wide>(env.arg("input")?));
    rows.key_by(Wide::NUMBER)
        .process("bytes", Bytes::default())
        .sink("out", File::json(env.arg("output")?));
    Ok(())
}

fn numbers(env: &mut Env) -> Result<()> {
    env.source("numbers", File::csv::<Number>(env.arg("input")?))
        .sink("out", Print);
    Ok(())
}

fn functions(env: &mut Env) {
    let prices = env.source("prices", Datagen::<Price>::new());
    prices
        .map("map", |row: &Price| Price {
            price: row.price.wrapping_mul(89).wrapping_add(7),
        })
        .sink("mapped", Blackhole);
    let urls = env.source("urls", Datagen::<Url>::new());
    urls.filter_by("filter", Url::URL.bytes(), |url: &[u8]| url.ends_with(b"7"))
        .sink("filtered", Blackhole);
    let sales = env.source("sales", Datagen::<Sale>::new());
    sales
        .key_by(Sale::AUCTION)
        .process("keyed-sum", RunningSum::default())
        .sink("summed", Blackhole);
}

streamrt_sdk::job!(job);
