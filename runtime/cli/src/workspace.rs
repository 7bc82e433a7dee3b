//! The cargo workspace that a new crate is made in, if there is one: it becomes a member, and
//! shares the SDK with the others.
//!
//! The manifest is the user's. It is edited as text, so that everything else in it stays as it is
//! written, and what comes out is read again and compared: if anything but the additions had
//! changed, it is left alone, and the caller says what is to be added by hand.

use std::fs;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// How `streamrt build` compiles; it belongs into the manifest of the workspace.
pub const PROFILE: &str =
    "# How `streamrt build` compiles. The names of functions stay in the component, for backtraces.
[profile.component]
inherits = \"release\"
lto = \"fat\"
codegen-units = 1
panic = \"abort\"
";

/// The folder of the SDK in a workspace.
pub const SDK: &str = ".streamrt";

/// A workspace, by its manifest.
pub struct Workspace {
    pub root: PathBuf,
    manifest: String,
}

impl Workspace {
    /// The nearest one around a folder that is to be made; its own manifest does not count.
    pub fn around(folder: &Path) -> Option<Workspace> {
        let absolute = std::path::absolute(folder).ok()?;
        absolute.ancestors().skip(1).find_map(|root| {
            let manifest = fs::read_to_string(root.join("Cargo.toml")).ok()?;
            manifest.parse::<Table>().ok()?.get("workspace")?;
            Some(Workspace {
                root: root.to_path_buf(),
                manifest,
            })
        })
    }

    /// The path from a folder below the root to the root, such as `../..`.
    pub fn path_from(&self, folder: &Path) -> String {
        let depth = std::path::absolute(folder)
            .unwrap_or_default()
            .strip_prefix(&self.root)
            .map_or(0, |below| below.components().count());
        vec![".."; depth].join("/")
    }

    /// Makes a folder below the root a member. False if the manifest had to be left alone:
    /// [`by_hand`] says what it lacks.
    pub fn add(&self, folder: &Path) -> std::io::Result<bool> {
        let absolute = std::path::absolute(folder)?;
        let member = absolute
            .strip_prefix(&self.root)
            .unwrap_or(&absolute)
            .to_string_lossy()
            .replace('\\', "/");
        match with_member(&self.manifest, &member) {
            Some(text) if text == self.manifest => Ok(true),
            Some(text) => fs::write(self.root.join("Cargo.toml"), text).map(|()| true),
            None => Ok(false),
        }
    }
}

/// What the manifest of a workspace must contain for a member.
pub fn by_hand(member: &Path) -> String {
    format!(
        "[workspace]\nmembers = [\"{}\"]\nexclude = [\"{SDK}\"]\n\n{PROFILE}",
        member.display()
    )
}

/// The manifest with a member, the SDK left out of the workspace, and the profile; `None` if it
/// cannot be edited safely.
fn with_member(manifest: &str, member: &str) -> Option<String> {
    let before: Table = manifest.parse().ok()?;
    let mut text = manifest.to_owned();
    if !covers(list(&before, "members"), member) {
        text = with_item(&text, "members", member)?;
    }
    if !list(&before, "exclude")
        .iter()
        .any(|excluded| excluded == SDK)
    {
        text = with_item(&text, "exclude", SDK)?;
    }
    let has_profile = before
        .get("profile")
        .and_then(|profiles| profiles.get("component"))
        .is_some();
    text = if has_profile {
        text
    } else {
        format!("{}\n\n{PROFILE}", text.trim_end())
    };
    let mut after: Table = text.parse().ok()?;
    let holds = covers(list(&after, "members"), member)
        && list(&after, "exclude")
            .iter()
            .any(|excluded| excluded == SDK);
    (holds && rest(&mut after) == rest(&mut before.clone())).then_some(text)
}

/// The strings of a list of the workspace.
fn list(manifest: &Table, name: &str) -> Vec<String> {
    let list = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get(name))
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Whether members name a folder, by itself or by a `*` for the last part of its path.
fn covers(members: Vec<String>, member: &str) -> bool {
    let parent = member.rsplit_once('/').map_or("", |(parent, _)| parent);
    let all = if parent.is_empty() {
        "*".to_owned()
    } else {
        format!("{parent}/*")
    };
    members.iter().any(|named| {
        named.trim_start_matches("./") == member || named.trim_start_matches("./") == all
    })
}

