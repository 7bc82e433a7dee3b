//! The host of all plugins of a process: one engine, its ticker, and the cache of compiled code.

use crate::cache::CompiledCode;
use crate::plugin::Plugin;
use crate::ticker::Ticker;
use std::sync::Arc;
use streamrt_types::{Clock, Configuration, Error, Result, SystemClock};
use wasmtime::component::Component;
use wasmtime::{Config, Engine};

/// Bytes of stack for guest code. A task's thread has 2 MiB; the rest is for the host functions below the guest.
const STACK_BYTES: usize = 512 << 10;

/// Loads components, and limits what they may use by a job's configuration.
pub struct PluginHost {
    pub(crate) engine: Engine,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    cache: Option<CompiledCode>,
}

/// What one instance may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub memory_bytes: usize,
    pub output_bytes: usize,
    pub deadline_ms: u64,
    /// Whether compiled code looks at the epoch.
    pub epoch: bool,
}

impl PluginHost {
    /// Makes a host; its limits are those of `configuration`, and compiled code is kept in `cache`.
    ///
    /// Starts one thread, which ends with the host and its plugins. `plugin_epoch = false` compiles without deadline checks: such code
    /// is neither shared with nor taken from hosts that have them.
    ///
    /// # Errors
    /// `Internal` if the engine or the thread cannot be made on this machine.
    pub fn new(configuration: &Configuration, cache: Option<CompiledCode>) -> Result<Arc<PluginHost>> {
        PluginHost::with_clock(configuration, cache, SystemClock::shared())
    }

    /// Like [`PluginHost::new`], with a clock for guests that read the time through WASI.
    ///
    /// # Errors
    /// As for [`PluginHost::new`].
    pub fn with_clock(configuration: &Configuration, cache: Option<CompiledCode>, clock: Arc<dyn Clock>) -> Result<Arc<PluginHost>> {
        let limits = Limits {
            memory_bytes: configuration.plugin_memory_bytes,
            output_bytes: configuration.plugin_output_bytes,
            deadline_ms: configuration.plugin_deadline_ms,
            epoch: configuration.plugin_epoch,
        };
        let engine =
            Engine::new(&config(limits.epoch)).map_err(|e| Error::internal(format!("the Wasm engine cannot be made here: {e:#}")))?;
        let ticker = Ticker::start(engine.clone())?;
        Ok(Arc::new(PluginHost { engine, ticker, clock, limits, cache }))
    }

    /// Checks a component and makes it ready, from the cache if it is there. Compiling takes seconds for a megabyte.
    ///
    /// # Errors
    /// `Invalid`, by the first of these that holds: not Wasm, compiled code, a core module, damaged, no operator interface, another
    /// version of it, an import that nothing provides.
    pub fn load(self: &Arc<Self>, bytes: &[u8]) -> Result<Arc<Plugin>> {
        Plugin::load(self.clone(), bytes).map(Arc::new)
    }

    /// The component from the cache, or compiled and then kept.
    pub(crate) fn compile(&self, digest: &str, bytes: &[u8]) -> wasmtime::Result<Component> {
        if let Some(component) = self.cache.as_ref().and_then(|cache| cache.load(&self.engine, digest)) {
            return Ok(component);
        }
        let component = Component::from_binary(&self.engine, bytes)?;
        if let Some(cache) = &self.cache {
            // A full disk must not fail the job: the next start compiles again.
            let _ = cache.store(&self.engine, digest, &component);
        }
        Ok(component)
    }
}

fn config(epoch: bool) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    // With it, small synchronous calls cost many times more, and nothing here is asynchronous.
    config.concurrency_support(false);
    config.max_wasm_stack(STACK_BYTES);
    config.epoch_interruption(epoch);
    config
}
