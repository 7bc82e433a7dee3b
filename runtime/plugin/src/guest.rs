//! One instance of a plugin, and what it may use: time, memory, tables, output, log.
//!
//! Invariant: an instance in which a call has failed is never called again; its owner drops it and
//! makes a new one. So nothing here has to repair a guest's memory.

use crate::abi::{Answer, Section, SectionIn};
use crate::chain::Log;
use crate::file_work::FileWork;
use crate::grants::Grants;
use crate::host::Limits;
use crate::plugin::Plugin;
use crate::signature::Signature;
use crate::ticker::Deadline;
use crate::trap::{self, Stop};
use crate::wasi::Inert;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use streamrt_operator::{Failure, NoState, StateAccess};
use streamrt_types::{Error, code};
use streamrt_wit::INTERFACE_VERSION;
use streamrt_wit::codes::level;
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, ComponentType, Func, Lift, Lower,
};
use wasmtime::{ResourceLimiter, Store, StoreContextMut, UpdateDeadline};

/// The most entries of all tables of an instance together. Compilers make one entry per function
/// whose address is taken; the largest known guests (Python) have some 50,000.
const TABLE_ENTRIES_MAX: usize = 1 << 20;

/// The most core instances, memories and tables of a component. `census.rs` has counted the
/// instances before; the largest known guests have some 60.
const CORE_ITEMS_MAX: usize = 1000;

/// The number of messages that one call may log, so that a loop does not fill the disk. More are
/// dropped, with one message that says so.
const MESSAGES_MAX: usize = 256;

/// The most bytes of a message; the rest is cut off.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// What the store of an instance holds.
pub(crate) struct Guest {
    pub budget: Budget,
    pub deadline: Deadline,
    pub cancel: Arc<AtomicBool>,
    pub journal: Journal,
    pub running: Running,
    pub signature: Arc<Signature>,
    pub wasi: Inert,
    /// Folders that it may use.
    pub grants: Grants,
    pub files: FileWork,
    /// Calls of imported functions so far.
    pub n_imported: u64,
}

/// The state of one call.
pub(crate) struct Running {
    pub access: Box<dyn StateAccess>,
    pub n_slots: usize,
    /// Held back until the call returns.
    pub emitted: Vec<Section>,
    /// Whether somebody takes what is emitted: only `invoke` has an output.
    pub may_emit: bool,
    /// What the call may still send.
    pub output_bytes_left: usize,
    pub output_bytes_max: usize,
    /// Why the last state access failed, which is a better report than the guest's.
    pub state_error: Option<Error>,
}

impl Running {
    fn idle(output_bytes_max: usize) -> Running {
        Running {
            access: NoState::boxed(),
            n_slots: 0,
            emitted: Vec::new(),
            may_emit: false,
            output_bytes_left: output_bytes_max,
            output_bytes_max,
            state_error: None,
        }
    }
}

impl Running {
    /// Takes `n_bytes` off what the call may still hold back in the host.
    ///
    /// # Errors
    /// Ends the guest if there are not that many left.
    pub fn spend(&mut self, n_bytes: usize) -> wasmtime::Result<()> {
        let left = self.output_bytes_left.checked_sub(n_bytes);
        self.output_bytes_left = left.ok_or(Stop::Output {
            bytes_max: self.output_bytes_max,
        })?;
        Ok(())
    }
}

impl Guest {
    pub fn new(
        limits: &Limits,
        deadline: Deadline,
        cancel: Arc<AtomicBool>,
        log: Log,
        signature: Arc<Signature>,
        wasi: Inert,
    ) -> Guest {
        Guest {
            budget: Budget::new(limits.memory_bytes),
            deadline,
            cancel,
            journal: Journal {
                log,
                n_messages: 0,
                panic: None,
                complaint: None,
            },
            running: Running::idle(limits.output_bytes),
            signature,
            wasi,
            grants: Grants::default(),
            files: FileWork::new(limits.files_time, limits.files_bytes),
            n_imported: 0,
        }
    }

    /// Gives a call everything that it may use.
    fn renew(&mut self, deadline: Duration) {
        self.deadline.renew(deadline);
        self.files.renew();
        self.journal.renew();
        self.running.output_bytes_left = self.running.output_bytes_max;
        // Resets what a failed call left; its instance is dropped, but nothing should depend on
        // that.
        self.running.emitted.clear();
    }

    /// Ends a call that was cancelled or takes too long.
    pub fn check_time(&self) -> wasmtime::Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Stop::Cancelled.into());
        }
        if self.deadline.is_over() {
            Err(Stop::Deadline(self.deadline.duration()).into())
        } else {
            Ok(())
        }
    }
}

/// Where a guest's messages go.
pub(crate) struct Journal {
    log: Log,
    n_messages: usize,
    /// The last message of level 9.
    pub panic: Option<String>,
    /// The last text that a guest without our SDK wrote to its stderr: its panic message, if it
    /// panics.
    pub complaint: Option<String>,
}

impl Journal {
    /// Another call begins.
    fn renew(&mut self) {
        (self.n_messages, self.complaint) = (0, None);
    }

    pub fn write(&mut self, level: u8, message: &str) {
        let message = &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)];
        if level == level::PANIC {
            self.panic = Some(message.to_owned());
            return;
        }
        self.n_messages += 1;
        match self.n_messages {
            ..=MESSAGES_MAX => (self.log)(level, message),
            n if n == MESSAGES_MAX + 1 => (self.log)(
                level::WARNING,
                "the plugin logs too much in one call; the rest is left out",
            ),
            _ => {}
        }
    }
}

