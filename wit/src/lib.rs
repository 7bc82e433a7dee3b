//! The plugin interface as data: the WIT's text, its codes as constants, and the plan that
//! `describe` returns.
//!
//! Both the host and the SDK for Rust depend on this crate, so each code and each field of the plan
//! is written down once. It knows neither wasmtime nor wit-bindgen, and compiles for a guest.
//!
//! ```
//! let plan = streamrt_wit::Plan::default();
//! assert_eq!(streamrt_wit::Plan::from_json(&plan.to_json()).unwrap(), plan);
//! ```

pub mod codes;
mod plan;

pub use plan::*;

/// Version of the package `streamrt:plugin`; it follows the `@` in the names of imports and
/// exports.
pub const INTERFACE_VERSION: &str = "0.1.0";

/// Full name of the interface that every plugin exports.
pub const OPERATOR_INTERFACE: &str = "streamrt:plugin/operator@0.1.0";

/// Full name of the imported interface for list and map state.
pub const STATE_INTERFACE: &str = "streamrt:plugin/state@0.1.0";

/// Full name of the imported interface for output and logs.
pub const HOST_INTERFACE: &str = "streamrt:plugin/host@0.1.0";

/// Full name of the imported interface for granted folders.
pub const FILES_INTERFACE: &str = "streamrt:plugin/files@0.1.0";

/// Full name of the interface that a plugin with sinks exports.
pub const TWO_PHASE_SINK_INTERFACE: &str = "streamrt:plugin/two-phase-sink@0.1.0";

/// Name of the custom section with `{"sdk", "language", "interface"}` as JSON.
pub const META_SECTION: &str = "streamrt.meta";

/// The text of the WIT package.
pub const WIT: &str = include_str!("../streamrt-plugin.wit");
