//! What of the outside world the plan of a component may name: only what the user named.
//!
//! A component comes from anywhere, and its plan says which files the host opens and which servers
//! it connects to, with the user's rights. So each path and each server of a plan must be an
//! argument that the user gave after `--`, or lie below one, or be allowed by a flag. What stands
//! in a `job.toml` is the user's own, and is not asked about.
//!
//! Words are compared as the user wrote them. A path of the plan may add parts to one of the
//! user's, none of which is `..`, and whose links do not lead out of it.

use std::path::{Component, Path, PathBuf, absolute};
use streamrt_connector::{Need, sink_needs, source_needs};
use streamrt_types::{Error, Result, code};
use streamrt_wit::{Body, Node, Plan};

/// What the user named.
#[derive(Debug, Clone, Default)]
pub struct Named {
    paths: Vec<String>,
    servers: Vec<Server>,
    /// Ports that stand alone, as in `--port 7777`.
    ports: Vec<u16>,
    /// Whole arguments.
    words: Vec<String>,
}

/// A server as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Server {
    host: String,
    port: Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    This(u16),
    /// It was not written: the protocol's own, or one that stands in another argument.
    Unsaid,
    Any,
}

impl Named {
    /// `args` are those of the job; `paths` and `hosts` are those of `--allow-path` and
    /// `--allow-host`.
    pub fn new(args: &[String], paths: &[PathBuf], hosts: &[String]) -> Named {
        let words: Vec<String> = args
            .iter()
            .flat_map(|arg| words(arg))
            .map(str::to_owned)
            .collect();
        let of_words = words.iter().flat_map(|word| servers(word));
        let allowed = hosts
            .iter()
            .filter_map(|host| server(host))
            .map(|found| match found.port {
                Port::Unsaid => Server {
                    port: Port::Any,
                    ..found
                },
                _ => found,
            });
        Named {
            servers: of_words.chain(allowed).collect(),
            ports: words.iter().filter_map(|word| word.parse().ok()).collect(),
            paths: words
                .iter()
                .cloned()
                .chain(paths.iter().map(|path| path.to_string_lossy().into_owned()))
                .collect(),
            words,
        }
    }

    /// Refuses a plan that names more.
    ///
    /// # Errors
    /// `Invalid` (S1012), with the uid of the node and the flag that would allow it.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        plan.nodes.iter().try_for_each(|node| {
            let at = |e: Error| e.at(format_args!("node `{}`", node.uid));
            let missing = needs(node)
                .map_err(at)?
                .into_iter()
                .find_map(|need| Some((self.missing(&need)?, need)));
            match missing {
                None => Ok(()),
                Some((flag, need)) => Err(at(Error::new(
                    code::NOT_GRANTED,
                    format!(
                        "it {} {}, which stands in no argument after `--`; {flag} allows it",
                        verb(node),
                        shown(&need)
                    ),
                ))),
            }
        })
    }

    /// The flag that would allow what is not named; `None` if nothing is missing.
    pub fn missing(&self, need: &Need) -> Option<String> {
        match need {
            Need::Path(path) if self.paths.iter().any(|named| lies_in(path, named)) => None,
            Need::Path(path) => Some(format!("`--allow-path {}`", quoted(path))),
            Need::Server { option, .. }
                if self.words.contains(option) && option.contains(['/', '=']) =>
            {
                None
            }
            Need::Server {
                host,
                port,
                is_default_port,
                ..
            } => {
                let is_named = self
                    .servers
                    .iter()
                    .any(|server| self.fits(server, host, *port, *is_default_port));
                (!is_named).then(|| format!("`--allow-host {}`", quoted(&address(host, *port))))
            }
        }
    }

    fn fits(&self, server: &Server, host: &str, port: u16, is_default_port: bool) -> bool {
        let has_port = match server.port {
            Port::This(this) => this == port,
            Port::Unsaid => is_default_port || self.ports.contains(&port),
            Port::Any => true,
        };
        has_port && server.host.eq_ignore_ascii_case(host)
    }
}

