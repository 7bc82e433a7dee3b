//! Files that are, or are said to be, components.

use super::{Attack, SOON};
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;
use streamrt_tests::binary::{Running, streamrt};
use streamrt_tests::guests::assemble;
use streamrt_tests::measured::Limits;

/// Limits of the compiler for these tests, small enough that a bomb reaches them soon.
const COMPILER: [&str; 2] = ["-D", "plugin.compile-memory=300MiB"];

/// `n` levels of components, each with two instances of the one before, the first with one core
/// instance.
fn doubling(n: usize) -> String {
    let mut text = String::from(
        "(component (component $c0 (core module $m) (core instance (instantiate $m)))\n",
    );
    for level in 1..=n {
        let below = level - 1;
        writeln!(text, "(component $c{level} (instance (instantiate $c{below})) (instance (instantiate $c{below})))").unwrap();
    }
    text + &format!("(instance (instantiate $c{n})))")
}

/// A component with `n` instances of a module with a number of globals.
fn with_globals(n: usize, n_globals: usize) -> String {
    let globals = "(global i64 (i64.const 1))\n".repeat(n_globals);
    format!(
        "(component (core module $m {globals}) {})",
        "(core instance (instantiate $m))\n".repeat(n)
    )
}

/// A function in whose innermost loop all locals change, and from which every loop may be gone back
/// to: a compiler has each local in each loop.
fn loops_and_locals(n_loops: usize, n_locals: usize) -> Vec<u8> {
    let mut code = format!(
        "(component (core module (func (export \"f\") (local{}) ",
        " i64".repeat(n_locals)
    );
    code += &"loop ".repeat(n_loops);
    for local in 0..n_locals {
        write!(
            code,
            "local.get {local} i64.const {local} i64.add local.set {local} "
        )
        .unwrap();
    }
    for depth in 0..n_loops {
        write!(
            code,
            "local.get {} i32.wrap_i64 br_if {depth} ",
            depth % n_locals
        )
        .unwrap();
    }
    code += &"end ".repeat(n_loops);
    assemble(&(code + ")))"))
}

#[track_caller]
fn check_refused(component: &[u8], options: &[&str], code: &str, sentence: &str) {
    let attack = Attack::new(component);
    for command in [attack.run(options, &[]), inspected(&attack)] {
        SOON.run(command)
            .finished
            .failed_with(code)
            .names("attack.wasm")
            .names(sentence);
    }
}

fn inspected(attack: &Attack) -> Command {
    let mut command = streamrt(["inspect"]);
    command
        .arg(attack.path("attack.wasm"))
        .env("XDG_CACHE_HOME", attack.path("cache"));
    command
}

#[test]
fn instances_that_double_with_each_level() {
    let small = assemble(&doubling(6));
    let attack = Attack::new(&small);
    SOON.run(attack.run(&[], &[])).finished.failed_with("S1004");
    let bomb = assemble(&doubling(23));
    assert!(bomb.len() < 2000, "{} bytes", bomb.len());
    check_refused(
        &bomb,
        &[],
        "S1020",
        "makes 8388608 core instances, and may make 100",
    );
    check_refused(
        &assemble(&doubling(60)),
        &[],
        "S1020",
        "core instances, and may make 100",
    );
}

#[test]
fn components_without_core_instances_that_double() {
    let text = doubling(40).replace("(core instance (instantiate $m))", "");
    check_refused(&assemble(&text), &[], "S1020", "parts together");
}

#[test]
fn many_instances_and_many_globals() {
    check_refused(
        &assemble(&with_globals(101, 1)),
        &[],
        "S1020",
        "makes 101 core instances",
    );
    check_refused(
        &assemble(&with_globals(90, 200_000)),
        &[],
        "S1020",
        "for globals, functions and tables alone",
    );
    check_refused(
        &assemble(&with_globals(1, 200_000)),
        &[],
        "S1004",
        "does not export",
    );
}

#[test]
fn components_that_are_given_what_they_instantiate() {
    let text = "(component (import \"c\" (component $c)) (instance (instantiate $c)))";
    check_refused(
        &assemble(text),
        &[],
        "S1003",
        "instantiates a component that it is given",
    );
    let text = "(component (import \"m\" (core module $m)) (core instance (instantiate $m)))";
    check_refused(
        &assemble(text),
        &[],
        "S1003",
        "instantiates a module that it is given",
    );
}

