//! `wasi:clocks` and `wasi:random`: the host's clock, and numbers that follow from the plugin and
//! the subtask.

use super::{At, Context, Pollable, io};
use crate::trap::Stop;
use wasmtime::Result;
use wasmtime::component::{ComponentType, Lift, Lower, Resource};

const NANOSECONDS: u64 = 1_000_000;

/// The most random bytes of one call; a guest asks for some dozen.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// Defines one function; false if it is not one of these.
pub(super) fn define(at: &mut At<'_>, interface: &str, name: &str) -> Result<bool> {
    match (interface, name) {
        ("clocks/monotonic-clock", "now") => at.func_wrap(name, |context: Context<'_>, ()| {
            Ok((monotonic_ms(&context) * NANOSECONDS,))
        })?,
        ("clocks/monotonic-clock", "resolution") => {
            at.func_wrap(name, |_: Context<'_>, ()| Ok((NANOSECONDS,)))?
        }
        ("clocks/monotonic-clock", "subscribe-instant") => {
            at.func_wrap(name, |mut context: Context<'_>, (instant,): (u64,)| {
                subscribe(&mut context, instant.div_ceil(NANOSECONDS)).map(|of| (of,))
            })?
        }
        ("clocks/monotonic-clock", "subscribe-duration") => {
            at.func_wrap(name, |mut context: Context<'_>, (duration,): (u64,)| {
                let at_ms = monotonic_ms(&context).saturating_add(duration.div_ceil(NANOSECONDS));
                subscribe(&mut context, at_ms).map(|of| (of,))
            })?
        }
        ("clocks/wall-clock", "now") => {
            at.func_wrap(name, |context: Context<'_>, ()| Ok((wall(&context),)))?
        }
        ("clocks/wall-clock", "resolution") => at.func_wrap(name, |_: Context<'_>, ()| {
            Ok((Datetime {
                seconds: 0,
                nanoseconds: NANOSECONDS as u32,
            },))
        })?,
        ("random/random", "get-random-bytes")
        | ("random/insecure", "get-insecure-random-bytes") => {
            at.func_wrap(name, |mut context: Context<'_>, (n,): (u64,)| {
                random_bytes(&mut context, n).map(|bytes| (bytes,))
            })?
        }
        ("random/random", "get-random-u64") | ("random/insecure", "get-insecure-random-u64") => at
            .func_wrap(name, |mut context: Context<'_>, ()| {
                Ok((context.data_mut().wasi.random(),))
            })?,
        ("random/insecure-seed", "insecure-seed") => {
            at.func_wrap(name, |mut context: Context<'_>, ()| {
                let wasi = &mut context.data_mut().wasi;
                Ok(((wasi.random(), wasi.random()),))
            })?
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn monotonic_ms(context: &Context<'_>) -> u64 {
    u64::try_from(context.data().wasi.clock.monotonic_ms()).unwrap_or(0)
}

fn wall(context: &Context<'_>) -> Datetime {
    let now_ms = u64::try_from(context.data().wasi.clock.now_ms()).unwrap_or(0);
    Datetime {
        seconds: now_ms / 1000,
        nanoseconds: (now_ms % 1000 * NANOSECONDS) as u32,
    }
}

fn subscribe(context: &mut Context<'_>, at_ms: u64) -> Result<Resource<Pollable>> {
    io::pollable(context.data_mut(), i64::try_from(at_ms).unwrap_or(i64::MAX))
}

fn random_bytes(context: &mut Context<'_>, n: u64) -> Result<Vec<u8>> {
    if n > RANDOM_BYTES_MAX {
        return Err(Stop::NotProvided("wasi:random for more than a mebibyte".into()).into());
    }
    let wasi = &mut context.data_mut().wasi;
    let bytes = std::iter::repeat_with(|| wasi.random().to_le_bytes()).flatten();
    Ok(bytes.take(n as usize).collect())
}
