//! Plans that are far larger than they look, or ask for more than the user allows.

use super::{Attack, SOON, lines, node, nowhere, plan};
use serde_json::{Value, json};
use std::process::Command;
use streamrt_tests::binary::{Running, component};
use streamrt_tests::guests::describing;
use streamrt_tests::measured::Limits;

/// Runs a plan over a file of two lines.
fn run(plan: &str, options: &[&str]) -> (Attack, Command) {
    let attack = Attack::new(&describing(plan));
    std::fs::write(attack.path("in"), "one\ntwo\n").unwrap();
    let command = attack.run(options, &["in".as_ref()]);
    (attack, command)
}

#[track_caller]
fn check_refused(plan: &str, options: &[&str], code: &str, sentence: &str) {
    let (_attack, command) = run(plan, options);
    SOON.run(command).finished.failed_with(code).names(sentence);
}

/// A node that passes rows on.
fn timestamps(id: usize, inputs: &[usize], parallelism: Option<u64>, partitioning: &str) -> Value {
    let body = json!({"kind": "timestamps", "time": {"kind": "column", "column": "time", "unit": "seconds"}, "generator": {"kind": "bounded", "bound-ms": 0}});
    let mut node = node(id, &format!("n{id}"), inputs, body);
    node["outputs"] = json!([{"columns": {"kind": "forward"}}]);
    node["parallelism"] = json!(parallelism);
    node["inputs"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|input| input["partitioning"] = json!({"kind": partitioning}));
    node
}

fn times(id: usize) -> Value {
    let options = json!({"rows": 2, "fields": {"time": {"kind": "sequence"}}});
    let mut source = node(
        id,
        "times",
        &[],
        json!({"kind": "source", "connector": "datagen", "options": options, "schema": [{"name": "time", "type": "i64"}]}),
    );
    source["outputs"] = json!([{"columns": {"kind": "forward"}}]);
    source
}

#[test]
fn plans_without_end() {
    let long = plan(vec![lines(0, &"x".repeat(5 << 20)), nowhere(1, 0)], vec![]);
    check_refused(
        &long,
        &[],
        "S2020",
        "objects and lists, and may have 4194304",
    );
    let mut hollow = plan(vec![lines(0, "in"), nowhere(1, 0)], vec![]);
    hollow = hollow.replacen(
        "\"path\"",
        &format!("\"deep\":[{}1],\"path\"", "{},".repeat(1 << 20)),
        1,
    );
    assert!(hollow.len() < 4 << 20);
    check_refused(&hollow, &[], "S2020", "may have 4194304 and 200000");
    let deep = plan(vec![lines(0, "in"), nowhere(1, 0)], vec![]).replacen(
        "\"path\"",
        &format!("\"deep\":{}", "[".repeat(100_000)),
        1,
    );
    check_refused(&deep, &[], "S1007", "recursion limit");
}

#[test]
fn more_nodes_and_edges_than_a_job_has() {
    let nodes = |n: usize| {
        let chain = (1..n - 1).map(|id| timestamps(id, &[id - 1], None, "forward"));
        plan(
            std::iter::once(times(0))
                .chain(chain)
                .chain([nowhere(n - 1, n - 2)])
                .collect(),
            vec![],
        )
    };
    check_refused(&nodes(10_001), &[], "S2020", "the job has 10001 nodes");
    let edges = plan(
        vec![
            times(0),
            timestamps(1, &vec![0; 60_000], None, "forward"),
            nowhere(2, 1),
        ],
        vec![],
    );
    check_refused(&edges, &[], "S2020", "60001 edges");
}

#[test]
fn the_largest_plan_in_the_worst_order_runs() {
    let n = 10_000;
    let chain = (1..n - 1).map(|id| timestamps(id, &[id - 1], None, "forward"));
    let mut nodes: Vec<Value> = std::iter::once(times(0))
        .chain(chain)
        .chain([nowhere(n - 1, n - 2)])
        .collect();
    nodes.reverse();
    let (_attack, command) = run(&plan(nodes, vec![]), &[]);
    Limits::new(300, 60).run(command).finished.succeeded();
}

