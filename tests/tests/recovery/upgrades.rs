//! Running jobs that get new code in place: every row is processed by exactly one version, counted
//! once, and no state is lost, whatever fails.

use crate::versions::{FIRST, MANY, SECOND, Versions};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use streamrt_tests::binary::{Finished, LIMIT, Running};
use streamrt_tests::sealed::change_newest;

#[test]
fn twenty_upgrades_back_and_forth_at_a_high_rate() {
    let job = Versions::new(MANY);
    let running = job.start(job.command(3, 20_000, &["checkpoint.interval=50ms"]));
    for upgrade in 0..20 {
        let said = job
            .upgrade(if upgrade % 2 == 0 { "again" } else { "first" })
            .succeeded()
            .stdout;
        assert!(
            said.contains(", in place; the longest pause of a task was "),
            "{said}"
        );
    }
    let (stopped, _) = job.stop_and_finish(running);
    assert!(
        !stopped.stderr.contains("trying again"),
        "{}",
        stopped.stderr
    );
    let switches = job.check_whole("after twenty upgrades");
    assert!((2..=20).contains(&switches), "{switches} switches");
}

#[test]
fn what_cannot_be_opened_never_runs() {
    let job = Versions::new(MANY);
    let running = job.start(job.command(3, 20_000, &["checkpoint.interval=50ms"]));
    job.write_trap("opens");
    job.upgrade("opens")
        .failed_with("S4001")
        .names("unreachable");
    job.upgrade("again").succeeded();
    let (stopped, _) = job.stop_and_finish(running);
    assert!(
        !stopped.stderr.contains("trying again") && !stopped.stderr.contains("goes on from"),
        "{}",
        stopped.stderr
    );
    assert_eq!(job.check_whole("after one upgrade of two"), 1);
}

/// Upgrades a job whose first checkpoint is that of the upgrade, with a failpoint. The job then
/// goes on to its end, by itself or with the same command, as one version or the other from that
/// checkpoint on.
fn check_failpoint(name: &str, action: &str, passage: u32) {
    let job = Versions::new(MANY / 4);
    let what = format!("{name}={action}:{passage}");
    let mut command = job.command(3, 20_000, &["checkpoint.interval=1h"]);
    command.env("STREAMRT_FAILPOINTS", &what);
    let running = job.start(command);
    let upgrade = job.upgrade("again");
    if action == "error" {
        // Where it comes between the failure and the next attempt, there is none.
        job.tell(&["stop", "first"]);
    }
    let ended = running.finish(LIMIT);
    job.check_part(&what);
    if action == "crash" {
        assert!(
            ended.status.code().is_none(),
            "{what} did not act: {}",
            ended.stderr
        );
    } else {
        assert!(
            ended.stderr.contains(&format!("the failpoint `{name}`")),
            "{what} did not act: {}",
            ended.stderr
        );
        let counts = upgrade.status.success();
        assert_eq!(
            ended.stderr.contains("the version before goes on"),
            !counts,
            "{what}: {upgrade:?}\n{}",
            ended.stderr
        );
        // The commit point is the entry of the log. A checkpoint that is acknowledged may come to
        // it although the job is failing.
        assert!(
            counts == (name == "complete.before") || name == "snapshot.acknowledged",
            "{what}: {upgrade:?}\n{}",
            ended.stderr
        );
    }
    job.finish();
    assert!(job.check_whole(&what) <= 1, "{what}");
}

#[test]
fn a_failure_in_an_upgrade_leaves_all_old_or_all_new() {
    let places = [
        ("upgrade.swap", 1),
        ("upgrade.swap", 4),
        ("barrier.before", 3),
        ("snapshot.upload", 5),
        ("snapshot.acknowledged", 2),
    ];
    let places = places.into_iter().chain([
        ("manifest.before", 1),
        ("log.before", 1),
        ("complete.before", 1),
    ]);
    for (name, passage) in places {
        ["error", "crash"]
            .iter()
            .for_each(|action| check_failpoint(name, action, passage));
    }
}

