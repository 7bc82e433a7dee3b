//! The sending end of an edge: spreads rows over the subtasks of the receiver.
//!
//! Every watermark goes to every channel: as marks if the channel gets rows of the batch, otherwise
//! as an element. Invariant: the rows of one batch that go to one channel keep their order, and
//! each stays under the marks that it was under.

use crate::channel::{ChannelSender, Disconnected};
use arrow_array::UInt32Array;
use std::time::Duration;
use streamrt_types::{
    Barrier, Batch, Error, KeyEncoder, Mark, Result, Status, StreamElement, Watermark, key_group,
    key_group_owner,
};

/// Which channel gets a row.
#[derive(Debug)]
pub enum Partitioner {
    /// There is one channel.
    Forward,
    /// The owner of the key's group.
    Hash {
        encoder: KeyEncoder,
        max_parallelism: u32,
    },
    /// The channels in turn, one batch each.
    Rebalance,
    Broadcast,
    /// Channel 0.
    Global,
}

/// What becomes of a row that has no key: an error ends the task, otherwise the row is dropped.
pub type RefuseRow = Box<dyn Fn(&Batch, usize, Error) -> Result<()> + Send>;

/// All channels of one edge, at one sender.
pub struct ResultPartition {
    partitioner: Partitioner,
    refuse: RefuseRow,
    channels: Vec<ChannelSender>,
    turn: usize,
    hashes: Vec<u32>,
    /// For each key group the channel of its owner.
    owners: Vec<u32>,
    blocked: Duration,
}

impl ResultPartition {
    /// `turn` is where rebalancing begins: senders that begin at different channels load them
    /// evenly.
    pub fn new(
        partitioner: Partitioner,
        channels: Vec<ChannelSender>,
        turn: usize,
    ) -> ResultPartition {
        let owners = match &partitioner {
            Partitioner::Hash {
                max_parallelism, ..
            } => (0..*max_parallelism)
                .map(|group| key_group_owner(group, *max_parallelism, channels.len() as u32))
                .collect(),
            _ => Vec::new(),
        };
        let refuse: RefuseRow = Box::new(|_, _, error| Err(error));
        ResultPartition {
            partitioner,
            refuse,
            channels,
            turn,
            hashes: Vec::new(),
            owners,
            blocked: Duration::ZERO,
        }
    }

    /// Lets `refuse` decide about rows without a key, which are otherwise errors.
    #[must_use]
    pub fn refusing(self, refuse: RefuseRow) -> ResultPartition {
        ResultPartition { refuse, ..self }
    }

    /// How long sends have waited for room since the last call.
    pub fn take_blocked(&mut self) -> Duration {
        std::mem::take(&mut self.blocked)
    }

    /// Sends a batch.
    ///
    /// # Errors
    /// `Data` if a key is null and such rows are not dropped; [`Disconnected`] as a source if a
    /// receiver is gone.
    pub fn batch(&mut self, batch: Batch) -> Result<()> {
        let n_channels = self.channels.len();
        // With one channel there is nothing to choose, but a null key is as wrong as with two.
        let batch = match &self.partitioner {
            Partitioner::Hash { encoder, .. } => self.with_keys(encoder, batch)?,
            _ => batch,
        };
        if n_channels == 1 {
            return self.send_batch(0, batch);
        }
        match &self.partitioner {
            Partitioner::Hash { .. } => self.hash(batch),
            Partitioner::Broadcast => {
                (0..n_channels).try_for_each(|channel| self.send_batch(channel, batch.clone()))
            }
            Partitioner::Rebalance => {
                let channel = self.turn % n_channels;
                self.turn = channel + 1;
                self.send_whole(channel, batch)
            }
            Partitioner::Forward | Partitioner::Global => self.send_whole(0, batch),
        }
    }

    pub fn watermark(&mut self, watermark: Watermark) -> Result<()> {
        self.all(&StreamElement::Watermark(watermark))
    }

