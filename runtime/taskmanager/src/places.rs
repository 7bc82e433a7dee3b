//! Where the sources of a snapshot's job read and its sinks wrote, and what comes of it where the
//! job that starts from it names other places.
//!
//! - A source reads on where the snapshot says. One that is to read something else would silently
//!   not do so: that is refused.
//! - What a sink has promised to commit lies where it wrote. The same job commits it there, and
//!   writes to the new place from then on. Another job, a fork, leaves it to the job that made the
//!   snapshot, which may be running: it commits it, or goes back to before it.

use crate::dead_letters;
use crate::definition::Definition;
use std::collections::BTreeMap;
use streamrt_checkpoint::Manifest;
use streamrt_connector::{Need, place, sink_needs};
use streamrt_graph::StreamNode;
use streamrt_types::{Error, Result, code, say, without_passwords};
use streamrt_wit::Body;

/// See the module.
#[derive(Default)]
pub(crate) struct Places {
    /// How the snapshot's job is called in the names of its transactions.
    job: String,
    /// What its sources and sinks are, by uid.
    bodies: BTreeMap<String, Body>,
    /// The folder of its dead letters.
    letters: Option<String>,
    /// Folders that its components had, by name: all that their sinks can write to.
    grants: BTreeMap<String, String>,
}

/// Where something is that was promised.
pub(crate) enum Promised<'a, T: ?Sized> {
    /// Where the job writes now.
    Here,
    /// Where the same job wrote before.
    Before(&'a T),
    /// Where another job writes.
    Elsewhere,
}

impl Places {
    /// What a manifest says.
    pub fn of(manifest: &Manifest) -> Places {
        let nodes = manifest.plan.as_array().into_iter().flatten();
        let body = |node: &serde_json::Value| {
            Some((
                node["uid"].as_str()?.to_owned(),
                serde_json::from_value(node["body"].clone()).ok()?,
            ))
        };
        let letters = manifest.configuration.get(dead_letters::KEY).cloned();
        let (job, grants) = (manifest.job_id.clone(), manifest.grants.clone());
        Places {
            job,
            bodies: nodes.filter_map(body).collect(),
            letters,
            grants,
        }
    }

    /// # Errors
    /// `Invalid` (S7013) if a source would not read what it names.
    pub fn check_sources(&self, definition: &Definition) -> Result<()> {
        for node in definition
            .graph
            .stream
            .nodes
            .iter()
            .filter(|node| matches!(node.body, Body::Source { .. }))
        {
            let Some((old, new)) = self
                .bodies
                .get(&node.uid)
                .and_then(place_of)
                .zip(place_of(&node.body))
                .filter(|(old, new)| old != new)
            else {
                continue;
            };
            let uid = &node.uid;
            if definition.configuration.allow_changed_arguments {
                say!(
                    "streamrt: source `{uid}` goes on in {old}, where the snapshot has its positions, and does not read {new}"
                );
                continue;
            }
            let message = format!(
                "source `{uid}` has its positions in {old}, and would go on there, although it is to read {new}: give it {old} to go on; or give \
                 the source another uid, under which it reads {new} from the beginning; or go on in {old} with `--allow-changed-arguments`"
            );
            return Err(Error::new(code::CHANGED_ARGUMENTS, message));
        }
        Ok(())
    }

    /// # Errors
    /// `Invalid` (S7013) if the job that is called `job` would have to commit on a server that it
    /// does not name any more. Somebody else's snapshot may name any server, and a password from
    /// the environment would go there.
    pub fn check_sinks(&self, definition: &Definition, job: &str) -> Result<()> {
        if definition.configuration.allow_changed_arguments || self.job != job {
            return Ok(());
        }
        let sinks = definition
            .graph
            .stream
            .nodes
            .iter()
            .filter(|node| node.body.is_sink());
        let server = |node: &StreamNode| {
            Some((
                node.uid.clone(),
                other_server(self.bodies.get(&node.uid)?, &node.body)?,
            ))
        };
        match sinks.filter_map(server).next() {
            None => Ok(()),
            Some((uid, server)) => {
                let message = format!(
                    "sink `{uid}` would have to commit what the snapshot promises at {server}, a server that it does not write to any more: \
                     `--allow-changed-arguments` lets it connect there"
                );
                Err(Error::new(code::CHANGED_ARGUMENTS, message))
            }
        }
    }