#[test]
fn a_cycle_behind_a_long_tail_is_found() {
    let mut nodes = vec![
        times(0),
        timestamps(1, &[0, 2], None, "forward"),
        timestamps(2, &[1], None, "forward"),
    ];
    nodes.extend((3..9_000).map(|id| timestamps(id, &[id - 1], None, "forward")));
    nodes.push(nowhere(9_000, 8_999));
    check_refused(
        &plan(nodes, vec![]),
        &[],
        "S2001",
        "a cycle through `n1`, `n2`",
    );
}

/// Key columns that are hidden go on to whoever reads; united with itself, a stream would have them
/// twice, and so on.
#[test]
fn a_stream_that_is_united_with_itself_forty_times() {
    let half = json!({"number": 0, "kind": "key-projection", "name": "half", "input": [{"name": "time", "type": "i64"}],
        "outputs": [{"columns": {"kind": "extend", "schema": [{"name": "half-0", "type": "i64"}]}}]});
    let mut projected = node(1, "half", &[0], json!({"kind": "function", "function": 0}));
    projected["outputs"] = half["outputs"].clone();
    let mut nodes = vec![times(0), projected];
    nodes.extend((2..42).map(|id| timestamps(id, &[id - 1, id - 1], None, "forward")));
    nodes.push(nowhere(42, 41));
    check_refused(
        &plan(nodes, vec![half]),
        &[],
        "S2006",
        "it reads the output of `half` twice",
    );
}

#[test]
fn more_subtasks_than_the_user_allows() {
    let wide = |parallelism: u64, partitioning: &str| {
        plan(
            vec![
                times(0),
                timestamps(1, &[0], Some(parallelism), partitioning),
                timestamps(2, &[1], Some(parallelism), partitioning),
                nowhere(3, 2),
            ],
            vec![],
        )
    };
    check_refused(
        &wide(32_768, "rebalance"),
        &[],
        "S2020",
        "its parallelism is 32768, and may be 128; `--parallelism 32768` allows it",
    );
    check_refused(
        &wide(4_000_000_000, "rebalance"),
        &[],
        "S2020",
        "its parallelism is 4000000000",
    );
    check_refused(
        &wide(129, "rebalance"),
        &[],
        "S2020",
        "`--parallelism 129` allows it",
    );
    check_refused(
        &wide(1, "rebalance"),
        &["--parallelism", "30000"],
        "S2020",
        "may have 4096 and 250000",
    );
    check_refused(
        &wide(600, "rebalance"),
        &["--parallelism", "600"],
        "S2020",
        "channels",
    );
    let (_attack, command) = run(&wide(100, "rebalance"), &[]);
    Limits::new(300, 60).run(command).finished.succeeded();
}

#[test]
fn a_window_that_slides_by_next_to_nothing() {
    let window = |size_ms: i64, slide_ms: i64| {
        let body = json!({"kind": "window", "assigner": {"kind": "sliding", "size-ms": size_ms, "slide-ms": slide_ms},
            "contents": {"kind": "builtin", "aggregates": [{"function": "count"}],
                "columns": [{"name": "n", "from": {"kind": "aggregate", "index": 0}}]}});
        let mut window = node(2, "window", &[1], body);
        window["inputs"][0]["partitioning"] = json!({"kind": "hash", "columns": ["time"]});
        window["outputs"] = json!([{"columns": {"kind": "replace", "schema": [{"name": "n", "type": "i64"}]}}, {"name": "late", "columns": {"kind": "forward"}}]);
        plan(
            vec![
                times(0),
                timestamps(1, &[0], None, "forward"),
                window,
                nowhere(3, 2),
            ],
            vec![],
        )
    };
    check_refused(
        &window(1 << 50, 1),
        &[],
        "S2015",
        "node `window`: windows of 1125899906842624 ms that slide by 1 ms",
    );
    check_refused(
        &window(10_001_000, 1_000),
        &[],
        "S2015",
        "the limit is 10000",
    );
    let (_attack, command) = run(&window(10_000_000, 1_000), &[]);
    Limits::new(300, 60).run(command).finished.succeeded();
}

