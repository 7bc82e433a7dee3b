//! The source `nexmark`: the bids of the Nexmark benchmark, made by column.
//!
//! Everything follows from the event number: of 50 events one is a person, three are auctions, 46
//! are bids, and bid b is event `b / 46 * 50 + 4 + b % 46`. Numbers are computed for each bid; the
//! texts of a batch are cut out of a pool of ready columns, so that no byte of them is copied.
//! Invariant: bid b is the same for every number of splits, batch size and position at which a
//! reader began.
//!
//! # Source
//! The generator of the public Flink implementation of Nexmark: same proportions, hot keys, ids in
//! flight and price law. Ours differ in the random numbers, and the bidder's offset is added once
//! (there it is added twice, which keeps bids from joining with persons).

use crate::options::refuse;
use crate::{once, position};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use streamrt_operator::{ReaderPoll, Source, Split, SplitEnumerator, SplitReader};
use streamrt_types::{Batch, Error, Origin, Result, Rows};

/// Options of the source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NexmarkOptions {
    /// Number of bids.
    pub rows: u64,
    /// Events a second of event time. Default 100,000.
    #[serde(default = "default_rate")]
    pub rate: u64,
    /// Event time of the first event, in ms. Default 0.
    #[serde(default)]
    pub base_time: i64,
    /// If given, auctions are spread evenly over this number of ids, for benchmarks of keyed state.
    /// Default: Nexmark's law.
    pub auctions: Option<u64>,
}

fn default_rate() -> u64 {
    100_000
}

/// The largest base time, and the largest distance of the last event from it, in ms: their sum is
/// still a time.
const LAST_MS_MAX: u128 = 1 << 61;
const BIDS_PER_EPOCH: u64 = 46;
const EVENTS_PER_EPOCH: u64 = 50;
const AUCTIONS_PER_EPOCH: u64 = 3;
const FIRST_ID: u64 = 1000;
const HOT_ROUND: u64 = 100;
const AUCTIONS_IN_FLIGHT: u64 = 100;
const ACTIVE_PEOPLE: u64 = 1000;
const ID_LEAD: u64 = 10;
/// Ready columns of texts: more than fit the second-level cache, as real ones would be.
const POOL: usize = 32;
/// Rows of a ready column. Batches with texts end where a column does, which cuts nothing with the
/// default of `batch.rows`.
const TEXT_ROWS: usize = 1024;
/// The number of bids that use one ready column before the next one comes.
const BIDS_PER_TEXT: u64 = 8192;
const PRICES: usize = 1 << 14;
const COLUMNS: [(&str, DataType); 7] = [
    ("auction", DataType::Int64),
    ("bidder", DataType::Int64),
    ("price", DataType::Int64),
    ("channel", DataType::Utf8),
    ("url", DataType::Utf8),
    ("date_time", DataType::Int64),
    ("extra", DataType::Utf8),
];

/// The source; readers share its pool.
pub struct NexmarkSource {
    options: NexmarkOptions,
    schema: SchemaRef,
    texts: Arc<Texts>,
}

impl NexmarkSource {
    /// `schema` may contain any of the bid's columns, in any order.
    ///
    /// # Errors
    /// `Invalid` for a column that bids do not have.
    pub fn new(options: NexmarkOptions, schema: SchemaRef) -> Result<NexmarkSource> {
        for field in schema.fields() {
            if !COLUMNS
                .iter()
                .any(|(name, data_type)| name == field.name() && data_type == field.data_type())
            {
                let known: Vec<String> = COLUMNS
                    .iter()
                    .map(|(name, data_type)| format!("{name} {data_type}"))
                    .collect();
                return Err(refuse(
                    "nexmark",
                    &format!(
                        "a bid has no column {} {}; it has {}",
                        field.name(),
                        field.data_type(),
                        known.join(", ")
                    ),
                ));
            }
        }
        if options.rate == 0 || options.auctions == Some(0) {
            return Err(refuse("nexmark", "`rate` and `auctions` must be positive"));
        }
        let last_ms = u128::from(options.rows) * 2000 / u128::from(options.rate);
        if last_ms > LAST_MS_MAX || u128::from(options.base_time.unsigned_abs()) > LAST_MS_MAX {
            return Err(refuse(
                "nexmark",
                "the times of `rows` bids at this `rate`, from `base-time` on, are no times",
            ));
        }
        let needs_texts = schema
            .fields()
            .iter()
            .any(|field| field.data_type() == &DataType::Utf8);
        Ok(NexmarkSource {
            options,
            schema,
            texts: Arc::new(Texts::new(if needs_texts { POOL } else { 0 })),
        })
    }
}

