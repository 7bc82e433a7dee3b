//! Many windows that are due at once, and windows that are large: what fires goes out piece by
//! piece, and is never held whole.

use super::functions::{collecting, counting, reducing, try_collecting, watched};
use super::restore::{CONTENTS, event_time, named_rows, share, some_rows, texts, write};
use super::*;
use crate::emission::{PIECE_BYTES, PIECE_ROWS};
use std::sync::atomic::{AtomicUsize, Ordering};
use streamrt_state::OperatorState;
use streamrt_types::{Times, WATERMARK_MIN, code};

/// Counts what comes out of port 0, and cancels the job at the first rows if asked to.
struct Pieces {
    context: OperatorContext,
    cancels: bool,
    n_rows: Vec<usize>,
    bytes: Vec<usize>,
    lines: Recorder,
}

impl Exits for Pieces {
    fn batch(&mut self, exit: usize, batch: Batch) -> Result<()> {
        if exit == 0 && batch.n_rows() > 0 {
            self.n_rows.push(batch.n_rows());
            self.bytes.push(batch.row_bytes() * batch.n_rows());
            self.context.cancel.store(self.cancels, Ordering::Relaxed);
        }
        self.lines.batch(exit, batch)
    }

    fn watermark(&mut self, exit: usize, watermark: Watermark) -> Result<()> {
        self.lines.watermark(exit, watermark)
    }

    fn status(&mut self, _: usize, _: Status) -> Result<()> {
        Ok(())
    }
}

/// A window operator, and what it has sent.
struct Job {
    chain: OperatorChain,
    pieces: Pieces,
}

impl Job {
    fn new(window: WindowOperator, cancels: bool) -> Job {
        let (context, _) = context();
        let mut chain = OperatorChain::new();
        chain.push(
            Box::new(window),
            context.clone(),
            vec![(0, Target::Exit(0)), (1, Target::Exit(1))],
        );
        chain.open().unwrap();
        Job {
            chain,
            pieces: Pieces {
                context,
                cancels,
                n_rows: Vec::new(),
                bytes: Vec::new(),
                lines: Recorder::default(),
            },
        }
    }

    fn feed(&mut self, columns: RecordBatch) {
        let mut batch = Some(Batch {
            times: Times::Column(1),
            ..Batch::new(columns)
        });
        self.chain
            .head(&mut self.pieces, &mut |operator, output| {
                operator.batch(batch.take().unwrap(), output)
            })
            .unwrap();
    }

    fn watermark(&mut self, watermark: Watermark) -> Result<()> {
        self.begin_watermark(watermark)?;
        while self.chain.is_sweeping() {
            self.chain.resume(&mut self.pieces)?;
        }
        Ok(())
    }

    /// The first piece of a sweep.
    fn begin_watermark(&mut self, watermark: Watermark) -> Result<()> {
        self.chain.head(&mut self.pieces, &mut |operator, output| {
            operator.watermark(watermark, output)
        })
    }

    /// Stops here, and continues in another run. What was sent is kept.
    fn restart(mut self, window: WindowOperator) -> Job {
        let part = write(self.chain.snapshot(1).unwrap().remove(0).1);
        let mut next = Job::new(window, false);
        next.chain
            .restore(|context| OperatorState::assemble("op", &[Some(part.clone())], share(context)))
            .unwrap();
        next.pieces.lines = self.pieces.lines;
        next
    }

    /// The results by time, and those of one time in the order of their text. None comes after a
    /// mark of its time.
    fn results(self) -> Vec<String> {
        let (mut last, mut results) = (WATERMARK_MIN, Vec::new());
        for line in self.pieces.lines.main() {
            match (
                line.strip_prefix("w ").map(str::parse),
                line.rsplit_once('@').map(|(_, time)| time.parse::<i64>()),
            ) {
                (Some(mark), _) => last = mark.unwrap(),
                (_, Some(time)) => results.push((
                    time.clone().unwrap(),
                    (time.unwrap() > last)
                        .then(|| line.clone())
                        .expect("a mark passed it"),
                )),
                _ => {}
            }
        }
        results.sort();
        results.into_iter().map(|(_, line)| line).collect()
    }
}

