//! Disks that are full or cannot be written: what fails leaves nothing half-published, and the same
//! command goes on when it can.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use streamrt_tests::binary::{LIMIT, hidden_files, outputs, run};
use streamrt_tests::server::{Process, wait_until};

use crate::job::Job;

const SINK: &str = "connector = \"file\"\npath = \"out\"\nformat = \"csv\"\ndelimiter = \"|\"";

/// A small file system in memory, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: PathBuf) -> Disk {
        std::fs::create_dir(&folder).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"], &folder);
        Disk(folder)
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join(".filler")).unwrap();
        while file.write_all(&[0; 1024]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join(".filler")).unwrap();
    }

    /// `ro` or `rw`. What is open for writing keeps a file system from becoming read-only, so it is
    /// asked until it does.
    fn remount(&self, how: &str) {
        let remount = || {
            Command::new("mount")
                .args(["-o", &format!("remount,{how}")])
                .arg(&self.0)
                .output()
                .unwrap()
                .status
                .success()
        };
        wait_until("a remount", remount);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .status()
            .ok();
    }
}

fn mount(args: &[&str], folder: &Path) {
    let output = Command::new("mount")
        .args(args)
        .arg(folder)
        .output()
        .expect("mount is there");
    assert!(
        output.status.success(),
        "the tests of full disks need the right to mount: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn rows(job: &Job) -> Vec<String> {
    if job.path("out").exists() {
        outputs(&job.path("out")).lines("").to_vec()
    } else {
        Vec::new()
    }
}

/// Runs a job whose disk fails in the middle, then lets it go on.
fn check(folder: &str, codes: &[&str], fail: impl Fn(&Disk), mend: impl Fn(&Disk)) {
    let job = Job::new(SINK);
    let disk = Disk::mount(job.path(folder));
    let running = job.start(2, 4.0, &["-D", "restart.strategy=none"]);
    wait_until("the first rows", || !rows(&job).is_empty());
    fail(&disk);
    let failed = running.finish(LIMIT);
    assert!(
        !failed.status.success(),
        "the job has ended although its disk failed"
    );
    assert!(
        codes.iter().any(|code| failed.stderr.contains(code)),
        "{}",
        failed.stderr
    );
    job.assert_part(rows(&job), "on a disk that failed");
    let checked = run(["fsck".as_ref(), job.path("checkpoints").as_os_str()]);
    assert!(
        checked.status.success(),
        "{} {}",
        checked.stdout,
        checked.stderr
    );
    mend(&disk);
    let went_on = job.run(2, 0.3).succeeded();
    assert!(
        went_on.stderr.contains("goes on from checkpoint"),
        "{}",
        went_on.stderr
    );
    job.assert_whole(rows(&job), "when the disk had room again");
    assert_eq!(hidden_files(&job.path("out")), Vec::<PathBuf>::new());
}

#[test]
fn checkpoints_on_a_full_disk_fail_and_the_job_goes_on_when_there_is_room() {
    check("checkpoints", &["S7007", "S7009"], Disk::fill, Disk::free);
}

#[test]
fn results_on_a_full_disk_fail_and_the_job_goes_on_when_there_is_room() {
    check("out", &["S3002"], Disk::fill, Disk::free);
}

#[test]
fn checkpoints_on_a_disk_that_becomes_read_only_fail_and_the_job_goes_on_later() {
    check(
        "checkpoints",
        &["S7007", "S7009"],
        |disk| disk.remount("ro"),
        |disk| disk.remount("rw"),
    );
}

#[test]
fn results_on_a_disk_that_becomes_read_only_fail_and_the_job_goes_on_later() {
    check(
        "out",
        &["S3002"],
        |disk| disk.remount("ro"),
        |disk| disk.remount("rw"),
    );
}

/// The restart strategy waits for the room, without a new command.
#[test]
fn a_job_waits_for_room() {
    let job = Job::new(SINK);
    let disk = Disk::mount(job.path("checkpoints"));
    let log = job.path("log");
    let mut running = Process::start(job.command(2, 2.0, &[]), &log);
    wait_until("the first rows", || !rows(&job).is_empty());
    disk.fill();
    wait_until("a restart", || {
        std::fs::read_to_string(&log)
            .unwrap()
            .contains("trying again")
    });
    disk.free();
    let well = running.succeeds();
    assert!(well, "{}", std::fs::read_to_string(&log).unwrap());
    job.assert_whole(rows(&job), "when the disk had room again");
}
