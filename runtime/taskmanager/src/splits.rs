//! The splits of one reader: which one is read next, how many rows it may give, and which are open.
//!
//! 1. Every split has its turn, a number: with event time its watermark, which is the lowest there
//!    is before its first row; without, the order of discovery. The one with the lowest turn is
//!    read next.
//! 2. So each split gives its first rows before any gives more, and from then on splits whose times
//!    follow each other are read one after the other, and splits that cover the same time are
//!    merged by time.
//! 3. What a split gives beyond the watermark, the operators have to keep: the more splits are read
//!    side by side, the fewer rows each gives at once. One that stays the lowest gives twice as
//!    many each time.
//! 4. The number of splits that are open at once has a limit; the one that is needed last is closed
//!    if there are too many.
//! 5. Some files are opened in their middle only by reading them from their begin. One of those
//!    that was closed stays the next when it is open again, until it has come twice as far: so the
//!    ways back of a file are together no longer than the file. What it gives meanwhile is ahead of
//!    the watermark.
//!
//! Nothing here reads: the reader's loop does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use streamrt_operator::{Split, SplitReader};

/// Rows that all splits of a reader may be ahead of the watermark, about.
const AHEAD_ROWS: usize = 64 << 10;
/// A split gives so many rows at least, once it has begun: opening a file and calling operators
/// should not be for one row.
const TURN_ROWS_MIN: usize = 16;
/// Files that all readers of a source have open, and the bytes that they hold: each has buffers,
/// and processes have a limit on files.
const OPEN_SPLITS_MAX: usize = 256;
const OPEN_BYTES_MAX: usize = 64 << 20;
/// A reader has so many open however many readers there are.
const OPEN_SPLITS_MIN: usize = 8;

/// A split that is not finished.
pub(crate) struct Held {
    pub split: Split,
    /// Where to go on, while it is closed. `None`: it was not begun.
    pub position: Option<String>,
    pub reader: Option<Box<dyn SplitReader>>,
    /// Its silence counts, because it is asked for rows.
    pub attended: bool,
    turn: i64,
    /// What its reader holds.
    bytes: usize,
    stage: Stage,
    /// It was closed because others were open.
    was_closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    New,
    /// It has given its first rows.
    Begun,
    /// And more: it is one of those that are read side by side.
    Read,
}

impl Held {
    /// Where it goes on.
    pub fn position(&self) -> Option<String> {
        self.reader
            .as_ref()
            .map(|reader| reader.position())
            .or_else(|| self.position.clone())
    }
}

/// All splits of a reader that are not finished.
pub(crate) struct Splits {
    by_number: BTreeMap<u64, Held>,
    /// Those that may have rows now, by turn and number.
    ready: BTreeSet<(i64, u64)>,
    /// Those that had none, by when to ask again.
    dry: BTreeSet<(Instant, u64)>,
    /// Those that have a reader, by turn and number.
    open: BTreeSet<(i64, u64)>,
    open_bytes: usize,
    open_max: usize,
    open_bytes_max: usize,
    /// Splits of stage `Read`.
    n_read: usize,
    /// Which gave rows last, and at most how many.
    last: Option<(u64, usize)>,
    /// The split that was opened again at a place to which the way was so long.
    returned: Option<(u64, u64)>,
}

