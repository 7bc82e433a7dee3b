//! The dependency rule: levels only look down, and each heavy library is known to one crate or two.
//!
//! The rule is in the tables below; `runtime/ARCHITECTURE.md` says why. Dev-dependencies may look
//! anywhere among our own crates, as a test may stand above what it tests, but they may not bring a
//! library to a crate that must not know it.

use crate::cargo::Package;
use std::collections::{BTreeSet, VecDeque};

/// Our crates from the lowest level to the highest. A crate may depend on crates of lower levels,
/// never on its own level or above.
const LEVELS: &[&[&str]] = &[
    &["streamrt-wit"],
    &["streamrt-types", "streamrt-folders"],
    &[
        "streamrt-state",
        "streamrt-exchange",
        "streamrt-graph",
        "streamrt-checkpoint",
    ],
    &[
        "streamrt-operator",
        "streamrt-rpc",
        "streamrt-state-rocksdb",
    ],
    &[
        "streamrt-window",
        "streamrt-connector",
        "streamrt-plugin",
        "streamrt-table",
        "streamrt-cep",
    ],
    &[
        "streamrt-taskmanager",
        "streamrt-jobmanager",
        "streamrt-sql",
    ],
    &["streamrt-minicluster"],
    &["streamrt-web"],
    &["streamrt-cli"],
    &["streamrt-tests", "streamrt-sim", "streamrt-bench", "xtask"],
];

/// Crates whose dependencies among our own are listed in full.
const ONLY: &[(&str, &[&str])] = &[
    ("streamrt-wit", &[]),
    ("streamrt-sdk-macros", &[]),
    ("streamrt-sdk", &["streamrt-wit", "streamrt-sdk-macros"]),
    ("streamrt-checkpoint", &["streamrt-types"]),
    (
        "streamrt-jobmanager",
        &[
            "streamrt-wit",
            "streamrt-types",
            "streamrt-graph",
            "streamrt-checkpoint",
            "streamrt-rpc",
        ],
    ),
    // It must compile before anything else does.
    ("xtask", &[]),
];

/// What a crate must not reach, directly or through others of our crates.
const UNREACHED: &[(&str, &[&str])] = &[(
    "streamrt-jobmanager",
    &[
        "streamrt-state",
        "streamrt-state-rocksdb",
        "streamrt-exchange",
        "streamrt-operator",
        "streamrt-window",
        "streamrt-connector",
        "streamrt-plugin",
        "streamrt-taskmanager",
        "wasmtime",
        "arrow-array",
    ],
)];

/// Edges that are not followed: `streamrt-types` has the batch beside the ids, times and errors that
/// every crate shares.
const PASSED_OVER: &[(&str, &str)] = &[("streamrt-types", "arrow-array")];

/// Libraries and the crates that may know them.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("wasmtime", &["streamrt-plugin"]),
    ("wasmparser", &["streamrt-plugin"]),
    ("quinn", &["streamrt-exchange", "streamrt-rpc"]),
    ("rocksdb", &["streamrt-state-rocksdb"]),
    ("object_store", &["streamrt-checkpoint"]),
    ("axum", &["streamrt-web"]),
];

/// Whatever lies in these folders is a plugin, and may use only the SDK.
const PLUGIN_FOLDERS: &[&str] = &[
    "examples/",
    "plugins/",
    "tests/guests/",
    "xtask/bench/guest",
];

/// Checks all members; each finding is a sentence.
pub fn check(packages: &[Package]) -> Vec<String> {
    let edges = packages.iter().flat_map(|package| {
        let edges = package.dependencies.iter();
        edges.filter_map(|edge| forbidden(package, &edge.name, edge.dev))
    });
    let ways = UNREACHED
        .iter()
        .flat_map(|(from, away)| away.iter().filter_map(|to| reached(packages, from, to)));
    edges.chain(ways).collect()
}