impl Source for NexmarkSource {
    fn bounded(&self) -> bool {
        true
    }

    fn stays_open(&self) -> bool {
        true
    }

    /// Gives each reader one contiguous range of bids.
    fn enumerator(&self, restored: Option<&str>) -> Result<Box<dyn SplitEnumerator>> {
        let rows = self.options.rows;
        once::enumerator("nexmark", restored, move |parallelism| {
            let bound =
                |i: u32| (u128::from(rows) * u128::from(i) / u128::from(parallelism)) as u64;
            let split = |i: u32| Split {
                number: i.into(),
                name: format!("nexmark {i}").into(),
                detail: format!("[{},{}]", bound(i), bound(i + 1)),
            };
            (0..parallelism).map(split).collect()
        })
    }

    fn open(&self, split: &Split, position: Option<&str>) -> Result<Box<dyn SplitReader>> {
        let (start, end): (u64, u64) = position::read(&split.name, &split.detail)?;
        let next = match position {
            None => start,
            Some(text) => position::read::<NexmarkPosition>(&split.name, text)?.bid,
        };
        if !(start..=end).contains(&next) {
            return Err(position::damaged(
                &split.name,
                position.unwrap_or(&split.detail),
            ));
        }
        let (options, schema, texts) = (
            self.options.clone(),
            self.schema.clone(),
            self.texts.clone(),
        );
        let origin = Origin {
            split: split.name.clone(),
            split_number: split.number,
            rows: Rows::Range { first: 1 },
        };
        Ok(Box::new(NexmarkReader {
            options,
            schema,
            texts,
            origin,
            start,
            next,
            end,
        }))
    }
}

/// Where a reader resumes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NexmarkPosition {
    /// The number of the next bid.
    bid: u64,
}

struct NexmarkReader {
    options: NexmarkOptions,
    schema: SchemaRef,
    texts: Arc<Texts>,
    origin: Origin,
    start: u64,
    next: u64,
    end: u64,
}

impl SplitReader for NexmarkReader {
    fn poll(&mut self, rows: usize, _timeout: Duration) -> Result<ReaderPoll> {
        let n_rows =
            (self.end - self.next).min(rows.min(self.texts.rows_from(self.next)) as u64) as usize;
        if n_rows == 0 {
            return Ok(ReaderPoll::Finished);
        }
        let columns = bid_columns(&self.options, &self.texts, &self.schema, self.next, n_rows);
        let columns = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::internal("bids make no batch").with_source(e))?;
        let origin = Origin {
            rows: Rows::Range {
                first: self.next - self.start + 1,
            },
            ..self.origin.clone()
        };
        self.next += n_rows as u64;
        Ok(ReaderPoll::Batch(Batch {
            origin: Some(origin),
            ..Batch::new(columns)
        }))
    }

    fn position(&self) -> String {
        position::write(&NexmarkPosition { bid: self.next })
    }
}

/// Columns of bids `first..first + n_rows`, in the order of `schema`.
fn bid_columns(
    options: &NexmarkOptions,
    texts: &Texts,
    schema: &SchemaRef,
    first: u64,
    n_rows: usize,
) -> Vec<ArrayRef> {
    let column = |name: &str| match (name, options.auctions) {
        ("auction", Some(auctions)) => numbers(first, n_rows, |bid| (spread(bid, auctions)) as i64),
        ("auction", None) => ids(first, n_rows, Ids::of_auctions, |ids, bid| {
            ids.auction(random(bid, 0))
        }),
        ("bidder", _) => ids(first, n_rows, Ids::of_bidders, |ids, bid| {
            ids.bidder(random(bid, 1))
        }),
        ("price", _) => numbers(first, n_rows, |bid| {
            texts.prices[random(bid, 2) as usize % PRICES]
        }),
        ("date_time", _) => times(options, first, n_rows),
        ("channel", _) => texts.column(0, first, n_rows),
        ("url", _) => texts.column(1, first, n_rows),
        _ => texts.column(2, first, n_rows),
    };
    schema
        .fields()
        .iter()
        .map(|field| column(field.name()))
        .collect()
}

