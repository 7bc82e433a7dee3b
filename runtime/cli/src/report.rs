//! What the command line says on stderr: one shape for every error, and one line for what is being
//! done.
//!
//! A stderr that nobody reads any more is no reason to fail or to wait, so everything goes the way
//! of `streamrt_types::say_line`.

use serde_json::{Value, json};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use streamrt_types::{Error, code, printable, say_line, say_raw, says_json};

/// Where the first panic happened. It is a bug of ours, and its place is what a report of it must
/// contain.
static PANIC_PLACE: OnceLock<String> = OnceLock::new();

/// Says what is being done.
pub fn status(text: &str) {
    say_line(&format!("streamrt: {text}"));
}

/// Prints an error with its cause and the likely fix.
pub fn error(error: &Error) {
    let place = (error.code() == code::INTERNAL)
        .then(|| PANIC_PLACE.get())
        .flatten()
        .map(String::as_str);
    match says_json() {
        true => say_raw(format!("{}\n", object(error, place))),
        false => say_raw(printable(&render(error, place)).into_owned()),
    }
}

/// Prints as JSON what clap says of a command line that it cannot read.
pub fn wrong_use(error: &clap::Error) {
    let text = error.to_string();
    // The usage follows after an empty line.
    let sentence = text.split("\n\n").next().unwrap_or_default();
    let message = sentence.strip_prefix("error: ").unwrap_or(sentence);
    say_raw(format!(
        "{}\n",
        object(&Error::new(code::WRONG_USE, message), None)
    ));
}

fn object(error: &Error, place: Option<&str>) -> Value {
    let code = error.code();
    let mut object = json!({"event": "error", "code": code.id, "message": error.message(), "causes": error.causes(), "fix": code.fix});
    if let Some(place) = place {
        object["at"] = json!(place);
    }
    object
}

/// Replaces the dump of a panic by a note of its place: the panic itself is caught, and becomes an
/// error of code S9001.
pub fn hush_panics() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let place = info
            .location()
            .map_or("an unknown place".to_owned(), ToString::to_string);
        PANIC_PLACE.get_or_init(|| place);
    }));
}

/// Turns what a panic left into an error.
pub fn of_panic(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!(
        "the program panicked: {}",
        text.unwrap_or("without a message")
    ))
}

fn render(error: &Error, place: Option<&str>) -> String {
    let mut text = format!(
        "error[{}]: {}\n",
        error.code().id,
        indented(error.message())
    );
    error
        .causes()
        .iter()
        .for_each(|cause| text += &format!("  cause: {}\n", indented(cause)));
    if let Some(place) = place {
        text += &format!("  at: {place}\n");
    }
    text + &format!("  fix: {}\n", error.code().fix)
}

/// Later lines of a message, such as a backtrace, stand under its first one.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn check(error: Error, place: Option<&str>, expected: &str) {
        assert_eq!(render(&error, place), expected);
    }

    #[test]
    fn an_error_has_code_sentence_and_fix() {
        let fix = code::FILE_MISSING.fix;
        check(
            Error::new(code::FILE_MISSING, "there is no file `a`"),
            None,
            &format!("error[S3001]: there is no file `a`\n  fix: {fix}\n"),
        );
    }

    #[test]
    fn causes_are_listed_once() {
        let cause = io::Error::other(Error::new(code::FILE_IO, "the disk is full"));
        let error = Error::new(code::FILE_IO, "`out` cannot be written").with_source(cause);
        let fix = code::FILE_IO.fix;
        check(
            error,
            None,
            &format!(
                "error[S3002]: `out` cannot be written\n  cause: the disk is full\n  fix: {fix}\n"
            ),
        );
    }

    #[test]
    fn an_error_is_one_object() {
        let error = Error::new(code::FILE_IO, "`out` cannot be\nwritten")
            .with_source(io::Error::other("the disk is full"));
        let expected = json!({"event": "error", "code": "S3002", "message": "`out` cannot be\nwritten", "causes": ["the disk is full"],
            "fix": code::FILE_IO.fix, "at": "x.rs:1"});
        assert_eq!(object(&error, Some("x.rs:1")), expected);
        assert_eq!(object(&error, None)["at"], Value::Null);
    }

    #[test]
    fn further_lines_are_indented() {
        let fix = code::TRAP.fix;
        check(
            Error::new(code::TRAP, "it trapped\nat: f\n"),
            None,
            &format!("error[S4001]: it trapped\n  at: f\n  fix: {fix}\n"),
        );
    }

    #[test]
    fn a_panic_names_its_place() {
        let fix = code::INTERNAL.fix;
        let expected =
            format!("error[S9001]: the program panicked: oh\n  at: src/x.rs:3:4\n  fix: {fix}\n");
        check(of_panic(&"oh"), Some("src/x.rs:3:4"), &expected);
    }
}
