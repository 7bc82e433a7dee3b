//! Which jobs are refused, and how the others are chained.

use crate::{EdgePartitioner, ExecutionGraph, Head, JobFile, JobGraph, JobSpec, StreamGraph};
use std::sync::Arc;
use streamrt_types::Target;
use streamrt_wit::{Body, Plan};

/// A plan with the nodes given as JSON; `[filter]` is function 0, `[total]`, keyed by `user` with
/// state, function 1.
fn plan(nodes: &str) -> Arc<Plan> {
    let functions = r#"[
        {"number": 0, "kind": "filter", "name": "filter", "input": [{"name": "user", "type": "i64"}], "outputs": [{"columns": {"kind": "forward"}}]},
        {"number": 1, "kind": "process", "name": "total", "input": [{"name": "user", "type": "i64"}], "key": [{"name": "user", "type": "i64"}],
         "outputs": [{"columns": {"kind": "replace", "schema": [{"name": "total", "type": "i64"}]}}, {"name": "late", "columns": {"kind": "forward"}}]},
        {"number": 2, "kind": "filter", "name": "by-page", "input": [{"name": "page", "type": "string"}], "outputs": [{"columns": {"kind": "forward"}}]},
        {"number": 3, "kind": "key-projection", "name": "half", "input": [{"name": "user", "type": "i64"}],
         "outputs": [{"columns": {"kind": "extend", "schema": [{"name": "half-0", "type": "i64"}]}}]}
    ]"#;
    Arc::new(
        Plan::from_json(&format!(
            r#"{{"version": 1, "nodes": [{nodes}], "functions": {functions}}}"#
        ))
        .unwrap(),
    )
}

const SOURCE: &str = r#"{"id": 0, "uid": "clicks", "body": {"kind": "source", "connector": "file", "schema": [{"name": "user", "type": "i64"}]},
    "outputs": [{"columns": {"kind": "forward"}}]}"#;

fn function(id: u32, uid: &str, input: u32, function: u32, partitioning: &str) -> String {
    format!(
        r#"{{"id": {id}, "uid": "{uid}", "inputs": [{{"node": {input}, "partitioning": {partitioning}}}], "body": {{"kind": "function", "function": {function}}}}}"#
    )
}

fn sink(id: u32, uid: &str, input: u32) -> String {
    format!(
        r#"{{"id": {id}, "uid": "{uid}", "inputs": [{{"node": {input}}}], "body": {{"kind": "sink", "connector": "print"}}}}"#
    )
}

const FORWARD: &str = r#"{"kind": "forward"}"#;
const BY_USER: &str = r#"{"kind": "hash", "columns": ["user"]}"#;

fn stream(nodes: &[String]) -> streamrt_types::Result<StreamGraph> {
    StreamGraph::new(&JobSpec::from_plan("job", plan(&nodes.join(","))))
}

fn check_refused(nodes: &[String], code: &str, message: &str) {
    let error = stream(nodes).unwrap_err();
    assert_eq!((error.code().id, error.message()), (code, message));
}

#[test]
fn a_job_that_cannot_run_is_refused_with_the_place() {
    let source = || SOURCE.to_owned();
    let no_uid = source().replace("clicks", "");
    check_refused(&[no_uid, sink(1, "out", 0)], "S2003", "node 0 has no uid");
    check_refused(
        &[source(), sink(1, "clicks", 0)],
        "S2004",
        "the uid `clicks` is given to two nodes",
    );
    check_refused(
        &[source(), sink(1, "out", 7)],
        "S2002",
        "node `out`: its input is node 7, which is not there",
    );
    let cycle = [
        source(),
        function(1, "a", 2, 0, FORWARD),
        function(2, "b", 1, 0, FORWARD),
        sink(3, "out", 2),
    ];
    check_refused(
        &cycle,
        "S2001",
        "the job graph has a cycle through `a`, `b`",
    );
    let wrong_type = [
        source().replace("i64", "string"),
        function(1, "a", 0, 0, FORWARD),
        sink(2, "out", 1),
    ];
    check_refused(
        &wrong_type,
        "S2005",
        "node `a`: column `user` has type Utf8, but the function reads Int64",
    );
    let missing = [
        source().replace("user", "name"),
        function(1, "a", 0, 0, FORWARD),
        sink(2, "out", 1),
    ];
    check_refused(
        &missing,
        "S2005",
        "node `a`: there is no column `user`; the stream has name",
    );
    let unkeyed = [
        source(),
        function(1, "total", 0, 1, FORWARD),
        sink(2, "out", 1),
    ];
    check_refused(
        &unkeyed,
        "S2005",
        "node `total`: column `user` is not in the key of the stream",
    );
    check_refused(
        &[source()],
        "S2006",
        "node `clicks`: nothing reads its output; add a sink",
    );
    let placed = source().replace(
        r#""uid": "clicks""#,
        r#""uid": "clicks", "place": "src/lib.rs:3:5""#,
    );
    check_refused(
        &[placed],
        "S2006",
        "node `clicks` at src/lib.rs:3:5: nothing reads its output; add a sink",
    );
}

