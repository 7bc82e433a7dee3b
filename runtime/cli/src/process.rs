//! Running other programs: cargo, rustc, rustup, apt-get. What they say goes to stderr, as stdout
//! belongs to the results of a command.

use std::path::Path;
use std::process::{Command, Stdio};
use streamrt_types::{Error, Result, code};

/// The cargo that started us, or the one on the path.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The rustc that cargo uses in `dir`, where a `rust-toolchain.toml` may choose one.
pub fn rustc(dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(dir);
    command
}

/// Runs a program to its end; true if it succeeded.
///
/// # Errors
/// `Unavailable` if it cannot be started.
pub fn run(command: &mut Command) -> Result<bool> {
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status();
    status
        .map(|status| status.success())
        .map_err(|e| not_started(command, e))
}

/// Runs a program for what it prints. `None` if it is not there, fails, or prints no UTF-8.
pub fn ask(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    String::from_utf8(text)
        .ok()
        .map(|text| text.trim_end().to_owned())
}

/// Like [`ask`], but what goes wrong is shown to the user.
///
/// # Errors
/// `Unavailable` if it cannot be started, `Invalid` if it fails.
pub fn demand(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| not_started(command, e))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(Error::new(
            code::BUILD_FAILED,
            format!("`{}` failed", words(command)),
        )),
    }
}

/// The command as a user would type it.
pub fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn not_started(command: &Command, error: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    Error::new(
        code::TOOLCHAIN,
        format!("the program {program} cannot be started"),
    )
    .with_source(error)
}
