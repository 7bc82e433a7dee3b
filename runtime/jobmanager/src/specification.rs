//! What a user submits: all that a job is started from, now and again after a crash.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use streamrt_types::{Error, Result, code, without_passwords};
use utoipa::ToSchema;

const NAME_BYTES_MAX: usize = 255;
const DIGEST_DIGITS: usize = 64;
/// A larger one has more key groups than there can be.
const PARALLELISM_MAX: u32 = 32_768;

/// A component of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// As the job file names it, or the name of its file.
    pub path: String,
    /// blake3 of its bytes, 64 hex digits.
    pub digest: String,
}

/// The code of a job: one component that builds its own graph, or a job file and what it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The name of the file that was deployed, for messages.
    pub file: String,
    /// The text of the job file, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_file: Option<String>,
    /// Those that were uploaded before. Without a job file exactly one, whose path is `file`.
    pub components: Vec<Component>,
}

/// A job as it was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Specification {
    /// What the job is called. Two jobs that run cannot have the same name.
    pub name: String,
    pub version: Version,
    /// Arguments of the job.
    #[serde(default)]
    pub args: Vec<String>,
    /// Subtasks of each operator that names no number itself; 1 if it is left out.
    #[serde(default = "one")]
    pub parallelism: u32,
    /// As `-D key=value`.
    #[serde(default)]
    pub configuration: BTreeMap<String, String>,
    /// Folders for sinks that ask for them, by name; whole paths.
    #[serde(default)]
    pub grants: BTreeMap<String, String>,
    /// What sources and sinks may use beyond what `args` name; whole paths.
    #[serde(default)]
    pub allowed_paths: Vec<String>,
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    /// A savepoint or checkpoint to start from; a whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

fn one() -> u32 {
    1
}

fn refuse<T>(message: String) -> Result<T> {
    Err(Error::new(code::BAD_REQUEST, message))
}

impl Version {
    /// Refuses what cannot be one.
    ///
    /// # Errors
    /// S6009, with what is wrong.
    pub fn check(&self) -> Result<()> {
        if self.file.is_empty() {
            return refuse("`file` is empty: it is the name of the file that is deployed".into());
        }
        let mut paths = BTreeSet::new();
        for Component { path, digest } in &self.components {
            check_digest(digest)?;
            if !paths.insert(path) {
                return refuse(format!("two of the components have the path `{path}`"));
            }
        }
        let is_alone = matches!(&self.components[..], [only] if only.path == self.file);
        if self.job_file.is_none() && !is_alone {
            return refuse(format!(
                "without `job_file` a job has one component, whose path is `{}`",
                self.file
            ));
        }
        match &self.job_file {
            Some(text) => check_password(text, &self.file),
            None => Ok(()),
        }
    }
}

