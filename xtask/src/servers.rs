//! The servers that the tests start: PostgreSQL of Debian, MinIO by Go. What is there is not
//! installed again.

use crate::cargo::run;
use crate::say;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs what is missing.
///
/// # Errors
/// If an installer is not there or fails.
pub fn ensure() -> Result<()> {
    if !has_postgres(Path::new("/usr/lib/postgresql")) {
        say("installing PostgreSQL for the tests");
        run(&mut as_root(&["apt-get", "update"]))?;
        run(&mut as_root(&[
            "apt-get",
            "install",
            "-y",
            "--no-install-recommends",
            "postgresql",
        ]))?;
    }
    if !program_folders()?
        .iter()
        .any(|folder| folder.join("minio").exists())
    {
        say("installing MinIO for the tests; this takes some minutes");
        run(Command::new("go").args(["install", "github.com/minio/minio@latest"]))?;
    }
    Ok(())
}

fn has_postgres(versions: &Path) -> bool {
    let versions = std::fs::read_dir(versions).into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("bin/initdb"))
        .any(|initdb| initdb.exists())
}

fn as_root(words: &[&str]) -> Command {
    let is_root = std::env::var_os("USER").is_none_or(|user| user == "root");
    let words: Vec<&str> = if is_root {
        words.to_vec()
    } else {
        std::iter::once("sudo")
            .chain(words.iter().copied())
            .collect()
    };
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// Where `go install` puts programs, and the search path.
fn program_folders() -> Result<Vec<PathBuf>> {
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    let go = std::env::var_os("GOPATH")
        .map_or_else(|| PathBuf::from(home).join("go"), PathBuf::from)
        .join("bin");
    Ok(std::iter::once(go)
        .chain(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_without_a_server_is_none() {
        let root = std::env::temp_dir().join(format!("streamrt-xtask-{}", std::process::id()));
        std::fs::create_dir_all(root.join("15/bin")).unwrap();
        assert!(!has_postgres(&root) && !has_postgres(&root.join("none")));
        std::fs::write(root.join("15/bin/initdb"), "").unwrap();
        assert!(has_postgres(&root));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