#[test]
fn columns_that_grow_with_each_node() {
    let schema: Vec<Value> = (0..4_097)
        .map(|i| json!({"name": format!("c{i}"), "type": "i64"}))
        .collect();
    let source = node(
        0,
        "wide",
        &[],
        json!({"kind": "source", "connector": "datagen", "options": {"rows": 1}, "schema": schema}),
    );
    check_refused(
        &plan(vec![source, nowhere(1, 0)], vec![]),
        &[],
        "S2020",
        "4097 columns",
    );
    let function = |number: usize| {
        let added: Vec<Value> = (0..10)
            .map(|i| json!({"name": format!("a{number}-{i}"), "type": "i64"}))
            .collect();
        json!({"number": number, "kind": "map", "name": "m", "outputs": [{"columns": {"kind": "extend", "schema": added}}]})
    };
    let functions: Vec<Value> = (0..400).map(function).collect();
    let adds = functions.iter().enumerate().map(|(i, function)| {
        let mut node = node(
            i + 1,
            &format!("m{i}"),
            &[i],
            json!({"kind": "function", "function": i}),
        );
        node["outputs"] = function["outputs"].clone();
        node
    });
    let nodes: Vec<Value> = std::iter::once(times(0))
        .chain(adds)
        .chain([nowhere(401, 400)])
        .collect();
    check_refused(&plan(nodes, functions), &[], "S2020", "columns together");
}

#[test]
fn numbers_of_connectors_that_would_fill_the_memory() {
    let source = |connector: &str, options: Value| {
        let schema = json!([{"name": "time", "type": "i64"}]);
        plan(
            vec![
                node(
                    0,
                    "in",
                    &[],
                    json!({"kind": "source", "connector": connector, "options": options, "schema": schema}),
                ),
                nowhere(1, 0),
            ],
            vec![],
        )
    };
    check_refused(
        &source("datagen", json!({"splits": 4_000_000_000u32})),
        &[],
        "S2007",
        "`splits` is 4000000000",
    );
    let bids = plan(
        vec![
            node(
                0,
                "bids",
                &[],
                json!({"kind": "source", "connector": "nexmark", "options": {"rows": 5, "base-time": i64::MAX}, "schema": [{"name": "date_time", "type": "i64"}]}),
            ),
            nowhere(1, 0),
        ],
        vec![],
    );
    check_refused(&bids, &[], "S2007", "are no times");
    let mut split = lines(0, "in");
    split["body"]["options"]["split-bytes"] = json!(1);
    let (attack, command) = run(&plan(vec![split, nowhere(1, 0)], vec![]), &[]);
    std::fs::write(attack.path("in"), "line\n".repeat(50_000)).unwrap();
    SOON.run(command)
        .finished
        .failed_with("S2007")
        .names("more than 100000 splits");
}

#[test]
fn more_rows_that_wait_than_memory_has() {
    let function = json!({"number": 0, "kind": "write-ahead-sink", "name": "s", "input": [{"name": "time", "type": "i64"}]});
    let sink = node(
        1,
        "s",
        &[0],
        json!({"kind": "function-sink", "function": 0, "write-ahead-bytes": 1u64 << 60}),
    );
    check_refused(
        &plan(vec![times(0), sink], vec![function]),
        &[],
        "S2020",
        "rows of 1024 MiB at most wait",
    );
}

#[test]
fn names_that_no_file_and_no_thread_can_have() {
    let named = |uid: &str| {
        let mut sink = nowhere(1, 0);
        sink["uid"] = json!(uid);
        plan(vec![times(0), sink], vec![])
    };
    check_refused(
        &named("a\0b"),
        &[],
        "S2006",
        r"the uid `a\0b` has control characters",
    );
    check_refused(&named("\u{1b}[2J"), &[], "S2006", "has control characters");
    check_refused(
        &named(&"x".repeat(201)),
        &[],
        "S2020",
        "has 201 bytes, and may have 200",
    );
}

#[test]
fn ctrl_c_is_heard_while_a_component_describes_itself() {
    let attack = Attack::new(&std::fs::read(component("faulty")).unwrap());
    let running = Running::start(attack.run(
        &["-D", "plugin.deadline=1h"],
        &["--how".as_ref(), "describe-loop".as_ref()],
    ));
    // It compiles first, and then runs for ever.
    std::thread::sleep(std::time::Duration::from_millis(300));
    running.interrupt();
    let measured = Limits::new(900, 20).watch(running, |_| {});
    assert_eq!(
        measured.finished.status.code(),
        Some(130),
        "{}",
        measured.finished.stderr
    );
}
