//! Words between blanks, with a running count: one line per occurrence.

use std::collections::HashMap;

use serde::Serialize;

use super::Outputs;

#[derive(Serialize)]
struct WordCount<'a> {
    word: &'a str,
    count: u64,
}

pub fn run(lines: &[&str]) -> Outputs {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    let mut outputs = Outputs::default();
    for word in lines.iter().flat_map(|line| line.split_whitespace()) {
        let count = counts.entry(word).or_default();
        *count += 1;
        outputs.main(&WordCount {
            word,
            count: *count,
        });
    }
    outputs
}
