//! Checkpoints in a real object store: MinIO.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use streamrt_tests::binary::{Finished, LIMIT, Running, hidden_files, outputs, streamrt};
use streamrt_tests::server::{Minio, wait_until};

use crate::job::Job;

const SINK: &str = "connector = \"file\"\npath = \"out\"\nformat = \"csv\"\ndelimiter = \"|\"";

fn job(minio: &Minio) -> Job {
    job_at(minio, minio.port)
}

/// A job whose store is behind a port.
fn job_at(minio: &Minio, port: u16) -> Job {
    let mut job = Job::new(SINK);
    job.checkpoints = "s3://bucket/jobs/copy".into();
    job.environment = minio.environment(port);
    job
}

fn rows(job: &Job) -> Vec<String> {
    if job.path("out").exists() {
        outputs(&job.path("out")).lines("").to_vec()
    } else {
        Vec::new()
    }
}

fn command(job: &Job, args: &[&str]) -> Finished {
    let mut command = streamrt(args);
    command
        .current_dir(job.path(""))
        .env("XDG_CACHE_HOME", job.path("cache"))
        .envs(job.environment.iter().map(|(name, value)| (name, value)));
    Running::start(command).finish(LIMIT)
}

#[track_caller]
fn assert_whole(job: &Job, when: &str) {
    job.assert_whole(rows(job), when);
    assert_eq!(
        hidden_files(&job.path("out")),
        Vec::<PathBuf>::new(),
        "{when}: uncommitted files are left"
    );
}

#[test]
fn a_job_with_its_checkpoints_in_a_bucket_survives_kills() {
    let minio = Minio::start();
    let job = job(&minio);
    job.survive(3.0, || rows(&job));
    let checked = command(&job, &["fsck", "s3://bucket/jobs/copy"]).succeeded();
    assert!(
        checked.stdout.contains("objects are whole"),
        "{}",
        checked.stdout
    );
}

#[test]
fn a_savepoint_in_a_bucket_starts_a_job_elsewhere() {
    let minio = Minio::start();
    let mut job = job(&minio);
    let running = job.start(2, 6.0, &[]);
    wait_until("the first rows", || !rows(&job).is_empty());
    command(
        &job,
        &["stop", "copy", "--savepoint", "s3://bucket/savepoints/one"],
    )
    .succeeded();
    running.finish(LIMIT).succeeded();
    let shown = command(
        &job,
        &["savepoint", "inspect", "s3://bucket/savepoints/one"],
    )
    .succeeded();
    assert!(shown.stdout.contains("of job `copy`"), "{}", shown.stdout);
    command(&job, &["fsck", "s3://bucket/savepoints/one"]).succeeded();
    job.checkpoints = "elsewhere".into();
    job.start(3, 0.4, &["--from", "s3://bucket/savepoints/one"])
        .finish(LIMIT)
        .succeeded();
    assert_whole(&job, "from a savepoint");
}

#[test]
fn of_two_leaders_one_ends_and_nothing_is_written_twice() {
    let minio = Minio::start();
    let job = job(&minio);
    let first = job.start(2, 6.0, &["-D", "restart.strategy=none"]);
    wait_until("the first rows", || !rows(&job).is_empty());
    let second = job.run(2, 0.4).succeeded();
    assert!(
        second.stderr.contains("goes on from checkpoint"),
        "{}",
        second.stderr
    );
    first.finish(LIMIT).failed_with("S7006");
    assert_whole(&job, "after two leaders");
}

#[test]
fn a_bucket_that_cannot_be_used_is_named() {
    let minio = Minio::start();
    let mut elsewhere = job(&minio);
    elsewhere.checkpoints = "s3://nowhere/jobs".into();
    elsewhere
        .run(1, 0.4)
        .failed_with("S7007")
        .names("there is no bucket `nowhere`");
    let mut stranger = job(&minio);
    stranger
        .environment
        .retain(|(name, _)| name != "AWS_SECRET_ACCESS_KEY");
    stranger
        .environment
        .push(("AWS_SECRET_ACCESS_KEY".into(), "wrong".into()));
    stranger
        .run(1, 0.4)
        .failed_with("S7007")
        .names("refuses access");
    let nobody = job_at(&minio, streamrt_tests::server::free_port());
    nobody
        .run(1, 0.4)
        .failed_with("S7007")
        .names("tried 5 times");
    for job in [elsewhere, stranger, nobody] {
        assert_eq!(
            rows(&job),
            [""; 0],
            "a job without its store must not begin"
        );
    }
}

