//! The host of a job's plugins: the engine that it shares with other jobs, the job's limits, and the
//! cache of compiled code.

use crate::cache::{self, CompiledCode};
use crate::compiler::{Compiler, compile_here};
use crate::engines::{Engines, SharedEngine};
use crate::plugin::{Origin, Plugin};
use std::sync::Arc;
use std::time::Duration;
use streamrt_types::{Clock, Configuration, Error, Result, SystemClock};
use wasmtime::Config;
use wasmtime::component::Component;

/// Bytes of stack for guest code. A task's thread has 2 MiB; the rest is for the host functions
/// below the guest.
const STACK_BYTES: usize = 512 << 10;

/// Loads components, and limits what they may use by a job's configuration.
pub struct PluginHost {
    pub(crate) shared: Arc<SharedEngine>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    cache: Option<CompiledCode>,
    /// `None` means that components are compiled in this process.
    compiler: Option<Compiler>,
}

/// What one instance may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub memory_bytes: usize,
    pub output_bytes: usize,
    pub deadline_ms: u64,
    /// Whether compiled code checks the epoch.
    pub epoch: bool,
    /// The most bytes of the component itself.
    pub size_bytes: usize,
    pub compile_bytes: usize,
    pub compile_time: Duration,
    /// The limits of the file calls of one call together.
    pub files_time: Duration,
    pub files_bytes: u64,
}

impl PluginHost {
    /// Makes a host with the limits of `configuration`; compiled code is kept in `cache`.
    ///
    /// Its engine is its own: its thread ends with the host and its plugins. `plugin_epoch = false`
    /// compiles without deadline checks: such code is neither shared with nor taken from hosts that
    /// have them.
    ///
    /// # Errors
    /// `Internal` if the engine or the thread cannot be made on this machine.
    pub fn new(
        configuration: &Configuration,
        cache: Option<CompiledCode>,
    ) -> Result<Arc<PluginHost>> {
        let engines = Engines::default();
        PluginHost::make(configuration, &engines, cache, SystemClock::shared(), None)
    }

    /// Like [`PluginHost::new`], for untrusted components: another process compiles them, under
    /// limits of time and memory. Its engine is one of `engines`, with the hosts of other jobs.
    ///
    /// # Errors
    /// The same as for [`PluginHost::new`].
    pub fn for_strangers(
        configuration: &Configuration,
        engines: &Engines,
        cache: Option<CompiledCode>,
        compiler: Compiler,
    ) -> Result<Arc<PluginHost>> {
        let clock = SystemClock::shared();
        PluginHost::make(configuration, engines, cache, clock, Some(compiler))
    }

    /// Like [`PluginHost::new`], with a clock for guests that read the time through WASI.
    ///
    /// # Errors
    /// The same as for [`PluginHost::new`].
    pub fn with_clock(
        configuration: &Configuration,
        cache: Option<CompiledCode>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<PluginHost>> {
        PluginHost::make(configuration, &Engines::default(), cache, clock, None)
    }

    fn make(
        configuration: &Configuration,
        engines: &Engines,
        cache: Option<CompiledCode>,
        clock: Arc<dyn Clock>,
        compiler: Option<Compiler>,
    ) -> Result<Arc<PluginHost>> {
        let limits = Limits {
            memory_bytes: configuration.plugin_memory_bytes,
            output_bytes: configuration.plugin_output_bytes,
            deadline_ms: configuration.plugin_deadline_ms,
            epoch: configuration.plugin_epoch,
            size_bytes: configuration.plugin_size_bytes,
            compile_bytes: configuration.plugin_compile_bytes,
            compile_time: Duration::from_millis(configuration.plugin_compile_ms),
            files_time: Duration::from_millis(configuration.plugin_files_ms),
            files_bytes: configuration.plugin_files_bytes as u64,
        };
        Ok(Arc::new(PluginHost {
            shared: engines.get(limits.epoch)?,
            clock,
            limits,
            cache,
            compiler,
        }))
    }

    /// Checks a component and makes it ready, from the cache if it is there. Compiling takes
    /// seconds for a megabyte.
    ///
    /// # Errors
    /// `Invalid`, by the first of these that holds: not Wasm, compiled code, a core module, too
    /// large, damaged, no operator interface, another version of it, an import that nothing
    /// provides.
    pub fn load(self: &Arc<Self>, bytes: &[u8]) -> Result<Arc<Plugin>> {
        Plugin::load(self.clone(), bytes).map(Arc::new)
    }

    /// The component from the cache, or compiled and then kept.
    pub(crate) fn compile(&self, digest: &str, bytes: &[u8]) -> Result<(Component, Origin)> {
        let engine = &self.shared.engine;
        let kept = self.cache.as_ref();
        if let Some(component) = kept.and_then(|cache| cache.load(engine, digest)) {
            return Ok((component, Origin::Cache));
        }
        let (component, code) = match &self.compiler {
            None => {
                let component = compile_here(engine, bytes)?;
                let code = component.serialize();
                (component, code.ok())
            }
            Some(compiler) => {
                let code = compiler.compile(&self.limits, bytes)?;
                let component = cache::trusted(engine, &code);
                (
                    component.map_err(|e| {
                        Error::internal(format!("compiled code cannot be loaded: {e:#}"))
                    })?,
                    Some(code),
                )
            }
        };
        if let (Some(cache), Some(code)) = (&self.cache, code) {
            // A full disk must not fail the job: the next start compiles again.
            let _ = cache.store(engine, digest, &code);
        }
        Ok((component, Origin::Compiled))
    }
}

/// The settings of every engine here: compiled code fits only those with which it was compiled.
pub(crate) fn config(epoch: bool) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    // With it, small synchronous calls cost many times more, and nothing here is asynchronous.
    config.concurrency_support(false);
    config.max_wasm_stack(STACK_BYTES);
    config.epoch_interruption(epoch);
    config
}