/// A finding if there is a way from one crate to another through ours, dependencies of tests left
/// out; it names the shortest.
fn reached(packages: &[Package], from: &str, to: &str) -> Option<String> {
    let mut ways = VecDeque::from([vec![from]]);
    let mut seen = BTreeSet::from([from]);
    while let Some(way) = ways.pop_front() {
        let last = *way.last()?;
        if last == to {
            return Some(format!(
                "{from} must not reach {to}, but does: {}",
                way.join(" -> ")
            ));
        }
        let package = packages.iter().find(|package| package.name == last);
        for edge in package.iter().flat_map(|package| &package.dependencies) {
            let next = edge.name.as_str();
            let is_followed = !edge.dev && !PASSED_OVER.contains(&(last, next));
            if is_followed && (next == to || is_ours(next)) && seen.insert(next) {
                ways.push_back([&way[..], &[next]].concat());
            }
        }
    }
    None
}

fn forbidden(package: &Package, to: &str, dev: bool) -> Option<String> {
    let from = package.name.as_str();
    if let Some((_, owners)) = LIBRARIES
        .iter()
        .find(|(library, _)| is_part_of(library, to))
        && !owners.contains(&from)
    {
        return Some(format!(
            "{from} depends on {to}, which only {} may know",
            owners.join(" and ")
        ));
    }
    if dev || !is_ours(to) {
        return None;
    }
    if PLUGIN_FOLDERS
        .iter()
        .any(|folder| package.folder.starts_with(folder))
    {
        return (to != "streamrt-sdk")
            .then(|| format!("{from} depends on {to}, but a plugin sees the SDK alone"));
    }
    if let Some((_, allowed)) = ONLY.iter().find(|(name, _)| *name == from) {
        return (!allowed.contains(&to)).then(|| {
            format!(
                "{from} depends on {to}, but it may depend on {} alone",
                listed(allowed)
            )
        });
    }
    match (level(from), level(to)) {
        (Some(upper), Some(lower)) if upper <= lower => Some(format!(
            "{from} depends on {to}, which is not on a lower level"
        )),
        (Some(_), None) => Some(format!(
            "{from} depends on {to}, which has no level; give it one in xtask/src/dependencies.rs"
        )),
        _ => None,
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("streamrt-") || name == "xtask"
}

/// `wasmtime-environ` is a part of wasmtime.
fn is_part_of(library: &str, name: &str) -> bool {
    name.strip_prefix(library)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn level(name: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&name))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        "no crate of ours".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::Dependency;

    fn check_edge(from: &str, folder: &str, to: &str, dev: bool, expected: Option<&str>) {
        let dependencies = vec![Dependency {
            name: to.to_owned(),
            dev,
        }];
        let package = Package {
            name: from.to_owned(),
            folder: folder.to_owned(),
            dependencies,
            is_plugin: false,
        };
        assert_eq!(
            check(&[package]),
            expected.map(str::to_owned).into_iter().collect::<Vec<_>>()
        );
    }

    #[test]
    fn levels_only_look_down() {
        check_edge(
            "streamrt-window",
            "runtime/window",
            "streamrt-state",
            false,
            None,
        );
        let same = "streamrt-window depends on streamrt-plugin, which is not on a lower level";
        check_edge(
            "streamrt-window",
            "runtime/window",
            "streamrt-plugin",
            false,
            Some(same),
        );
        let up = "streamrt-types depends on streamrt-operator, which is not on a lower level";
        check_edge(
            "streamrt-types",
            "runtime/types",
            "streamrt-operator",
            false,
            Some(up),
        );
        check_edge(
            "streamrt-types",
            "runtime/types",
            "streamrt-operator",
            true,
            None,
        );
    }

    #[test]
    fn heavy_libraries_have_one_owner_even_in_tests() {
        check_edge("streamrt-plugin", "runtime/plugin", "wasmtime", false, None);
        let sentence =
            "streamrt-taskmanager depends on wasmtime, which only streamrt-plugin may know";
        check_edge(
            "streamrt-taskmanager",
            "runtime/taskmanager",
            "wasmtime",
            true,
            Some(sentence),
        );
        let part =
            "streamrt-tests depends on wasmtime-environ, which only streamrt-plugin may know";
        check_edge(
            "streamrt-tests",
            "tests",
            "wasmtime-environ",
            false,
            Some(part),
        );
        let quinn = "streamrt-connector depends on quinn, which only streamrt-exchange and streamrt-rpc may know";
        check_edge(
            "streamrt-connector",
            "runtime/connector",
            "quinn",
            false,
            Some(quinn),
        );
    }

    #[test]
    fn lists_are_complete() {
        let sdk = "streamrt-sdk depends on streamrt-types, but it may depend on streamrt-wit, streamrt-sdk-macros alone";
        check_edge(
            "streamrt-sdk",
            "sdk/rust",
            "streamrt-types",
            false,
            Some(sdk),
        );
        check_edge("streamrt-sdk", "sdk/rust", "streamrt-wit", false, None);
        let checkpoint = "streamrt-checkpoint depends on streamrt-state, but it may depend on streamrt-types alone";
        check_edge(
            "streamrt-checkpoint",
            "runtime/checkpoint",
            "streamrt-state",
            false,
            Some(checkpoint),
        );
    }

    #[test]
    fn what_must_not_be_reached_is_found_through_others() {
        let package = |name: &str, edges: &[(&str, bool)]| Package {
            name: name.to_owned(),
            folder: String::new(),
            dependencies: edges
                .iter()
                .map(|&(name, dev)| Dependency {
                    name: name.to_owned(),
                    dev,
                })
                .collect(),
            is_plugin: false,
        };
        let check = |of_checkpoint: &[(&str, bool)], expected: &[&str]| {
            let packages = [
                package("streamrt-jobmanager", &[("streamrt-checkpoint", false)]),
                package("streamrt-checkpoint", of_checkpoint),
                package("streamrt-types", &[("arrow-array", false)]),
                package("streamrt-folders", &[("wasmtime", false)]),
            ];
            let found = check(&packages);
            let ways: Vec<&str> = found
                .iter()
                .map(String::as_str)
                .filter(|found| found.contains("must not reach"))
                .collect();
            assert_eq!(ways, expected);
        };
        check(&[("streamrt-types", false), ("arrow-schema", false)], &[]);
        check(&[("streamrt-state", true)], &[]);
        check(
            &[("streamrt-state", false)],
            &[
                "streamrt-jobmanager must not reach streamrt-state, but does: \
               streamrt-jobmanager -> streamrt-checkpoint -> streamrt-state",
            ],
        );
        check(
            &[("streamrt-folders", false), ("arrow-array", false)],
            &[
                "streamrt-jobmanager must not reach wasmtime, but does: \
                 streamrt-jobmanager -> streamrt-checkpoint -> streamrt-folders -> wasmtime",
                "streamrt-jobmanager must not reach arrow-array, but does: \
                 streamrt-jobmanager -> streamrt-checkpoint -> arrow-array",
            ],
        );
    }

    #[test]
    fn plugins_see_the_sdk_alone() {
        check_edge(
            "hot-items",
            "examples/hot-items",
            "streamrt-sdk",
            false,
            None,
        );
        let sentence = "hot-items depends on streamrt-types, but a plugin sees the SDK alone";
        check_edge(
            "hot-items",
            "examples/hot-items",
            "streamrt-types",
            false,
            Some(sentence),
        );
    }

    #[test]
    fn a_new_crate_needs_a_level() {
        let sentence = "streamrt-cli depends on streamrt-new, which has no level; give it one in xtask/src/dependencies.rs";
        check_edge(
            "streamrt-cli",
            "runtime/cli",
            "streamrt-new",
            false,
            Some(sentence),
        );
    }
}
