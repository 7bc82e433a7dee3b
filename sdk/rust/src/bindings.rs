//! What wit-bindgen makes of the WIT: the types that cross the boundary, the imports, and the macro
//! that exports `operator`.
//!
//! Nothing here is called outside Wasm: natively the imports are unreachable, and
//! [`crate::testing`] stands in for the host.
#![allow(unsafe_code, missing_docs, clippy::all)]

wit_bindgen::generate!({
    path: "../../wit/streamrt-plugin.wit",
    world: "plugin",
    pub_export_macro: true,
    export_macro_name: "export_operator",
    default_bindings_module: "streamrt_sdk::bindings",
});

/// What a plugin with sinks has in addition. It is a world of its own, so that a plugin can export
/// `operator` alone.
pub mod sinks {
    wit_bindgen::generate!({
        path: "../../wit/streamrt-plugin.wit",
        world: "sinks",
        with: { "streamrt:plugin/types@0.1.0": crate::bindings::streamrt::plugin::types },
        pub_export_macro: true,
        export_macro_name: "export_sinks",
        default_bindings_module: "streamrt_sdk::bindings::sinks",
    });
}
