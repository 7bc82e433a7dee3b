//! Adds the stored formats of this version to `tests/fixtures`: see the README there.

fn main() {
    println!("{}", streamrt_tests::fixtures::make().display());
}