#[test]
fn code_that_fails_before_its_checkpoint_is_published_is_rolled_back() {
    let job = Versions::new(MANY / 4);
    let mut command = job.command(3, 20_000, &["checkpoint.interval=1h"]);
    // The checkpoint is never published; most often the new code fails before that is known, and
    // before the failpoint is passed.
    command.env("STREAMRT_FAILPOINTS", "manifest.before=error:1");
    let mut running = job.start(command);
    let refused = job.upgrade("fails");
    assert!(
        refused
            .stderr
            .contains("the old version goes on, because the upgrade failed"),
        "{refused:?}"
    );
    assert!(
        !running.ends_within(Duration::from_millis(100)),
        "the old version does not go on"
    );
    running.kill();
    let killed = running.finish(LIMIT);
    assert!(
        killed.stderr.contains("the version before goes on"),
        "{}",
        killed.stderr
    );
    job.finish();
    assert_eq!(job.check_whole("after an upgrade that was rolled back"), 0);
    assert!(job.rows().iter().all(|row| row["counted_by"] == FIRST));
}

#[test]
fn a_start_from_a_savepoint_says_what_runs_unless_the_job_has_gone_on_since() {
    let job = Versions::new(MANY / 4);
    let (from, folder) = (
        job.path("savepoint").to_string_lossy().into_owned(),
        job.path("other").to_string_lossy().into_owned(),
    );
    let running = job.start(job.command(1, 8_000, &["checkpoint.interval=1h"]));
    job.upgrade("again").succeeded();
    job.tell(&["stop", "first", "--savepoint", &from])
        .succeeded();
    running.finish(LIMIT).succeeded();
    // The savepoint is of the second version, and the user wants the first on it, as another job.
    let folder = format!("checkpoint.dir={folder}");
    let start = |rate| {
        let mut command = job.command(1, rate, &["checkpoint.interval=1h", &folder]);
        let mut args: Vec<String> = command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        let at = args.iter().position(|arg| arg == "--").unwrap();
        args.splice(at..at, ["--from".to_owned(), from.clone()]);
        command = job.in_cache(args);
        Running::start(command)
    };
    let running = job.awaited(start(8_000));
    job.upgrade("again").succeeded();
    job.tell(&["stop", "first"]).succeeded();
    let ended = running.finish(LIMIT).succeeded();
    assert!(
        !ended.stderr.contains("the job was upgraded"),
        "{}",
        ended.stderr
    );
    let ended = start(0).finish(LIMIT).succeeded();
    assert!(
        ended.stderr.contains("the job was upgraded"),
        "{}",
        ended.stderr
    );
    assert_eq!(job.check_whole("after two upgrades and a start between"), 3);
}

#[test]
fn a_job_is_killed_in_the_middle_of_upgrades() {
    let job = Versions::new(MANY);
    let mut was_upgraded = false;
    for kill in 0..6 {
        let mut running = job.start(job.command(3, 10_000, &["checkpoint.interval=50ms"]));
        let path = job
            .wasm(if kill % 2 == 0 { "again" } else { "first" })
            .to_string_lossy()
            .into_owned();
        let asking = Running::start(job.in_cache(vec!["upgrade".into(), "first".into(), path]));
        // A different moment each time: the upgrade has not begun, is under way, or is over.
        assert!(
            !running.ends_within(Duration::from_millis(kill * 40)),
            "the job ended before its kill"
        );
        running.kill();
        let ended = running.finish(LIMIT);
        was_upgraded |= ended.stderr.contains("the job was upgraded");
        asking.finish(LIMIT);
        job.check_part(&format!("after kill {kill}"));
    }
    let last = job.finish();
    was_upgraded |= last.stderr.contains("the job was upgraded");
    job.check_whole("after all kills");
    println!("a start found an upgrade: {was_upgraded}");
}

