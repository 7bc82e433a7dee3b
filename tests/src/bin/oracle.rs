//! Writes what an example must print, by the oracle: `oracle EXAMPLE INPUT FOLDER`. The files in
//! `examples/*/expected` come from here.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use streamrt_tests::{data, oracle};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [example, input, folder] = args.as_slice() else {
        bail!("usage: oracle EXAMPLE INPUT FOLDER")
    };
    let text = data::read(Path::new(input));
    let lines: Vec<&str> = text.lines().collect();
    let outputs = oracle::run(example, &lines).map_err(|sentence| anyhow!(sentence))?;
    for (side, lines) in &outputs.0 {
        let folder = Path::new(folder).join(side);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        data::write(&folder.join("out.jsonl"), &lines);
    }
    Ok(())
}
