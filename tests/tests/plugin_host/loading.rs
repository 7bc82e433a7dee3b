//! What `load`, `describe` and `chain` refuse, and the cache of compiled code.

use super::{chain, check_failure, host, load, quiet, small, spec};
use std::path::Path;
use std::sync::Arc;
use streamrt_folders::Folder;
use streamrt_plugin::{ChainSpec, CompiledCode, PluginHost};
use streamrt_tests::guests::{EVEN, Misbehaving, assemble, even};
use streamrt_types::{Code, code};

#[track_caller]
fn check_refused(bytes: &[u8], code: Code, sentence: &str) {
    let error = host().load(bytes).err().expect("it is refused");
    check_failure(&error.into(), code, sentence);
}

#[test]
fn files_that_are_no_plugin_are_refused() {
    let component = even();
    check_refused(b"", code::NOT_WASM, "the file is empty");
    check_refused(b"hello, world", code::NOT_WASM, "not WebAssembly");
    check_refused(
        &assemble("(module)"),
        code::CORE_MODULE,
        "a core WebAssembly module",
    );
    check_refused(&component[..6], code::BAD_COMPONENT, "cut off");
    check_refused(b"\0asm\x0e\0\x01\0", code::BAD_COMPONENT, "binary format");
    check_refused(
        &component[..component.len() - 5],
        code::BAD_COMPONENT,
        "damaged",
    );
    check_refused(
        &component[..component.len() / 2],
        code::BAD_COMPONENT,
        "damaged",
    );
    check_refused(
        &assemble("(component)"),
        code::NO_OPERATOR,
        "does not export streamrt:plugin/operator@0.1.0, nor anything else",
    );
}

#[test]
fn a_truncated_component_never_loads() {
    let (component, host) = (even(), host());
    for length in (0..component.len()).step_by(37) {
        let error = host
            .load(&component[..length])
            .err()
            .unwrap_or_else(|| panic!("{length} bytes are enough"));
        let codes = [
            code::NOT_WASM.id,
            code::BAD_COMPONENT.id,
            code::NO_OPERATOR.id,
        ];
        assert!(
            codes.contains(&error.code().id),
            "{length} bytes: {error:?}"
        );
    }
}

#[test]
fn other_versions_and_unknown_imports_are_named() {
    let newer = Misbehaving::default().component_of("streamrt:plugin/operator@0.2.0");
    check_refused(
        &newer,
        code::INTERFACE_VERSION,
        "exports streamrt:plugin/operator@0.2.0, but this host has version 0.1.0",
    );
    let importing = |import: &str| {
        assemble(&EVEN.replacen("(component", &format!("(component (import {import})"), 1))
    };
    let foreign = importing(r#""acme:store/blobs@1.0.0" (instance (export "get" (func)))"#);
    check_refused(
        &foreign,
        code::UNKNOWN_IMPORT,
        "imports acme:store/blobs@1.0.0, which nothing",
    );
    let function = importing(r#""run-wild" (func)"#);
    check_refused(&function, code::UNKNOWN_IMPORT, "imports run-wild");
    let grown = importing(r#""streamrt:plugin/host@0.1.0" (instance (export "shutdown" (func)))"#);
    check_refused(
        &grown,
        code::UNKNOWN_IMPORT,
        "streamrt:plugin/host@0.1.0#shutdown",
    );
    let newer = importing(r#""streamrt:plugin/host@0.3.0" (instance (export "log" (func)))"#);
    check_refused(
        &newer,
        code::INTERFACE_VERSION,
        "imports streamrt:plugin/host@0.3.0, but this host has version 0.1.0",
    );
    let other_type = importing(
        r#""streamrt:plugin/host@0.1.0" (instance (export "log" (func (param "message" string))))"#,
    );
    check_refused(&other_type, code::UNKNOWN_IMPORT, "another type");
}

/// A cache in a folder, of the user with this secret.
fn compiled(folder: &Path, secret: u8) -> CompiledCode {
    CompiledCode::new(Folder::guarded(folder, &["cache"]).unwrap(), &[secret; 32])
}

#[test]
fn compiled_code_is_refused_and_the_cache_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let loaded = |component: &[u8], secret: u8| {
        let host = PluginHost::new(&small(), Some(compiled(folder.path(), secret))).unwrap();
        chain(&host.load(component).unwrap());
    };
    loaded(&even(), 1);
    let file = only_file(&cache);
    let (first, written) = (
        std::fs::read(&file).unwrap(),
        std::fs::metadata(&file).unwrap().modified().unwrap(),
    );
    loaded(&even(), 1);
    assert_eq!(
        std::fs::metadata(&file).unwrap().modified().unwrap(),
        written,
        "the second load is a hit"
    );
    check_refused(&first[32..], code::PRECOMPILED, "compiled code");

    let is_written_again = |what: &str| {
        let before = std::fs::read(&file).unwrap();
        loaded(&even(), 1);
        let after = std::fs::read(only_file(&cache)).unwrap();
        assert!(
            before != after && after.len() == first.len(),
            "{what}: it is compiled and written again"
        );
    };
    let mut damaged = first.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for bytes in [&damaged[..], &first[..100], b""] {
        std::fs::write(&file, bytes).unwrap();
        is_written_again("damage");
    }
    // As this program wrote it, for a user with another secret.
    loaded(&even(), 2);
    is_written_again("another secret");
    // Sound, but the code of another component under this one's name.
    let other = Misbehaving::default().component();
    loaded(&other, 1);
    let others = std::fs::read_dir(&cache)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| *path != file)
        .unwrap();
    std::fs::rename(others, &file).unwrap();
    is_written_again("another component");
    // What a link leads to is not ours, whatever it is.
    let elsewhere = folder.path().join("elsewhere");
    std::fs::rename(&file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    loaded(&even(), 1);
    assert!(
        std::fs::symlink_metadata(only_file(&cache))
            .unwrap()
            .is_file(),
        "a file has taken the place of the link"
    );
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    let files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[test]
fn plans_are_checked() {
    let describe = |text: &str| {
        let guest = Misbehaving {
            plan_text: Some(text.into()),
            ..Misbehaving::default()
        };
        load(&guest.component()).describe(&[]).unwrap_err()
    };
    check_failure(
        &describe("{").into(),
        code::BAD_PLAN,
        "the plugin's plan cannot be read: EOF",
    );
    check_failure(
        &describe(r#"{"version":9}"#).into(),
        code::BAD_PLAN,
        "version 9",
    );

    let refusing = EVEN.replacen(
        "(i32.store8 (i32.const 0) (i32.const 0))\n      (i32.store (i32.const 4) (i32.const 1024))\n      (i32.store (i32.const 8) (i32.const 149))",
        "(i32.store8 (i32.const 0) (i32.const 1)) (i32.store16 (i32.const 4) (i32.const 2))\n(i32.store (i32.const 8) (i32.const 1026)) (i32.store (i32.const 12) (i32.const 7))",
        1,
    );
    let error = load(&assemble(&refusing)).describe(&[]).unwrap_err();
    check_failure(&error.into(), code::BAD_ARGUMENTS, "version");
}

#[test]
fn an_instance_with_another_plan_is_refused() {
    let plugin = load(&even());
    let mut other = plugin.describe(&[]).unwrap();
    other.functions[0].name = "odd".into();
    let error = plugin
        .chain(ChainSpec {
            plan: Arc::new(other),
            ..spec(&plugin, quiet())
        })
        .err()
        .unwrap();
    check_failure(&error.into(), code::PLAN_CHANGED, "describes another plan");
}
