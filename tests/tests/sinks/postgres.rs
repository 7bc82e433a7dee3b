//! The sink `postgres` against a real server.

use streamrt_tests::binary::{LIMIT, Running, streamrt};
use streamrt_tests::server::{Lock, Postgres, wait_until};
use streamrt_types::FAILPOINTS;

use crate::job::Job;

const TABLE: &str = "CREATE TABLE results (n bigint PRIMARY KEY, text text, time timestamptz NOT NULL, id bigserial)";

fn server() -> Postgres {
    let server = Postgres::start(&["max_prepared_transactions=64", "fsync=off"]);
    server.ask(TABLE);
    server
}

fn job(server: &Postgres) -> Job {
    job_with(server, "60s")
}

/// A job that gives the server this long for a statement.
fn job_with(server: &Postgres, timeout: &str) -> Job {
    Job::new(&format!(
        "connector = \"postgres\"\nurl = \"{}\"\ntable = \"results\"\ntimeout = \"{timeout}\"",
        server.url()
    ))
}

/// A job that is in the middle of a transaction, with what keeps it there and the server's
/// processes for it.
fn in_a_transaction(server: &Postgres, job: &Job) -> (Running, Lock, Vec<u32>) {
    let running = job.start(2, 1.0, &[]);
    wait_until("the first rows", || !rows(server).is_empty());
    let lock = server.lock("results");
    let processes = server.wait_for_waiting();
    (running, lock, processes)
}

/// What is committed.
fn rows(server: &Postgres) -> Vec<String> {
    server.ask("SELECT n, text, (extract(epoch FROM time) * 1000)::bigint FROM results")
}

fn prepared(server: &Postgres) -> Vec<String> {
    server.ask("SELECT gid FROM pg_prepared_xacts")
}

#[track_caller]
fn assert_whole(job: &Job, server: &Postgres, when: &str) {
    job.assert_whole(rows(server), when);
    assert_eq!(
        prepared(server),
        [""; 0],
        "{when}: prepared transactions are left"
    );
}

#[test]
fn a_table_survives_kills_of_the_job() {
    let server = server();
    let job = job(&server);
    job.survive(2.0, || rows(&server));
    assert_whole(&job, &server, "at the end");
}

/// Passes each of the failpoints so that it acts in the middle; the next run finishes.
fn check_failpoints(names: &[&str], action: &str) {
    let server = server();
    for name in names {
        let job = job(&server);
        if name.starts_with("recovery.") {
            assert!(!job.run_with("complete.before=crash:2").status.success());
        }
        let once = name.starts_with("recovery.") || name.starts_with("end.");
        let acted = job.run_with(&format!("{name}={action}:{}", if once { 1 } else { 2 }));
        job.assert_part(rows(&server), name);
        if !acted.status.success() {
            job.run(2, 0.4).succeeded();
        }
        assert_whole(&job, &server, &format!("{name}={action}"));
        server.ask("TRUNCATE results");
    }
}

#[test]
fn a_crash_at_any_failpoint_leaves_a_whole_table() {
    check_failpoints(FAILPOINTS, "crash");
}

#[test]
fn an_error_at_a_failpoint_of_sinks_leaves_a_whole_table() {
    check_failpoints(
        &[
            "sink.pre-commit",
            "complete.before",
            "commit.before",
            "commit.after",
            "recovery.commit",
            "recovery.abort",
        ],
        "error",
    );
}

#[test]
fn a_prepared_transaction_that_somebody_rolls_back_is_a_loud_loss() {
    let server = server();
    let job = job(&server);
    // Published, and nobody was told.
    assert!(!job.run_with("complete.before=crash:2").status.success());
    let waiting = prepared(&server);
    assert!(!waiting.is_empty(), "nothing waits for its commit");
    for transaction in &waiting {
        server.ask(&format!("ROLLBACK PREPARED '{transaction}'"));
    }
    let before = rows(&server);
    for _ in 0..2 {
        let failed = job.run(2, 0.4).failed_with("S7008");
        let named = waiting
            .iter()
            .any(|transaction| failed.stderr.contains(transaction));
        assert!(
            named
                && failed
                    .stderr
                    .contains("rows are missing in table results, from `"),
            "{}",
            failed.stderr
        );
        assert_eq!(rows(&server), before, "a job that lost data must not go on");
    }
}