    pub fn status(&mut self, status: Status) -> Result<()> {
        self.all(&StreamElement::Status(status))
    }

    /// Announces that no row of a split follows. Another sender may have some of its rows, and
    /// announces that itself.
    pub fn split_finished(&mut self, number: u64) -> Result<()> {
        self.all(&StreamElement::SplitFinished(number))
    }

    pub fn barrier(&mut self, barrier: Barrier) -> Result<()> {
        self.all(&StreamElement::Barrier(barrier))
    }

    pub fn end_of_input(&mut self) -> Result<()> {
        self.all(&StreamElement::EndOfInput)
    }

    fn all(&mut self, element: &StreamElement) -> Result<()> {
        (0..self.channels.len()).try_for_each(|channel| self.send(channel, element.clone()))
    }

    /// Sends a batch, in pieces if the receiver wants fewer rows.
    fn send_batch(&mut self, channel: usize, batch: Batch) -> Result<()> {
        let rows_max = self.channels[channel].rows_max();
        batch.each_piece(rows_max, usize::MAX, |piece| {
            self.send(channel, StreamElement::Batch(piece))
        })
    }

    fn send(&mut self, channel: usize, element: StreamElement) -> Result<()> {
        match self.channels[channel].send(element) {
            Ok(waited) => {
                self.blocked += waited;
                Ok(())
            }
            Err(Disconnected) => Err(Error::new(
                streamrt_types::code::CANCELLED,
                "the receiving task has ended",
            )),
        }
    }

    /// The rows to one channel, the watermark to the others.
    fn send_whole(&mut self, to: usize, batch: Batch) -> Result<()> {
        if let Some(watermark) = batch.last_watermark() {
            for channel in (0..self.channels.len()).filter(|channel| *channel != to) {
                self.send(channel, StreamElement::Watermark(watermark))?;
            }
        }
        self.send_batch(to, batch)
    }

    /// Drops the rows that have no key, or ends with the first of them.
    fn with_keys(&self, encoder: &KeyEncoder, batch: Batch) -> Result<Batch> {
        if encoder.check(&batch.columns).is_ok() {
            return Ok(batch);
        }
        let mut rows = Vec::with_capacity(batch.n_rows());
        for row in 0..batch.n_rows() {
            match encoder.null_at(&batch.columns, row) {
                None => rows.push(row as u32),
                Some(error) => (self.refuse)(&batch, row, located(error, &batch, row))?,
            }
        }
        let marks = marks_of(&batch.marks, &rows);
        let rest = batch.take(&UInt32Array::from(rows))?;
        Ok(Batch { marks, ..rest })
    }

    fn hash(&mut self, batch: Batch) -> Result<()> {
        let Partitioner::Hash {
            encoder,
            max_parallelism,
        } = &self.partitioner
        else {
            return Err(Error::internal("rows are hashed by a hash partitioner"));
        };
        self.hashes.clear();
        encoder.hash(&batch.columns, &mut self.hashes)?;
        let mut rows: Vec<Vec<u32>> =
            vec![Vec::with_capacity(batch.n_rows() / self.channels.len() * 2); self.channels.len()];
        for (row, &hash) in self.hashes.iter().enumerate() {
            rows[self.owners[key_group(hash, *max_parallelism) as usize] as usize].push(row as u32);
        }
        for (channel, rows) in rows.into_iter().enumerate() {
            if rows.len() == batch.n_rows() {
                self.send_batch(channel, batch.clone())?;
            } else if !rows.is_empty() {
                let marks = marks_of(&batch.marks, &rows);
                let part = batch.take(&UInt32Array::from(rows))?;
                self.send_batch(channel, Batch { marks, ..part })?;
            } else if let Some(watermark) = batch.last_watermark() {
                self.send(channel, StreamElement::Watermark(watermark))?;
            }
        }
        Ok(())
    }
}

