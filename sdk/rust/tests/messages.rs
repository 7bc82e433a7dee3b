//! What the compiler reports for a job that is written wrongly: each snippet is compiled, and what
//! it says must lead to the right verb.
//!
//! Only our own sentences are looked for, since the compiler's change with its version.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What every snippet begins with.
const HEAD: &str = "use streamrt_sdk::prelude::*;
#[derive(Record)]
pub struct Click { user: i64, price: f64, time: i64 }
#[derive(Record)]
pub struct Count { user: i64, count: i64 }
pub fn job(env: &mut Env) {
    let clicks = env.source(\"clicks\", File::csv::<Click>(\"clicks.csv\"));
";

/// The SDK as this test was linked with it: the newest of those that lie beside it with which a
/// right program compiles.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap();
    let is_sdk = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("libstreamrt_sdk-") && name.ends_with(".rlib")
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(is_sdk)
        .collect();
    found.sort_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap());
    let right = "clicks.key_by(Click::USER).window(Tumbling::of(secs(1))).aggregate::<Count>(\"n\", [count().to(\"count\")]).sink(\"o\", Print);";
    let newest = found
        .into_iter()
        .rev()
        .find(|library| compile(library, right).is_ok());
    newest.expect("the SDK that this test was built with lies beside it, and a right program compiles with it")
}

/// Compiles a snippet up to its types; the error is what the compiler says.
fn compile(library: &Path, snippet: &str) -> Result<(), String> {
    let folder = empty_folder();
    let file = folder.join("lib.rs");
    std::fs::write(&file, format!("{HEAD}    {snippet}\n}}\n")).unwrap();
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "lib",
            "--emit",
            "metadata",
            "--out-dir",
        ])
        .arg(&folder);
    rustc
        .arg("--extern")
        .arg(format!("streamrt_sdk={}", library.display()));
    rustc
        .arg("-L")
        .arg(format!(
            "dependency={}",
            library.parent().unwrap().display()
        ))
        .arg(&file);
    let output = rustc.output().expect("rustc can be started");
    std::fs::remove_dir_all(&folder).unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// An empty folder that no other call has.
fn empty_folder() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!(
        "streamrt-sdk-messages-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    );
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn the_compiler_leads_to_the_right_verb() {
    let library = library();
    let check = |snippet: &str, words: &[&str]| {
        let said = compile(&library, snippet).expect_err(snippet);
        words.iter().for_each(|word| {
            assert!(
                said.contains(word),
                "{snippet}: `{word}` is missing\n{said}"
            )
        });
    };
    let by_constant = "takes columns by their constants";
    let computed = "is written `key_by_fn(\"uid\", |row: &Click|";
    check(
        "clicks.key_by(|click: &Click| click.user);",
        &["does not name key columns", computed],
    );
    check(
        "clicks.key_by(\"user\");",
        &["does not name key columns", by_constant, computed],
    );
    check(
        "clicks.key_by(Click::PRICE);",
        &["`f64` cannot be a key", "floats have no equality"],
    );
    check(
        "clicks.key_by((Click::USER, Click::PRICE));",
        &["`f64` cannot be a key"],
    );
    check(
        "clicks.key_by_fn(\"k\", |click: &Click| click.price);",
        &["`f64` cannot be a key"],
    );
    check(
        "clicks.window(Tumbling::of(secs(1)));",
        &[
            "has no key, and this needs one",
            "call `key_by` or `key_by_fn` in front",
        ],
    );
    check(
        "clicks.aggregate_running::<Count>(\"n\", [count().to(\"count\")]);",
        &["has no key, and this needs one"],
    );
    check(
        "clicks.key_by(Click::USER).filter(\"f\", |click| click.user > 0);",
        &["has been given a key", "call this in front of `key_by`"],
    );
    check(
        "clicks.key_by(Click::USER).sink(\"o\", Print);",
        &["has been given a key"],
    );
    check(
        "clicks.key_by(Click::USER).window(Global).sink(\"o\", Print);",
        &["nothing is made of them yet", "call `aggregate`"],
    );
    check(
        "clicks.map(\"m\", |click| (click.user, click.price));",
        &["a struct with `#[derive(Record)]`"],
    );
}

#[test]
fn a_closure_without_types_is_refused_as_well() {
    // The compiler wants the type of the closure's argument first; given that, it leads to
    // `key_by_fn` as above.
    assert!(compile(&library(), "clicks.key_by(|click| click.user);").is_err());
}

#[test]
fn what_std_prints_can_be_imported() {
    let printing = "{ use streamrt_sdk::{dbg, eprintln, println}; println!(\"{}\", 1); eprintln!(); let one = dbg![1]; println!(\"{one}\"); }";
    assert_eq!(compile(&library(), printing), Ok(()));
}
