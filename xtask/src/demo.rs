//! `cargo xtask demo`: hot-items on the records that ship with it, and its windows as a table.

use crate::build::{self, Guests, Runtime};
use crate::cargo::{Workspace, run, words};
use crate::say;
use crate::table::{Row, table};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Builds what is missing, runs the example, and prints the most clicked items of each window.
///
/// # Errors
/// If a step fails, or the results cannot be read.
pub fn demo(workspace: &Workspace) -> Result<()> {
    build::build(workspace, Runtime::Lean, Guests::One("hot-items"))?;
    let input = workspace.root.join("examples/hot-items/input");
    let output = workspace.target.join("demo/hot-items");
    // The sink adds files to the folder, so a second start needs an empty one.
    if output.exists() {
        fs::remove_dir_all(&output)
            .with_context(|| format!("{} cannot be removed", output.display()))?;
    }
    let mut command = Command::new(workspace.streamrt());
    command
        .arg("run")
        .arg(workspace.components().join("hot-items.wasm"))
        .args(["--parallelism", "2", "--"]);
    command
        .arg("--input")
        .arg(&input)
        .arg("--output")
        .arg(&output);
    say(&format!("running `{}`", words(&command)));
    run(&mut command)?;
    let rows = read_rows(&output)?;
    println!(
        "\nThe most clicked items, for each hour that ends at the time on the left:\n\n{}",
        table(rows)
    );
    say(&format!("these are the rows in {}", output.display()));
    Ok(())
}

/// Reads the JSON lines of the files directly in the folder; a file whose name begins with a dot is
/// not finished.
fn read_rows(folder: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?
    {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_file() && !hidden {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            let parsed = text.lines().map(row).collect::<Result<Vec<_>>>();
            rows.extend(parsed.with_context(|| {
                format!("{} does not hold what hot-items writes", path.display())
            })?);
        }
    }
    Ok(rows)
}

fn row(line: &str) -> Result<Row> {
    let value: Value = serde_json::from_str(line)?;
    let number = |name: &str| {
        value[name]
            .as_i64()
            .with_context(|| format!("no number `{name}` in {line}"))
    };
    Ok(Row {
        window_end_ms: number("window_end")?,
        rank: number("rank")?,
        item: number("item")?,
        count: number("count")?,
    })
}

#[cfg(test)]
mod tests {
    use super::row;

    #[test]
    fn lines_of_the_example_are_read() {
        let read = row(r#"{"window_end":1511658000000,"rank":1,"item":812879,"count":5}"#).unwrap();
        assert_eq!(
            (read.window_end_ms, read.rank, read.item, read.count),
            (1_511_658_000_000, 1, 812_879, 5)
        );
        assert!(row("{}").is_err() && row("x").is_err());
    }
}
