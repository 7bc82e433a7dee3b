//! A reader between a source that is a script and a recorder of what comes out.

use super::*;

/// What a split does next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Row(i64),
    /// It has nothing for 1 ms.
    Dry,
    /// Time goes on while it has nothing.
    Clock(i64),
}

/// What was seen of the readers of splits.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) open: usize,
    pub(super) most_open: usize,
    pub(super) n_opened: usize,
    /// (split, position) of what they were told of checkpoints.
    pub(super) told: Vec<(u64, String)>,
}

struct Fake {
    splits: Vec<Vec<Step>>,
    stays_open: bool,
    clock: Arc<ManualClock>,
    seen: Arc<Mutex<Seen>>,
}

impl Source for Fake {
    fn bounded(&self) -> bool {
        true
    }
    fn stays_open(&self) -> bool {
        self.stays_open
    }
    fn enumerator(&self, _: Option<&str>) -> Result<Box<dyn SplitEnumerator>> {
        Err(Error::internal("the test is the enumerator"))
    }
    fn open(&self, split: &Split, position: Option<&str>) -> Result<Box<dyn SplitReader>> {
        let at = position.map_or(0, |text| text.parse().unwrap());
        let mut seen = self.seen.lock().unwrap();
        seen.open += 1;
        seen.n_opened += 1;
        seen.most_open = seen.most_open.max(seen.open);
        let steps = self.splits[split.number as usize].clone();
        Ok(Box::new(FakeReader {
            number: split.number,
            steps,
            at,
            clock: self.clock.clone(),
            seen: self.seen.clone(),
        }))
    }
}

struct FakeReader {
    number: u64,
    steps: Vec<Step>,
    at: usize,
    clock: Arc<ManualClock>,
    seen: Arc<Mutex<Seen>>,
}

impl Drop for FakeReader {
    fn drop(&mut self) {
        self.seen.lock().unwrap().open -= 1;
    }
}

impl SplitReader for FakeReader {
    fn poll(&mut self, rows: usize, _: Duration) -> Result<ReaderPoll> {
        let first = self.at as u64 + 1;
        let rest = &self.steps[self.at..];
        let times: Vec<i64> = rest
            .iter()
            .map_while(|step| {
                if let Row(time) = step {
                    Some(*time)
                } else {
                    None
                }
            })
            .take(rows)
            .collect();
        match rest.first() {
            None => return Ok(ReaderPoll::Finished),
            Some(Row(_)) => self.at += times.len(),
            Some(Dry) => {
                self.at += 1;
                return Ok(ReaderPoll::Pending { ms: 1 });
            }
            Some(At(now_ms)) => {
                self.clock.set_ms(*now_ms);
                self.at += 1;
                return Ok(ReaderPoll::Pending { ms: 1 });
            }
        }
        let columns =
            RecordBatch::try_from_iter([("time", Arc::new(Int64Array::from(times)) as ArrayRef)])
                .unwrap();
        let origin = Origin {
            split: "fake".into(),
            split_number: self.number,
            rows: Rows::Range { first },
        };
        Ok(ReaderPoll::Batch(Batch {
            origin: Some(origin),
            ..Batch::new(columns)
        }))
    }
    fn position(&self) -> String {
        self.at.to_string()
    }
    fn checkpoint_complete(&mut self, position: &str) -> Result<()> {
        self.seen
            .lock()
            .unwrap()
            .told
            .push((self.number, position.to_owned()));
        Ok(())
    }
}

/// A row with the watermark in front of it, or what the chain said else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Out {
    Row {
        split: u64,
        time: i64,
        under: Watermark,
    },
    Watermark(Watermark),
    Status(Status),
}

/// Notes everything.
struct Recorder {
    watermark: Watermark,
    out: Arc<Mutex<Vec<Out>>>,
}

impl Operator for Recorder {
    fn batch(&mut self, batch: Batch, _: &mut dyn Output) -> Result<()> {
        batch.check()?;
        let mut out = self.out.lock().unwrap();
        let times = batch
            .columns
            .column(0)
            .as_primitive::<Int64Type>()
            .values()
            .clone();
        let split = batch.origin.as_ref().unwrap().split_number;
        let mut marks = batch.marks.iter().peekable();
        for (row, &time) in times.iter().enumerate() {
            while let Some(mark) = marks.next_if(|mark| mark.row as usize <= row) {
                self.watermark = mark.watermark;
            }
            out.push(Out::Row {
                split,
                time,
                under: self.watermark,
            });
        }
        marks.for_each(|mark| self.watermark = mark.watermark);
        Ok(())
    }
    fn watermark(&mut self, watermark: Watermark, _: &mut dyn Output) -> Result<()> {
        self.watermark = watermark;
        self.out.lock().unwrap().push(Out::Watermark(watermark));
        Ok(())
    }
    fn status(&mut self, status: Status, _: &mut dyn Output) -> Result<()> {
        self.out.lock().unwrap().push(Out::Status(status));
        Ok(())
    }
}

/// Passes only rows with times of at least this.
struct Filter(i64);

impl Operator for Filter {
    fn batch(&mut self, batch: Batch, output: &mut dyn Output) -> Result<()> {
        let times = batch
            .columns
            .column(0)
            .as_primitive::<Int64Type>()
            .values()
            .clone();
        let rows: Vec<u32> = (0..times.len() as u32)
            .filter(|row| times[*row as usize] >= self.0)
            .collect();
        if rows.is_empty() {
            Ok(())
        } else {
            output.batch(0, batch.take(&rows.into())?)
        }
    }
}