#[test]
fn the_same_command_goes_on_with_the_version_that_the_job_had_come_to() {
    let job = Versions::new(MANY / 4);
    let running = job.start(job.command(1, 10_000, &["checkpoint.interval=1h"]));
    job.upgrade("again").succeeded();
    let (_, ended) = job.stop_and_finish(running);
    assert!(
        ended
            .stderr
            .contains("the job was upgraded: it goes on with the component"),
        "{}",
        ended.stderr
    );
    let versions: Vec<String> = job
        .rows()
        .iter()
        .map(|row| row["counted_by"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(job.check_whole("after an upgrade and a stop"), 1);
    assert!(
        versions.iter().any(|version| version == FIRST)
            && versions.iter().any(|version| version == SECOND)
    );
    let over = Running::start(job.command(1, 0, &["checkpoint.interval=1h"]))
        .finish(LIMIT)
        .succeeded();
    assert!(over.stderr.contains("has finished"), "{}", over.stderr);
}

/// A command of the user on a machine of this name, which has a secret of its own.
fn on_machine(job: &Versions, name: &str, mut command: Command) -> Command {
    command.env("XDG_STATE_HOME", job.path(name));
    command
}

/// The same command as [`Versions::finish`], with `--accept` if there is something to accept.
fn goes_on(job: &Versions, machine: &str, accept: Option<&str>) -> Finished {
    let command = job.command(2, 0, &["checkpoint.interval=1s"]);
    let mut args: Vec<String> = command
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    args.splice(
        2..2,
        accept
            .iter()
            .flat_map(|digest| ["--accept".to_owned(), (*digest).to_owned()]),
    );
    Running::start(on_machine(job, machine, job.in_cache(args))).finish(LIMIT)
}

fn digest(path: &Path) -> String {
    blake3::hash(&std::fs::read(path).unwrap())
        .to_hex()
        .to_string()
}

#[test]
fn on_another_machine_an_upgrade_has_to_be_accepted() {
    let job = Versions::new(MANY / 4);
    let first = |rate| {
        on_machine(
            &job,
            "here",
            job.command(1, rate, &["checkpoint.interval=1h"]),
        )
    };
    let running = job.start(first(10_000));
    job.upgrade("again").succeeded();
    job.tell(&["stop", "first"]).succeeded();
    running.finish(LIMIT).succeeded();
    let again = digest(&job.wasm("again"));
    let refused = goes_on(&job, "there", None)
        .failed_with("S7012")
        .names(&format!("`--accept {again}` says that it may run"));
    assert!(
        !refused.stderr.contains("goes on from checkpoint"),
        "{}",
        refused.stderr
    );
    goes_on(&job, "there", Some(&digest(&job.wasm("fails")))).failed_with("S7012");
    // Once accepted it is known there as well.
    let mut command = on_machine(
        &job,
        "there",
        job.command(1, 10_000, &["checkpoint.interval=50ms"]),
    );
    let mut args: Vec<String> = command
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    args.splice(2..2, ["--accept".to_owned(), again]);
    command = on_machine(&job, "there", job.in_cache(args));
    let running = Running::start(command);
    running.says("the job was upgraded");
    job.awaited_only(&running);
    job.tell(&["stop", "first"]).succeeded();
    running
        .finish(LIMIT)
        .succeeded()
        .names("was stopped at checkpoint");
    goes_on(&job, "there", None)
        .succeeded()
        .names("the job was upgraded");
    assert_eq!(job.check_whole("after a move"), 1);
}

#[test]
fn who_may_write_checkpoints_does_not_choose_the_code_that_runs() {
    let job = Versions::new(MANY / 4);
    let running = job.start(on_machine(
        &job,
        "here",
        job.command(1, 10_000, &["checkpoint.interval=50ms"]),
    ));
    job.tell(&["stop", "first"]).succeeded();
    running.finish(LIMIT).succeeded();
    // The stranger's component, in the place of the user's, with every checksum right.
    let (first, evil) = (digest(&job.wasm("first")), digest(&job.wasm("again")));
    let checkpoints = job.path("checkpoints");
    let bytes = std::fs::read(job.wasm("again")).unwrap();
    std::fs::write(checkpoints.join(format!("plugins/{evil}.wasm")), &bytes).unwrap();
    let component =
        json!({"path": format!("../plugins/{evil}.wasm"), "bytes": bytes.len(), "checksum": evil});
    for approval in [Value::Null, json!(""), json!("0".repeat(64)), json!(evil)] {
        change_newest(&checkpoints, |manifest| {
            let plugin = &mut manifest["plugins"][0];
            (plugin["digest"], plugin["replaces"], plugin["component"]) =
                (json!(evil), json!(first), component.clone());
            plugin["approval"] = approval;
        });
        goes_on(&job, "here", None)
            .failed_with("S7012")
            .names(&evil);
    }
    assert!(
        job.rows().iter().all(|row| row["counted_by"] == FIRST),
        "code of somebody else has run"
    );
}

/// Upgrades a job to a version that fails later, with this interval between two checkpoints.
fn upgraded_to_later(interval: &str, further: &[&str]) -> (Versions, Running) {
    let interval = format!("checkpoint.interval={interval}");
    let further: Vec<&str> = further.iter().copied().chain([interval.as_str()]).collect();
    // On a busy machine the job may have passed the row before it is upgraded.
    for rate in [20_000, 5_000, 1_000] {
        let job = Versions::new(MANY / 4);
        let mut running = job.start(job.command(3, rate, &further));
        let upgrade = job.upgrade("later");
        if upgrade.status.success() {
            assert!(upgrade.stdout.contains(", in place;"), "{}", upgrade.stdout);
            return (job, running);
        }
        assert!(
            upgrade.stderr.contains("this version fails at row"),
            "{upgrade:?}"
        );
        running.kill();
    }
    panic!("the job was not upgraded before the row that fails");
}

const PUT_BACK: &str = "the upgrade failed in its probation, and the version before goes on";

#[test]
fn a_version_that_fails_in_its_probation_is_put_back() {
    // With a checkpoint after that of the upgrade, and without.
    for (interval, switches) in [("1h", 0..=0), ("50ms", 0..=2)] {
        let (job, running) = upgraded_to_later(interval, &[]);
        running.says(PUT_BACK);
        let (stopped, finished) = job.stop_and_finish(running);
        assert!(
            stopped.stderr.contains("this version fails at row"),
            "{}",
            stopped.stderr
        );
        assert!(
            !finished.stderr.contains("the job was upgraded"),
            "{}",
            finished.stderr
        );
        let found = job.check_whole(interval);
        assert!(switches.contains(&found), "{interval}: {found} switches");
        let last = job.rows().into_iter().max_by_key(|row| row["n"].as_i64());
        assert_eq!(last.unwrap()["counted_by"], FIRST);
    }
}

#[test]
fn a_version_that_was_put_back_stays_so_although_the_process_is_killed() {
    let (job, mut running) = upgraded_to_later("1h", &[]);
    running.says(PUT_BACK);
    running.says("the job goes on from checkpoint");
    running.kill();
    running.finish(LIMIT);
    let finished = job.finish();
    assert!(
        !finished.stderr.contains("the job was upgraded"),
        "{}",
        finished.stderr
    );
    assert_eq!(job.check_whole("after a kill after it"), 0);
    assert!(job.rows().iter().all(|row| row["counted_by"] == FIRST));
}

#[test]
fn a_job_that_is_killed_in_a_probation_starts_in_it_again() {
    let (job, mut running) = upgraded_to_later("1h", &[]);
    running.kill();
    running.finish(LIMIT);
    let finished = job.finish();
    assert!(
        finished.stderr.contains("the job was upgraded: it goes on"),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains(PUT_BACK), "{}", finished.stderr);
    job.check_whole("after a kill in it");
}

#[test]
fn a_later_failure_names_the_way_back() {
    let (job, running) = upgraded_to_later("50ms", &["upgrade.probation=0ms"]);
    let checkpoints = job.path("checkpoints").to_string_lossy().into_owned();
    running.finish(LIMIT).failed_with("S4001").names(&format!(
        "give the same command with `--from {checkpoints}`"
    ));
    job.check_part("after it failed");
    let mut args: Vec<String> = job
        .command(3, 0, &["checkpoint.interval=1s"])
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let at = args.iter().position(|arg| arg == "--").unwrap();
    args.splice(at..at, ["--from".to_owned(), checkpoints]);
    Running::start(job.in_cache(args)).finish(LIMIT).succeeded();
    assert!(job.check_whole("on the way back") <= 2);
}