/// The lock keeps the job in its transaction, so that the server dies neither before it nor after
/// it.
#[test]
fn a_server_that_dies_in_the_middle_of_a_transaction_loses_nothing() {
    let mut server = server();
    let job = job(&server);
    let (running, lock, _) = in_a_transaction(&server, &job);
    server.kill();
    drop(lock);
    running.says("[S3008]");
    running.says("trying again");
    server.start_again();
    running
        .finish(LIMIT)
        .succeeded()
        .names("the job goes on from checkpoint");
    assert_whole(&job, &server, "after a restart of the server");
}

/// Whether the job notices is left to chance: where it may, the sink connects anew by itself.
#[test]
fn a_server_that_is_restarted_at_once_loses_nothing() {
    let mut server = server();
    let job = job(&server);
    let running = job.start(2, 2.0, &[]);
    wait_until("the first rows", || !rows(&server).is_empty());
    server.kill();
    server.start_again();
    running.finish(LIMIT).succeeded();
    assert_whole(&job, &server, "after a restart of the server");
}

#[test]
fn a_server_that_is_away_at_the_first_start_is_waited_for() {
    let mut server = server();
    let job = job_with(&server, "1s");
    server.kill();
    let running = job.start(2, 0.4, &[]);
    running.says("Connection refused");
    running.says("trying again");
    server.start_again();
    running.finish(LIMIT).succeeded();
    assert_whole(&job, &server, "when the server was there");
}

#[test]
fn a_server_that_stands_still_at_the_first_start_is_waited_for_until_the_job_is_cancelled() {
    let mut server = server();
    let job = job_with(&server, "1s");
    server.freeze_all();
    // The strategy waits for longer than the test.
    let running = job.start(
        2,
        0.4,
        &["-D", "restart.delay=1h", "-D", "restart.max-delay=1h"],
    );
    running.says("trying again in 3600.0 s");
    let tell = |command: &str| {
        let mut command = streamrt([command, "copy"]);
        command.env("XDG_CACHE_HOME", job.path("cache"));
        Running::start(command).finish(LIMIT)
    };
    wait_until("the job takes commands", || {
        tell("checkpoints").status.success()
    });
    tell("cancel").succeeded();
    running.finish(LIMIT).failed_with("S3008");
    server.thaw();
    job.run(2, 0.4).succeeded();
    assert_whole(&job, &server, "after it was cancelled");
}

#[test]
fn a_server_that_stands_still_is_given_up_and_tried_again() {
    let mut server = server();
    let job = job_with(&server, "1s");
    let (running, lock, _) = in_a_transaction(&server, &job);
    server.freeze_all();
    running.says("the server has not answered for");
    running.says("[S3008]");
    running.says("trying again");
    server.thaw();
    drop(lock);
    running.finish(LIMIT).succeeded();
    assert_whole(&job, &server, "when the server went on");
}

/// What it was sent may be carried out as soon as it goes on: so nothing is written before it has
/// ended.
#[test]
fn a_connection_that_stands_still_is_ended_before_the_job_goes_on() {
    let mut server = server();
    let job = job_with(&server, "1s");
    let (running, lock, processes) = in_a_transaction(&server, &job);
    server.freeze(&processes);
    drop(lock);
    running.says("connections that this sink had before do not end");
    server.thaw();
    running.finish(LIMIT).succeeded();
    assert_whole(&job, &server, "when the connection had ended");
}

/// The statement would be awaited for longer than the test waits.
#[test]
fn a_job_whose_server_stands_still_can_be_cancelled_and_interrupted() {
    let mut server = server();
    let job = job_with(&server, "1h");
    let (running, lock, _) = in_a_transaction(&server, &job);
    server.freeze_all();
    let mut cancel = streamrt(["cancel", "copy"]);
    cancel.env("XDG_CACHE_HOME", job.path("cache"));
    Running::start(cancel).finish(LIMIT).succeeded();
    running
        .finish(LIMIT)
        .failed_with("S3008")
        .names("the server has not answered for");
    server.thaw();
    drop(lock);
    job.assert_part(rows(&server), "after it was cancelled");

    let (mut running, lock, _) = in_a_transaction(&server, &job);
    server.freeze_all();
    while !running.ends_within(std::time::Duration::from_millis(200)) {
        running.interrupt();
    }
    assert_eq!(running.finish(LIMIT).status.code(), Some(130));
    server.thaw();
    drop(lock);
    job.run(2, 0.4).succeeded();
    assert_whole(&job, &server, "after it was interrupted");
}