/// One row for each of `n_keys` keys.
fn keys(n_keys: i64) -> Vec<(i64, i64)> {
    (0..n_keys).map(|key| (key, key % 10)).collect()
}

#[test]
fn a_sweep_of_many_windows_hears_that_the_job_is_cancelled() {
    let windows: [(fn() -> WindowOperator, Watermark); 6] = [
        (|| builtin(tumbling(10), 0), 9),
        (|| builtin(sliding(20, 10), 0), 9),
        (|| builtin(session(10), 0), 18),
        (|| counting(session(10), 0, None), 18),
        (|| collecting(tumbling(10), 0, None), 9),
        (|| reducing(session(5)), 13),
    ];
    for (window, watermark) in windows {
        let n_keys = 3 * PIECE_ROWS as i64;
        for cancels in [false, true] {
            let mut job = Job::new(window(), cancels);
            keys(n_keys)
                .chunks(1000)
                .for_each(|rows| job.feed(super::rows(rows)));
            let done = job.watermark(watermark);
            assert_eq!(
                done.err().map(|e| e.code()),
                cancels.then_some(code::CANCELLED)
            );
            let n_rows = job.pieces.n_rows.iter().sum::<usize>();
            assert!(
                if cancels {
                    n_rows < 2 * PIECE_ROWS
                } else {
                    n_rows == n_keys as usize
                },
                "{n_rows} rows"
            );
            assert!(job.pieces.n_rows.iter().all(|n| *n <= PIECE_ROWS));
        }
    }
}

/// Otherwise a downstream operator would hold the results of all of them before it may process the
/// first.
#[test]
fn the_windows_of_a_sweep_pass_one_by_one() {
    let rows = super::rows(&[(1, 5), (2, 5), (1, 15), (1, 25), (1, 38)]);
    let marks: [(WindowOperator, &[&str]); 3] = [
        (builtin(tumbling(10), 0), &["w 9", "w 19", "w 29"]),
        (counting(tumbling(10), 0, None), &["w 9", "w 19", "w 29"]),
        // Sessions end at any ms; a mark stands between those of two gaps.
        (builtin(session(8), 0), &["w 12", "w 29"]),
    ];
    for (window, expected) in marks {
        let mut job = Job::new(window, false);
        job.feed(rows.clone());
        job.watermark(29).unwrap();
        let lines = job.pieces.lines.main();
        assert_eq!(
            lines
                .iter()
                .filter(|line| line.starts_with('w'))
                .collect::<Vec<_>>(),
            expected,
            "{lines:?}"
        );
        assert!(lines[0].starts_with('+') && lines[1].starts_with('+') && lines[2] == expected[0]);
    }
}

/// A barrier passes where a sweep stops: after each window, key group or call.
#[test]
fn a_sweep_stops_anywhere_and_goes_on_in_another_run() {
    let mut n_stops = 0;
    // Those of time.
    for assigner in event_time().into_iter().take(6) {
        for (name, make) in CONTENTS {
            for lateness_ms in [0, 7] {
                let make = || make(assigner.clone(), lateness_ms).in_least_pieces();
                let begin = || {
                    let mut job = Job::new(make(), false);
                    some_rows(60)
                        .chunks(9)
                        .for_each(|rows| job.feed(named_rows(rows)));
                    job.begin_watermark(70).unwrap();
                    job
                };
                let mut whole = begin();
                whole.watermark(70).unwrap();
                let expected = whole.results();
                for n_pieces in 0.. {
                    let mut job = begin();
                    (0..n_pieces).for_each(|_| job.chain.resume(&mut job.pieces).unwrap());
                    let is_done = !job.chain.is_sweeping();
                    let mut job = job.restart(make());
                    job.watermark(70).unwrap();
                    assert_eq!(
                        job.results(),
                        expected,
                        "{assigner:?}, {name}, lateness {lateness_ms}, {n_pieces} pieces"
                    );
                    if is_done {
                        break;
                    }
                    n_stops += 1;
                }
            }
        }
    }
    assert!(n_stops > 100, "{n_stops} stops");
}

