//! Inert WASI 0.2: what guests link against that were built for WASI, with nothing behind it.
//!
//! stdout and stderr go to the task's log; clocks and randomness are there (the clock is the
//! host's, randomness is seeded, so that a replay gets the same); environment, arguments and
//! directories are empty; a poll ends at the call's deadline. Every other function ends the guest
//! when it is called, by name, and not before: a language's runtime imports far more than it uses.
//!
//! Called when a plugin is loaded; only what it imports is defined.

mod cli;
mod clocks;
mod io;

use crate::guest::Guest;
use crate::trap::Stop;
use std::collections::HashMap;
use std::sync::Arc;
use streamrt_types::Clock;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, LinkerInstance, Resource, ResourceType};
use wasmtime::{Engine, Result, StoreContextMut};

type At<'a> = LinkerInstance<'a, Guest>;
type Context<'a> = StoreContextMut<'a, Guest>;

/// The most handles that a guest may hold at once; a guest of a language's own runtime has some
/// dozen.
const HANDLES_MAX: usize = 10_000;

/// What a guest sees of the world, and the little that WASI has to remember.
pub(crate) struct Inert {
    clock: Arc<dyn Clock>,
    random: u64,
    /// When each pollable is ready, by the monotonic clock in ms.
    pollables: HashMap<u32, i64>,
    n_pollables: u32,
    /// Handles that the guest has not dropped.
    n_handles: usize,
    /// Output without a line end yet: stdout's, stderr's.
    lines: [Vec<u8>; 2],
}

impl Inert {
    pub fn new(clock: Arc<dyn Clock>, seed: u64) -> Inert {
        Inert {
            clock,
            random: seed,
            pollables: HashMap::new(),
            n_pollables: 0,
            n_handles: 0,
            lines: Default::default(),
        }
    }

    /// Gives the guest a handle; it costs memory in the host until it is dropped.
    ///
    /// # Errors
    /// Ends the guest if it holds too many.
    fn handle<T: 'static>(&mut self, rep: u32) -> Result<Resource<T>> {
        self.n_handles += 1;
        match self.n_handles {
            ..=HANDLES_MAX => Ok(Resource::new_own(rep)),
            _ => Err(Stop::Handles { n_max: HANDLES_MAX }.into()),
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014). Guests seed hash tables with it. It is not a source of
    /// secrets: whoever has the component can compute it, which is the price of repeatable replays.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Defines the WASI imports of a component.
pub(crate) fn define(
    linker: &mut Linker<Guest>,
    engine: &Engine,
    component: &Component,
) -> Result<()> {
    let ty = component.component_type();
    for (name, item) in ty.imports(engine) {
        let (Some(rest), ComponentItem::ComponentInstance(instance)) =
            (name.strip_prefix("wasi:"), &item.ty)
        else {
            continue;
        };
        let interface = rest
            .split_once('@')
            .map_or(rest, |(interface, _)| interface);
        // Under the full name, because a guest's version of WASI 0.2 is not known beforehand.
        let mut at = linker.instance(name)?;
        for (item_name, item) in instance.exports(engine) {
            match item.ty {
                ComponentItem::Resource(_) => resource(&mut at, item_name)?,
                ComponentItem::ComponentFunc(_) => function(&mut at, name, interface, item_name)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// Markers that distinguish the resources.
struct InputStream;
struct OutputStream;
struct IoError;
struct Pollable;
struct Descriptor;
struct TerminalInput;
struct TerminalOutput;

fn resource(at: &mut At<'_>, name: &str) -> Result<()> {
    let ty = match name {
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "error" => ResourceType::host::<IoError>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        "terminal-input" => ResourceType::host::<TerminalInput>(),
        "terminal-output" => ResourceType::host::<TerminalOutput>(),
        _ => ResourceType::host::<()>(),
    };
    let is_pollable = name == "pollable";
    at.resource(name, ty, move |mut context: Context<'_>, rep| {
        let wasi = &mut context.data_mut().wasi;
        wasi.n_handles = wasi.n_handles.saturating_sub(1);
        if is_pollable {
            wasi.pollables.remove(&rep);
        }
        Ok(())
    })
}

fn function(at: &mut At<'_>, full_name: &str, interface: &str, name: &str) -> Result<()> {
    let is_defined = match interface.split_once('/') {
        Some(("cli" | "filesystem", _)) => cli::define(at, interface, name)?,
        Some(("clocks" | "random", _)) => clocks::define(at, interface, name)?,
        Some(("io", _)) => io::define(at, interface, name)?,
        _ => false,
    };
    if is_defined {
        return Ok(());
    }
    let full_name = format!("{full_name}#{name}");
    at.func_new(name, move |_, _, _, _| {
        Err(Stop::NotProvided(full_name.clone()).into())
    })
}
