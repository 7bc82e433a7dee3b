//! Tests of what an upgrade keeps.

use super::*;
use std::sync::Arc;
use streamrt_wit::Plan;

fn job(change: impl FnOnce(&mut Value)) -> JobSpec {
    let mut plan = json!({"version": 1,
        "functions": [{"number": 0, "kind": "process", "name": "f", "timers": true, "key": [{"name": "k", "type": "i64"}],
            "outputs": [{"columns": {"kind": "forward"}}],
            "states": [{"name": "last", "kind": "value", "value": [{"name": "v", "type": "f64"}]}]},
            {"number": 1, "kind": "map", "name": "g", "outputs": [{"columns": {"kind": "forward"}}]},
            {"number": 2, "kind": "two-phase-sink", "name": "audit", "input": [{"name": "k", "type": "i64"}], "grants": ["log"]}],
        "nodes": [
            {"id": 0, "uid": "in", "body": {"kind": "source", "connector": "file", "schema": [{"name": "k", "type": "i64"}]}},
            {"id": 1, "uid": "map", "inputs": [{"node": 0}], "body": {"kind": "function", "function": 1}},
            {"id": 2, "uid": "alert", "inputs": [{"node": 1, "partitioning": {"kind": "hash", "columns": ["k"]}}], "body": {"kind": "function", "function": 0}},
            {"id": 3, "uid": "out", "inputs": [{"node": 2}], "body": {"kind": "sink", "connector": "print"}},
            {"id": 4, "uid": "audit", "inputs": [{"node": 2}], "body": {"kind": "function-sink", "function": 2}}]});
    change(&mut plan);
    JobSpec::from_plan("job", Arc::new(Plan::from_json(&plan.to_string()).unwrap()))
}

/// Omits the sink of user code, which comes last.
fn drop_audit(plan: &mut Value) {
    for list in ["nodes", "functions"] {
        plan[list].as_array_mut().unwrap().pop();
    }
}

/// Changes the plan, and compares the verdict on `uid`, whether all is compatible, and whether
/// the shape of what is not `audit` is the same.
fn check(change: impl Fn(&mut Value), uid: &str, verdict: Verdict, same_shape: bool, part: &str) {
    let found = compare(&job(|_| {}), &job(&change)).unwrap();
    let operator = found
        .operators
        .iter()
        .find(|operator| operator.uid == uid)
        .unwrap();
    let others = compare(
        &job(drop_audit),
        &job(|plan| {
            change(plan);
            drop_audit(plan);
        }),
    )
    .unwrap();
    assert_eq!(
        (operator.verdict, others.same_shape),
        (verdict, same_shape),
        "{operator:?}"
    );
    assert!(
        operator.changes.join("; ").contains(part),
        "{:?}",
        operator.changes
    );
    assert_eq!(found.is_compatible(), verdict != Verdict::Refused);
}

// Long: a table.
#[test]
fn state_is_kept_where_uid_and_types_are() {
    check(|_| {}, "alert", Verdict::Keeps, true, "");
    check(
        |plan| plan["nodes"][2]["place"] = json!("src/lib.rs:9:9"),
        "alert",
        Verdict::Keeps,
        true,
        "",
    );
    check(
        |plan| plan["functions"][0]["states"][0]["value"][0]["name"] = json!("w"),
        "alert",
        Verdict::Keeps,
        false,
        "",
    );
    check(
        |plan| plan["functions"][0]["states"][0]["value"][0]["type"] = json!("i64"),
        "alert",
        Verdict::Refused,
        false,
        "state `last`: it is",
    );
    check(
        |plan| plan["functions"][0]["states"] = json!([]),
        "alert",
        Verdict::Refused,
        false,
        "state `last`: gone",
    );
    check(
        |plan| plan["functions"][0]["timers"] = json!(false),
        "alert",
        Verdict::Refused,
        false,
        "its timers: gone",
    );
    check(
        |plan| plan["nodes"][2]["uid"] = json!("other"),
        "alert",
        Verdict::Refused,
        false,
        "its state with it",
    );
    check(
        |plan| plan["nodes"][1]["uid"] = json!("other"),
        "map",
        Verdict::Gone,
        false,
        "it is gone",
    );
    check(
        |plan| plan["nodes"][1]["uid"] = json!("other"),
        "other",
        Verdict::StartsEmpty,
        false,
        "it is new",
    );
    check(
        |plan| plan["nodes"][3]["body"]["connector"] = json!("file"),
        "out",
        Verdict::Refused,
        false,
        "its state is of",
    );
    check(
        |plan| plan["nodes"][0]["body"]["options"] = json!({"path": "/other"}),
        "in",
        Verdict::Keeps,
        false,
        "",
    );
    let grant = "it asks for the folder `other`, which it did not; it does not ask for the folder `log` any more";
    check(
        |plan| plan["functions"][2]["grants"] = json!(["other"]),
        "audit",
        Verdict::Keeps,
        true,
        grant,
    );
    check(
        |plan| plan["functions"][2]["kind"] = json!("write-ahead-sink"),
        "audit",
        Verdict::Refused,
        true,
        "its state is of",
    );
}