/// What the source or the sink of a node reaches.
///
/// # Errors
/// `Invalid` if its connector or its options are wrong.
pub fn needs(node: &Node) -> Result<Vec<Need>> {
    match &node.body {
        Body::Source {
            connector, options, ..
        } => source_needs(connector, options),
        Body::Sink { connector, options } => sink_needs(connector, options),
        _ => Ok(Vec::new()),
    }
}

/// What it does with them.
pub fn verb(node: &Node) -> &'static str {
    if node.body.is_sink() {
        "writes to"
    } else {
        "reads"
    }
}

/// A path, or a server without the password that may stand beside it.
pub fn shown(need: &Need) -> String {
    match need {
        Need::Path(path) => path.clone(),
        Need::Server { host, port, .. } => address(host, *port),
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let is_plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-:@,+".contains(c));
    if is_plain {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The values in an argument: itself, unless it is the name of an option, and what stands after
/// its first `=`.
fn words(arg: &str) -> impl Iterator<Item = &str> {
    let is_option = arg.len() > 1 && arg.starts_with('-');
    let behind = arg.split_once('=').map(|(_, value)| value);
    (!is_option)
        .then_some(arg)
        .into_iter()
        .chain(behind)
        .filter(|word| !word.is_empty())
}

/// The servers of a URL, or of a list such as `a:1,b`.
fn servers(word: &str) -> Vec<Server> {
    let authority = match word.split_once("://") {
        None => word,
        Some((_, rest)) => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            authority
                .rsplit_once('@')
                .map_or(authority, |(_, hosts)| hosts)
        }
    };
    authority.split(',').filter_map(server).collect()
}

/// `host`, `host:port`, `[address]:port` or an address of IPv6.
fn server(text: &str) -> Option<Server> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    let port = port.map_or(Some(Port::Unsaid), |port| port.parse().ok().map(Port::This))?;
    (!host.is_empty()).then(|| Server {
        host: host.to_owned(),
        port,
    })
}

/// Whether a path of a plan is one that was named, or lies below it.
fn lies_in(path: &str, named: &str) -> bool {
    if path == named {
        return true;
    }
    let (Ok(path), Ok(named)) = (absolute(path), absolute(named)) else {
        return false;
    };
    let Ok(added) = path.strip_prefix(&named) else {
        return false;
    };
    let leads_up = added.components().any(|part| part == Component::ParentDir);
    !leads_up && (added.as_os_str().is_empty() || real(&path).starts_with(real(&named)))
}

/// Where the part of a path that is there really is.
fn real(path: &Path) -> PathBuf {
    path.ancestors()
        .find_map(|part| part.canonicalize().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(args: &[&str]) -> Named {
        Named::new(
            &args.iter().map(|arg| arg.to_string()).collect::<Vec<_>>(),
            &[],
            &[],
        )
    }

    #[track_caller]
    fn check_path(args: &[&str], path: &str, is_granted: bool) {
        let missing = named(args).missing(&Need::Path(path.into()));
        assert_eq!(
            missing.is_none(),
            is_granted,
            "{args:?} {path}: {missing:?}"
        );
    }

    #[test]
    fn paths_are_named_or_lie_below() {
        check_path(&["--input", "/no/data"], "/no/data", true);
        check_path(&["--input", "/no/data"], "/no/data/late", true);
        check_path(&["--input=/no/data"], "/no/data/./late", true);
        check_path(&["--input", "/no/data/"], "/no/data", true);
        check_path(&["/no/data"], "/no/data/*.csv", true);
        check_path(&["--input", "/no/data"], "/no/database", false);
        check_path(&["--input", "/no/data"], "/no", false);
        check_path(&["--input", "/no/data"], "/no/data/../other", false);
        check_path(
            &["--input", "/no/data/../other"],
            "/no/data/../other/x",
            true,
        );
        check_path(&["--input", "data"], "./data/a", true);
        check_path(&["--input", "."], "a/b", true);
        check_path(&["--input", "."], "/etc/passwd", false);
        check_path(&["--input", ""], "a", false);
        check_path(&["--input="], "a", false);
        check_path(&[], "out", false);
        check_path(&["--/etc"], "/etc/passwd", false);
        check_path(&["--input", "-"], "-", true);
        check_path(&["--input", "a"], "-", false);
    }

    #[test]
    fn links_below_do_not_lead_out() {
        let folder = std::env::temp_dir().join(format!("streamrt-named-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("data/inner")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.join("data/link")).unwrap();
        std::os::unix::fs::symlink(folder.join("data"), folder.join("named")).unwrap();
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let data = path("data");
        check_path(&[&data], &path("data/inner/x"), true);
        check_path(&[&data], &path("data/link/passwd"), false);
        check_path(&[&data], &path("data/link/*"), false);
        check_path(&[&path("data/link")], &path("data/link/passwd"), true);
        check_path(&[&path("named")], &path("named/new/x"), true);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[track_caller]
    fn check_server(named: &Named, host: &str, port: u16, flag: Option<&str>) {
        let need = Need::Server {
            host: host.into(),
            port,
            is_default_port: port == 5432,
            option: String::new(),
        };
        assert_eq!(named.missing(&need).as_deref(), flag, "{named:?}");
    }

    #[test]
    fn servers_are_named_with_their_ports() {
        check_server(
            &named(&["--host", "db", "--port", "7777"]),
            "db",
            7777,
            None,
        );
        check_server(
            &named(&["--host", "db"]),
            "db",
            7777,
            Some("`--allow-host db:7777`"),
        );
        check_server(
            &named(&["--port", "7777"]),
            "localhost",
            7777,
            Some("`--allow-host localhost:7777`"),
        );
        check_server(&named(&["--host", "db"]), "db", 5432, None);
        check_server(&named(&["db:7777"]), "DB", 7777, None);
        check_server(
            &named(&["db:7777", "--port", "22"]),
            "db",
            22,
            Some("`--allow-host db:22`"),
        );
        check_server(&named(&["--to", "kafka://a:1,b:2/topic"]), "b", 2, None);
        check_server(
            &named(&["postgresql://me:p@ss@db/x?host=other"]),
            "db",
            5432,
            None,
        );
        check_server(
            &named(&["postgresql://evil@db/x"]),
            "evil",
            5432,
            Some("`--allow-host evil:5432`"),
        );
        check_server(&named(&["[::1]:9"]), "::1", 9, None);
        check_server(&named(&["::1"]), "::1", 9, Some("`--allow-host '[::1]:9'`"));
        let allowed = Named::new(&[], &[], &["db".into(), "other:5".into()]);
        check_server(&allowed, "db", 1, None);
        check_server(&allowed, "other", 5, None);
        check_server(&allowed, "other", 6, Some("`--allow-host other:6`"));
    }

    #[test]
    fn a_whole_option_that_was_named_is_granted() {
        let url = "host=db,c port=1,2 user=me";
        let need = Need::Server {
            host: "c".into(),
            port: 2,
            is_default_port: false,
            option: url.into(),
        };
        assert_eq!(named(&["--url", url]).missing(&need), None);
        let need = Need::Server {
            host: "c".into(),
            port: 2,
            is_default_port: false,
            option: "c".into(),
        };
        assert!(
            named(&["c"]).missing(&need).is_some(),
            "a name alone says nothing of the port"
        );
    }

    #[test]
    fn a_plan_is_refused_with_the_flag() {
        let plan = r#"{"version":1,"nodes":[{"id":0,"uid":"keys","body":{"kind":"source","connector":"file","options":{"path":"/home/me/.ssh/id *"},"schema":[]}}]}"#;
        let plan = Plan::from_json(plan).unwrap();
        let error = Named::default().check(&plan).unwrap_err();
        let message = "node `keys`: it reads /home/me/.ssh/id *, which stands in no argument after `--`; `--allow-path '/home/me/.ssh/id *'` allows it";
        assert_eq!((error.code().id, error.message()), ("S1012", message));
        assert!(
            Named::new(&[], &["/home/me/.ssh".into()], &[])
                .check(&plan)
                .is_ok()
        );
    }
}
