//! A component that was checked and compiled, ready to be instantiated any number of times.
//!
//! Imports are linked once, when it is loaded: making an instance is then a matter of microseconds.

use crate::abi::GuestError;
use crate::census::{self, Census};
use crate::chain::{ChainSpec, PluginChain};
use crate::custom_section;
use crate::discovery::{self, Outline};
use crate::grants;
use crate::guest::{Guest, Instance};
use crate::host::{Limits, PluginHost};
use crate::imports;
use crate::signature::Signature;
use crate::sink::{self, PluginSink, SinkSpec};
use crate::wasi::{self, Inert};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use streamrt_operator::Failure;
use streamrt_types::{Code, Error, Result, code};
use streamrt_wit::codes::error;
use streamrt_wit::{META_SECTION, OPERATOR_INTERFACE, Plan};
use wasmtime::Engine;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

/// The most bytes of the section that says what made a component; it has some hundred.
const META_BYTES_MAX: usize = 16 << 10;

/// The most bytes of the text of a plan.
const PLAN_BYTES_MAX: usize = 4 << 20;

/// The most objects and lists of a plan. One of three bytes takes some hundred when it is read; a
/// node has some ten of them.
const PLAN_VALUES_MAX: usize = 200_000;

/// A loaded component, within the limits of a job. Instances of it share its code.
pub struct Plugin {
    host: Arc<PluginHost>,
    census: Census,
    code: Arc<Linked>,
    origin: Origin,
}

/// Where the code of a component has come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Compiled,
    /// It was compiled before, and kept on disk.
    Cache,
    /// Another job of this process uses it.
    Shared,
}

/// A compiled component with the host's functions: what all jobs that use it share.
pub(crate) struct Linked {
    bytes: Arc<Vec<u8>>,
    digest: String,
    outline: Outline,
    meta: Option<serde_json::Value>,
    component: InstancePre<Guest>,
    functions: Functions,
}

/// Where the functions of the operator interface are.
pub(crate) struct Functions {
    pub describe: ComponentExportIndex,
    pub open: ComponentExportIndex,
    pub invoke: ComponentExportIndex,
    /// Where those of the interface for sinks are, if it is there.
    pub sink: Option<sink::Exports>,
}

impl Plugin {
    pub(crate) fn load(host: Arc<PluginHost>, bytes: &[u8]) -> Result<Plugin> {
        discovery::check_format(bytes)?;
        check_size(bytes.len(), host.limits.size_bytes)?;
        let census = census::count(bytes, host.limits.memory_bytes)?;
        let digest = blake3::hash(bytes).to_hex().to_string();
        let mut origin = Origin::Shared;
        let code = host.shared.code(&digest, || {
            let (code, made) = Linked::new(&host, &digest, bytes)?;
            origin = made;
            Ok(code)
        })?;
        Ok(Plugin {
            host,
            census,
            code,
            origin,
        })
    }

    /// The component itself.
    pub fn bytes(&self) -> &Arc<Vec<u8>> {
        &self.code.bytes
    }