#[test]
fn a_server_without_room_for_prepared_transactions_is_refused() {
    let server = Postgres::start(&["max_prepared_transactions=0"]);
    server.ask(TABLE);
    let refused = job(&server).run(2, 0.4).failed_with("S3010");
    refused.names("max_prepared_transactions is 0 on the server, and 0 of them are taken, but this sink needs 4");
    assert_eq!(rows(&server), [""; 0]);
}

/// Gives the table another shape, and expects a refusal that changes nothing.
#[track_caller]
fn check_refused(server: &Postgres, sql: &str, code: &str, sentence: &str) {
    server.ask(&format!("DROP TABLE IF EXISTS results; {sql}"));
    job(server).run(2, 0.4).failed_with(code).names(sentence);
    assert_eq!(prepared(server), [""; 0], "{sql}");
}

#[test]
fn a_table_that_does_not_fit_is_refused_with_a_sentence() {
    let server = server();
    check_refused(
        &server,
        "",
        "S2005",
        "there is no table results; it is to be made first, with columns for n, text, time",
    );
    check_refused(
        &server,
        "CREATE VIEW results AS SELECT 1",
        "S2005",
        "results is no table",
    );
    server.ask("DROP VIEW results");
    check_refused(
        &server,
        "CREATE TABLE results (n bigint, time bigint)",
        "S2005",
        "table results has no column `text`; it has n, time",
    );
    let sql = "CREATE TABLE results (n integer, text text, time bigint)";
    check_refused(
        &server,
        sql,
        "S2005",
        "column `n` of table results is integer, which does not take Int64",
    );
    let sql = "CREATE TABLE results (n bigint, text text NOT NULL, time bigint)";
    check_refused(
        &server,
        sql,
        "S2005",
        "column `text` of table results is NOT NULL, but rows may have nulls there",
    );
    let sql = "CREATE TABLE results (n bigint, text text, time bigint, more int NOT NULL)";
    check_refused(
        &server,
        sql,
        "S2005",
        "column `more` of table results must have a value and has no default",
    );
    let sql = "CREATE TABLE results (n bigint, text text, time bigint CHECK (time < 1500000000000 + 100))";
    check_refused(&server, sql, "S3009", "violates check constraint");
    assert_eq!(
        server.ask("SELECT count(*) FROM results WHERE n >= 100"),
        ["0"]
    );
}

#[test]
fn a_server_that_cannot_be_used_is_named() {
    let server = server();
    let other = |from: &str, to: &str| {
        Job::new(&format!(
            "connector = \"postgres\"\nurl = \"{}\"\ntable = \"results\"",
            server.url().replace(from, to)
        ))
    };
    other("/postgres", "/nowhere")
        .run(1, 0.4)
        .failed_with("S3011")
        .names("database \"nowhere\" does not exist");
    other("streamrt@", "somebody@")
        .run(1, 0.4)
        .failed_with("S3011")
        .names("role \"somebody\" does not exist");
    let port = streamrt_tests::server::free_port().to_string();
    let away = other(&server.port.to_string(), &port);
    away.start(1, 0.4, &["-D", "restart.strategy=none"])
        .finish(LIMIT)
        .failed_with("S3008")
        .names("Connection refused");
    other("postgresql:", "http:")
        .run(1, 0.4)
        .failed_with("S2007")
        .names("`url` is none");
    job_with(&server, "10ms")
        .run(1, 0.4)
        .failed_with("S2007")
        .names("`timeout` must be from 1s to 24h");
    job_with(&server, "soon")
        .run(1, 0.4)
        .failed_with("S2007")
        .names("`timeout` is `soon`, but it must be a duration");
}