/// A reader, its task, and what comes out.
pub(super) struct Bench {
    pub(super) reader: Reader,
    pub(super) task: Task,
    gate: InputGate,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) out: Arc<Mutex<Vec<Out>>>,
}

#[derive(Default, Clone)]
pub(super) struct Job {
    pub(super) splits: Vec<Vec<Step>>,
    pub(super) batch_rows: usize,
    pub(super) idle_ms: Option<u64>,
    pub(super) stays_open: bool,
    pub(super) without_time: bool,
    pub(super) filter: i64,
    pub(super) alignment: Option<(Arc<Alignment>, usize)>,
}

pub(super) const BOUND_MS: i64 = 3;

impl Job {
    pub(super) fn bench(&self, subtask: u32, parallelism: u32) -> Bench {
        let (seen, out): (Arc<Mutex<Seen>>, Arc<Mutex<Vec<Out>>>) = Default::default();
        let (context, clock) = self.context(subtask, parallelism, &out);
        let source = Fake {
            splits: self.splits.clone(),
            stays_open: self.stays_open,
            clock: clock.clone(),
            seen: seen.clone(),
        };
        let shared = Shared {
            alignment: self.alignment.clone(),
            ..Shared::default()
        };
        let task = Task {
            chain: self.chain(&context, &out),
            seats: Default::default(),
            exits: crate::exits::TaskExits {
                partitions: Vec::new(),
                metrics: Arc::default(),
                tells_splits: Vec::new(),
            },
            clock,
            metrics: Arc::default(),
            control: Arc::default(),
            checkpoints: None,
            ended: false,
            published: None,
        };
        Bench {
            reader: Reader::new(Arc::new(source), named(&context, "source"), shared),
            task,
            gate: InputGate::new(1, 1 << 20),
            seen,
            out,
        }
    }

    fn context(
        &self,
        subtask: u32,
        parallelism: u32,
        out: &Arc<Mutex<Vec<Out>>>,
    ) -> (OperatorContext, Arc<ManualClock>) {
        let harness = Harness::new(Recorder {
            watermark: WATERMARK_MIN,
            out: out.clone(),
        });
        let configuration = Configuration {
            batch_rows: self.batch_rows.max(1),
            ..Configuration::default()
        };
        let context = OperatorContext {
            subtask,
            parallelism,
            configuration: Arc::new(configuration),
            ..harness.context
        };
        (context, harness.clock)
    }

    /// The filter, the times and marks, and the recorder.
    fn chain(&self, context: &OperatorContext, out: &Arc<Mutex<Vec<Out>>>) -> OperatorChain {
        let mut chain = OperatorChain::new();
        chain.push(
            Box::new(Filter(if self.filter == 0 {
                i64::MIN
            } else {
                self.filter
            })),
            named(context, "filter"),
            vec![(0, Target::Operator(1))],
        );
        if !self.without_time {
            let schema = RecordBatch::try_from_iter([(
                "time",
                Arc::new(Int64Array::from(vec![0])) as ArrayRef,
            )])
            .unwrap()
            .schema();
            let time = TimeSource::Column {
                column: "time".into(),
                unit: TimeUnit::Milliseconds,
            };
            let generator = Generator::Bounded {
                bound_ms: BOUND_MS as u64,
            };
            let timestamps =
                TimestampsOperator::new(&time, &generator, self.idle_ms, &schema, None).unwrap();
            chain.push(
                Box::new(timestamps),
                named(context, "timestamps"),
                vec![(0, Target::Operator(2))],
            );
        }
        chain.push(
            Box::new(Recorder {
                watermark: WATERMARK_MIN,
                out: out.clone(),
            }),
            named(context, "recorder"),
            Vec::new(),
        );
        chain.open().unwrap();
        chain
    }

    /// All splits, on one reader, to the end.
    pub(super) fn run(&self) -> (Vec<Out>, Seen) {
        let mut bench = self.bench(0, 1);
        bench.deal(0..self.splits.len() as u64);
        bench.run()
    }
}

fn named(context: &OperatorContext, uid: &str) -> OperatorContext {
    OperatorContext {
        uid: uid.into(),
        ..context.clone()
    }
}

pub(super) fn split(number: u64) -> Split {
    Split {
        number,
        name: format!("split {number}").into(),
        detail: String::new(),
    }
}

impl Bench {
    pub(super) fn deal(&mut self, numbers: impl Iterator<Item = u64>) {
        let splits: Vec<Split> = numbers.map(split).collect();
        let sender = self.gate.sender(0);
        sender.send(StreamElement::Status(Status::Active)).unwrap();
        sender
            .send(StreamElement::Batch(split_rows::to_batch(&splits).unwrap()))
            .unwrap();
        sender.send(StreamElement::EndOfInput).unwrap();
    }

    pub(super) fn run(mut self) -> (Vec<Out>, Seen) {
        self.reader.run(&mut self.task, &mut self.gate).unwrap();
        let out = std::mem::take(&mut *self.out.lock().unwrap());
        drop(self.reader);
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        (out, seen)
    }

    /// Takes all splits and reads so many times.
    pub(super) fn read(&mut self, n: usize) {
        self.reader
            .take_splits(&mut self.task, &mut self.gate, Some(Duration::ZERO))
            .unwrap();
        for _ in 0..n {
            self.reader.read(&mut self.task).unwrap();
        }
    }
}
