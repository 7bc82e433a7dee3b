//! What user code reports to people: the log of the task, and the standard library's printing
//! macros, which write there.
//!
//! On the target of components std's own macros write nowhere, and they cannot be replaced from
//! here for a crate that does not import these: `use streamrt_sdk::{dbg, eprintln, println};`.
//! `streamrt build` warns whoever has forgotten that.

use streamrt_wit::codes::level;

/// Writes to the log of the task: 1 error, 2 warning, 3 information, 4 debug, 5 trace. In a native
/// test it goes to standard error.
pub fn log(level: u8, message: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::streamrt::plugin::host::log(level, message);
    #[cfg(not(target_family = "wasm"))]
    ::std::eprintln!("log level {level}: {message}");
}

/// Used by the macros: each line of the text is a message. In a native test it is printed as by
/// std.
#[doc(hidden)]
pub fn print(text: std::fmt::Arguments<'_>, to_stderr: bool) {
    if cfg!(target_family = "wasm") {
        let text = text.to_string();
        text.lines().for_each(|line| log(level::INFORMATION, line));
    } else if to_stderr {
        ::std::eprintln!("{text}");
    } else {
        ::std::println!("{text}");
    }
}

/// Like the standard library's macro, whose output goes nowhere in a component: writes to the log
/// of the task, as information. In a native test it prints.
///
/// ```
/// use streamrt_sdk::prelude::*;
/// use streamrt_sdk::println;
///
/// fn job(env: &mut Env) -> Result<()> {
///     let input = env.arg("input")?;
///     println!("reading {input}");
///     env.source("lines", File::lines(input)).sink("out", Print);
///     Ok(())
/// }
/// # assert!(streamrt_sdk::testing::plan(job, ["--input", "a"]).is_ok());
/// ```
#[macro_export]
macro_rules! println {
    () => { $crate::print(::std::format_args!(""), false) };
    ($($text:tt)*) => { $crate::print(::std::format_args!($($text)*), false) };
}

/// Like the standard library's macro, whose output goes nowhere in a component: writes to the log
/// of the task, as information. In a native test it prints.
#[macro_export]
macro_rules! eprintln {
    () => { $crate::print(::std::format_args!(""), true) };
    ($($text:tt)*) => { $crate::print(::std::format_args!($($text)*), true) };
}

/// Like the standard library's macro, whose output goes nowhere in a component: writes an
/// expression with its place and value to the log of the task, and returns the value.
#[macro_export]
macro_rules! dbg {
    () => { $crate::eprintln!("[{}:{}:{}]", ::std::file!(), ::std::line!(), ::std::column!()) };
    ($value:expr $(,)?) => {
        // A match, so that temporaries live until the value is used.
        match $value {
            value => {
                let (file, line, column) = (::std::file!(), ::std::line!(), ::std::column!());
                $crate::eprintln!("[{file}:{line}:{column}] {} = {:#?}", ::std::stringify!($value), &value);
                value
            }
        }
    };
    ($($value:expr),+ $(,)?) => { ($($crate::dbg! { $value }),+,) };
}
