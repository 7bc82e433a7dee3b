//! Compiles a component in a separate process, which is ended when it takes too long or too much
//! memory.
//!
//! A pass over the sections (`census.rs`) bounds what a component makes, but not what its functions
//! cost a compiler: some hundred kilobytes of nested loops and locals are enough for gigabytes.
//! Nothing within a process can bound that; another process can be watched, and ended at any time.
//! It is the same program under another command, and what it sends back is trusted as what this
//! process compiled would be.
//!
//! 1. The parent sends the length of the component and its bytes, and keeps the pipe open: its end
//!    tells the child that nobody is waiting any more.
//! 2. The child answers with one byte, 0 or 1, and the compiled code or a sentence, and ends.

use crate::discovery::damaged;
use crate::host::{Limits, config};
use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use streamrt_types::{Error, Result, code};
use wasmtime::Engine;
use wasmtime::component::Component;

/// How often the child's memory is checked; it can allocate some ten megabytes in between.
const LOOK: Duration = Duration::from_millis(5);

/// Compiled code is larger than its component by a factor of some five.
const GROWTH_MAX: u64 = 32;

/// The size for a component without any code: compiled code has a frame.
const CODE_BYTES_MIN: u64 = 1 << 20;

/// Asks the child to omit the checks of the epoch.
const TRUSTED: &str = "trusted";

const DONE: u8 = 0;
const REFUSED: u8 = 1;

/// The program that compiles, with its first arguments: it calls [`compile`] with the rest.
#[derive(Debug, Clone)]
pub struct Compiler {
    pub program: PathBuf,
    pub args: Vec<String>,
}

/// The child's part: reads a component from `input`, writes the answer to `output`.
///
/// `args` are those that the parent put after [`Compiler::args`]. The process ends at once when
/// `input` does before the answer is there.
pub fn compile(
    args: &[String],
    mut input: impl Read + Send + 'static,
    mut output: impl Write,
) -> ExitCode {
    let Ok(bytes) = read_component(&mut input) else {
        return ExitCode::FAILURE;
    };
    thread::spawn(move || {
        // Nothing more is sent, so this returns when the parent is gone.
        let _ = input.read(&mut [0]);
        std::process::exit(1);
    });
    let is_trusted = args.iter().any(|arg| arg == TRUSTED);
    let (tag, answer) = match compiled(!is_trusted, &bytes) {
        Ok(code) => (DONE, code),
        Err(error) => (REFUSED, error.message().as_bytes().to_vec()),
    };
    let written = output
        .write_all(&[tag])
        .and_then(|()| output.write_all(&answer))
        .and_then(|()| output.flush());
    if written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn read_component(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let mut bytes = Vec::new();
    input
        .take(u64::from_le_bytes(length))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn compiled(epoch: bool, bytes: &[u8]) -> Result<Vec<u8>> {
    let compile = || Engine::new(&config(epoch))?.precompile_component(bytes);
    compile().map_err(|e| damaged(&e))
}

/// Compiles in this process, without limits: for programs that trust their components.
///
/// # Errors
/// `Invalid` if the component is damaged.
pub(crate) fn compile_here(engine: &Engine, bytes: &[u8]) -> Result<Component> {
    Component::from_binary(engine, bytes).map_err(|e| damaged(&e))
}

impl Compiler {
    /// The compiled code of a component.
    ///
    /// # Errors
    /// `Invalid` if the component is damaged (S1003), or costs more than the limits allow (S1020).
    pub(crate) fn compile(&self, limits: &Limits, bytes: &[u8]) -> Result<Vec<u8>> {
        let fault = |e: io::Error| {
            Error::internal(format!(
                "the compiler {} cannot be run",
                self.program.display()
            ))
            .with_source(e)
        };
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .args((!limits.epoch).then_some(TRUSTED));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fault)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::internal("a pipe to the compiler is missing"));
        };
        let answer = read_answer(output, CODE_BYTES_MIN + bytes.len() as u64 * GROWTH_MAX);
        // A child that has ended says why by its answer, or by the lack of one.
        let sent = send(input, bytes);
        let watched = watch(&mut child, limits, &answer);
        let _ = child.kill();
        let _ = child.wait();
        drop(sent);
        read_code(watched?.map_err(fault)?)
    }
}

fn read_code(mut answer: Vec<u8>) -> Result<Vec<u8>> {
    match answer.first() {
        Some(&DONE) => Ok(answer.split_off(1)),
        Some(&REFUSED) => Err(Error::new(
            code::BAD_COMPONENT,
            String::from_utf8_lossy(&answer[1..]),
        )),
        _ => Err(Error::new(
            code::BAD_COMPONENT,
            "the compiler gave up on the component",
        )),
    }
}

/// What is returned keeps the pipe open.
fn send(mut input: ChildStdin, bytes: &[u8]) -> io::Result<ChildStdin> {
    input.write_all(&(bytes.len() as u64).to_le_bytes())?;
    input.write_all(bytes)?;
    Ok(input)
}

fn read_answer(output: ChildStdout, bytes_max: u64) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, answer) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.take(bytes_max).read_to_end(&mut bytes);
        // Nobody waits once the child was ended.
        let _ = sender.send(read.map(|_| bytes));
    });
    answer
}

/// Waits for the answer of the child, while it stays within its limits.
fn watch(
    child: &mut Child,
    limits: &Limits,
    answer: &Receiver<io::Result<Vec<u8>>>,
) -> Result<io::Result<Vec<u8>>> {
    let start = Instant::now();
    loop {
        match answer.recv_timeout(LOOK) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::internal(
                    "the thread that reads from the compiler is gone",
                ));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        check_limits(child, limits, start)?;
    }
}

fn check_limits(child: &Child, limits: &Limits, start: Instant) -> Result<()> {
    let limit = if start.elapsed() > limits.compile_time {
        format!(
            "{} ms, which is the limit `plugin.compile-time`",
            limits.compile_time.as_millis()
        )
    } else if resident_bytes(child.id()) > limits.compile_bytes {
        format!(
            "{} MiB of memory, which is the limit `plugin.compile-memory`",
            limits.compile_bytes >> 20
        )
    } else {
        return Ok(());
    };
    Err(Error::new(
        code::COMPONENT_LIMIT,
        format!("compiling the component takes more than {limit}"),
    ))
}

/// 0 if it is unknown.
fn resident_bytes(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    resident
        .and_then(|text| text.trim().parse::<usize>().ok())
        .unwrap_or(0)
        << 10
}