#[test]
fn a_store_that_stops_ends_the_job_and_one_that_comes_back_lets_it_go_on() {
    let mut minio = Minio::start();
    let job = job(&minio);
    let running = job.start(2, 6.0, &["-D", "restart.strategy=none"]);
    wait_until("the first rows", || !rows(&job).is_empty());
    minio.kill();
    let failed = running.finish(LIMIT);
    assert!(
        !failed.status.success() && failed.stderr.contains("S7007"),
        "{}",
        failed.stderr
    );
    job.assert_part(rows(&job), "without a store");
    minio.start_again();
    job.run(2, 0.4).succeeded();
    assert_whole(&job, "when the store came back");
}

#[test]
fn a_store_that_is_away_for_a_moment_is_waited_for() {
    let mut minio = Minio::start();
    let job = job(&minio);
    let running = job.start(2, 4.0, &[]);
    wait_until("the first rows", || !rows(&job).is_empty());
    minio.kill();
    minio.start_again();
    running.finish(LIMIT).succeeded();
    assert_whole(&job, "after a restart of the store");
}

/// Passes everything on, but loses the answer to some writes into the log, once each was done.
struct LossyProxy {
    port: u16,
    n_lost: Arc<AtomicUsize>,
}

const LOSSES: usize = 6;

impl LossyProxy {
    fn start(to: u16) -> LossyProxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let n_lost = Arc::new(AtomicUsize::new(0));
        let counter = n_lost.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                    continue;
                };
                connect(client, server, &counter);
            }
        });
        LossyProxy { port, n_lost }
    }
}

/// Copies both ways, in threads that end with the connection.
fn connect(client: TcpStream, server: TcpStream, n_lost: &Arc<AtomicUsize>) {
    let loses = Arc::new(AtomicBool::new(false));
    let (mut from_client, mut to_server) =
        (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (seen, n_seen) = (loses.clone(), n_lost.clone());
    std::thread::spawn(move || {
        copy(&mut from_client, &mut to_server, |bytes| {
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
            let is_log = head.starts_with("PUT ") && head.contains("/log/");
            // Every other one, so that some attempts come through.
            if is_log
                && n_seen.fetch_add(1, Ordering::SeqCst).is_multiple_of(2)
                && n_seen.load(Ordering::SeqCst) <= 2 * LOSSES
            {
                seen.store(true, Ordering::SeqCst);
            }
            true
        });
    });
    let (mut from_server, mut to_client) = (server, client);
    std::thread::spawn(move || {
        copy(&mut from_server, &mut to_client, |_| {
            !loses.load(Ordering::SeqCst)
        })
    });
}

/// Until one side ends, or `passes` says no; then both end.
fn copy(from: &mut TcpStream, to: &mut TcpStream, passes: impl Fn(&[u8]) -> bool) {
    let mut bytes = [0; 16 << 10];
    while let Ok(n) = from.read(&mut bytes) {
        if n == 0 || !passes(&bytes[..n]) || to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    from.shutdown(std::net::Shutdown::Both).ok();
    to.shutdown(std::net::Shutdown::Both).ok();
}

#[test]
fn writes_whose_answers_are_lost_are_settled_by_reading_back() {
    let minio = Minio::start();
    let proxy = LossyProxy::start(minio.port);
    let job = job_at(&minio, proxy.port);
    job.run(2, 2.0).succeeded();
    assert!(
        proxy.n_lost.load(Ordering::SeqCst) >= 2 * LOSSES,
        "too few answers were lost"
    );
    assert_whole(&job, "although answers were lost");
}