    /// Where its code has come from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The blake3 hash of the component, in hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.code.digest
    }

    pub fn size_bytes(&self) -> usize {
        self.code.bytes.len()
    }

    /// Names of the imported interfaces, as `package:name/interface@version`.
    pub fn imports(&self) -> &[String] {
        &self.code.outline.imports
    }

    /// Names of the exported interfaces.
    pub fn exports(&self) -> &[String] {
        &self.code.outline.exports
    }

    /// What the custom section `streamrt.meta` says: SDK, language, interface. `None` if there is
    /// none, or it is not JSON.
    pub fn meta(&self) -> Option<&serde_json::Value> {
        self.code.meta.as_ref()
    }

    /// Runs the plugin's `main` in an instance of its own and returns the plan.
    ///
    /// `args` are those of the job. Takes at most `plugin.deadline`.
    ///
    /// # Errors
    /// `Invalid` if the plugin refuses the arguments or the plan cannot be read; `UserCode` if it
    /// fails.
    pub fn describe(&self, args: &[String]) -> Result<Plan> {
        let quiet = Arc::new(|_: u8, _: &str| {});
        let guest = self.guest(Arc::default(), quiet, Arc::new(Signature::empty()), 0);
        let describe = || plan_of(&mut Instance::new(self, guest)?, args, self.deadline());
        describe().map_err(|failure| failure.error)
    }

    /// Prepares a chain of functions to be called by one subtask.
    ///
    /// # Errors
    /// `UserCode` if the plugin fails, or describes another plan than `spec.plan`; `Invalid` if it
    /// refuses the functions.
    pub fn chain(self: &Arc<Self>, spec: ChainSpec) -> Result<PluginChain> {
        PluginChain::new(self.clone(), spec)
    }

    /// Prepares a sink for one subtask, or for a recovery.
    ///
    /// # Errors
    /// `UserCode` if the plugin fails, or describes another plan than `spec.plan`; `Invalid` if it
    /// refuses the function, or has no sinks.
    pub fn sink(self: &Arc<Self>, spec: SinkSpec) -> Result<PluginSink> {
        PluginSink::new(self.clone(), spec)
    }

    /// An instance that has described itself.
    ///
    /// # Errors
    /// `UserCode` if it fails, or describes another plan than `plan`.
    pub(crate) fn described(
        &self,
        guest: Guest,
        args: &[String],
        plan: &Plan,
    ) -> std::result::Result<Instance, Failure> {
        let mut instance = Instance::new(self, guest)?;
        match plan_of(&mut instance, args, self.deadline())? == *plan {
            true => Ok(instance),
            false => Err(Error::new(
                code::PLAN_CHANGED,
                "the plugin describes another plan than the one that was submitted",
            )
            .into()),
        }
    }

    /// How long any call without a deadline of its own may take.
    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_millis(self.limits().deadline_ms)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.host.limits
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.host.shared.engine
    }

    pub(crate) fn component(&self) -> &InstancePre<Guest> {
        &self.code.component
    }

    pub(crate) fn functions(&self) -> &Functions {
        &self.code.functions
    }

    /// The contents of a new store. Randomness is seeded by digest and subtask: a replay gets the
    /// same.
    pub(crate) fn guest(
        &self,
        cancel: Arc<AtomicBool>,
        log: crate::chain::Log,
        signature: Arc<Signature>,
        subtask: u32,
    ) -> Guest {
        let seed = self
            .code
            .digest
            .bytes()
            .take(16)
            .fold(u64::from(subtask), |seed, byte| {
                seed.rotate_left(7) ^ u64::from(byte)
            });
        let wasi = Inert::new(self.host.clock.clone(), seed);
        let mut guest = Guest::new(
            self.limits(),
            self.host.shared.ticker.deadline(self.deadline()),
            cancel,
            log,
            signature,
            wasi,
        );
        guest.budget.take(self.census.bytes());
        guest
    }
}

impl Linked {
    fn new(host: &PluginHost, digest: &str, bytes: &[u8]) -> Result<(Linked, Origin)> {
        let engine = &host.shared.engine;
        let (component, origin) = host.compile(digest, bytes)?;
        let outline = discovery::outline(engine, &component)?;
        let functions = Functions::find(&component)?;
        let meta =
            custom_section::find(bytes, META_SECTION).filter(|text| text.len() <= META_BYTES_MAX);
        let code = Linked {
            bytes: Arc::new(bytes.to_vec()),
            digest: digest.to_owned(),
            outline,
            meta: meta.and_then(|text| serde_json::from_slice(text).ok()),
            component: link(engine, &component)?,
            functions,
        };
        Ok((code, origin))
    }
}

impl Functions {
    fn find(component: &Component) -> Result<Functions> {
        let missing = |name: &str| {
            Error::new(
                code::NO_OPERATOR,
                format!("the component exports {OPERATOR_INTERFACE} without `{name}`"),
            )
        };
        let interface = component
            .get_export_index(None, OPERATOR_INTERFACE)
            .ok_or_else(|| missing("invoke"))?;
        let find = |name| {
            component
                .get_export_index(Some(&interface), name)
                .ok_or_else(|| missing(name))
        };
        Ok(Functions {
            describe: find("describe")?,
            open: find("open")?,
            invoke: find("invoke")?,
            sink: sink::Exports::find(component)?,
        })
    }
}

