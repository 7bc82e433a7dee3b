//! word-count: a running count of words, from a file, a folder or a socket.
//!
//! The guest only cuts lines into words; the count is an aggregate of the host, which keeps one
//! number per word and emits one row per row. Called by the host through `job!`.

use streamrt_sdk::prelude::*;

/// A word as it occurs.
#[derive(Record)]
struct Word {
    word: String,
}

/// A word, and how often it has occurred so far.
#[derive(Record)]
struct WordCount {
    word: String,
    count: i64,
}

fn lines(env: &mut Env) -> Result<Stream<String>> {
    if env.has("host") || env.has("port") {
        let port = env.parse_or("port", 7777)?;
        return Ok(env.source(
            "lines",
            Socket::lines(env.arg_or("host", "localhost"), port),
        ));
    }
    let input = env.arg_or("input", "input");
    Ok(env.source("lines", File::lines(input)))
}

/// Shown among the metrics of the job.
static EMPTY_LINES: Counter = Counter::new("empty-lines");

fn words(line: &String, out: &mut Collector<Word>) {
    if line.trim().is_empty() {
        EMPTY_LINES.inc();
    }
    for word in line.split_whitespace() {
        out.collect(Word {
            word: word.to_owned(),
        });
    }
}

fn job(env: &mut Env) -> Result<()> {
    let counts: Stream<WordCount> = lines(env)?
        .flat_map("words", words)
        .key_by(Word::WORD)
        .aggregate_running("counts", [count().to("count")]);
    match env.arg_or("output", "").as_str() {
        "" => counts.sink("print", Print),
        folder => counts.sink("output", File::json(folder)),
    }
    Ok(())
}

streamrt_sdk::job!(job);

#[cfg(test)]
mod tests {
    use super::*;
    use streamrt_sdk::testing;

    #[test]
    fn lines_are_cut_at_blanks() {
        let mut words = testing::harness(job, ["--input", "text"]).operator("words");
        for line in ["to be  or", "", "\tnot to be "] {
            words.push(line.to_owned(), 0);
        }
        let found: Vec<String> = words
            .output::<Word>()
            .into_iter()
            .map(|word| word.word)
            .collect();
        assert_eq!(found, ["to", "be", "or", "not", "to", "be"]);
    }

    #[test]
    fn a_port_must_be_a_number() {
        assert!(testing::plan(job, ["--host", "localhost", "--port", "7777"]).is_ok());
        assert!(testing::plan(job, ["--host", "localhost", "--port", "much"]).is_err());
    }
}
