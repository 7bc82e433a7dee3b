//! The interfaces `state` and `host` of the WIT: what a guest may ask for while it is called.
//!
//! Requests are untrusted: they are read like outputs, slots are checked against those of the
//! running call. A wrong request is answered with an `error` of code 5, and the call then usually
//! fails; the cause is kept, because it says more than the guest will.

use crate::abi::{Answer, GuestError, PIECE_BYTES, Section};
use crate::guest::Guest;
use crate::lift::{Reader, bad};
use crate::lower::Pieces;
use crate::signature::StateTypes;
use arrow_array::RecordBatch;
use streamrt_types::{Error, Result};
use streamrt_wit::codes::{action, buffer, error, part, section};
use streamrt_wit::{HOST_INTERFACE, STATE_INTERFACE, StateKind};
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

/// The most rows in one answer of `scan`. A guest that wants more asks again with the cursor.
const SCAN_ROWS_MAX: u32 = 1 << 16;

type Context<'a> = StoreContextMut<'a, Guest>;

/// Adds both interfaces to a linker.
pub(crate) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut state = linker.instance(STATE_INTERFACE)?;
    state.func_wrap(
        "get-many",
        |mut context: Context<'_>, (number, keys): (u32, Section)| {
            spend_reads(context.data_mut(), number, keys.rows as usize, keys.cost())?;
            Ok((answer(context.data_mut(), |guest| {
                get_many(guest, number, keys)
            }),))
        },
    )?;
    state.func_wrap(
        "put-many",
        |mut context: Context<'_>, (number, entries): (u32, Section)| {
            // What is written is held back until the call returns, like output.
            context.data_mut().running.spend(
                entries
                    .cost()
                    .saturating_add((entries.rows as usize).saturating_mul(PIECE_BYTES)),
            )?;
            Ok((answer(context.data_mut(), |guest| {
                put_many(guest, number, entries)
            }),))
        },
    )?;
    state.func_wrap(
        "scan",
        |mut context: Context<'_>, (number, slot, after, limit): (u32, u32, Vec<u8>, u32)| {
            spend_reads(context.data_mut(), number, 1, after.len())?;
            Ok((answer(context.data_mut(), |guest| {
                scan(guest, number, slot, &after, limit)
            }),))
        },
    )?;
    let mut host = linker.instance(HOST_INTERFACE)?;
    host.func_wrap("emit", |context: Context<'_>, (segment,): (Section,)| {
        emit(context, segment).map(|answer| (answer,))
    })?;
    host.func_wrap(
        "log",
        |mut context: Context<'_>, (level, message): (u8, String)| {
            context.data_mut().n_imported += 1;
            context.data_mut().journal.write(level, &message);
            Ok(())
        },
    )
}

/// What was read of state with a time to live is remembered until the call returns.
fn spend_reads(
    guest: &mut Guest,
    number: u32,
    rows: usize,
    n_bytes: usize,
) -> wasmtime::Result<()> {
    let has_ttl = descriptor(&guest.signature, number).is_ok_and(|state| state.has_ttl);
    let cost = if has_ttl {
        n_bytes.saturating_add(rows.saturating_mul(2 * PIECE_BYTES))
    } else {
        0
    };
    guest.running.spend(cost)
}

fn answer<T>(guest: &mut Guest, work: impl FnOnce(&mut Guest) -> Result<T>) -> Answer<T> {
    guest.n_imported += 1;
    work(guest).map_err(|cause| {
        let message = cause.message().to_owned();
        guest.running.state_error = Some(cause);
        GuestError {
            code: error::STATE,
            message,
        }
    })
}

/// Holds a segment back, and takes its size off what the call may still send, so that the limit
/// holds over all of them.
fn emit(mut context: Context<'_>, segment: Section) -> wasmtime::Result<Answer<()>> {
    let guest = context.data_mut();
    guest.n_imported += 1;
    if !guest.running.may_emit {
        let message =
            "there is no output to send to: sinks have none, nor has `describe`".to_owned();
        return Ok(Err(GuestError {
            code: error::REFUSED,
            message,
        }));
    }
    let running = &mut guest.running;
    running.spend(segment.cost())?;
    let left = running.output_bytes_left;
    running.emitted.push(segment);
    context.set_hostcall_fuel(left);
    Ok(Ok(()))
}

/// The descriptor of list or map state; its number is that in the first function.
fn descriptor(signature: &crate::signature::Signature, number: u32) -> Result<&StateTypes> {
    let state = signature
        .first()
        .and_then(|function| function.states.get(number as usize));
    state.ok_or_else(|| {
        bad(format!(
            "the plugin asks for state {number}, which its function does not declare"
        ))
    })
}

