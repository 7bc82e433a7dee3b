//! `wasi:io`: an input that is at its end, outputs that are the log, and pollables that represent a
//! time.

use super::{At, Context, InputStream, IoError, OutputStream, Pollable};
use crate::guest::Guest;
use std::time::Duration;
use streamrt_wit::codes::level;
use wasmtime::Result;
use wasmtime::component::{ComponentType, Lift, Lower, Resource};

/// The outputs' numbers as resources.
pub(super) const STDOUT: u32 = 0;
pub(super) const STDERR: u32 = 1;

/// How much a guest may write at once.
const WRITE_BYTES_MAX: u64 = 4096;

/// The length at which a line without an end is logged.
const LINE_BYTES_MAX: usize = 8 << 10;

/// How much of stderr is kept for the report of a trap.
const COMPLAINT_BYTES_MAX: usize = 2 << 10;

/// How long a poll sleeps before it checks the deadline again.
const NAP: Duration = Duration::from_millis(10);

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(
        dead_code,
        reason = "the case belongs to the type of the interface, though nothing here fails"
    )]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

type Outcome<T> = (std::result::Result<T, StreamError>,);
type Input = Resource<InputStream>;
type Output = Resource<OutputStream>;

/// Defines one function; false if it is not one of these.
pub(super) fn define(at: &mut At<'_>, interface: &str, name: &str) -> Result<bool> {
    match interface {
        "io/streams" => streams(at, name),
        "io/poll" => polls(at, name),
        "io/error" if name == "[method]error.to-debug-string" => {
            at.func_wrap(name, |_: Context<'_>, (_,): (Resource<IoError>,)| {
                Ok((String::from("closed"),))
            })?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn streams(at: &mut At<'_>, name: &str) -> Result<bool> {
    match name {
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => {
            at.func_wrap(name, |_: Context<'_>, (_, _): (Input, u64)| {
                Ok::<Outcome<Vec<u8>>, _>((Err(StreamError::Closed),))
            })?;
        }
        "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => {
            at.func_wrap(name, |_: Context<'_>, (_, _): (Input, u64)| {
                Ok::<Outcome<u64>, _>((Err(StreamError::Closed),))
            })?;
        }
        "[method]input-stream.subscribe" => {
            at.func_wrap(name, |mut context: Context<'_>, (_,): (Input,)| {
                pollable(context.data_mut(), i64::MIN).map(|of| (of,))
            })?;
        }
        "[method]output-stream.check-write" => {
            at.func_wrap(name, |_: Context<'_>, (_,): (Output,)| {
                Ok::<Outcome<u64>, _>((Ok(WRITE_BYTES_MAX),))
            })?;
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            at.func_wrap(
                name,
                |mut context: Context<'_>, (stream, bytes): (Output, Vec<u8>)| {
                    write(context.data_mut(), stream.rep(), &bytes);
                    Ok::<Outcome<()>, _>((Ok(()),))
                },
            )?;
        }
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            at.func_wrap(name, |_: Context<'_>, (_,): (Output,)| {
                Ok::<Outcome<()>, _>((Ok(()),))
            })?;
        }
        "[method]output-stream.subscribe" => {
            at.func_wrap(name, |mut context: Context<'_>, (_,): (Output,)| {
                pollable(context.data_mut(), i64::MIN).map(|of| (of,))
            })?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn polls(at: &mut At<'_>, name: &str) -> Result<bool> {
    match name {
        "[method]pollable.ready" => {
            at.func_wrap(
                name,
                |context: Context<'_>, (pollable,): (Resource<Pollable>,)| {
                    Ok((is_ready(context.data(), &pollable),))
                },
            )?;
        }
        "[method]pollable.block" => {
            at.func_wrap(
                name,
                |context: Context<'_>, (pollable,): (Resource<Pollable>,)| {
                    wait(&context, &[pollable]).map(|_| ())
                },
            )?;
        }
        "poll" => {
            at.func_wrap(
                name,
                |context: Context<'_>, (of,): (Vec<Resource<Pollable>>,)| {
                    wait(&context, &of).map(|ready| (ready,))
                },
            )?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Makes a pollable that is ready at a time of the monotonic clock.
pub(super) fn pollable(guest: &mut Guest, at_ms: i64) -> Result<Resource<Pollable>> {
    let wasi = &mut guest.wasi;
    wasi.n_pollables = wasi.n_pollables.wrapping_add(1);
    wasi.pollables.insert(wasi.n_pollables, at_ms);
    wasi.handle(wasi.n_pollables)
}

fn is_ready(guest: &Guest, pollable: &Resource<Pollable>) -> bool {
    let at_ms = guest
        .wasi
        .pollables
        .get(&pollable.rep())
        .copied()
        .unwrap_or(i64::MIN);
    at_ms <= guest.wasi.clock.monotonic_ms()
}

/// Sleeps until one of the pollables is ready, and returns which are. The deadline and the cancel
/// flag end the sleep, and the guest.
fn wait(context: &Context<'_>, of: &[Resource<Pollable>]) -> Result<Vec<u32>> {
    loop {
        let ready: Vec<u32> = of
            .iter()
            .zip(0u32..)
            .filter(|(pollable, _)| is_ready(context.data(), pollable))
            .map(|(_, i)| i)
            .collect();
        if !ready.is_empty() {
            return Ok(ready);
        }
        context.data().check_time()?;
        std::thread::sleep(NAP);
    }
}

/// Logs whole lines; the rest waits for its end.
fn write(guest: &mut Guest, stream: u32, bytes: &[u8]) {
    let is_error = stream == STDERR;
    let Guest { wasi, journal, .. } = guest;
    let line = &mut wasi.lines[usize::from(is_error)];
    for byte in bytes {
        if *byte != b'\n' {
            line.push(*byte);
        }
        if *byte == b'\n' || line.len() >= LINE_BYTES_MAX {
            let text = String::from_utf8_lossy(line);
            journal.write(
                if is_error {
                    level::WARNING
                } else {
                    level::INFORMATION
                },
                &text,
            );
            if is_error {
                complain(&mut journal.complaint, &text);
            }
            line.clear();
        }
    }
}

/// Keeps the beginning of what a call wrote to stderr.
fn complain(complaint: &mut Option<String>, line: &str) {
    let text = complaint.get_or_insert_default();
    if text.len() + line.len() < COMPLAINT_BYTES_MAX
        && !line.starts_with("note: ")
        && !line.is_empty()
    {
        text.push_str(if text.is_empty() { "" } else { " " });
        text.push_str(line);
    }
}
