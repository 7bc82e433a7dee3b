//! Changes to checkpoints by somebody who can compute their checksums, which is everybody.

use std::path::Path;

use serde_json::{Value, json};

const HEAD: &str = r#"{"checksum":""#;
const CHECKSUM_BYTES: usize = 64;

/// A document without its checksum.
pub fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let mut document: Value = serde_json::from_str(&text).expect("it is JSON");
    document
        .as_object_mut()
        .expect("it is an object")
        .remove("checksum");
    document
}

/// Writes a document with the checksum that it has to have.
pub fn write(path: &Path, document: &Value) {
    let body = document.to_string().split_off(1);
    let text = format!("{HEAD}{}\",{body}", blake3::hash(body.as_bytes()).to_hex());
    assert_eq!(
        text.find("\",").expect("it was just written"),
        HEAD.len() + CHECKSUM_BYTES
    );
    std::fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}

/// Changes the manifest of the newest checkpoint in a folder, and the entry of the log that names
/// it, so that both are whole.
pub fn change_newest(checkpoints: &Path, change: impl FnOnce(&mut Value)) {
    let mut entries: Vec<_> = std::fs::read_dir(checkpoints.join("log"))
        .expect("there is a log")
        .map(|e| e.expect("it lists").path())
        .collect();
    // One that the process was killed over, which nobody reads.
    entries.retain(|path| !path.to_string_lossy().contains('#'));
    entries.sort();
    let publishes = |path: &&std::path::PathBuf| read(path)["entry"].get("published").is_some();
    let entry = entries
        .iter()
        .rev()
        .find(publishes)
        .expect("a checkpoint is published");
    let mut record = read(entry);
    let stored = &mut record["entry"]["published"]["manifest"];
    let path = checkpoints.join(stored["path"].as_str().expect("a manifest has a path"));
    let mut manifest = read(&path);
    change(&mut manifest);
    write(&path, &manifest);
    let bytes = std::fs::read(&path).expect("it was just written");
    stored["bytes"] = json!(bytes.len());
    stored["checksum"] = json!(blake3::hash(&bytes).to_hex().as_str());
    write(entry, &record);
}
