//! A chain of a plugin's functions, called by one subtask: the contract [`FunctionChain`] kept by a
//! component.
//!
//! Invariant: a call that fails leaves nothing behind. Its instance is dropped, whatever the
//! reason, and the next call makes a new one, which costs microseconds; guest memory is only a
//! cache, and the host has the authoritative state.

use crate::abi::{Answer, Section};
use crate::guest::Instance;
use crate::lower::Sections;
use crate::outcome::{self, Asked};
use crate::plugin::{self, Plugin};
use crate::signature::Signature;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use streamrt_operator::{Call, Failure, FunctionChain, Invocation, NoState, Outcome, UserCounters};
use streamrt_types::{Error, Result, code};
use streamrt_wit::Plan;
use streamrt_wit::codes::{call, error};

/// Receives a guest's messages: the level (see the WIT's `host.log`) and the text.
pub type Log = Arc<dyn Fn(u8, &str) + Send + Sync>;

/// What [`Plugin::chain`] needs to know.
pub struct ChainSpec {
    /// The arguments of the job; the same as those that gave `plan`.
    pub args: Vec<String>,
    pub plan: Arc<Plan>,
    /// Numbers of the functions, in the order in which they run.
    pub functions: Vec<u32>,
    pub subtask: u32,
    pub parallelism: u32,
    /// Once it is true, calls end with `CANCELLED` within two ticks of 10 ms.
    pub cancel: Arc<AtomicBool>,
    pub log: Log,
    /// What the functions count under names of their own.
    pub counters: Arc<UserCounters>,
}

/// Functions of a plugin that run one after the other in one call.
pub struct PluginChain {
    plugin: Arc<Plugin>,
    spec: ChainSpec,
    signature: Arc<Signature>,
    ready: Option<Ready>,
    n_exported: u64,
    /// Calls by instances that are gone.
    n_imported: u64,
}

/// An instance with an open chain.
struct Ready {
    instance: Instance,
    chain: u32,
}

impl PluginChain {
    pub(crate) fn new(plugin: Arc<Plugin>, spec: ChainSpec) -> Result<PluginChain> {
        let signature = Arc::new(Signature::new(&spec.plan, &spec.functions)?);
        let mut chain = PluginChain {
            plugin,
            spec,
            signature,
            ready: None,
            n_exported: 0,
            n_imported: 0,
        };
        chain.ready = Some(
            chain
                .instantiate()
                .map_err(|failure| failure.error.at(chain.signature.place()))?,
        );
        Ok(chain)
    }

    /// Calls of `invoke`, and calls of imported functions, since the chain was made.
    pub fn calls(&self) -> (u64, u64) {
        let running = self
            .ready
            .as_ref()
            .map_or(0, |ready| ready.instance.store.data().n_imported);
        (self.n_exported, self.n_imported + running)
    }

    fn instantiate(&self) -> std::result::Result<Ready, Failure> {
        let spec = &self.spec;
        let guest = self.plugin.guest(
            spec.cancel.clone(),
            spec.log.clone(),
            self.signature.clone(),
            spec.subtask,
        );
        let mut instance = self.plugin.described(guest, &spec.args, &spec.plan)?;
        let context = serde_json::json!({ "args": spec.args, "subtask": spec.subtask, "parallelism": spec.parallelism });
        let opened = instance.open(
            &spec.functions,
            &context.to_string(),
            self.plugin.deadline(),
        )?;
        let chain = opened.map_err(|refused| Error::new(code::USER_ERROR, refused.message))?;
        Ok(Ready { instance, chain })
    }

    /// Runs a call in `ready`; the access goes into the store for that time, and comes back in any
    /// case.
    fn run(
        &self,
        ready: &mut Ready,
        invocation: &mut Invocation<'_>,
        deadline: Duration,
    ) -> std::result::Result<Outcome, Failure> {
        let access = std::mem::replace(invocation.access, NoState::boxed());
        let asked = Asked::of(invocation);
        let running = &mut ready.instance.store.data_mut().running;
        (running.access, running.n_slots) = (access, asked.n_slots());
        let answer = call_guest(ready, invocation, deadline);
        let running = &mut ready.instance.store.data_mut().running;
        *invocation.access = std::mem::replace(&mut running.access, NoState::boxed());
        let mut sections = std::mem::take(&mut running.emitted);
        match answer? {
            Ok(returned) => {
                sections.extend(returned);
                outcome::check_size(&sections, running.output_bytes_max)?;
                let counted = outcome::take_counted(&mut sections)?;
                let outcome = outcome::decode(&self.signature, &Asked::of(invocation), sections)?;
                match counted.is_empty() || self.spec.counters.add(&counted) {
                    true => Ok(outcome),
                    false => Err(outcome::too_many_counters().into()),
                }
            }
            Err(refused) => Err(match (refused.code, running.state_error.take()) {
                (error::STATE, Some(cause)) => cause.into(),
                (error::HOST, _) => Error::internal(format!(
                    "the plugin's SDK says that this host broke its promise: {}",
                    refused.message
                ))
                .into(),
                (code, _) => Error::new(
                    plugin::mistake(code).unwrap_or(code::USER_ERROR),
                    refused.message,
                )
                .into(),
            }),
        }
    }
}

fn call_guest(
    ready: &mut Ready,
    invocation: &Invocation<'_>,
    deadline: Duration,
) -> std::result::Result<Answer<Vec<Section>>, Failure> {
    let sections = Sections::of(invocation)?;
    let buffers = sections.buffers();
    ready.instance.invoke(
        ready.chain,
        code_of(invocation.call),
        &sections.sections(&buffers),
        deadline,
    )
}

fn code_of(asked: Call) -> u16 {
    match asked {
        Call::Process | Call::SecondInput => call::PROCESS,
        Call::Accumulate => call::ACCUMULATE,
        Call::Merge => call::MERGE,
        Call::Result => call::RESULT,
        Call::Window => call::WINDOW,
    }
}

impl FunctionChain for PluginChain {
    fn invoke(
        &mut self,
        mut invocation: Invocation<'_>,
        deadline: Duration,
    ) -> std::result::Result<Outcome, Failure> {
        let mut ready = match self.ready.take() {
            Some(ready) => ready,
            None => self.instantiate()?,
        };
        self.n_exported += 1;
        let result = self.run(&mut ready, &mut invocation, deadline);
        match &result {
            Ok(_) => self.ready = Some(ready),
            Err(_) => self.n_imported += ready.instance.store.data().n_imported,
        }
        result.map_err(|failure| Failure {
            error: failure.error.at(self.signature.place()),
            ..failure
        })
    }
}