/// The slots that a state has in the running call: operator state has one in every call.
fn n_slots(state: &StateTypes, guest: &Guest) -> usize {
    if state.kind.is_operator_state() {
        1
    } else {
        guest.running.n_slots
    }
}

/// The slots of a request, each within those of the call.
fn slots(reader: &mut Reader, n_slots: usize) -> Result<Vec<u32>> {
    let slots = reader
        .numbers::<u32>(buffer::SLOT, "slot")?
        .ok_or_else(|| bad("buffer `slot` is missing"))?;
    match slots.iter().find(|&&slot| slot as usize >= n_slots) {
        None => Ok(slots.to_vec()),
        Some(slot) => Err(bad(format!(
            "slot {slot} is asked for, but the call has {n_slots}"
        ))),
    }
}

fn at_state<'a>(state: &'a StateTypes, what: &'a str) -> impl Fn(Error) -> Error + 'a {
    move |error| error.at(format_args!("{what} of state `{}`", state.name))
}

fn get_many(guest: &mut Guest, number: u32, keys: Section) -> Result<Section> {
    let state = descriptor(&guest.signature, number)?;
    let mut reader = Reader::new(keys);
    let n_slots = n_slots(state, guest);
    let read = |reader: &mut Reader| Ok((slots(reader, n_slots)?, reader.columns(&state.key, 0)?));
    let (slots, keys) = read(&mut reader).map_err(at_state(state, "get-many"))?;
    reader.finish().map_err(at_state(state, "get-many"))?;
    let mut pieces = Pieces::default();
    if matches!(
        state.kind,
        StateKind::List | StateKind::OperatorList | StateKind::UnionList
    ) {
        let (elements, offsets) = guest.running.access.list(number, &slots)?;
        pieces.columns(0, &elements)?;
        pieces.owned(buffer::OFFSETS, offsets.into_iter());
        return Ok(section_of(slots.len(), pieces));
    }
    let (values, present) = guest.running.access.map(number, &slots, &keys)?;
    pieces.columns(0, &values)?;
    pieces.owned(buffer::ACTION, present.into_iter());
    Ok(section_of(slots.len(), pieces))
}

fn put_many(guest: &mut Guest, number: u32, entries: Section) -> Result<()> {
    let state = descriptor(&guest.signature, number)?;
    let (slots, actions, columns) =
        read_entries(state, entries, n_slots(state, guest)).map_err(at_state(state, "put-many"))?;
    guest
        .running
        .access
        .put(number, &slots, &actions, &columns)
        .map_err(at_state(state, "put-many"))
}

fn read_entries(
    state: &StateTypes,
    entries: Section,
    n_slots: usize,
) -> Result<(Vec<u32>, Vec<u8>, RecordBatch)> {
    let mut reader = Reader::new(entries);
    let slots = slots(&mut reader, n_slots)?;
    let actions = reader
        .numbers::<u8>(buffer::ACTION, "action")?
        .ok_or_else(|| bad("buffer `action` is missing"))?;
    if let Some(unknown) = actions
        .iter()
        .find(|action| !(action::SET..=action::CLEAR_SLOT).contains(action))
    {
        return Err(bad(format!(
            "there is no action {unknown} on entries of state"
        )));
    }
    let columns = reader.columns(&state.entry, 0)?;
    reader.finish()?;
    Ok((slots, actions.to_vec(), columns))
}

fn scan(guest: &mut Guest, number: u32, slot: u32, after: &[u8], limit: u32) -> Result<Section> {
    let state = descriptor(&guest.signature, number)?;
    let n_slots = n_slots(state, guest);
    if slot as usize >= n_slots {
        return Err(at_state(state, "scan")(bad(format!(
            "slot {slot} is asked for, but the call has {n_slots}"
        ))));
    }
    let (entries, cursor) =
        guest
            .running
            .access
            .scan(number, slot, after, limit.min(SCAN_ROWS_MAX) as usize)?;
    let mut pieces = Pieces::default();
    pieces.columns(0, &entries)?;
    let mut answer = section_of(entries.num_rows(), pieces);
    if let Some(bytes) = cursor {
        answer.buffers.push(crate::abi::Buffer {
            role: buffer::CURSOR,
            node: 0,
            part: part::DATA,
            bytes,
        });
    }
    Ok(answer)
}

fn section_of(rows: usize, pieces: Pieces<'_>) -> Section {
    Section {
        role: section::STATE,
        port: 0,
        rows: rows as u32,
        buffers: pieces.into_buffers(),
    }
}