/// What is not added here.
fn rest(manifest: &mut Table) -> &Table {
    if let Some(workspace) = manifest.get_mut("workspace").and_then(Value::as_table_mut) {
        workspace.retain(|name, _| name != "members" && name != "exclude");
    }
    if let Some(profiles) = manifest.get_mut("profile").and_then(Value::as_table_mut) {
        profiles.remove("component");
    }
    if manifest
        .get("profile")
        .and_then(Value::as_table)
        .is_some_and(Table::is_empty)
    {
        manifest.remove("profile");
    }
    manifest
}

/// Puts a string at the end of a list in the section `[workspace]`, which gets the list if it has
/// none.
fn with_item(text: &str, name: &str, item: &str) -> Option<String> {
    let section = section(text)?;
    let body = &text[section.clone()];
    let line = body
        .lines()
        .find(|line| line.trim_start().split(['=', ' ']).next() == Some(name));
    let Some(line) = line else {
        return Some(format!(
            "{}{name} = [\"{item}\"]\n{}",
            &text[..section.start],
            &text[section.start..]
        ));
    };
    let start = section.start + (line.as_ptr() as usize - body.as_ptr() as usize);
    let open = start + text[start..].find('[')?;
    let close = open + text[open..].find(']')?;
    let (inside, indent) = (
        text[open + 1..close].trim_end(),
        if text[open..close].contains('\n') {
            "\n    "
        } else {
            ""
        },
    );
    let comma = match inside {
        "" => "",
        inside if inside.ends_with(',') => {
            if indent.is_empty() {
                " "
            } else {
                ""
            }
        }
        _ => {
            if indent.is_empty() {
                ", "
            } else {
                ","
            }
        }
    };
    let end = if indent.is_empty() { "" } else { ",\n" };
    Some(format!(
        "{}{inside}{comma}{indent}\"{item}\"{end}{}",
        &text[..=open],
        &text[close..]
    ))
}

/// Where the lines of the section `[workspace]` stand.
fn section(text: &str) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    let mut found = None;
    for line in text.split_inclusive('\n') {
        let is_header = line.trim_start().starts_with('[') && !line.trim_start().starts_with("[\"");
        match found {
            Some(start) if is_header => return Some(start..at),
            None if line.trim_end().split('#').next().map(str::trim) == Some("[workspace]") => {
                found = Some(at + line.len())
            }
            _ => {}
        }
        at += line.len();
    }
    found.map(|start| start..text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(manifest: &str, expected: Option<&str>) {
        let profile = manifest.contains("[profile.component]");
        let made = with_member(manifest, "jobs/counts");
        assert_eq!(
            made,
            expected.map(|text| if profile {
                text.to_owned()
            } else {
                format!("{text}\n{PROFILE}")
            }),
            "{manifest}"
        );
    }

    #[test]
    fn a_member_is_added_where_it_belongs_and_nothing_else_changes() {
        check(
            "[workspace]\n",
            Some("[workspace]\nexclude = [\".streamrt\"]\nmembers = [\"jobs/counts\"]\n"),
        );
        check(
            "[workspace] # ours\nmembers = [\"a\"]\nresolver = \"3\"\n\n[profile.component]\ninherits = \"dev\"\n",
            Some(
                "[workspace] # ours\nexclude = [\".streamrt\"]\nmembers = [\"a\", \"jobs/counts\"]\nresolver = \"3\"\n\n[profile.component]\ninherits = \"dev\"\n",
            ),
        );
        check(
            "[workspace]\nmembers = [\n    \"a\", # one\n    \"b\"\n]\nexclude = [\"x\"]\n",
            Some(
                "[workspace]\nmembers = [\n    \"a\", # one\n    \"b\",\n    \"jobs/counts\",\n]\nexclude = [\"x\", \".streamrt\"]\n",
            ),
        );
        let globbed = "[workspace]\nmembers = [\"jobs/*\"]\nexclude = [\".streamrt\"]\n";
        check(globbed, Some(globbed));
        check("[package]\nname = \"a\"\n", None);
        // Members in a table of another form: left alone.
        check("workspace = { members = [\"a\"] }\n", None);
    }

    #[test]
    fn the_way_back_to_the_root() {
        let workspace = Workspace {
            root: "/w".into(),
            manifest: String::new(),
        };
        assert_eq!(
            [
                workspace.path_from(Path::new("/w/a")),
                workspace.path_from(Path::new("/w/a/b"))
            ],
            ["..", "../.."]
        );
    }
}
