//! How much of its state a guest gets at once: an answer is made in the host's memory before the
//! guest has any of it.

use streamrt_types::{Error, Result, code};

/// The most bytes in one answer of `get-many`: a guest that asks for the same large list again and
/// again could otherwise make any number of them.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What an element or an entry costs in addition to its bytes while an answer is made.
const ELEMENT_BYTES: usize = 48;

/// Bytes of entries after which an answer of `scan` ends; the cursor says where to continue.
pub(crate) const SCAN_BYTES: usize = 8 << 20;

/// What an answer may still hold.
pub(crate) struct Room {
    number: u32,
    bytes_left: usize,
}

impl Room {
    pub fn new(number: u32) -> Room {
        Room {
            number,
            bytes_left: ANSWER_BYTES_MAX,
        }
    }

    /// # Errors
    /// `UserCode` if the elements, with their bytes, no longer fit.
    pub fn take(&mut self, n: usize, n_bytes: usize) -> Result<()> {
        let message = || {
            format!(
                "state {} is asked for more than {} MiB at once; ask for fewer slots",
                self.number,
                ANSWER_BYTES_MAX >> 20
            )
        };
        let left = self
            .bytes_left
            .checked_sub(n_bytes.saturating_add(n.saturating_mul(ELEMENT_BYTES)));
        self.bytes_left = left.ok_or_else(|| Error::new(code::OUTPUT_LIMIT, message()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::StateAccess;
    use crate::states::{CallStates, States};
    use arrow_array::{BinaryArray, Int64Array, RecordBatch};
    use std::sync::Arc;
    use streamrt_state::{KeyBuffer, KeyKind};
    use streamrt_types::KeyGroupRange;
    use streamrt_wit::StateDescriptor;
    use streamrt_wit::codes::action;

    /// Broadcast state from numbers to bytes, as a call sees it.
    fn broadcast() -> CallStates {
        let descriptor = r#"{"name": "m", "kind": "broadcast", "key": [{"name": "k", "type": "i64"}], "value": [{"name": "v", "type": "binary"}]}"#;
        let descriptor: StateDescriptor = serde_json::from_str(descriptor).unwrap();
        CallStates::new(
            States::new(&[descriptor], KeyKind::Fixed, KeyGroupRange::all(1), 1),
            KeyKind::Fixed,
        )
    }

    fn entry(key: i64, value: &[u8]) -> RecordBatch {
        let (keys, values) = (
            Arc::new(Int64Array::from(vec![key])),
            Arc::new(BinaryArray::from(vec![value])),
        );
        RecordBatch::try_from_iter([("k", keys as _), ("v", values as _)]).unwrap()
    }

    #[test]
    fn a_scan_ends_where_much_was_read_and_goes_on_behind_it() {
        let mut states = broadcast();
        let value = vec![1; SCAN_BYTES / 2];
        for key in 0..5 {
            states
                .put(0, &[0], &[action::SET], &entry(key, &value))
                .unwrap();
        }
        let writes = std::mem::take(&mut states.writes);
        states
            .states
            .apply(&[], writes, &KeyBuffer::new(KeyKind::Fixed));
        // Entries that the call has removed are looked at as well.
        for key in 2..4 {
            states
                .put(0, &[0], &[action::CLEAR], &entry(key, &[]))
                .unwrap();
        }
        let (mut after, mut pages) = (Vec::new(), Vec::new());
        loop {
            let (entries, cursor) = states.scan(0, 0, &after, 100).unwrap();
            pages.push(entries.num_rows());
            match cursor {
                Some(cursor) => after = cursor,
                None => break,
            }
        }
        assert_eq!(pages, [2, 0, 1]);
        assert_eq!(states.scan(0, 0, &[], 1).unwrap().0.num_rows(), 1);
    }

    #[test]
    fn an_answer_ends_where_its_room_does() {
        let mut room = Room::new(7);
        assert!(room.take(1, ANSWER_BYTES_MAX - ELEMENT_BYTES).is_ok());
        assert!(room.take(0, 0).is_ok());
        let error = room.take(1, 0).unwrap_err();
        let expected = "state 7 is asked for more than 64 MiB at once; ask for fewer slots";
        assert_eq!((error.code().id, error.message()), ("S4008", expected));
        assert!(Room::new(0).take(usize::MAX, usize::MAX).is_err());
    }
}
