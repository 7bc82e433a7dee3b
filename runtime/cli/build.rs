//! Tells cargo what the binary embeds, so that a changed or a new file of the SDK is never missing
//! from `streamrt new`.

fn main() {
    for folder in [
        "../../sdk/rust",
        "../../sdk/rust-macros",
        "../../wit",
        "../../Cargo.lock",
        "template",
        "build.rs",
    ] {
        println!("cargo::rerun-if-changed={folder}");
    }
}