impl Splits {
    /// `readers` share what one source may have open.
    pub fn new(readers: u32) -> Splits {
        let readers = readers.max(1) as usize;
        Splits {
            by_number: BTreeMap::new(),
            ready: BTreeSet::new(),
            dry: BTreeSet::new(),
            open: BTreeSet::new(),
            open_bytes: 0,
            open_max: (OPEN_SPLITS_MAX / readers).max(OPEN_SPLITS_MIN),
            open_bytes_max: OPEN_BYTES_MAX / readers,
            n_read: 0,
            last: None,
            returned: None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    pub fn is_one(&self) -> bool {
        self.by_number.len() == 1
    }

    /// All of them, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.by_number.values()
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut Held> {
        self.by_number.get_mut(&number)
    }

    /// Takes a split; with a position it goes on there.
    pub fn insert(&mut self, split: Split, position: Option<String>, turn: i64) {
        let number = split.number;
        let stage = if position.is_some() {
            Stage::Begun
        } else {
            Stage::New
        };
        self.by_number.insert(
            number,
            Held {
                split,
                position,
                reader: None,
                attended: false,
                turn,
                bytes: 0,
                stage,
                was_closed: false,
            },
        );
        self.ready.insert((turn, number));
    }

    /// The split that is furthest back, of those that may have rows now.
    pub fn first(&self) -> Option<(i64, u64)> {
        self.ready.first().copied()
    }

    /// The split that is read next.
    pub fn next(&self) -> Option<(i64, u64)> {
        let returned = self
            .returned
            .and_then(|(number, _)| Some((self.by_number.get(&number)?.turn, number)));
        returned
            .filter(|turn| self.ready.contains(turn))
            .or_else(|| self.first())
    }

    /// Lets the split that is furthest back go before one that was opened again.
    pub fn give_way(&mut self) {
        self.returned = None;
    }

    /// When the next one that had no rows is asked again.
    pub fn next_dry(&self) -> Option<Instant> {
        self.dry.first().map(|(again, _)| *again)
    }

    /// The turns of those that have no rows for now.
    pub fn dry(&self) -> impl Iterator<Item = (i64, u64)> {
        self.dry
            .iter()
            .filter_map(|(_, number)| Some((self.by_number.get(number)?.turn, *number)))
    }

    /// Lets splits that had no rows be asked again, if it is time. Returns those whose silence
    /// counted until now although it is not their turn.
    pub fn wake(&mut self, now: Instant) -> Vec<u64> {
        let mut awake = Vec::new();
        while let Some((again, number)) =
            self.dry.first().copied().filter(|(again, _)| *again <= now)
        {
            self.dry.remove(&(again, number));
            if let Some(held) = self.by_number.get(&number) {
                self.ready.insert((held.turn, number));
                awake.push(number);
            }
        }
        let next = self.next().map(|(_, number)| number);
        awake.retain(|number| {
            Some(*number) != next && self.by_number.get(number).is_some_and(|held| held.attended)
        });
        awake
    }

    /// Whether it may have rows now.
    pub fn is_ready(&self, number: u64) -> bool {
        self.by_number
            .get(&number)
            .is_some_and(|held| self.ready.contains(&(held.turn, number)))
    }

    /// How many rows a split may give at once, if a batch has `batch_rows` at most.
    pub fn rows(&self, number: u64, batch_rows: usize) -> usize {
        let share = match self.by_number.get(&number).map(|held| held.stage) {
            Some(Stage::New) => AHEAD_ROWS / self.by_number.len().max(1),
            _ => (AHEAD_ROWS / self.n_read.max(1)).max(TURN_ROWS_MIN),
        };
        let rows = match self.last {
            Some((last, rows)) if last == number => rows.saturating_mul(2).max(share),
            _ => share,
        };
        rows.clamp(1, batch_rows)
    }

    /// A split has got its reader.
    pub fn opened(&mut self, number: u64, reader: Box<dyn SplitReader>) {
        if let Some(held) = self.by_number.get_mut(&number) {
            self.open.insert((held.turn, number));
            if std::mem::take(&mut held.was_closed) && reader.way_back() > 0 {
                self.returned = Some((number, reader.way_back()));
            }
            (held.reader, held.position) = (Some(reader), None);
        }
    }

    /// A split was asked for up to `rows` rows, and has another turn. With `again` it had none, and
    /// is asked again then.
    pub fn asked(&mut self, number: u64, rows: usize, turn: i64, again: Option<Instant>) {
        let Some(held) = self.by_number.get_mut(&number) else {
            return;
        };
        self.last = Some((number, rows));
        self.ready.remove(&(held.turn, number));
        if self.open.remove(&(held.turn, number)) {
            self.open.insert((turn, number));
        }
        let bytes = held.reader.as_ref().map_or(0, |reader| reader.held_bytes());
        self.open_bytes = self.open_bytes - held.bytes + bytes;
        (held.turn, held.bytes) = (turn, bytes);
        let way_back = held.reader.as_ref().map_or(0, |reader| reader.way_back());
        self.returned = self
            .returned
            .filter(|(returned, way)| *returned == number && way_back / 2 < *way);
        match again {
            Some(again) => drop(self.dry.insert((again, number))),
            None => {
                self.ready.insert((turn, number));
                let stage = if held.stage == Stage::New {
                    Stage::Begun
                } else {
                    Stage::Read
                };
                self.n_read += usize::from(stage == Stage::Read && held.stage != Stage::Read);
                held.stage = stage;
            }
        }
    }

    /// A split is at its end.
    pub fn finish(&mut self, number: u64) {
        let Some(held) = self.by_number.remove(&number) else {
            return;
        };
        self.ready.remove(&(held.turn, number));
        self.open.remove(&(held.turn, number));
        self.open_bytes -= held.bytes;
        self.n_read -= usize::from(held.stage == Stage::Read);
    }

    /// Closes the splits that are too many: those whose turn is furthest away.
    pub fn close_too_many(&mut self) {
        while self.open.len() > self.open_max
            || self.open.len() > 1 && self.open_bytes > self.open_bytes_max
        {
            let returned = self.returned.map(|(number, _)| number);
            let Some(last) = self
                .open
                .iter()
                .rfind(|(_, number)| Some(*number) != returned)
                .copied()
            else {
                return;
            };
            self.open.remove(&last);
            let (_, number) = last;
            if let Some(held) = self.by_number.get_mut(&number) {
                held.position = held.position();
                (held.reader, held.was_closed) = (None, true);
                self.open_bytes -= std::mem::take(&mut held.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use streamrt_operator::ReaderPoll;
    use streamrt_types::Result;

    /// Holds so many bytes, stands at a position, and the way back to it is so long.
    struct Standing(usize, &'static str, u64);

    impl SplitReader for Standing {
        fn poll(&mut self, _: usize, _: Duration) -> Result<ReaderPoll> {
            Ok(ReaderPoll::Finished)
        }
        fn position(&self) -> String {
            self.1.to_owned()
        }
        fn held_bytes(&self) -> usize {
            self.0
        }
        fn way_back(&self) -> u64 {
            self.2
        }
    }

    fn split(number: u64) -> Split {
        Split {
            number,
            name: format!("split {number}").into(),
            detail: String::new(),
        }
    }

    fn of(n_splits: u64, readers: u32) -> Splits {
        let mut splits = Splits::new(readers);
        (0..n_splits).for_each(|number| splits.insert(split(number), None, i64::MIN));
        splits
    }

    fn open(splits: &Splits) -> Vec<u64> {
        splits
            .by_number
            .iter()
            .filter(|(_, held)| held.reader.is_some())
            .map(|(number, _)| *number)
            .collect()
    }

    /// Reads `n` times what comes next, and raises its turn by what `rise` says of it. Returns the
    /// numbers.
    fn read(splits: &mut Splits, n: usize, rise: impl Fn(u64) -> i64) -> Vec<u64> {
        let mut read = Vec::new();
        for _ in 0..n {
            let (turn, number) = splits.first().unwrap();
            let rows = splits.rows(number, 1024);
            let turn = if turn == i64::MIN {
                number as i64 * 10
            } else {
                turn + rise(number)
            };
            splits.asked(number, rows, turn, None);
            read.push(number);
        }
        read
    }

    #[test]
    fn each_gives_its_first_rows_and_then_the_lowest_is_read() {
        let mut splits = of(3, 1);
        assert_eq!(read(&mut splits, 3, |_| 0), [0, 1, 2]);
        // Their watermarks are 0, 10 and 20.
        assert_eq!(
            read(&mut splits, 4, |number| if number == 0 { 6 } else { 100 }),
            [0, 0, 1, 0]
        );
        assert_eq!(splits.first(), Some((18, 0)));
        splits.finish(0);
        assert_eq!(splits.first(), Some((20, 2)));
        splits.finish(2);
        splits.finish(1);
        assert!(splits.is_empty() && splits.first().is_none());
    }

    #[test]
    fn the_more_are_read_side_by_side_the_fewer_rows_each_gives_and_one_that_stays_the_lowest_gives_more()
     {
        let mut splits = of(4096, 1);
        assert_eq!(splits.rows(0, 1024), 16);
        read(&mut splits, 4096, |_| 0);
        assert_eq!(
            splits.rows(0, 1024),
            1024,
            "none is read side by side with it"
        );
        // Each passes all others at its turn.
        read(&mut splits, 1024, |_| 1 << 40);
        assert_eq!(splits.rows(1024, 1024), 64);
        splits.asked(1024, 64, i64::MIN, None);
        assert_eq!(splits.rows(1024, 1024), 128);
        assert_eq!(
            (of(1, 1).rows(0, 1024), of(1_000_000, 1).rows(0, 1024)),
            (1024, 1)
        );
    }

    #[test]
    fn the_split_that_is_needed_last_is_closed_and_keeps_its_position() {
        let mut splits = of(40, 32);
        for number in 0..40 {
            splits.opened(number, Box::new(Standing(1, "here", 0)));
            splits.asked(number, 1, 100 - number as i64, None);
            splits.close_too_many();
        }
        assert_eq!(open(&splits), (32..40).collect::<Vec<_>>());
        let held = splits.get_mut(0).unwrap();
        assert_eq!(
            (held.position().as_deref(), held.reader.is_none()),
            (Some("here"), true)
        );
    }

    #[test]
    fn what_holds_too_much_memory_is_closed_but_one() {
        let mut splits = of(3, 1);
        for number in 0..3 {
            splits.opened(number, Box::new(Standing(OPEN_BYTES_MAX, "x", 0)));
            splits.asked(number, 1, number as i64, None);
            splits.close_too_many();
        }
        assert_eq!(
            (open(&splits), splits.open_bytes),
            (vec![0], OPEN_BYTES_MAX)
        );
        splits.finish(0);
        assert_eq!(splits.open_bytes, 0);
    }

    /// Eight of nine may be open.
    #[test]
    fn a_split_that_is_opened_again_is_read_until_it_has_come_twice_as_far() {
        let mut splits = of(9, 32);
        for number in 0..9 {
            splits.opened(number, Box::new(Standing(1, "here", 100)));
            splits.asked(number, 1, 100 - number as i64, None);
            splits.close_too_many();
        }
        assert_eq!(
            (open(&splits), splits.next()),
            ((1..9).collect(), Some((92, 8))),
            "the first time each waits for its turn"
        );
        (1..9).for_each(|number| splits.asked(number, 1, 200, None));
        splits.opened(0, Box::new(Standing(1, "here", 100)));
        let mut come = |way_back: u64| {
            splits.get_mut(0).unwrap().reader = Some(Box::new(Standing(1, "here", way_back)));
            splits.asked(0, 1, 300, None);
            splits.close_too_many();
            (splits.first(), splits.next(), open(&splits).contains(&0))
        };
        assert_eq!(
            come(199),
            (Some((200, 1)), Some((300, 0)), true),
            "it goes on, and others are closed for it"
        );
        assert_eq!(come(200), (Some((200, 1)), Some((200, 1)), true));
        splits.opened(8, Box::new(Standing(1, "here", 7)));
        splits.asked(8, 1, 201, None);
        assert_eq!(splits.next(), Some((201, 8)));
        splits.give_way();
        assert_eq!(splits.next(), Some((200, 1)));
    }

    #[test]
    fn a_split_without_rows_lets_others_go_first_and_comes_back() {
        let mut splits = of(2, 1);
        let start = Instant::now();
        splits.asked(0, 1, 5, Some(start + Duration::from_millis(10)));
        assert_eq!(
            (splits.first(), splits.dry().collect::<Vec<_>>()),
            (Some((i64::MIN, 1)), vec![(5, 0)])
        );
        splits.asked(1, 1, 3, None);
        splits.get_mut(0).unwrap().attended = true;
        assert_eq!(splits.wake(start), [0; 0]);
        assert_eq!(
            splits.wake(start + Duration::from_millis(10)),
            [0],
            "it is the turn of split 1, and its silence means nothing"
        );
        splits.finish(1);
        assert_eq!((splits.first(), splits.is_ready(0)), (Some((5, 0)), true));
    }
}
