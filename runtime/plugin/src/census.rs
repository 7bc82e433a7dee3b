//! Counts what an instance of a component will consist of, from its sections alone, before anything
//! is compiled.
//!
//! A component of some hundred bytes can define a component that holds two instances of another
//! one, and so on: each level doubles what is made, in the compiler as well as in memory. Each
//! definition is counted once here, out of the counts of what it instantiates, so the whole takes
//! one pass over the bytes. Modules and components that come in as arguments cannot be counted this
//! way, and no tool makes them; they are refused, as are resources of a guest's own, whose handles
//! nothing would limit.
//!
//! Whether the bytes are valid beyond that is left to the compiler, which runs under limits of its
//! own (`compiler.rs`).

use streamrt_types::{Error, Result, code};
use wasmparser::{
    BinaryReaderError, CanonicalFunction, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, Encoding, Instance, Parser, Payload,
};

/// The most core instances of a component; the largest known guests (Python) have some 60.
const CORE_INSTANCES_MAX: u64 = 100;

/// The most instances of components, imports, exports, aliases and functions, counted anew for each
/// instance. The compiler works through all of them.
const ITEMS_MAX: u64 = 200_000;

/// Bytes of an instance per global, and per function, table or memory, imported or not: the most
/// that wasmtime's layout takes.
const GLOBAL_BYTES: u64 = 16;
const ITEM_BYTES: u64 = 64;

/// What one instance of a module or of a component consists of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Census {
    core_instances: u64,
    items: u64,
    /// Bytes of memory other than linear memory: globals, functions, tables.
    bytes: u64,
}

impl Census {
    fn add(&mut self, other: Census) {
        self.core_instances = self.core_instances.saturating_add(other.core_instances);
        self.items = self.items.saturating_add(other.items);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// Bytes of an instance that are neither memory nor tables of its own.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }
}

/// A module or a component whose sections are being read.
#[derive(Default)]
struct Frame {
    is_module: bool,
    census: Census,
    /// Definitions by index; `None` for what comes from outside.
    modules: Vec<Option<Census>>,
    components: Vec<Option<Census>>,
}

/// Counts a component.
///
/// # Errors
/// `Invalid`: S1003 if the bytes cannot be read or have what this host does not support, S1020 if
/// there is too much of anything.
pub(crate) fn count(bytes: &[u8], memory_bytes: usize) -> Result<Census> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut whole = Census::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::Version { encoding, .. } => frames.push(Frame {
                is_module: encoding == Encoding::Module,
                ..Frame::default()
            }),
            // The frame that ends last is the whole component.
            Payload::End(_) => whole = close(&mut frames),
            section => read(&mut frames, section)?,
        }
    }
    check(&whole, memory_bytes).map(|()| whole)
}

/// Ends the innermost frame, which the one around it then has as a definition.
fn close(frames: &mut Vec<Frame>) -> Census {
    let done = frames.pop().unwrap_or_default();
    if let Some(outer) = frames.last_mut() {
        outer.define(&done);
    }
    done.census
}

fn check(census: &Census, memory_bytes: usize) -> Result<()> {
    let Census {
        core_instances,
        items,
        bytes,
    } = census;
    let message = if *core_instances > CORE_INSTANCES_MAX {
        format!(
            "the component makes {core_instances} core instances, and may make {CORE_INSTANCES_MAX}"
        )
    } else if *items > ITEMS_MAX {
        format!("the component's instances have {items} parts together, and may have {ITEMS_MAX}")
    } else if census.bytes() > memory_bytes {
        format!(
            "an instance takes {bytes} bytes for globals, functions and tables alone, and may have {memory_bytes} bytes of memory"
        )
    } else {
        return Ok(());
    };
    Err(Error::new(code::COMPONENT_LIMIT, message))
}

pub(crate) fn damaged(error: BinaryReaderError) -> Error {
    let message = error
        .message()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    Error::new(
        code::BAD_COMPONENT,
        format!("the component is damaged or uses what this host does not support: {message}"),
    )
}

fn unsupported(what: &str) -> Error {
    Error::new(
        code::BAD_COMPONENT,
        format!("the component {what}, which this host does not support"),
    )
}

fn read(frames: &mut [Frame], section: Payload<'_>) -> Result<()> {
    let Some((frame, outer)) = frames.split_last_mut() else {
        return Ok(());
    };
    if frame.is_module {
        return frame.read_module(&section);
    }
    match section {
        Payload::InstanceSection(of) => of
            .into_iter()
            .try_for_each(|instance| frame.core_instance(&instance.map_err(damaged)?)),
        Payload::ComponentInstanceSection(of) => of
            .into_iter()
            .try_for_each(|instance| frame.instance(&instance.map_err(damaged)?)),
        Payload::ComponentAliasSection(aliases) => aliases
            .into_iter()
            .try_for_each(|alias| frame.alias(outer, &alias.map_err(damaged)?)),
        Payload::ComponentImportSection(imports) => imports.into_iter().try_for_each(|import| {
            frame.declare(import.map_err(damaged)?.ty.kind(), None);
            frame.count_items(1)
        }),
        Payload::ComponentExportSection(exports) => exports.into_iter().try_for_each(|export| {
            let export = export.map_err(damaged)?;
            frame.declare(export.kind, Some(export.index));
            frame.count_items(1)
        }),
        Payload::ComponentCanonicalSection(functions) => {
            functions.into_iter().try_for_each(|function| {
                check_canonical(&function.map_err(damaged)?)?;
                frame.count_items(1)
            })
        }
        _ => Ok(()),
    }
}