/// Each closure is inlined into a loop of its own.
fn numbers(first: u64, n_rows: usize, of: impl Fn(u64) -> i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(
        (first..first + n_rows as u64).map(of),
    ))
}

/// Ids of bids: what is the same for all bids of an epoch is computed once per epoch.
fn ids(
    first: u64,
    n_rows: usize,
    of_epoch: fn(u64) -> Ids,
    id: impl Fn(&Ids, u64) -> u64,
) -> ArrayRef {
    let mut values = Vec::with_capacity(n_rows);
    let (mut bid, end) = (first, first + n_rows as u64);
    while bid < end {
        let epoch = bid / BIDS_PER_EPOCH;
        let epoch_end = ((epoch + 1) * BIDS_PER_EPOCH).min(end);
        let ids = of_epoch(epoch);
        values.extend((bid..epoch_end).map(|bid| id(&ids, bid) as i64));
        bid = epoch_end;
    }
    Arc::new(Int64Array::from(values))
}

/// Event times in ms. The quotient is kept up to date by addition: dividing for each bid would cost
/// more than the rest.
fn times(options: &NexmarkOptions, first: u64, n_rows: usize) -> ArrayRef {
    let mut values = Vec::with_capacity(n_rows);
    let (mut epoch, mut within) = (first / BIDS_PER_EPOCH, first % BIDS_PER_EPOCH);
    let ms_of = |event: u64| {
        options.base_time + (u128::from(event) * 1000 / u128::from(options.rate)) as i64
    };
    let (mut from, mut ms, mut until) = (0, 0, 0);
    for _ in 0..n_rows {
        let event = epoch * EVENTS_PER_EPOCH + 4 + within;
        if event < from || event >= until {
            // The time stays the same up to the first event of the next ms.
            ms = ms_of(event);
            from = event;
            until = (u128::from((ms - options.base_time) as u64 + 1) * u128::from(options.rate))
                .div_ceil(1000) as u64;
        }
        values.push(ms);
        within += 1;
        if within == BIDS_PER_EPOCH {
            (epoch, within) = (epoch + 1, 0);
        }
    }
    Arc::new(Int64Array::from(values))
}