#[test]
fn one_call_gets_a_piece_of_the_windows_and_of_their_rows() {
    let (most_windows, most_rows) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut job = Job::new(
        watched(tumbling(10), most_windows.clone(), most_rows.clone()),
        false,
    );
    // 8 bytes per row, and its place: a piece is full by bytes before it is by windows.
    for _ in 0..20 {
        keys(20_000)
            .chunks(10_000)
            .for_each(|rows| job.feed(super::rows(rows)));
    }
    job.watermark(9).unwrap();
    assert_eq!(job.pieces.n_rows.iter().sum::<usize>(), 20_000);
    assert!(
        most_rows.load(Ordering::Relaxed) <= PIECE_BYTES / 16 + 20,
        "{most_rows:?} rows"
    );
    assert!(
        most_windows.load(Ordering::Relaxed) <= PIECE_ROWS,
        "{most_windows:?} windows"
    );
}

#[test]
fn results_of_wide_rows_go_out_by_their_bytes() {
    // 300 keys with a text of 40 KB each, of which four aggregates keep one.
    for assigner in [tumbling(10), sliding(20, 10), session(10)] {
        let mut job = Job::new(texts(assigner, 0), false);
        for rows in keys(300).chunks(10) {
            let narrow = named_rows(rows);
            let wide: ArrayRef = Arc::new(arrow_array::StringArray::from_iter_values(
                rows.iter().map(|row| row.0.to_string().repeat(10_000)),
            ));
            let columns = vec![narrow.column(0).clone(), narrow.column(1).clone(), wide];
            job.feed(RecordBatch::try_new(narrow.schema(), columns).unwrap());
        }
        job.watermark(29).unwrap();
        assert!(job.pieces.n_rows.iter().sum::<usize>() >= 300);
        let most = job.pieces.bytes.iter().max().unwrap();
        assert!(*most <= PIECE_BYTES + 200_000, "{most} bytes in one batch");
    }
}

#[test]
fn sessions_of_one_key_are_found_among_many() {
    // Every second of 60,000 places, in a scrambled order; then those in between, which join
    // everything.
    let n = 60_000i64;
    let place = |i: i64| i * 48_271 % n * 10;
    let rows: Vec<(i64, i64)> = (0..n)
        .filter(|i| place(*i) % 20 == 0)
        .map(|i| (1, place(i)))
        .collect();
    let mut job = Job::new(builtin(session(10), 0), false);
    rows.chunks(1000)
        .for_each(|rows| job.feed(super::rows(rows)));
    job.watermark(n * 5).unwrap();
    assert_eq!(
        job.pieces.n_rows.iter().sum::<usize>(),
        15_000,
        "sessions that end by then"
    );
    let between: Vec<(i64, i64)> = (0..n)
        .map(|i| (1, place(i)))
        .filter(|row| row.1 % 20 != 0 && row.1 > n * 5 + 20)
        .collect();
    between
        .chunks(1000)
        .for_each(|rows| job.feed(super::rows(rows)));
    job.watermark(WATERMARK_MAX).unwrap();
    assert!(
        job.pieces.n_rows.iter().sum::<usize>() <= 15_003,
        "the others have become one"
    );
}

#[test]
fn windows_of_user_code_that_overlap_too_often_are_refused() {
    assert!(try_collecting(sliding(20_000, 10), 0, None).is_ok());
    let error = try_collecting(sliding(20_000, 9), 0, None).err().unwrap();
    let message = "windows of 20000 ms that slide by 9 ms put a row into 2222 windows; for functions of a plugin the limit is 2000";
    assert_eq!(
        (error.code(), error.message()),
        (code::WINDOW_OVERLAP, message)
    );
}