#[test]
fn streams_are_united_if_they_agree() {
    let other = |column: &str, kind: &str| {
        let text = SOURCE
            .replace(r#""id": 0"#, r#""id": 1"#)
            .replace("clicks", "views")
            .replace("user", column);
        text.replace("i64", kind)
    };
    let union = |inputs: &str| {
        format!(
            r#"{{"id": 2, "uid": "out", "inputs": [{inputs}], "body": {{"kind": "sink", "connector": "print"}}}}"#
        )
    };
    let both = r#"{"node": 0}, {"node": 1}"#;
    let graph = JobGraph::new(
        stream(&[SOURCE.to_owned(), other("user", "i64"), union(both)]).unwrap(),
        1,
    );
    let sink = graph.vertices.len() - 1;
    let to_sink = graph
        .vertices
        .iter()
        .flat_map(|vertex| &vertex.exits)
        .filter(|exit| exit.to == sink && exit.input == 0);
    assert_eq!((to_sink.count(), graph.regions().len()), (2, 1));
    let check = |other: String, inputs: &str, code: &str, message: &str| {
        check_refused(&[SOURCE.to_owned(), other, union(inputs)], code, message)
    };
    let differ = |found: &str| {
        format!(
            "node `out`: its inputs have different columns: (user: Int64) of `clicks` and ({found}) of `views`"
        )
    };
    check(other("name", "i64"), both, "S2005", &differ("name: Int64"));
    check(
        other("user", "string"),
        both,
        "S2005",
        &differ("user: Utf8"),
    );
    let twice = r#"{"node": 0}, {"node": 1}, {"node": 0}"#;
    check(
        other("user", "i64"),
        twice,
        "S2006",
        "node `out`: it reads the output of `clicks` twice; a flat-map gives each row twice",
    );
    let dealt = r#"{"node": 0}, {"node": 1, "partitioning": {"kind": "rebalance"}}"#;
    check(
        other("user", "i64"),
        dealt,
        "S2006",
        "node `out`: its inputs are partitioned in different ways",
    );
}

#[test]
fn forward_edges_are_chained_and_functions_of_one_plugin_fused() {
    let nodes = [
        SOURCE.to_owned(),
        function(1, "a", 0, 0, FORWARD),
        function(2, "b", 1, 0, FORWARD),
        function(3, "total", 2, 1, BY_USER),
        sink(4, "out", 3),
    ];
    let graph = JobGraph::new(stream(&nodes).unwrap(), 2);
    let heads: Vec<Head> = graph.vertices.iter().map(|vertex| vertex.head).collect();
    assert_eq!(
        heads,
        [
            Head::Enumerator { node: 0 },
            Head::Reader { node: 0 },
            Head::Gate
        ]
    );
    let reader = &graph.vertices[1];
    assert_eq!(
        reader
            .operators
            .iter()
            .map(|o| o.nodes.clone())
            .collect::<Vec<_>>(),
        [vec![0], vec![1, 2]]
    );
    assert_eq!(reader.operators[0].targets, [(0, Target::Operator(1))]);
    assert_eq!(reader.operators[1].targets, [(1 << 8, Target::Exit(0))]);
    assert_eq!(reader.exits[0].partitioner, EdgePartitioner::Hash(vec![0]));
    assert_eq!(
        graph.vertices[2].operators[0].targets,
        [(0, Target::Operator(1))]
    );
}

#[test]
fn a_function_that_reads_a_column_the_guest_has_not_got_stands_alone() {
    let two_columns = SOURCE.replace(
        r#"[{"name": "user", "type": "i64"}]"#,
        r#"[{"name": "user", "type": "i64"}, {"name": "page", "type": "string"}]"#,
    );
    let nodes = [
        two_columns,
        function(1, "a", 0, 0, FORWARD),
        function(2, "b", 1, 2, FORWARD),
        sink(3, "out", 2),
    ];
    let graph = JobGraph::new(stream(&nodes).unwrap(), 1);
    assert_eq!(
        graph.vertices[1]
            .operators
            .iter()
            .map(|o| o.nodes.clone())
            .collect::<Vec<_>>(),
        [vec![0], vec![1], vec![2], vec![3]]
    );
}

#[test]
fn columns_of_a_key_projection_are_hidden_from_sinks() {
    let by_half = r#"{"kind": "hash", "columns": ["half-0"]}"#;
    let nodes = [
        SOURCE.to_owned(),
        function(1, "half", 0, 3, FORWARD),
        function(2, "a", 1, 0, by_half),
        sink(3, "out", 2),
    ];
    let graph = stream(&nodes).unwrap();
    let columns: Vec<&str> = graph.nodes[3]
        .input_schema
        .iter()
        .flat_map(|s| s.fields())
        .map(|f| f.name().as_str())
        .collect();
    assert_eq!(
        (columns, &graph.nodes[3].hidden[..]),
        (vec!["user", "half-0"], &["half-0".to_owned()][..])
    );
}

#[test]
fn channels_are_all_to_all_but_for_forward_edges() {
    let nodes = [
        SOURCE.to_owned(),
        function(1, "total", 0, 1, BY_USER),
        sink(2, "out", 1),
    ];
    let graph = ExecutionGraph::new(&JobGraph::new(stream(&nodes).unwrap(), 2));
    let shape: Vec<(usize, u32, usize)> = graph
        .subtasks
        .iter()
        .map(|s| (s.vertex, s.index, s.n_channels))
        .collect();
    assert_eq!(
        shape,
        [(0, 0, 0), (1, 0, 1), (1, 1, 1), (2, 0, 2), (2, 1, 2)]
    );
    assert_eq!(
        graph.subtasks[2].exits[0]
            .iter()
            .map(|c| (c.to, c.channel))
            .collect::<Vec<_>>(),
        [(3, 1), (4, 1)]
    );
}

#[test]
fn regions_are_what_edges_connect() {
    let check = |nodes: &[String], expected: &[&[usize]]| {
        assert_eq!(JobGraph::new(stream(nodes).unwrap(), 2).regions(), expected);
    };
    let other = SOURCE
        .replace("\"id\": 0", "\"id\": 2")
        .replace("clicks", "views");
    check(&[SOURCE.to_owned(), sink(1, "out", 0)], &[&[0, 1]]);
    check(
        &[
            SOURCE.to_owned(),
            sink(1, "out", 0),
            other.clone(),
            sink(3, "views-out", 2),
        ],
        &[&[0, 1], &[2, 3]],
    );
    let keyed = [
        function(1, "total", 0, 1, BY_USER),
        other,
        function(3, "totals", 2, 1, BY_USER),
        sink(4, "out", 1),
        sink(5, "late", 3),
    ];
    check(
        &[&[SOURCE.to_owned()], &keyed[..]].concat(),
        &[&[0, 1, 2], &[3, 4, 5]],
    );
}

const FILE: &str = r#"
name = "visits"
[configuration]
"batch.rows" = 512
[[source]]
uid = "log"
connector = "file"
path = "input/*.csv"
columns = [{ name = "user", type = "i64" }, { name = "time", type = "i64" }]
[source.watermarks]
column = "time"
unit = "seconds"
bound = "2s"
[[operator]]
uid = "totals"
component = "total.wasm"
function = "total"
input = "log"
key = ["user"]
[operator.args]
limit = 3
[[sink]]
uid = "out"
connector = "print"
input = "totals"
[[sink]]
uid = "late"
connector = "file"
path = "late"
input = "totals.late"
"#;

#[test]
fn a_job_file_is_wired_by_uids_and_side_outputs() {
    let file = JobFile::parse(FILE).unwrap();
    assert_eq!(
        file.configuration().collect::<Vec<_>>(),
        [("batch.rows", "512".to_owned())]
    );
    assert_eq!(file.plugins()[0].args, ["--limit", "3"]);
    let graph = StreamGraph::new(&file.spec(&[plan("")]).unwrap()).unwrap();
    let uids: Vec<&str> = graph.nodes.iter().map(|node| node.uid.as_str()).collect();
    assert_eq!(uids, ["log", "log-watermarks", "totals", "out", "late"]);
    assert_eq!(graph.nodes[4].inputs[0].port, 1);
    assert_eq!(graph.nodes[2].key, [0]);
}

/// The plan of a component with a sink.
fn sink_plan() -> Arc<Plan> {
    let text = r#"{"version": 1, "functions": [
        {"number": 0, "kind": "map", "name": "other"},
        {"number": 1, "kind": "two-phase-sink", "name": "audit", "input": [{"name": "user", "type": "i64"}], "grants": ["log"]}]}"#;
    Arc::new(Plan::from_json(text).unwrap())
}

