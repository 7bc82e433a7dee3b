//! Determines what a file is and what a component contains, in the order in which a user wants to
//! know it.
//!
//! Called only by `Plugin::load`; each refusal is one sentence with a code of its own, never a dump
//! of wasmtime's.

use streamrt_types::{Error, Result, code};
use streamrt_wit::{
    FILES_INTERFACE, HOST_INTERFACE, INTERFACE_VERSION, OPERATOR_INTERFACE, STATE_INTERFACE,
};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

const MAGIC: &[u8] = b"\0asm";
/// Version and layer, as the binary format of components has them, and as that of core modules has.
const COMPONENT_LAYER: &[u8] = &[0x0d, 0, 1, 0];
const MODULE_LAYER: &[u8] = &[1, 0, 0, 0];

/// All of our names begin with it.
const PACKAGE: &str = "streamrt:plugin/";

/// Interfaces of this package are inert here: linked, but without effect.
const WASI: &str = "wasi:";

/// The most functions and types of all imported interfaces; each is defined anew for the component.
/// All of WASI 0.2 has some 400.
const IMPORTS_MAX: usize = 10_000;

/// Names of the interfaces at the outer edge of a component.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
}

/// Looks at the first bytes.
///
/// # Errors
/// `Invalid` unless they begin a component.
pub(crate) fn check_format(bytes: &[u8]) -> Result<()> {
    let refuse = |code, message: &str| Err(Error::new(code, message));
    if Engine::detect_precompiled(bytes).is_some() {
        return refuse(
            code::PRECOMPILED,
            "the file holds compiled code, and not a component",
        );
    }
    let Some(layer) = bytes.strip_prefix(MAGIC) else {
        let message = if bytes.is_empty() {
            "the file is empty"
        } else {
            "the file is not WebAssembly: it does not begin with \\0asm"
        };
        return refuse(code::NOT_WASM, message);
    };
    match layer.get(..4) {
        Some(COMPONENT_LAYER) => Ok(()),
        Some(MODULE_LAYER) => refuse(
            code::CORE_MODULE,
            "the file is a core WebAssembly module, and not a component",
        ),
        Some(_) => refuse(
            code::BAD_COMPONENT,
            "the component has a binary format that this host does not know",
        ),
        None => refuse(
            code::BAD_COMPONENT,
            "the component is cut off within its first 8 bytes",
        ),
    }
}

/// wasmtime's reason for not compiling a component, in one sentence.
pub(crate) fn damaged(error: &wasmtime::Error) -> Error {
    let cause = error.root_cause().to_string();
    let line = cause
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches('.')
        .to_owned();
    Error::new(
        code::BAD_COMPONENT,
        format!("the component is damaged or uses what this host does not support: {line}"),
    )
}

/// Checks the imports and exports of a component.
///
/// # Errors
/// `Invalid` if our interface is missing or of another version, or an import is unknown.
pub(crate) fn outline(engine: &Engine, component: &Component) -> Result<Outline> {
    let ty = component.component_type();
    let outline = Outline {
        imports: ty
            .imports(engine)
            .map(|(name, _)| name.to_owned())
            .collect(),
        exports: ty
            .exports(engine)
            .map(|(name, _)| name.to_owned())
            .collect(),
    };
    let n_imported: usize = ty
        .imports(engine)
        .map(|(_, item)| n_functions(engine, &item.ty))
        .sum();
    if n_imported > IMPORTS_MAX {
        let message = format!(
            "the component imports {n_imported} functions and types, and may import {IMPORTS_MAX}"
        );
        return Err(Error::new(code::COMPONENT_LIMIT, message));
    }
    check_exports(&outline.exports)?;
    ty.imports(engine)
        .try_for_each(|(name, item)| check_import(engine, name, &item.ty))?;
    Ok(outline)
}

fn n_functions(engine: &Engine, item: &ComponentItem) -> usize {
    match item {
        ComponentItem::ComponentInstance(instance) => instance.exports(engine).count(),
        _ => 1,
    }
}

fn check_exports(exports: &[String]) -> Result<()> {
    if exports.iter().any(|name| name == OPERATOR_INTERFACE) {
        return Ok(());
    }
    match exports
        .iter()
        .find(|name| interface(name) == "streamrt:plugin/operator")
    {
        Some(other) => Err(other_version("exports", other)),
        None => Err(Error::new(
            code::NO_OPERATOR,
            format!(
                "the component does not export {OPERATOR_INTERFACE}{}",
                list(exports)
            ),
        )),
    }
}

/// `, but a, b and 3 more`.
fn list(names: &[String]) -> String {
    match names {
        [] => ", nor anything else".into(),
        names if names.len() <= 3 => format!(", but {}", names.join(", ")),
        names => format!(
            ", but {} and {} more",
            names[..3].join(", "),
            names.len() - 3
        ),
    }
}

fn other_version(verb: &str, name: &str) -> Error {
    let message = format!(
        "the component {verb} {name}, but this host has version {INTERFACE_VERSION} of that interface"
    );
    Error::new(code::INTERFACE_VERSION, message)
}

/// The name without its version.
fn interface(name: &str) -> &str {
    name.split_once('@')
        .map_or(name, |(interface, _)| interface)
}

fn check_import(engine: &Engine, name: &str, item: &ComponentItem) -> Result<()> {
    let unknown = |item: &str| {
        Err(Error::new(
            code::UNKNOWN_IMPORT,
            format!("the component imports {item}, which nothing here provides"),
        ))
    };
    let ComponentItem::ComponentInstance(instance) = item else {
        return if matches!(item, ComponentItem::Type(_)) {
            Ok(())
        } else {
            unknown(name)
        };
    };
    if name.starts_with(WASI) {
        return Ok(());
    }
    let functions = instance
        .exports(engine)
        .filter(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)));
    let mut functions = functions.map(|(function, _)| function);
    let known: &[&str] = match name {
        STATE_INTERFACE => &["get-many", "put-many", "scan"],
        HOST_INTERFACE => &["emit", "log"],
        FILES_INTERFACE => &[
            "list",
            "look",
            "read",
            "write",
            "append",
            "rename",
            "remove",
            "make-folder",
            "sync",
        ],
        _ if name.starts_with(PACKAGE) && !name.ends_with(&format!("@{INTERFACE_VERSION}")) => {
            return Err(other_version("imports", name));
        }
        _ => &[],
    };
    match functions.find(|function| !known.contains(function)) {
        None => Ok(()),
        Some(_) if known.is_empty() => unknown(name),
        Some(function) => unknown(&format!("{name}#{function}")),
    }
}