#[test]
fn a_sink_of_user_code_is_not_replaced_in_place() {
    assert!(!compare(&job(|_| {}), &job(|_| {})).unwrap().same_shape);
    assert!(
        compare(&job(drop_audit), &job(drop_audit))
            .unwrap()
            .same_shape
    );
}

#[test]
fn the_order_in_which_functions_are_registered_is_no_part_of_the_shape() {
    let swap = |plan: &mut Value| {
        drop_audit(plan);
        plan["functions"].as_array_mut().unwrap().swap(0, 1);
        for number in 0..2 {
            plan["functions"][number]["number"] = json!(number);
            plan["nodes"][number + 1]["body"]["function"] = json!(number);
        }
    };
    assert!(compare(&job(drop_audit), &job(swap)).unwrap().same_shape);
    let two_maps = |plan: &mut Value| {
        drop_audit(plan);
        plan["nodes"][2]["body"]["function"] = json!(1);
    };
    assert!(
        !compare(&job(drop_audit), &job(two_maps))
            .unwrap()
            .same_shape
    );
}

#[test]
fn operator_state_does_not_mind_how_rows_are_dealt() {
    let without_key = |kind: &str, partitioning: &str| {
        job(|plan| {
            plan["functions"][0]["states"][0]["kind"] = json!(kind);
            plan["functions"][0]["timers"] = json!(false);
            plan["functions"][0]["key"] = Value::Null;
            plan["nodes"][2]["inputs"][0]["partitioning"] = json!({"kind": partitioning});
        })
    };
    let verdict = |old: &JobSpec, new: &JobSpec| compare(old, new).unwrap().operators[0].verdict;
    let old = without_key("union-list", "forward");
    assert_eq!(
        verdict(&old, &without_key("union-list", "rebalance")),
        Verdict::Keeps
    );
    assert_eq!(
        verdict(&old, &without_key("operator-list", "forward")),
        Verdict::Refused
    );
}

/// The key is a column `k` of this type, under this name.
fn keyed_by(name: &str, data_type: &str) -> JobSpec {
    job(|plan| {
        let column = json!([{"name": name, "type": data_type}]);
        plan["nodes"][0]["body"]["schema"] = column.clone();
        plan["functions"][0]["key"] = column.clone();
        plan["functions"][2]["input"] = column;
        plan["nodes"][2]["inputs"][0]["partitioning"] = json!({"kind": "hash", "columns": [name]});
    })
}

#[test]
fn a_key_of_another_type_is_another_key_and_one_of_another_name_is_not() {
    let alert = |new: &JobSpec| {
        compare(&keyed_by("k", "i64"), new)
            .unwrap()
            .operators
            .swap_remove(0)
    };
    assert_eq!(alert(&keyed_by("k", "i64")).changes, [""; 0]);
    let renamed = alert(&keyed_by("id", "i64"));
    assert_eq!(
        (renamed.verdict, renamed.changes),
        (
            Verdict::Keeps,
            vec!["its input was dealt by the key `k`, and is dealt by the key `id`".into()]
        )
    );
    assert_eq!(alert(&keyed_by("k", "string")).verdict, Verdict::Refused);
}

#[test]
fn a_time_to_live_may_come_and_go() {
    let with = job(|plan| plan["functions"][0]["states"][0]["ttl-ms"] = json!(1000));
    let (on, off) = (
        compare(&job(|_| {}), &with).unwrap(),
        compare(&with, &job(|_| {})).unwrap(),
    );
    assert_eq!(
        on.operators[0].changes,
        ["state `last` gets a time to live, from the restore on"]
    );
    assert_eq!(
        off.operators[0].changes,
        ["state `last` lives for ever now"]
    );
    assert_eq!(
        (on.operators[0].verdict, off.operators[0].verdict),
        (Verdict::Keeps, Verdict::Keeps)
    );
}

#[test]
fn what_is_no_job_is_an_error_with_its_place() {
    let wrong =
        job(|plan| plan["nodes"][2]["inputs"][0]["partitioning"] = json!({"kind": "rebalance"}));
    assert_eq!(
        compare(&job(|_| {}), &wrong).unwrap_err().message(),
        "node `alert`: column `k` is not in the key of the stream"
    );
}