const COMPONENT_SINK: &str = r#"
[[sink]]
uid = "audit"
component = "audit.wasm"
function = "audit"
input = "log"
args = { level = 2 }
[plugin.grant]
log = "/var/audit"
"#;

#[test]
fn a_job_file_has_sinks_of_components_and_grants_folders() {
    let file = JobFile::parse(&format!("{FILE}{COMPONENT_SINK}")).unwrap();
    assert_eq!(file.grants().collect::<Vec<_>>(), [("log", "/var/audit")]);
    assert_eq!(
        (
            file.plugins()[1].component.as_str(),
            file.plugins()[1].args.as_slice()
        ),
        ("audit.wasm", &["--level".to_owned(), "2".into()][..])
    );
    let graph = StreamGraph::new(&file.spec(&[plan(""), sink_plan()]).unwrap()).unwrap();
    assert_eq!(
        graph.nodes[5].body,
        Body::FunctionSink {
            function: 1,
            write_ahead_bytes: None
        }
    );
    assert_eq!(
        (graph.functions[1].plugin, graph.functions[1].number),
        (1, 1)
    );
}

#[test]
fn a_sink_that_is_half_a_components_is_refused() {
    let check = |old: &str, new: &str, expected: &str| {
        let file = JobFile::parse(&format!("{FILE}{}", COMPONENT_SINK.replace(old, new))).unwrap();
        let plans: Vec<Arc<Plan>> = [plan(""), sink_plan()]
            .into_iter()
            .take(file.plugins().len())
            .collect();
        let error = file
            .spec(&plans)
            .and_then(|spec| StreamGraph::new(&spec))
            .unwrap_err();
        assert_eq!(error.message(), format!("node `audit`: {expected}"));
    };
    let either = "a sink has either a `connector`, or a `component` and its `function`";
    check("function = \"audit\"", "", either);
    check(
        "function = \"audit\"",
        "function = \"audit\"\nconnector = \"print\"",
        either,
    );
    check(
        "component = \"audit.wasm\"\nfunction = \"audit\"",
        "connector = \"print\"",
        "`args` and `write_ahead_bytes` are for sinks of components",
    );
    check(
        "args =",
        "path = \"x\"\nargs =",
        "a sink of a component has no path; its own options stand under `args`",
    );
    check(
        "function = \"audit\"",
        "function = \"other\"",
        "function 0 is a Map, which cannot stand here",
    );
    check(
        "args =",
        "write_ahead_bytes = 5\nargs =",
        "a limit of rows that wait is for write-ahead sinks",
    );
    check(
        "function = \"audit\"",
        "function = \"gone\"",
        "component audit.wasm has no function `gone`; it has other, audit",
    );
}

#[test]
fn only_sinks_ask_for_folders() {
    let nodes = [
        SOURCE.to_owned(),
        function(1, "total", 0, 0, FORWARD),
        sink(2, "out", 1),
    ];
    let granted = JobSpec::from_plan("job", {
        let mut plan = (*plan(&nodes.join(","))).clone();
        plan.functions[0].grants = vec!["log".into()];
        Arc::new(plan)
    });
    assert_eq!(
        StreamGraph::new(&granted).unwrap_err().message(),
        "node `total`: function 0 asks for a folder, which only sinks may"
    );
}

#[test]
fn a_job_file_with_an_unknown_input_is_refused() {
    let file = JobFile::parse(&FILE.replace("input = \"log\"", "input = \"lag\"")).unwrap();
    let error = file.spec(&[plan("")]).unwrap_err();
    assert_eq!(
        error.message(),
        "node `totals`: its input `lag` is no uid of the job; there are late, log, out, totals"
    );
    assert_eq!(JobFile::parse("name = 3").unwrap_err().code().id, "S2006");
}
