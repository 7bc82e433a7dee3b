//! The engines of a process, and the components that are in use in it: jobs share the code of the
//! same component, and one thread that interrupts all of their plugins.

use crate::host::config;
use crate::plugin::Linked;
use crate::ticker::Ticker;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use streamrt_types::{Error, Result};
use wasmtime::Engine;

/// See the module. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Engines(Arc<Mutex<Made>>);

/// Those that somebody has asked for.
#[derive(Default)]
struct Made {
    with_deadlines: Option<Arc<SharedEngine>>,
    without: Option<Arc<SharedEngine>>,
}

/// An engine, its ticker, and the code that runs in it.
pub(crate) struct SharedEngine {
    pub engine: Engine,
    pub ticker: Arc<Ticker>,
    code: Mutex<BTreeMap<String, Arc<Mutex<Weak<Linked>>>>>,
}

impl Engines {
    /// The engine whose code checks deadlines, or the one whose code does not.
    ///
    /// # Errors
    /// `Internal` if the engine or its thread cannot be made on this machine.
    pub(crate) fn get(&self, deadlines: bool) -> Result<Arc<SharedEngine>> {
        let mut made = lock(&self.0);
        let place = match deadlines {
            true => &mut made.with_deadlines,
            false => &mut made.without,
        };
        if let Some(engine) = place {
            return Ok(engine.clone());
        }
        let engine = Arc::new(SharedEngine::new(deadlines)?);
        *place = Some(engine.clone());
        Ok(engine)
    }
}

impl SharedEngine {
    fn new(deadlines: bool) -> Result<SharedEngine> {
        let engine = Engine::new(&config(deadlines))
            .map_err(|e| Error::internal(format!("the Wasm engine cannot be made here: {e:#}")))?;
        Ok(SharedEngine {
            ticker: Ticker::start(engine.clone())?,
            engine,
            code: Mutex::default(),
        })
    }

    /// The code of a component; `make` is called if nobody uses it, and by one at a time.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn code(&self, digest: &str, make: impl FnOnce() -> Result<Linked>) -> Result<Arc<Linked>> {
        let slot = {
            let mut code = lock(&self.code);
            // A slot that nobody looks at, for code that nobody uses.
            code.retain(|_, slot| Arc::strong_count(slot) > 1 || lock(slot).strong_count() > 0);
            code.entry(digest.to_owned()).or_default().clone()
        };
        let mut slot = lock(&slot);
        if let Some(code) = slot.upgrade() {
            return Ok(code);
        }
        let code = Arc::new(make()?);
        *slot = Arc::downgrade(&code);
        Ok(code)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
