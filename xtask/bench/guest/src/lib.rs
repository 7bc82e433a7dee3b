//! The functions that `bench plugin` times: each has a native twin in the benchmark, over the same columns.

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

    fn on_element(&mut self, sale: &Sale, _ctx: &mut Context<'_, ()>, out: &mut Collector<Total>) -> Result<()> {
        let total = self.total.update(|total| {
            *total = total.wrapping_add(sale.price);
            *total
        });
        out.collect(Total { total });
        Ok(())
    }
}

fn job(env: &mut Env) {
    let prices = env.source("prices", Datagen::<Price>::new());
    prices.map("map", |row: &Price| Price { price: row.price.wrapping_mul(89).wrapping_add(7) }).sink("mapped", Blackhole);
    let urls = env.source("urls", Datagen::<Url>::new());
    urls.filter_by("filter", Url::URL.bytes(), |url: &[u8]| url.ends_with(b"7")).sink("filtered", Blackhole);
    let sales = env.source("sales", Datagen::<Sale>::new());
    sales.key_by(Sale::AUCTION).process("keyed-sum", RunningSum::default()).sink("summed", Blackhole);
}

streamrt_sdk::job!(job);