#[test]
fn resources_of_a_guest_have_no_limit_and_are_refused() {
    let text = "(component (type $r (resource (rep i32))) (core func (canon resource.new $r)))";
    check_refused(&assemble(text), &[], "S1003", "makes resources of its own");
}

#[test]
fn a_file_that_is_larger_than_a_component_may_be() {
    let attack = Attack::new(b"");
    std::fs::File::create(attack.path("attack.wasm"))
        .unwrap()
        .set_len(20 << 30)
        .unwrap();
    SOON.run(attack.run(&[], &[])).finished.failed_with("S1001");
    let mut bytes = assemble("(component)");
    bytes.resize(3 << 20, 0);
    std::fs::write(attack.path("attack.wasm"), &bytes).unwrap();
    SOON.run(attack.run(&["-D", "plugin.size=2MiB"], &[]))
        .finished
        .failed_with("S1020")
        .names("plugin.size");
}

#[test]
fn files_that_never_end_or_never_begin() {
    SOON.run(streamrt(["run", "/dev/zero"]))
        .finished
        .failed_with("S3030")
        .names("/dev/zero is no regular file");
    let attack = Attack::new(b"");
    std::fs::remove_file(attack.path("attack.wasm")).unwrap();
    let made = Command::new("mkfifo")
        .arg(attack.path("attack.wasm"))
        .status()
        .unwrap();
    assert!(made.success());
    SOON.run(attack.run(&[], &[]))
        .finished
        .failed_with("S3030")
        .names("is no regular file");
}

#[test]
fn a_function_that_is_no_trouble_but_to_a_compiler() {
    let bomb = loops_and_locals(3_000, 3_000);
    assert!(bomb.len() < 100_000, "{} bytes", bomb.len());
    let attack = Attack::new(&bomb);
    let measured = Limits::new(600, 60).run(attack.run(&COMPILER, &[]));
    measured
        .finished
        .failed_with("S1020")
        .names("compiling the component takes more than 300 MiB of memory");
    let quick = ["-D", "plugin.compile-time=200ms"];
    SOON_COMPILED
        .run(attack.run(&quick, &[]))
        .finished
        .failed_with("S1020")
        .names("plugin.compile-time");
}

/// A compiler that is given little time still takes memory until then.
const SOON_COMPILED: Limits = Limits::new(1200, 20);

#[test]
fn ctrl_c_is_heard_while_a_component_is_compiled() {
    let attack = Attack::new(&loops_and_locals(3_000, 3_000));
    let running = Running::start(attack.run(&["-D", "plugin.compile-memory=1GiB"], &[]));
    let compiler = children_of(running.id());
    running.interrupt();
    let measured = Limits::new(1300, 20).watch(running, |_| {});
    assert_eq!(
        measured.finished.status.code(),
        Some(130),
        "{}",
        measured.finished.stderr
    );
    // The compiler ends when nobody waits for it any more.
    streamrt_tests::server::wait_until("the end of the compiler", || {
        compiler.iter().all(|process| !is_running(*process))
    });
}

/// Waits until a process has started others.
fn children_of(process: u32) -> Vec<u32> {
    let mut children = Vec::new();
    streamrt_tests::server::wait_until("a compiler", || {
        let text = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"))
            .unwrap_or_default();
        children = text
            .split_ascii_whitespace()
            .map(|child| child.parse().unwrap())
            .collect();
        !children.is_empty()
    });
    children
}

fn is_running(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[test]
fn an_honest_component_is_compiled_in_its_limits() {
    let attack =
        Attack::new(&std::fs::read(streamrt_tests::binary::component("hot-items")).unwrap());
    let input = attack.path("input.csv");
    std::fs::write(&input, "1,100,7,pv,1511658000\n").unwrap();
    let args = [
        "--input".as_ref(),
        input.as_path(),
        "--output".as_ref(),
        "out".as_ref(),
    ];
    let measured = Limits::new(700, 60).run(attack.run(&[], &args));
    measured.finished.succeeded();
    let again = Limits::new(150, 60).run(attack.run(&["-D", "plugin.compile-memory=1MiB"], &args));
    assert!(again.elapsed < Duration::from_secs(60));
    again.finished.succeeded();
}
