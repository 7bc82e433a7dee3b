//! The Wasm host: user functions as components, behind the contract
//! [`streamrt_operator::FunctionChain`].
//!
//! It knows wasmtime, and nothing else does. It checks and compiles components, keeps the compiled
//! code by digest, runs calls under limits of time, memory, stack and output, and turns columns
//! into the buffers of `wit/streamrt-plugin.wit` and back. It neither keeps state nor decides what
//! happens to a failing record: an [`PluginChain::invoke`](PluginChain) that fails has done
//! nothing. A [`PluginSink`] is the other kind: its calls have effects outside, and none is
//! repeated.
//!
//! A call's path: `chain` takes an [`Invocation`](streamrt_operator::Invocation), `lower` makes
//! sections that borrow its columns, the guest runs in a `guest` (the store with its limits,
//! `imports`, `grants` and `wasi`), `outcome` checks what comes back, with `lift` for the columns,
//! and `trap` says in a sentence what went wrong.
//!
//! ```
//! use streamrt_plugin::PluginHost;
//! let host = PluginHost::new(&streamrt_types::Configuration::default(), None).unwrap();
//! assert_eq!(host.load(b"hello").err().unwrap().code().id, "S1001");
//! ```

mod abi;
mod cache;
mod census;
mod chain;
mod compiler;
mod custom_section;
mod discovery;
mod engines;
mod file_work;
mod folder;
mod grants;
mod guest;
mod host;
mod imports;
mod lift;
mod lower;
mod outcome;
mod plugin;
mod signature;
mod sink;
mod ticker;
mod trap;
mod wasi;

pub use cache::CompiledCode;
pub use chain::{ChainSpec, Log, PluginChain};
pub use compiler::{Compiler, compile};
pub use engines::Engines;
pub use grants::Grants;
pub use host::PluginHost;
pub use plugin::{Origin, Plugin};
pub use sink::{PluginSink, SinkSpec};