/// What a host without concurrency and a guest without resources of its own need.
fn check_canonical(function: &CanonicalFunction) -> Result<()> {
    match function {
        CanonicalFunction::Lift { .. }
        | CanonicalFunction::Lower { .. }
        | CanonicalFunction::ResourceDrop { .. } => Ok(()),
        CanonicalFunction::ResourceNew { .. } | CanonicalFunction::ResourceRep { .. } => {
            Err(unsupported("makes resources of its own"))
        }
        _ => Err(unsupported(
            "uses tasks, streams or threads of the component model",
        )),
    }
}

impl Frame {
    fn define(&mut self, inner: &Frame) {
        if inner.is_module {
            &mut self.modules
        } else {
            &mut self.components
        }
        .push(Some(inner.census));
    }

    fn count_items(&mut self, n: u64) -> Result<()> {
        self.census.items = self.census.items.saturating_add(n);
        Ok(())
    }

    fn read_module(&mut self, section: &Payload<'_>) -> Result<()> {
        let bytes = match section {
            Payload::GlobalSection(globals) => u64::from(globals.count()) * GLOBAL_BYTES,
            Payload::ImportSection(of) => u64::from(of.count()) * ITEM_BYTES,
            Payload::FunctionSection(of) => u64::from(of.count()) * ITEM_BYTES,
            Payload::TableSection(of) => u64::from(of.count()) * ITEM_BYTES,
            Payload::MemorySection(of) => u64::from(of.count()) * ITEM_BYTES,
            Payload::TagSection(of) => u64::from(of.count()) * ITEM_BYTES,
            _ => 0,
        };
        self.census.bytes = self.census.bytes.saturating_add(bytes);
        Ok(())
    }

    fn core_instance(&mut self, instance: &Instance<'_>) -> Result<()> {
        match instance {
            Instance::Instantiate { module_index, .. } => self.instantiate_module(*module_index),
            Instance::FromExports(exports) => self.count_items(exports.len() as u64),
        }
    }

    fn instance(&mut self, instance: &ComponentInstance<'_>) -> Result<()> {
        match instance {
            ComponentInstance::Instantiate {
                component_index,
                args,
            } => {
                self.instantiate_component(*component_index)?;
                self.count_items(args.len() as u64)
            }
            ComponentInstance::FromExports(exports) => self.count_items(exports.len() as u64),
        }
    }

    fn instantiate_module(&mut self, index: u32) -> Result<()> {
        let module = self.modules.get(index as usize).copied().flatten();
        let module = module.ok_or_else(|| unsupported("instantiates a module that it is given"))?;
        self.census.add(Census {
            core_instances: 1,
            items: 1,
            ..module
        });
        Ok(())
    }

    fn instantiate_component(&mut self, index: u32) -> Result<()> {
        let component = self.components.get(index as usize).copied().flatten();
        self.census.add(
            component.ok_or_else(|| unsupported("instantiates a component that it is given"))?,
        );
        self.count_items(1)
    }

    /// Gives the next index of a kind to an item of this frame, or to one from outside.
    fn declare(&mut self, kind: ComponentExternalKind, index: Option<u32>) {
        let list = match kind {
            ComponentExternalKind::Module => &mut self.modules,
            ComponentExternalKind::Component => &mut self.components,
            _ => return,
        };
        let item = index.and_then(|index| list.get(index as usize).copied().flatten());
        list.push(item);
    }

    fn alias(&mut self, outer: &[Frame], alias: &ComponentAlias<'_>) -> Result<()> {
        match alias {
            ComponentAlias::InstanceExport { kind, .. } => self.declare(*kind, None),
            ComponentAlias::CoreInstanceExport { .. } => {}
            ComponentAlias::Outer { kind, count, index } => {
                self.alias_outer(outer, *kind, *count as usize, *index as usize)
            }
        }
        self.count_items(1)
    }

    /// Takes an item of the frame that lies `count` frames further out.
    fn alias_outer(
        &mut self,
        outer: &[Frame],
        kind: ComponentOuterAliasKind,
        count: usize,
        index: usize,
    ) {
        let of = if count == 0 {
            Some(&*self)
        } else {
            outer.len().checked_sub(count).and_then(|at| outer.get(at))
        };
        match kind {
            ComponentOuterAliasKind::CoreModule => {
                let module = of.and_then(|frame| frame.modules.get(index).copied().flatten());
                self.modules.push(module);
            }
            ComponentOuterAliasKind::Component => {
                let component = of.and_then(|frame| frame.components.get(index).copied().flatten());
                self.components.push(component);
            }
            _ => {}
        }
    }
}