/// # Errors
/// `Invalid` if a component of `n_bytes` is larger than it may be.
pub(crate) fn check_size(n_bytes: usize, bytes_max: usize) -> Result<()> {
    let message = || {
        format!("the component has more than {bytes_max} bytes, which is the limit `plugin.size`")
    };
    if n_bytes <= bytes_max {
        Ok(())
    } else {
        Err(Error::new(code::COMPONENT_LIMIT, message()))
    }
}

fn link(engine: &Engine, component: &Component) -> Result<InstancePre<Guest>> {
    let mut linker = Linker::new(engine);
    let linked = imports::define(&mut linker)
        .and_then(|()| grants::define(&mut linker))
        .and_then(|()| wasi::define(&mut linker, engine, component))
        .and_then(|()| linker.instantiate_pre(component));
    linked.map_err(|e| {
        let cause = e
            .chain()
            .map(|cause| cause.to_string())
            .collect::<Vec<_>>()
            .join(": ");
        Error::new(
            code::UNKNOWN_IMPORT,
            format!("an import of the component has another type than this host provides: {cause}"),
        )
    })
}

/// Asks an instance for its plan.
pub(crate) fn plan_of(
    instance: &mut Instance,
    args: &[String],
    deadline: Duration,
) -> std::result::Result<Plan, Failure> {
    let text = instance
        .describe(args, deadline)
        .map_err(failed_to_build)?
        .map_err(refused_job)?;
    check_plan_text(&text)?;
    let plan = Plan::from_json(&text).map_err(|e| {
        Error::new(
            code::BAD_PLAN,
            format!("the plugin's plan cannot be read: {e}"),
        )
    })?;
    Ok(plan)
}

/// Checks the size of a plan before it is read; its contents are checked where the graph is built.
fn check_plan_text(text: &str) -> Result<()> {
    let n_values = text
        .bytes()
        .filter(|byte| matches!(byte, b'{' | b'['))
        .count();
    if text.len() > PLAN_BYTES_MAX || n_values > PLAN_VALUES_MAX {
        let message = format!(
            "the plugin's plan has {} bytes and {n_values} objects and lists, and may have {PLAN_BYTES_MAX} and {PLAN_VALUES_MAX}",
            text.len()
        );
        return Err(Error::new(code::PLAN_LIMIT, message));
    }
    Ok(())
}

/// No record was looked at, so advice about records would not help.
fn refused_job(refused: GuestError) -> Error {
    let code = match refused.code {
        error::ARGUMENTS => code::BAD_ARGUMENTS,
        _ => mistake(refused.code).unwrap_or(code::JOB_FUNCTION),
    };
    Error::new(code, refused.message)
}

/// What it means when a plugin reports that its job is put together wrongly; `None` for other codes
/// of the WIT.
pub(crate) fn mistake(refusal: u16) -> Option<Code> {
    match refusal {
        error::JOB => Some(code::INVALID_JOB),
        error::MISSING_UID => Some(code::MISSING_UID),
        error::DOUBLED_UID => Some(code::DOUBLED_UID),
        error::COLUMNS => Some(code::SCHEMA_MISMATCH),
        _ => None,
    }
}

/// A job function that panics; limits that are met keep their own codes.
fn failed_to_build(failure: Failure) -> Failure {
    if failure.error.code() != code::TRAP {
        return failure;
    }
    let error = Error::new(
        code::JOB_FUNCTION,
        format!(
            "the function that builds the job failed: {}",
            failure.error.message()
        ),
    );
    Failure {
        error: with_backtrace(error, &failure.backtrace),
        ..failure
    }
}

fn with_backtrace(error: Error, backtrace: &str) -> Error {
    if backtrace.is_empty() {
        error
    } else {
        error.with_source(backtrace)
    }
}
