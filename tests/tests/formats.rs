//! Stored formats of every version so far: each snapshot in `tests/fixtures` restores, and comes to
//! what one run without a break does.

use streamrt_tests::binary::run;
use streamrt_tests::fixtures::{Fixture, KINDS, Lines, Origin, expected, versions};
use streamrt_wit::Plan;

#[track_caller]
fn check(kind: (&'static str, Origin)) {
    for version in versions() {
        let folder = tempfile::tempdir().unwrap();
        let found = Fixture::new(&version, kind).restore(folder.path());
        let expected = expected(&version);
        let names = |lines: &Lines| lines.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            names(&found),
            names(&expected),
            "{kind:?} in {}",
            version.display()
        );
        for (sink, lines) in expected {
            let differing = lines.iter().zip(&found[&sink]).find(|(a, b)| a != b);
            assert_eq!(
                (differing, lines.len()),
                (None, found[&sink].len()),
                "{sink}, {kind:?} in {}",
                version.display()
            );
        }
    }
}

#[test]
fn a_checkpoint_of_the_memory_backend_restores() {
    check(KINDS[0]);
}

#[test]
fn a_savepoint_of_the_memory_backend_restores() {
    check(KINDS[1]);
}

#[test]
fn a_checkpoint_of_the_rocksdb_backend_restores() {
    check(KINDS[2]);
}

#[test]
fn a_savepoint_of_the_rocksdb_backend_restores() {
    check(KINDS[3]);
}

#[test]
fn a_snapshot_of_each_version_is_shown() {
    for version in versions() {
        let folder = tempfile::tempdir().unwrap();
        let fixture = Fixture::new(&version, KINDS[1]);
        fixture.restore(folder.path());
        let text = run([
            "savepoint",
            "inspect",
            folder.path().join("savepoint").to_str().unwrap(),
        ])
        .succeeded()
        .stdout;
        for part in [
            "of job `stored`",
            "component stored ",
            "poison.policy = skip",
            "keyed (parallelism 2)",
            "mean: ",
            "limits: ",
        ] {
            assert!(text.contains(part), "no {part}: {text}");
        }
        run(["fsck", folder.path().join("savepoint").to_str().unwrap()]).succeeded();
    }
}

#[test]
fn a_plan_of_each_version_is_read() {
    for version in versions() {
        let text = std::fs::read_to_string(version.join("inspect.json")).unwrap();
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        let plan = Plan::from_json(&shown["plan"].to_string()).unwrap();
        assert_eq!(
            (plan.nodes.len(), plan.functions.len()),
            (
                shown["plan"]["nodes"].as_array().unwrap().len(),
                shown["plan"]["functions"].as_array().unwrap().len()
            )
        );
        // What is written today holds all that was written then.
        let again = serde_json::to_value(&plan).unwrap();
        assert_eq!(again["nodes"], shown["plan"]["nodes"]);
    }
}