impl Specification {
    /// Refuses what cannot be a job, or must not be kept.
    ///
    /// # Errors
    /// S6009 with what is wrong; S2007 if a path is not whole; S2021 if it holds a password, which
    /// would be kept in the registry.
    pub fn check(&self) -> Result<()> {
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return refuse(format!("a name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        if self.name.contains(|c: char| c.is_control() || c == '/') {
            let name = &self.name;
            return refuse(format!(
                "a name has no `/` and no control character: {name:?}"
            ));
        }
        if !(1..=PARALLELISM_MAX).contains(&self.parallelism) {
            return refuse(format!(
                "`parallelism` is {}, but it must be a number from 1 to {PARALLELISM_MAX}",
                self.parallelism
            ));
        }
        self.version.check()?;
        self.check_paths()?;
        self.check_passwords()
    }

    fn check_paths(&self) -> Result<()> {
        for (name, folder) in &self.grants {
            check_whole(folder, &format!("grant `{name}` is"))?;
        }
        for path in &self.allowed_paths {
            check_whole(path, "a path that is allowed is")?;
        }
        self.from
            .iter()
            .try_for_each(|from| check_whole(from, "`from` is"))
    }

    fn check_passwords(&self) -> Result<()> {
        for (at, arg) in self.args.iter().enumerate() {
            check_password(arg, &format!("argument {} of the job", at + 1))?;
        }
        if let Some(pair) = self.args.windows(2).find(|pair| names_password(&pair[0])) {
            return refuse_password(&format!("the argument after `{}`", pair[0]));
        }
        for (key, value) in &self.configuration {
            check_password(value, &format!("`{key}`"))?;
        }
        self.from
            .iter()
            .try_for_each(|from| check_password(from, "`from`"))
    }
}

/// Refuses a path that another current folder would change the meaning of. `what` is what the path
/// is, or what is done with it, as `reads`.
///
/// # Errors
/// S2007.
pub fn check_whole(path: &str, what: &str) -> Result<()> {
    if Path::new(path).is_absolute() || path.contains("://") {
        return Ok(());
    }
    let message = match path {
        "-" => format!("it {what} standard input, which a deployed job does not have"),
        _ => format!(
            "{what} {path}, which starts in a folder that a deployed job does not know: give the whole path"
        ),
    };
    Err(Error::new(code::BAD_OPTION, message))
}

fn check_password(text: &str, place: &str) -> Result<()> {
    if without_passwords(text) == text {
        Ok(())
    } else {
        refuse_password(place)
    }
}

fn refuse_password(place: &str) -> Result<()> {
    let message = format!("{place} holds a password, which the registry of jobs would keep");
    Err(Error::new(code::PASSWORD_KEPT, message))
}

/// An option whose value is one, as `--password`.
fn names_password(arg: &str) -> bool {
    let name = arg.to_ascii_lowercase();
    name.starts_with('-')
        && !name.contains('=')
        && ["password", "passwd", "pwd"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// Whether it is blake3 in hex digits. It becomes a name in the store.
///
/// # Errors
/// S6009.
pub(crate) fn check_digest(digest: &str) -> Result<()> {
    let is_digest = digest.len() == DIGEST_DIGITS
        && digest
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_digest {
        return Ok(());
    }
    refuse(format!(
        "a digest has {DIGEST_DIGITS} lower-case hex digits, and `{}` is none",
        digest.chars().take(2 * DIGEST_DIGITS).collect::<String>()
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn specification(name: &str) -> Specification {
        Specification {
            name: name.into(),
            version: Version {
                file: "a.wasm".into(),
                job_file: None,
                components: vec![Component {
                    path: "a.wasm".into(),
                    digest: "0a".repeat(32),
                }],
            },
            args: Vec::new(),
            parallelism: 1,
            configuration: BTreeMap::new(),
            grants: BTreeMap::new(),
            allowed_paths: Vec::new(),
            allowed_hosts: Vec::new(),
            from: None,
        }
    }

    fn check(change: impl Fn(&mut Specification), code: &str, message: &str) {
        let mut changed = specification("words");
        assert!(changed.check().is_ok());
        change(&mut changed);
        let error = changed.check().unwrap_err();
        assert_eq!((error.code().id, error.message()), (code, message));
    }

    #[test]
    fn what_is_no_job_is_refused() {
        check(|job| job.name.clear(), "S6009", "a name has 1 to 255 bytes");
        check(
            |job| job.parallelism = 0,
            "S6009",
            "`parallelism` is 0, but it must be a number from 1 to 32768",
        );
        check(
            |job| job.version.components[0].digest = "../../x".into(),
            "S6009",
            "a digest has 64 lower-case hex digits, and `../../x` is none",
        );
        check(
            |job| job.version.components.clear(),
            "S6009",
            "without `job_file` a job has one component, whose path is `a.wasm`",
        );
    }

    #[test]
    fn paths_are_whole() {
        let why = "which starts in a folder that a deployed job does not know: give the whole path";
        check(
            |job| job.from = Some("ck".into()),
            "S2007",
            &format!("`from` is ck, {why}"),
        );
        check(
            |job| drop(job.grants.insert("log".into(), "logs".into())),
            "S2007",
            &format!("grant `log` is logs, {why}"),
        );
        check(
            |job| job.allowed_paths = vec!["/a".into(), "b".into()],
            "S2007",
            &format!("a path that is allowed is b, {why}"),
        );
        assert!(check_whole("s3://bucket/x", "is").is_ok());
        let input = check_whole("-", "reads").unwrap_err();
        assert_eq!(
            input.message(),
            "it reads standard input, which a deployed job does not have"
        );
    }

    #[test]
    fn no_password_comes_into_the_registry() {
        let kept = "holds a password, which the registry of jobs would keep";
        check(
            |job| job.args = vec!["--url".into(), "pg://me:secret@host/db".into()],
            "S2021",
            &format!("argument 2 of the job {kept}"),
        );
        check(
            |job| job.args = vec!["--db-password".into(), "secret".into()],
            "S2021",
            &format!("the argument after `--db-password` {kept}"),
        );
        check(
            |job| job.version.job_file = Some("url = \"pg://me:secret@h/d\"".into()),
            "S2021",
            &format!("a.wasm {kept}"),
        );
        check(
            |job| drop(job.configuration.insert("state.dir".into(), "pwd=x".into())),
            "S2021",
            &format!("`state.dir` {kept}"),
        );
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let text = format!(
            r#"{{"name":"words","version":{{"file":"a.wasm","components":[{{"path":"a.wasm","digest":"{}"}}]}}}}"#,
            "0a".repeat(32)
        );
        let read: Specification = serde_json::from_str(&text).unwrap();
        assert_eq!(read, specification("words"));
    }
}