/// What an instance may still allocate.
pub(crate) struct Budget {
    memory_bytes_left: usize,
    memory_bytes_max: usize,
    table_entries_left: usize,
}

impl Budget {
    fn new(memory_bytes: usize) -> Budget {
        Budget {
            memory_bytes_left: memory_bytes,
            memory_bytes_max: memory_bytes,
            table_entries_left: TABLE_ENTRIES_MAX,
        }
    }

    /// What an instance has in addition to its linear memory; a component with too much of it was
    /// refused when it was loaded.
    pub fn take(&mut self, n_bytes: usize) {
        self.memory_bytes_left = self.memory_bytes_left.saturating_sub(n_bytes);
    }
}

impl ResourceLimiter for Budget {
    /// Ends the guest rather than telling it: allocators of most languages abort when memory does
    /// not grow, and the report would then be about the abort.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        match self.memory_bytes_left.checked_sub(desired - current) {
            Some(left) => self.memory_bytes_left = left,
            None => {
                return Err(Stop::Memory {
                    bytes_max: self.memory_bytes_max,
                }
                .into());
            }
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        match self.table_entries_left.checked_sub(desired - current) {
            Some(left) => self.table_entries_left = left,
            None => {
                return Err(Stop::Table {
                    entries_max: TABLE_ENTRIES_MAX,
                }
                .into());
            }
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_ITEMS_MAX
    }

    fn tables(&self) -> usize {
        CORE_ITEMS_MAX
    }

    fn memories(&self) -> usize {
        CORE_ITEMS_MAX
    }
}

/// A store with an instantiated component.
pub(crate) struct Instance {
    pub store: Store<Guest>,
    exports: wasmtime::component::Instance,
    describe: Func,
    open: Func,
    invoke: Func,
}

impl Instance {
    /// Instantiates `plugin`; its start functions run under the guest's deadline.
    ///
    /// # Errors
    /// `UserCode` if a start function fails or a limit is too low for the component to begin with.
    pub fn new(plugin: &Plugin, guest: Guest) -> Result<Instance, Failure> {
        let mut store = Store::new(plugin.engine(), guest);
        store.limiter(|guest| &mut guest.budget);
        store.epoch_deadline_callback(|context: StoreContextMut<'_, Guest>| {
            context.data().check_time()?;
            Ok(UpdateDeadline::Continue(1))
        });
        store.set_epoch_deadline(1);
        let instance = plugin
            .component()
            .instantiate(&mut store)
            .map_err(|e| trap::explain(e, store.data_mut()))?;
        let functions = plugin.functions();
        let mut function = |index| {
            instance
                .get_func(&mut store, index)
                .ok_or_else(|| Error::internal("a checked export is gone"))
        };
        let (describe, open, invoke) = (
            function(&functions.describe)?,
            function(&functions.open)?,
            function(&functions.invoke)?,
        );
        Ok(Instance {
            store,
            exports: instance,
            describe,
            open,
            invoke,
        })
    }

    /// A function of an interface that not every plugin has.
    ///
    /// # Errors
    /// `Internal` if the index is another component's.
    pub fn function(&mut self, index: &ComponentExportIndex) -> Result<Func, Error> {
        self.exports
            .get_func(&mut self.store, index)
            .ok_or_else(|| Error::internal("a checked export is gone"))
    }

    pub fn describe(
        &mut self,
        args: &[String],
        deadline: Duration,
    ) -> Result<Answer<String>, Failure> {
        self.call(self.describe, (args,), deadline)
    }

    pub fn open(
        &mut self,
        functions: &[u32],
        context: &str,
        deadline: Duration,
    ) -> Result<Answer<u32>, Failure> {
        self.call(self.open, (functions, context), deadline)
    }

    pub fn invoke(
        &mut self,
        chain: u32,
        call: u16,
        input: &[SectionIn<'_>],
        deadline: Duration,
    ) -> Result<Answer<Vec<Section>>, Failure> {
        self.store.data_mut().running.may_emit = true;
        let answer = self.call(self.invoke, (chain, call, input), deadline);
        self.store.data_mut().running.may_emit = false;
        answer
    }

    /// Calls an export. The types are compared each time, which costs some 100 ns per batch: a
    /// typed function cannot be kept for parameters that borrow, without unsafe code.
    pub fn call<P, R>(
        &mut self,
        function: Func,
        parameters: P,
        deadline: Duration,
    ) -> Result<R, Failure>
    where
        P: ComponentNamedList + Lower,
        R: ComponentType + Lift,
    {
        let typed = function
            .typed::<P, (R,)>(&self.store)
            .map_err(|e| wrong_type(&e))?;
        self.begin(deadline)
            .map_err(|e| trap::explain(e, self.store.data_mut()))?;
        let returned = typed.call(&mut self.store, parameters);
        returned
            .map(|(answer,)| answer)
            .map_err(|e| trap::explain(e, self.store.data_mut()))
    }

    fn begin(&mut self, deadline: Duration) -> wasmtime::Result<()> {
        let guest = self.store.data_mut();
        guest.renew(deadline);
        guest.check_time()?;
        let fuel = guest.running.output_bytes_max;
        self.store.set_epoch_deadline(1);
        // Fuel for host calls is what the host copies out of the guest in one call, in bytes: a
        // limit on a result that holds before it is lifted.
        self.store.set_hostcall_fuel(fuel);
        Ok(())
    }
}

/// The interface is there, but a function of it has another type.
fn wrong_type(error: &wasmtime::Error) -> Error {
    let message = format!(
        "an exported function has another type than version {INTERFACE_VERSION} of its interface says: {}",
        error.root_cause()
    );
    Error::new(code::INTERFACE_VERSION, message)
}
