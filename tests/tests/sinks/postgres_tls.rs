//! The sink `postgres` against a server that takes nothing but TLS: the modes of `sslmode`, and
//! what each of them refuses.

use streamrt_tests::server::Postgres;

use crate::job::{Job, ROWS};

const TABLE: &str =
    "CREATE TABLE results (n bigint PRIMARY KEY, text text, time timestamptz NOT NULL)";

/// With the certificate of this name.
fn server(certificate: &str) -> Postgres {
    let server =
        Postgres::start_with_tls(certificate, &["max_prepared_transactions=64", "fsync=off"]);
    server.ask(TABLE);
    server
}

fn job_at(url: &str) -> Job {
    Job::new(&format!(
        "connector = \"postgres\"\nurl = \"{url}\"\ntable = \"results\""
    ))
}

#[track_caller]
fn check_written(server: &Postgres, url: &str) {
    job_at(url).run(2, 0.2).succeeded();
    assert_eq!(
        server.ask("SELECT count(*) FROM results"),
        [ROWS.to_string()],
        "{url}"
    );
    server.ask("TRUNCATE results");
}

#[track_caller]
fn check_refused(server: &Postgres, url: &str, code: &str, sentence: &str) {
    job_at(url).run(1, 0.2).failed_with(code).names(sentence);
    assert_eq!(server.ask("SELECT count(*) FROM results"), ["0"], "{url}");
}

#[test]
fn every_mode_encrypts_and_verifies_what_it_says() {
    let server = server("server");
    let url = server.url();
    let root = |name: &str| format!("sslrootcert={}", server.path(name).display());
    let (ours, other) = (root("ca.pem"), root("other.pem"));
    check_refused(
        &server,
        &format!("{url}?sslmode=disable"),
        "S3011",
        "no encryption",
    );
    for mode in ["", "?sslmode=prefer", "?sslmode=require"] {
        check_written(&server, &format!("{url}{mode}"));
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        check_written(&server, &format!("{url}?sslmode={mode}&{ours}"));
        check_refused(
            &server,
            &format!("{url}?sslmode={mode}&{other}"),
            "S3011",
            "it is of no authority that `sslrootcert`",
        );
    }
    // The certificate is for the address alone.
    let by_name = url.replace("127.0.0.1", "localhost");
    check_written(&server, &format!("{by_name}?sslmode=verify-ca&{ours}"));
    check_refused(
        &server,
        &format!("{by_name}?sslmode=verify-full&{ours}"),
        "S3011",
        "it is not for the host in `url`",
    );
    // The other form.
    let words = format!(
        "host=127.0.0.1 port={} user=streamrt dbname=postgres sslmode=verify-full {ours}",
        server.port
    );
    check_written(&server, &words);
}

#[test]
fn what_cannot_be_verified_says_what_to_do() {
    let server = server("server");
    let url = server.url();
    check_refused(
        &server,
        &format!("{url}?sslmode=verify-full"),
        "S2007",
        "add `sslrootcert=FILE` to `url`",
    );
    check_refused(
        &server,
        &format!("{url}?sslmode=verify-ca&sslrootcert=/nowhere.pem"),
        "S2007",
        "which is no file of certificates",
    );
    check_refused(
        &server,
        &format!("{url}?sslmode=strict"),
        "S2007",
        "`sslmode` must be disable, prefer, require, verify-ca or verify-full",
    );
    let plain = Postgres::start(&["max_prepared_transactions=64", "fsync=off"]);
    plain.ask(TABLE);
    check_refused(
        &plain,
        &format!("{}?sslmode=require", plain.url()),
        "S3011",
        "the server does no TLS",
    );
    check_written(&plain, &plain.url());
}

/// As `openssl req -x509` makes it: its own authority, and without a name of the host.
#[test]
fn a_server_may_sign_for_itself() {
    let server = server("ca");
    let root = |name: &str| format!("sslrootcert={}", server.path(name).display());
    let (url, ours) = (server.url(), root("ca.pem"));
    check_written(&server, &format!("{url}?sslmode=verify-ca&{ours}"));
    check_refused(
        &server,
        &format!("{url}?sslmode=verify-ca&{}", root("other.pem")),
        "S3011",
        "is not trusted",
    );
    check_refused(
        &server,
        &format!("{url}?sslmode=verify-full&{ours}"),
        "S3011",
        "it is not for the host in `url`",
    );
}
