//! Plans that name files and servers which the user did not name.

use super::{Attack, SOON, lines, node, plan};
use serde_json::json;
use std::net::TcpListener;
use std::path::Path;
use streamrt_tests::binary::{component, outputs, streamrt};
use streamrt_tests::guests::describing;

/// Copies what `from` fits into the folder `to`.
fn copying(from: &str, to: &str) -> String {
    plan(
        vec![
            lines(0, from),
            node(
                1,
                "copy",
                &[0],
                json!({"kind": "sink", "connector": "file", "options": {"path": to}}),
            ),
        ],
        vec![],
    )
}

#[test]
fn keys_are_not_copied_into_a_folder_of_the_components_choice() {
    let attack = Attack::new(b"");
    let home = attack.path("home/.ssh");
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join("id_ed25519"), "secret\n").unwrap();
    let (keys, loot) = (home.join("id_*"), attack.path("loot"));
    let (keys, loot) = (keys.to_str().unwrap(), loot.to_str().unwrap());
    std::fs::write(attack.path("attack.wasm"), describing(&copying(keys, loot))).unwrap();
    let data = attack.path("data");

    let named_nothing = SOON
        .run(attack.run(&[], &[&data]))
        .finished
        .failed_with("S1012");
    named_nothing
        .names("node `lines`: it reads")
        .names("--allow-path")
        .names("id_*");
    SOON.run(attack.run(&[], &[&home]))
        .finished
        .failed_with("S1012")
        .names("node `copy`: it writes to");
    SOON.run(attack.run(&["--allow-path", keys], &[]))
        .finished
        .failed_with("S1012")
        .names(&format!("`--allow-path {loot}` allows it"));
    assert!(!Path::new(loot).exists(), "nothing was opened");
    SOON.run(attack.run(&["--allow-path", keys], &[Path::new(loot)]))
        .finished
        .succeeded();
    assert_eq!(outputs(Path::new(loot)).lines(""), [r#"{"line":"secret"}"#]);
}

#[test]
fn ways_out_of_what_was_named() {
    let attack = Attack::new(b"");
    let path = |name: &str| attack.path(name).to_str().unwrap().to_owned();
    std::fs::create_dir_all(attack.path("data")).unwrap();
    std::fs::create_dir_all(attack.path("other")).unwrap();
    std::fs::write(attack.path("other/secret"), "secret\n").unwrap();
    std::os::unix::fs::symlink(attack.path("other"), attack.path("data/link")).unwrap();
    for from in [
        "data/../other/secret",
        "data/link/secret",
        "data/link/*",
        "database",
        ".",
    ] {
        std::fs::write(
            attack.path("attack.wasm"),
            describing(&copying(&path(from), &path("data/out"))),
        )
        .unwrap();
        SOON.run(attack.run(&[], &[&attack.path("data")]))
            .finished
            .failed_with("S1012")
            .names("node `lines`");
    }
    // What the user named is as they named it.
    std::fs::write(
        attack.path("attack.wasm"),
        describing(&copying(&path("data/link/secret"), &path("data/out"))),
    )
    .unwrap();
    SOON.run(attack.run(&[], &[&attack.path("data"), &attack.path("data/link")]))
        .finished
        .succeeded();
    assert_eq!(
        outputs(&attack.path("data/out")).lines(""),
        [r#"{"line":"secret"}"#]
    );
}

/// A socket, as a component names it; `None` leaves the host to the default.
fn socket(host: Option<&str>, port: u16) -> String {
    let options = match host {
        Some(host) => json!({"host": host, "port": port}),
        None => json!({"port": port}),
    };
    let source = node(
        0,
        "in",
        &[],
        json!({"kind": "source", "connector": "socket", "options": options, "schema": [{"name": "line", "type": "string"}]}),
    );
    plan(vec![source, super::nowhere(1, 0)], vec![])
}

#[test]
fn servers_are_not_called_that_nobody_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = port.to_string();
    for (host, args) in [
        (Some("localhost"), vec![]),
        (None, vec![said.as_str()]),
        (Some("127.0.0.1"), vec!["localhost", &said]),
    ] {
        let attack = Attack::new(&describing(&socket(host, port)));
        let args: Vec<&Path> = args.iter().map(Path::new).collect();
        let flag = format!(
            "`--allow-host {}:{port}` allows it",
            host.unwrap_or("localhost")
        );
        SOON.run(attack.run(&[], &args))
            .finished
            .failed_with("S1012")
            .names(&flag);
    }
    assert!(listener.accept().is_err(), "nobody has called");
}

#[test]
fn a_database_gets_no_password_that_the_user_did_not_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for url in [
        format!("postgresql://me@127.0.0.1:{port}/d"),
        format!("postgresql://me@db.example:5432,127.0.0.1:{port}/d"),
        format!("host=db.example hostaddr=127.0.0.1 port={port} user=me"),
    ] {
        let sink = node(
            1,
            "out",
            &[0],
            json!({"kind": "sink", "connector": "postgres", "options": {"url": url, "table": "t"}}),
        );
        let attack = Attack::new(&describing(&plan(vec![lines(0, "in"), sink], vec![])));
        std::fs::write(attack.path("in"), "x\n").unwrap();
        let mut command = attack.run(&[], &["in".as_ref(), "db.example".as_ref()]);
        command.env("PGPASSWORD", "secret");
        let code = SOON.run(command).finished;
        assert!(
            !code.status.success()
                && (code.stderr.contains("S1012") || code.stderr.contains("S2007")),
            "{}",
            code.stderr
        );
    }
    assert!(listener.accept().is_err(), "nobody has called");
}

#[test]
fn inspect_shows_what_a_plan_reaches() {
    let attack = Attack::new(&describing(&copying("/home/me/.ssh/id_*", "loot")));
    let mut command = streamrt(["inspect"]);
    command
        .arg(attack.path("attack.wasm"))
        .env("XDG_CACHE_HOME", attack.path("cache"))
        .args(["--", "loot"]);
    let shown = SOON.run(command).finished.succeeded().stdout;
    for line in [
        r#"lines  source file path="/home/me/.ssh/id_*""#,
        "reads /home/me/.ssh/id_*: needs `--allow-path '/home/me/.ssh/id_*'`",
        r#"copy  sink file path="loot""#,
        "writes to loot\n",
    ] {
        assert!(shown.contains(line), "no `{line}` in {shown}");
    }
}

#[test]
fn a_default_of_the_component_is_not_the_users_word() {
    let attack = Attack::new(&std::fs::read(component("word-count")).unwrap());
    std::fs::write(attack.path("input"), "to be\n").unwrap();
    SOON_COMPILED
        .run(attack.run(&[], &[]))
        .finished
        .failed_with("S1012")
        .names("`--allow-path input` allows it");
    let printed = SOON
        .run(attack.run(&["--allow-path", "input"], &[]))
        .finished
        .succeeded()
        .stdout;
    assert_eq!(printed.lines().count(), 2, "{printed}");
}

/// It is compiled first.
const SOON_COMPILED: streamrt_tests::measured::Limits =
    streamrt_tests::measured::Limits::new(700, 60);
