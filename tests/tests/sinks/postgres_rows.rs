//! Rows that a table of PostgreSQL does not take: each is found among the others, and is subject to
//! the poison policy.

use std::path::PathBuf;

use streamrt_tests::binary::{Finished, LIMIT, Running, outputs, streamrt};
use streamrt_tests::server::Postgres;
use tempfile::TempDir;

const TABLE: &str = "CREATE TABLE \"Results\" (n bigint PRIMARY KEY, text varchar(8), time timestamptz, CHECK (n <> 77))";

/// Rows of the input, of which those of [`BAD`] are refused.
const ROWS: usize = 2000;
/// Their numbers; of each, what is wrong.
const BAD: [(usize, &str); 7] = [
    (0, "NUL"),
    (7, "varchar"),
    (8, "varchar"),
    (77, "check"),
    (1000, "time"),
    (1500, "NUL"),
    (1999, "varchar"),
];
/// Its time is in the year 10000, which is one for the server.
const LATE: usize = 500;
const YEAR_10000_MS: i64 = 253_402_300_800_000;

fn line(n: usize) -> String {
    let bad = BAD.iter().find(|(bad, _)| *bad == n).map(|(_, what)| *what);
    let text = match bad {
        Some("NUL") => "a\0b".to_owned(),
        Some("varchar") => "nine char".to_owned(),
        _ => format!("t{n}"),
    };
    let time = match (bad, n) {
        (Some("time"), _) => i64::MAX,
        (_, LATE) => YEAR_10000_MS,
        _ => 1_500_000_000_000 + n as i64,
    };
    format!("{n},{text},{time}\n")
}

struct Copy {
    folder: TempDir,
}

impl Copy {
    fn new(server: &Postgres) -> Copy {
        let folder = TempDir::new().unwrap();
        std::fs::write(
            folder.path().join("rows.csv"),
            (0..ROWS).map(line).collect::<String>(),
        )
        .unwrap();
        let columns = r#"[ { name = "n", type = "i64" }, { name = "text", type = "string" }, { name = "time", type = "i64" } ]"#;
        let toml = format!(
            "name = \"copy\"\n[[source]]\nuid = \"rows\"\nconnector = \"file\"\npath = \"rows.csv\"\nformat = \"csv\"\ncolumns = {columns}\n\
             [[sink]]\nuid = \"out\"\ninput = \"rows\"\nconnector = \"postgres\"\nurl = \"{}\"\ntable = \"Results\"\n",
            server.url().replace("streamrt@", "streamrt:s3cr3t@")
        );
        std::fs::write(folder.path().join("job.toml"), toml).unwrap();
        Copy { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, options: &[&str]) -> Finished {
        let mut command = streamrt([
            "run",
            "job.toml",
            "-D",
            "checkpoint.dir=ck",
            "-D",
            "checkpoint.interval=50ms",
        ]);
        command
            .args(options.iter().flat_map(|option| ["-D", option]))
            .current_dir(self.folder.path());
        command.env("XDG_CACHE_HOME", self.path("cache"));
        Running::start(command).finish(LIMIT)
    }
}

fn server() -> Postgres {
    let server = Postgres::start(&[
        "max_prepared_transactions=64",
        "fsync=off",
        "standard_conforming_strings=off",
    ]);
    server.ask(TABLE);
    server
}

#[test]
fn a_row_that_is_refused_is_skipped_and_all_others_are_there() {
    let server = server();
    for batch_rows in ["1", "64", "4096"] {
        let copy = Copy::new(&server);
        let options = [
            "poison.policy=skip",
            "poison.dead-letters=dead",
            &format!("batch.rows={batch_rows}"),
        ];
        copy.run(&options).succeeded();
        let written = server.ask("SELECT n FROM \"Results\" ORDER BY n");
        let expected: Vec<String> = (0..ROWS)
            .filter(|n| BAD.iter().all(|(bad, _)| bad != n))
            .map(|n| n.to_string())
            .collect();
        assert_eq!(written, expected, "{batch_rows} rows a batch");
        assert_eq!(server.ask(&format!("SELECT extract(year from time at time zone 'UTC') FROM \"Results\" WHERE n = {LATE}")), ["10000"]);
        let letters: Vec<serde_json::Value> = outputs(&copy.path("dead"))
            .lines("")
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(letters.len(), BAD.len());
        for (n, what) in BAD {
            let position = format!("rows.csv line {}", n + 1);
            let letter = letters
                .iter()
                .find(|letter| letter["position"] == position.as_str())
                .expect("each has a letter");
            let message = letter["message"].as_str().unwrap();
            let expected = match what {
                "NUL" => "column `text` holds a text with the character NUL",
                "varchar" => "column text: \"nine char\"",
                "check" => "violates check constraint",
                _ => "column `time` holds a number of ms since 1970 that is no time of the server",
            };
            assert!(
                message.contains(expected) && letter["code"] == "S3009" && letter["uid"] == "out",
                "{letter}"
            );
            assert!(
                letter["record"]
                    .as_str()
                    .unwrap()
                    .starts_with(&format!("{{\"n\":{n},")),
                "{letter}"
            );
        }
        server.ask("TRUNCATE \"Results\"");
    }
}

#[test]
fn else_the_job_ends_with_row_and_column_and_nothing_is_written() {
    let server = server();
    let copy = Copy::new(&server);
    let failed = copy.run(&[]).failed_with("S3009");
    let names = |what: &str| failed.stderr.contains(what);
    assert!(
        names("column `text` holds a text with the character NUL") && names("rows.csv line 1)"),
        "{}",
        failed.stderr
    );
    // Without the rows that are refused on this side it is the server that refuses.
    let text: String = (1..500).map(line).collect();
    std::fs::write(copy.path("rows.csv"), text).unwrap();
    std::fs::remove_dir_all(copy.path("ck")).unwrap();
    let failed = copy.run(&[]).failed_with("S3009");
    let names = |what: &str| failed.stderr.contains(what);
    assert!(
        names("column text: \"nine char\"") && names("{\"n\":7,") && names("rows.csv line 7)"),
        "{}",
        failed.stderr
    );
    assert_eq!(server.ask("SELECT count(*) FROM \"Results\""), ["0"]);
}

#[test]
fn no_password_is_kept_or_shown() {
    let server = server();
    let copy = Copy::new(&server);
    let done = copy.run(&["poison.policy=skip"]).succeeded();
    let mut said = vec![done.stdout.into_bytes(), done.stderr.into_bytes()];
    let mut folders = vec![copy.path("ck")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                said.push(std::fs::read(path).unwrap())
            }
        }
    }
    assert!(said.len() > 5, "there are a log and manifests");
    let has = |bytes: &[u8], text: &str| {
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    assert!(
        said.iter()
            .any(|bytes| has(bytes, "streamrt:***@127.0.0.1")),
        "the plan is kept"
    );
    assert!(
        !said.iter().any(|bytes| has(bytes, "s3cr3t")),
        "the password is kept or shown"
    );
}