    /// Where what the sink with this uid has promised is, which now is `body`, of the job that is
    /// called `job`.
    pub fn of_sink(&self, uid: &str, body: &Body, job: &str) -> Promised<'_, Body> {
        match self.bodies.get(uid) {
            Some(old)
                if place_of(old)
                    .zip(place_of(body))
                    .is_some_and(|(old, new)| old != new) =>
            {
                self.promised(old, job)
            }
            _ => Promised::Here,
        }
    }

    /// The same of a sink of a component, which is granted these folders now. No folder is opened
    /// for it that the user does not grant, so the job itself can commit nothing in another one:
    /// the error, if that is so, is for a sink that has promised something.
    ///
    /// # Errors
    /// `Invalid` (S7013) if the sink is this job's own, and a folder is another one.
    pub fn of_component_sink(
        &self,
        granted: &BTreeMap<String, String>,
        job: &str,
    ) -> Result<Promised<'_, Body>> {
        let moved = granted.iter().find_map(|(name, now)| {
            Some((
                name,
                self.grants.get(name).filter(|before| *before != now)?,
                now,
            ))
        });
        match moved {
            None => Ok(Promised::Here),
            Some(_) if self.job != job => Ok(Promised::Elsewhere),
            Some((name, before, now)) => {
                let message = format!(
                    "it has promised results in {before}, its folder `{name}`, which is {now} now: grant `{name}={before}` until the job was \
                     stopped, or start another job (another `checkpoint.dir`) with `--from`, which leaves them to this one"
                );
                Err(Error::new(code::CHANGED_ARGUMENTS, message))
            }
        }
    }

    /// The same of dead letters, which now go to `folder`.
    pub fn of_letters(&self, folder: Option<&str>, job: &str) -> Promised<'_, str> {
        match &self.letters {
            Some(old) if folder != Some(old) => self.promised(old.as_str(), job),
            _ => Promised::Here,
        }
    }

    fn promised<'a, T: ?Sized>(&self, old: &'a T, job: &str) -> Promised<'a, T> {
        if self.job == job {
            Promised::Before(old)
        } else {
            Promised::Elsewhere
        }
    }
}

/// A server that a sink wrote to and does not name now.
fn other_server(old: &Body, now: &Body) -> Option<String> {
    let named = servers(now);
    servers(old)
        .into_iter()
        .find(|server| !named.contains(server))
}

fn servers(body: &Body) -> Vec<String> {
    let Body::Sink { connector, options } = body else {
        return Vec::new();
    };
    let server = |need| match need {
        Need::Server { host, port, .. } => Some(format!("{host}:{port}")),
        Need::Path(_) => None,
    };
    sink_needs(connector, options)
        .unwrap_or_default()
        .into_iter()
        .filter_map(server)
        .collect()
}

fn place_of(body: &Body) -> Option<String> {
    match body {
        // As a manifest has it.
        Body::Source {
            connector, options, ..
        }
        | Body::Sink { connector, options } => {
            place(connector, options).map(|place| without_passwords(&place))
        }
        _ => None,
    }
}

#[cfg(test)]
#[cfg(feature = "postgres")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_server_that_is_not_named_any_more_is_found() {
        let sink = |url: &str, table: &str| {
            let options = json!({"url": url, "table": table})
                .as_object()
                .unwrap()
                .clone();
            Body::Sink {
                connector: "postgres".into(),
                options,
            }
        };
        let now = sink("postgresql://me@db/x", "t");
        assert_eq!(
            other_server(&sink("postgresql://db:5432/y", "s"), &now),
            None,
            "another table of the same server"
        );
        assert_eq!(
            other_server(&sink("postgresql://me@evil/x", "t"), &now).as_deref(),
            Some("evil:5432")
        );
        assert_eq!(
            other_server(&sink("postgresql://me@db:5433/x", "t"), &now).as_deref(),
            Some("db:5433")
        );
        let file = Body::Sink {
            connector: "file".into(),
            options: json!({"path": "out"}).as_object().unwrap().clone(),
        };
        assert_eq!(other_server(&file, &now), None);
    }
}
