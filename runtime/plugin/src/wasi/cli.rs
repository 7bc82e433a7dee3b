//! `wasi:cli` and the preopened folders of `wasi:filesystem`: a process without arguments,
//! environment, files and terminal.

use super::{
    At, Context, Descriptor, InputStream, OutputStream, TerminalInput, TerminalOutput, io,
};
use crate::trap::Stop;
use wasmtime::Result;
use wasmtime::component::Resource;

/// Defines one function; false if it is not one of these.
pub(super) fn define(at: &mut At<'_>, interface: &str, name: &str) -> Result<bool> {
    match (interface, name) {
        ("cli/environment", "get-environment") => at.func_wrap(name, |_: Context<'_>, ()| {
            Ok((Vec::<(String, String)>::new(),))
        })?,
        ("cli/environment", "get-arguments") => {
            at.func_wrap(name, |_: Context<'_>, ()| Ok((Vec::<String>::new(),)))?
        }
        ("cli/environment", "initial-cwd") => {
            at.func_wrap(name, |_: Context<'_>, ()| Ok((None::<String>,)))?
        }
        ("cli/exit", "exit") => at.func_wrap(
            name,
            |_: Context<'_>, (_,): (std::result::Result<(), ()>,)| exit(),
        )?,
        ("cli/exit", "exit-with-code") => {
            at.func_wrap(name, |_: Context<'_>, (_,): (u8,)| exit())?
        }
        ("cli/stdin", "get-stdin") => at.func_wrap(name, |context: Context<'_>, ()| {
            handle::<InputStream>(context, 0)
        })?,
        ("cli/stdout", "get-stdout") => at.func_wrap(name, |context: Context<'_>, ()| {
            handle::<OutputStream>(context, io::STDOUT)
        })?,
        ("cli/stderr", "get-stderr") => at.func_wrap(name, |context: Context<'_>, ()| {
            handle::<OutputStream>(context, io::STDERR)
        })?,
        ("cli/terminal-stdin", "get-terminal-stdin") => at
            .func_wrap(name, |_: Context<'_>, ()| {
                Ok((None::<Resource<TerminalInput>>,))
            })?,
        ("cli/terminal-stdout", "get-terminal-stdout")
        | ("cli/terminal-stderr", "get-terminal-stderr") => at
            .func_wrap(name, |_: Context<'_>, ()| {
                Ok((None::<Resource<TerminalOutput>>,))
            })?,
        ("filesystem/preopens", "get-directories") => at
            .func_wrap(name, |_: Context<'_>, ()| {
                Ok((Vec::<(Resource<Descriptor>, String)>::new(),))
            })?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn handle<T: 'static>(mut context: Context<'_>, rep: u32) -> Result<(Resource<T>,)> {
    context.data_mut().wasi.handle(rep).map(|handle| (handle,))
}

/// A guest that ends itself has failed: its call never returns.
fn exit() -> Result<()> {
    Err(Stop::Exit.into())
}