/// The splitmix64 finaliser over the bid's number and the number of the draw.
#[inline]
fn random(bid: u64, draw: u64) -> u64 {
    let mut z = bid
        .wrapping_mul(4)
        .wrapping_add(draw + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `bound`, by multiplication instead of division.
#[inline]
fn below(random: u64, bound: u64) -> u64 {
    (random >> 32).wrapping_mul(bound) >> 32
}

/// An even spread over `0..auctions`; a multiplication of 128 bits, since there may be many.
#[inline]
fn spread(bid: u64, auctions: u64) -> u64 {
    ((u128::from(random(bid, 0)) * u128::from(auctions)) >> 64) as u64
}

/// The ids that the bids of an epoch choose from.
struct Ids {
    hot: u64,
    least: u64,
    n_cold: u64,
}

impl Ids {
    fn of_auctions(epoch: u64) -> Ids {
        let last = epoch * AUCTIONS_PER_EPOCH + AUCTIONS_PER_EPOCH - 1;
        let least = last.saturating_sub(AUCTIONS_IN_FLIGHT);
        Ids {
            hot: FIRST_ID + last / HOT_ROUND * HOT_ROUND,
            least: FIRST_ID + least,
            n_cold: last - least + 1 + ID_LEAD,
        }
    }

    fn of_bidders(epoch: u64) -> Ids {
        let active = (epoch + 1).min(ACTIVE_PEOPLE);
        Ids {
            hot: FIRST_ID + epoch / HOT_ROUND * HOT_ROUND + 1,
            least: FIRST_ID + epoch + 1 - active,
            n_cold: active + ID_LEAD,
        }
    }

    fn cold(&self, random: u64) -> u64 {
        self.least.wrapping_add(below(random, self.n_cold))
    }

    /// Without a branch: whether a bid is hot cannot be predicted.
    #[inline]
    fn choose(&self, hot: bool, random: u64) -> u64 {
        let cold = self.cold(random);
        cold ^ ((cold ^ self.hot) & u64::from(hot).wrapping_neg())
    }

    /// Half of the bids go to the hot auction, the others to one in flight.
    #[inline]
    fn auction(&self, random: u64) -> u64 {
        self.choose(random & 1 == 0, random)
    }

    /// Three quarters of the bids come from the hot bidder, the others from one who is active.
    #[inline]
    fn bidder(&self, random: u64) -> u64 {
        self.choose(random & 3 != 0, random)
    }
}

/// Ready columns, and prices by their law (log-uniform from 1 to 1,000,000 dollars, in cents).
struct Texts {
    pool: Vec<[ArrayRef; 3]>,
    prices: Vec<i64>,
}

impl Texts {
    fn new(n_pool: usize) -> Texts {
        let prices = (0..PRICES)
            .map(|i| (10f64.powf(i as f64 / PRICES as f64 * 6.0) * 100.0).round() as i64)
            .collect();
        Texts {
            pool: (0..n_pool as u64).map(text_columns).collect(),
            prices,
        }
    }

    /// How many bids from `first` on one ready column covers.
    fn rows_from(&self, first: u64) -> usize {
        if self.pool.is_empty() {
            usize::MAX
        } else {
            TEXT_ROWS - first as usize % TEXT_ROWS
        }
    }

    /// The texts of at most `rows_from(first)` bids.
    fn column(&self, column: usize, first: u64, n_rows: usize) -> ArrayRef {
        let number = (first / BIDS_PER_TEXT) as usize % self.pool.len();
        self.pool[number][column].slice(first as usize % TEXT_ROWS, n_rows)
    }
}

/// Channel, url and filler of one pool entry.
fn text_columns(number: u64) -> [ArrayRef; 3] {
    let draw = |row: u64, draw| random(number * TEXT_ROWS as u64 + row, draw);
    let rows = || 0..TEXT_ROWS as u64;
    let channel_number = |row| draw(row, 0) >> 8;
    let is_hot = |row| draw(row, 0) & 1 == 0;
    let channel = |row| match is_hot(row) {
        true => {
            ["Google", "Facebook", "Baidu", "Apple"][channel_number(row) as usize % 4].to_owned()
        }
        false => format!("channel-{}", channel_number(row) % 10_000),
    };
    let url = |row| {
        let folder = format!(
            "https://www.nexmark.com/{:x}/{:x}/item.htm?query=1",
            draw(row, 1) & 0xf_ffff,
            draw(row, 1) >> 44
        );
        // Nine tenths of the cold ones carry their channel's id.
        if !is_hot(row) && draw(row, 2) % 10 != 0 {
            format!("{folder}&channel_id={}", channel_number(row) % 10_000)
        } else {
            folder
        }
    };
    let extra = |row| {
        let length = 60 + draw(row, 3) % 24;
        (0..length)
            .map(|i| char::from(b'a' + (draw(row, 4 + i) % 26) as u8))
            .collect::<String>()
    };
    [
        Arc::new(StringArray::from_iter_values(rows().map(channel))),
        Arc::new(StringArray::from_iter_values(rows().map(url))),
        Arc::new(StringArray::from_iter_values(rows().map(extra))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use streamrt_operator::Enumeration;

    fn source(rows: u64, columns: &[&str]) -> NexmarkSource {
        let fields = columns.iter().map(|name| {
            let (_, data_type) = COLUMNS.iter().find(|(known, _)| known == name).unwrap();
            arrow_schema::Field::new(*name, data_type.clone(), false)
        });
        let options = NexmarkOptions {
            rows,
            rate: 100_000,
            base_time: 0,
            auctions: None,
        };
        NexmarkSource::new(
            options,
            Arc::new(arrow_schema::Schema::new(fields.collect::<Vec<_>>())),
        )
        .unwrap()
    }

    fn splits(source: &NexmarkSource, parallelism: u32) -> Vec<Split> {
        let Enumeration::Splits(splits) =
            source.enumerator(None).unwrap().poll(parallelism).unwrap()
        else {
            panic!("splits come first")
        };
        splits
    }

    /// The columns of numbers.
    fn read(source: &NexmarkSource) -> Vec<Vec<i64>> {
        let mut columns = vec![Vec::new(); source.schema.fields().len()];
        let mut reader = source.open(&splits(source, 1)[0], None).unwrap();
        while let ReaderPoll::Batch(batch) = reader.poll(1024, Duration::MAX).unwrap() {
            for (column, array) in columns.iter_mut().zip(batch.columns.columns()) {
                column.extend(array.as_primitive::<Int64Type>().values());
            }
        }
        columns
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn bids_depend_on_their_number_alone(n_splits in 1u32..4, rows in 1usize..3000, cuts in vec(0usize..5, 0..5), texts: bool) {
            let columns: &[&str] = if texts { &["auction", "url", "date_time", "extra"] } else { &["auction", "bidder", "price"] };
            let source = source(10_000, columns);
            let expected = testing::read(&source, &splits(&source, 1)[0], 1000).unwrap();
            let mut found = Vec::new();
            for split in splits(&source, n_splits) {
                let piece = testing::read_in_pieces(&source, &split, rows, &cuts).unwrap();
                prop_assert_eq!(piece.lines().0, (1..=piece.rows.len() as u64).collect::<Vec<_>>());
                found.extend(piece.rows.into_iter().map(|(_, row)| row));
            }
            prop_assert_eq!(found, expected.texts());
        }
    }

    #[test]
    fn a_position_outside_of_the_split_is_refused() {
        let source = source(100, &["price"]);
        let check = |detail: &str, position: Option<&str>, expected: &str| {
            let split = Split {
                number: 0,
                name: "bids".into(),
                detail: detail.to_owned(),
            };
            let error = source.open(&split, position).err().unwrap();
            let expected =
                format!("bids: the snapshot holds `{expected}`, which nobody could go on from");
            assert_eq!(
                (error.code().id, error.message()),
                ("S7001", expected.as_str())
            );
        };
        check("[50,60]", Some(r#"{"bid":49}"#), r#"{"bid":49}"#);
        check("[50,60]", Some(r#"{"bid":61}"#), r#"{"bid":61}"#);
        check("[50,60]", Some(r#"{"rows":61}"#), r#"{"rows":61}"#);
        check("[60,50]", None, "[60,50]");
    }

    #[test]
    fn the_law_is_nexmarks() {
        let columns = read(&source(
            460_000,
            &["auction", "bidder", "price", "date_time"],
        ));
        let n_rows = columns[0].len();
        let hot = (0..n_rows)
            .filter(|&bid| {
                columns[0][bid] == (FIRST_ID + (bid as u64 / 46 * 3 + 2) / 100 * 100) as i64
            })
            .count();
        assert!(
            (0.50..0.53).contains(&(hot as f64 / n_rows as f64)),
            "half of the bids are hot, and a few cold ones hit by chance"
        );
        assert!(
            columns[2]
                .iter()
                .all(|price| (100..=100_000_000).contains(price))
        );
        assert_eq!(
            columns[3][n_rows - 1],
            4_999,
            "500,000 events at 100,000 a second are 5 s"
        );
        assert!(columns[3].windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn a_bid_is_as_large_as_nexmarks() {
        let texts = text_columns(1);
        let bytes: usize = texts
            .iter()
            .map(|column| column.as_string::<i32>().value_data().len())
            .sum();
        let size = bytes / TEXT_ROWS + 4 * 8;
        assert!((160..200).contains(&size), "{size} bytes");
    }
}