/// Names the record that has no key, if its origin is known.
fn located(error: Error, batch: &Batch, row: usize) -> Error {
    match &batch.origin {
        Some(origin) => error.at(format_args!(
            "{} line {}",
            origin.split,
            origin.position(row)
        )),
        None => error,
    }
}

/// The marks of a batch as they lie among some of its rows. If marks fall together, the last one
/// stays: no row lies between.
fn marks_of(marks: &[Mark], rows: &[u32]) -> Vec<Mark> {
    let mut moved: Vec<Mark> = Vec::with_capacity(marks.len().min(rows.len() + 1));
    for mark in marks {
        let row = rows.partition_point(|row| *row < mark.row) as u32;
        match moved.last_mut() {
            Some(last) if last.row == row => last.watermark = mark.watermark,
            _ => moved.push(Mark {
                row,
                watermark: mark.watermark,
            }),
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{GateEvent, InputGate};
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use std::sync::Arc;

    fn batch(keys: &[i64], marks: &[(u32, i64)]) -> Batch {
        let columns = RecordBatch::try_from_iter([(
            "key",
            Arc::new(Int64Array::from(keys.to_vec())) as ArrayRef,
        )])
        .unwrap();
        Batch {
            marks: marks
                .iter()
                .map(|&(row, watermark)| Mark { row, watermark })
                .collect(),
            ..Batch::new(columns)
        }
    }

    /// Sends a batch through a partitioner and returns for each channel its rows and marks, in
    /// order.
    fn spread(
        partitioner: Partitioner,
        n_channels: usize,
        sent: Batch,
    ) -> Vec<(Vec<i64>, Vec<(u32, i64)>)> {
        let mut gates: Vec<InputGate> = (0..n_channels)
            .map(|_| InputGate::new(1, 1 << 20))
            .collect();
        let mut partition = ResultPartition::new(
            partitioner,
            gates.iter().map(|gate| gate.sender(0)).collect(),
            1,
        );
        partition.status(Status::Active).unwrap();
        partition.batch(sent).unwrap();
        partition.end_of_input().unwrap();
        gates.iter_mut().map(received).collect()
    }

    fn received(gate: &mut InputGate) -> (Vec<i64>, Vec<(u32, i64)>) {
        let (mut keys, mut marks) = (Vec::new(), Vec::new());
        loop {
            match gate.poll(None).unwrap() {
                GateEvent::Batch(batch) | GateEvent::SecondInput(batch) => {
                    marks.extend(batch.marks.iter().map(|mark| (mark.row, mark.watermark)));
                    keys.extend(batch.columns.column(0).as_primitive::<Int64Type>().values());
                }
                GateEvent::Watermark(watermark) => marks.push((0, watermark)),
                GateEvent::Status(_) | GateEvent::Barrier(..) | GateEvent::SplitFinished(_) => {}
                GateEvent::EndOfInput | GateEvent::Nothing => return (keys, marks),
            }
        }
    }

    #[test]
    fn a_row_goes_to_the_owner_of_its_key_group_and_stays_under_its_marks() {
        let keys: Vec<i64> = (0..100).collect();
        let marks: Vec<(u32, i64)> = (1..=100).map(|row| (row, i64::from(row) * 10)).collect();
        let hash = Partitioner::Hash {
            encoder: KeyEncoder::new(vec![0]),
            max_parallelism: 128,
        };
        let parts = spread(hash, 3, batch(&keys, &marks));
        let mut all: Vec<i64> = parts.iter().flat_map(|(keys, _)| keys.clone()).collect();
        all.sort_unstable();
        assert_eq!(all, keys);
        for (keys, marks) in &parts {
            assert_eq!(
                marks.last().map(|mark| mark.1),
                Some(1000),
                "every channel learns the last watermark"
            );
            for (row, key) in keys.iter().enumerate() {
                // Before key k the watermark was k * 10.
                let under = marks
                    .iter()
                    .rfind(|(at, _)| *at as usize <= row)
                    .map_or(0, |mark| mark.1);
                assert_eq!(under, key * 10);
            }
        }
    }

    #[test]
    fn a_receiver_that_wants_fewer_rows_gets_them_in_pieces() {
        let mut gate = InputGate::new(1, 1 << 20);
        gate.set_rows_max(2);
        let sender = gate.sender(0);
        let thread = std::thread::spawn(move || {
            let mut partition = ResultPartition::new(Partitioner::Forward, vec![sender], 0);
            partition.status(Status::Active).unwrap();
            partition
                .batch(batch(&[1, 2, 3, 4, 5], &[(2, 7), (5, 9)]))
                .unwrap();
            partition.end_of_input().unwrap();
        });
        assert_eq!(
            received(&mut gate),
            (vec![1, 2, 3, 4, 5], vec![(2, 7), (1, 9)])
        );
        thread.join().unwrap();
    }

    #[test]
    fn other_partitioners_keep_the_batch_whole() {
        let sent = || batch(&[1, 2], &[(2, 5)]);
        assert_eq!(
            spread(Partitioner::Broadcast, 2, sent()),
            vec![(vec![1, 2], vec![(2, 5)]); 2]
        );
        assert_eq!(
            spread(Partitioner::Global, 2, sent()),
            [(vec![1, 2], vec![(2, 5)]), (vec![], vec![(0, 5)])]
        );
        assert_eq!(
            spread(Partitioner::Rebalance, 2, sent()),
            [(vec![], vec![(0, 5)]), (vec![1, 2], vec![(2, 5)])]
        );
    }

    #[test]
    fn rows_without_a_key_are_left_out_by_whoever_decides_and_the_marks_stay_with_the_others() {
        let keys = Int64Array::from(vec![None, Some(1), None, Some(2)]);
        let columns =
            RecordBatch::try_from_iter_with_nullable([("key", Arc::new(keys) as ArrayRef, true)])
                .unwrap();
        let marks = [(1, 10), (3, 20), (4, 30)].map(|(row, watermark)| Mark { row, watermark });
        let sent = || Batch {
            marks: marks.to_vec(),
            ..Batch::new(columns.clone())
        };
        let hash = || Partitioner::Hash {
            encoder: KeyEncoder::new(vec![0]),
            max_parallelism: 128,
        };
        for n_channels in [1, 2] {
            let mut gates: Vec<InputGate> = (0..n_channels)
                .map(|_| InputGate::new(1, 1 << 20))
                .collect();
            let senders = gates.iter().map(|gate| gate.sender(0)).collect();
            let refused = Arc::new(std::sync::Mutex::new(Vec::new()));
            let seen = refused.clone();
            let refuse: RefuseRow = Box::new(move |_, row, error| {
                seen.lock().unwrap().push((row, error.message().to_owned()));
                Ok(())
            });
            let mut partition = ResultPartition::new(hash(), senders, 0).refusing(refuse);
            partition.status(Status::Active).unwrap();
            partition.batch(sent()).unwrap();
            partition.end_of_input().unwrap();
            let parts: Vec<_> = gates.iter_mut().map(received).collect();
            let mut keys: Vec<i64> = parts.iter().flat_map(|(keys, _)| keys.clone()).collect();
            keys.sort_unstable();
            assert_eq!(keys, [1, 2]);
            assert!(
                parts
                    .iter()
                    .all(|(_, marks)| marks.last().is_some_and(|mark| mark.1 == 30)),
                "{parts:?}"
            );
            assert_eq!(
                *refused.lock().unwrap(),
                [0, 2].map(|row| (row, "key column `key` is null".to_owned()))
            );
            let mut strict =
                ResultPartition::new(hash(), gates.iter().map(|gate| gate.sender(0)).collect(), 0);
            assert_eq!(strict.batch(sent()).unwrap_err().code().id, "S5002");
        }
    }
}
