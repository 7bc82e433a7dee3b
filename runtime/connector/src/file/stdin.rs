//! Standard input, for the path `-`. It cannot be read twice: what a crash takes with it is lost,
//! as with a socket.
//!
//! A read of standard input waits as long as nobody writes, but a task must hear barriers and its
//! end meanwhile. So one thread of the process reads, and hands over what it has through a short
//! queue. It outlives the attempts of a job: the next one continues where the queue is.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The longest that a read waits.
const WAIT: Duration = Duration::from_millis(10);

/// Bytes that are read at once, and how many such pieces may wait.
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 4;

/// The queue, with the piece that is being taken.
struct Queue {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    taken: usize,
    /// The first record, if it has the names of the columns and was read.
    header: Option<Vec<u8>>,
}

static QUEUE: OnceLock<Mutex<Queue>> = OnceLock::new();

/// Reads like standard input, but returns `WouldBlock` if nothing comes within 10 ms.
pub struct Stdin;

fn queue() -> MutexGuard<'static, Queue> {
    let begin = || {
        let (sender, pieces) = sync_channel(PIECES);
        std::thread::spawn(move || pump(&mut io::stdin(), |piece| sender.send(piece).is_ok()));
        Mutex::new(Queue {
            pieces,
            piece: Vec::new(),
            taken: 0,
            header: None,
        })
    };
    QUEUE
        .get_or_init(begin)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// The header, if this process has read it: the next attempt does not meet it again.
pub fn header() -> Option<Vec<u8>> {
    queue().header.clone()
}

/// Keeps the header for the next attempt.
pub fn keep_header(header: &[u8]) {
    queue().header = Some(header.to_vec());
}

/// Puts bytes that were read and not taken before the others.
pub fn give_back(bytes: &[u8]) {
    queue().give_back(bytes);
}

/// Reads until the end or an error, which is handed over too.
fn pump(input: &mut impl Read, mut give: impl FnMut(io::Result<Vec<u8>>) -> bool) {
    let mut bytes = vec![0; PIECE_BYTES];
    loop {
        let read = input.read(&mut bytes);
        if read
            .as_ref()
            .is_err_and(|e| e.kind() == io::ErrorKind::Interrupted)
        {
            continue;
        }
        let piece = read.map(|n_bytes| bytes[..n_bytes].to_vec());
        let is_last = piece.as_ref().map_or(true, Vec::is_empty);
        if !give(piece) || is_last {
            return;
        }
    }
}

impl Queue {
    fn give_back(&mut self, bytes: &[u8]) {
        self.piece = [bytes, &self.piece[self.taken..]].concat();
        self.taken = 0;
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.piece.len() {
            match self.pieces.recv_timeout(WAIT) {
                Ok(piece) => (self.piece, self.taken) = (piece?, 0),
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::WouldBlock.into()),
                // The end was handed over before.
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let rest = &self.piece[self.taken..];
        let n_bytes = rest.len().min(bytes.len());
        bytes[..n_bytes].copy_from_slice(&rest[..n_bytes]);
        self.taken += n_bytes;
        Ok(n_bytes)
    }
}

impl Read for Stdin {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        queue().read(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_taken_in_order_and_silence_is_no_end() {
        let (sender, pieces) = sync_channel(10);
        let mut queue = Queue {
            pieces,
            piece: Vec::new(),
            taken: 0,
            header: None,
        };
        let mut bytes = [0; 4];
        assert_eq!(
            queue.read(&mut bytes).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        pump(&mut &b"abcdef"[..], |piece| sender.send(piece).is_ok());
        assert_eq!((queue.read(&mut bytes).unwrap(), &bytes), (4, b"abcd"));
        queue.give_back(b"cd");
        assert_eq!((queue.read(&mut bytes).unwrap(), &bytes), (4, b"cdef"));
        queue.give_back(b"ef");
        assert_eq!(
            (queue.read(&mut bytes).unwrap(), &bytes[..2]),
            (2, &b"ef"[..])
        );
        drop(sender);
        assert_eq!(
            (
                queue.read(&mut bytes).unwrap(),
                queue.read(&mut bytes).unwrap()
            ),
            (0, 0)
        );
    }
}
