//! JSON lines, one block at a time: one object per line, strictly by RFC 8259. Called by
//! [`super::BlockDecoder`].
//!
//! 1. A record is scanned once, recording where the value of each column is. If a name occurs
//!    twice, the last value counts.
//! 2. When the whole record has turned out to be JSON, the values are read.
//!
//! Numbers may also be quoted, as may what JSON has no number for: `NaN`, `Infinity`, `-Infinity`.
//! Whole numbers are never read through a floating point number.

mod scanner;

use self::scanner::{Scanner, Token, unescape};
use super::columns::Columns;
use super::{Format, Refusal, take_texts};
use crate::record_buffer::Block;
use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, DataType, SchemaRef};
use std::collections::HashMap;

/// How deeply values of a record may be nested: the scan is recursive.
const DEPTH_MAX: usize = 128;

pub struct JsonFormat {
    columns: Columns,
    types: Vec<DataType>,
    names: Names,
    /// For each column, what the current record has.
    found: Vec<Token>,
    /// A text without its escapes.
    unescaped: String,
}

/// Columns by name. Most records have their fields in the order of the schema or nearly so: the
/// next one is tried first.
struct Names {
    names: Vec<String>,
    by_name: HashMap<String, usize>,
    next: usize,
}

impl Names {
    fn new(schema: &SchemaRef) -> Names {
        let names: Vec<String> = schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let by_name = names
            .iter()
            .cloned()
            .enumerate()
            .map(|(column, name)| (name, column))
            .collect();
        Names {
            names,
            by_name,
            next: 0,
        }
    }

    fn find(&mut self, name: &str) -> Option<usize> {
        let column = match self.names.get(self.next) {
            Some(next) if next == name => self.next,
            _ => *self.by_name.get(name)?,
        };
        self.next = column + 1;
        Some(column)
    }
}

impl JsonFormat {
    pub fn new(schema: SchemaRef) -> JsonFormat {
        JsonFormat {
            types: schema
                .fields()
                .iter()
                .map(|field| field.data_type().clone())
                .collect(),
            names: Names::new(&schema),
            found: Vec::new(),
            columns: Columns::new(schema),
            unescaped: String::new(),
        }
    }

    fn take(&mut self, text: &str) -> Result<(), String> {
        self.scan(text)?;
        for column in 0..self.found.len() {
            self.push(column, text)?;
        }
        Ok(())
    }

    /// Scans the record.
    fn scan(&mut self, text: &str) -> Result<(), String> {
        self.found.clear();
        self.found.resize(self.types.len(), Token::Missing);
        self.names.next = 0;
        let mut scanner = Scanner { text, at: 0 };
        scanner.blanks();
        if scanner.peek() != Some(b'{') {
            // A value of another kind is distinguished from text that is not a value.
            scanner
                .value(0)
                .and_then(|_| scanner.end())
                .map_err(|e| format!("it is not one JSON object: {e}"))?;
            return Err("it is not one JSON object".to_owned());
        }
        self.object(&mut scanner)
            .and_then(|()| scanner.end())
            .map_err(|e| format!("it is not one JSON object: {e}"))
    }

    fn object(&mut self, scanner: &mut Scanner<'_>) -> Result<(), String> {
        let mut more = scanner.begin(b'}');
        while more {
            let name = scanner.name()?;
            let column = self.column(&name, scanner)?;
            let value = scanner.value(1)?;
            if let Some(column) = column {
                self.found[column] = value;
            }
            more = scanner.more(b'}')?;
        }
        Ok(())
    }

    /// The column of a name, if there is one.
    fn column(&mut self, name: &Token, scanner: &Scanner<'_>) -> Result<Option<usize>, String> {
        let place = name.place();
        let inside = &scanner.text[place.start + 1..place.end - 1];
        if !matches!(name, Token::Text(_, true)) {
            return Ok(self.names.find(inside));
        }
        unescape(inside, &mut self.unescaped)
            .ok_or_else(|| scanner.wrong("a name has half a character"))?;
        Ok(self.names.find(&self.unescaped))
    }

    /// Pushes what is between quotes; a report shows them.
    fn push_text(&mut self, column: usize, quoted: &str, has_escapes: bool) -> Result<(), String> {
        let inside = &quoted[1..quoted.len() - 1];
        let pushed = match has_escapes {
            false => self.columns.push(column, inside).ok(),
            true => unescape(inside, &mut self.unescaped)
                .and_then(|()| self.columns.push(column, &self.unescaped).ok()),
        };
        pushed.ok_or_else(|| self.columns.wrong_value(column, quoted))
    }

    fn push(&mut self, column: usize, text: &str) -> Result<(), String> {
        let (token, data_type) = (&self.found[column], &self.types[column]);
        match token {
            Token::Missing => self.columns.push_null(column, "missing"),
            Token::Null => self.columns.push_null(column, "`null`"),
            Token::True(_) | Token::False(_) if *data_type == DataType::Boolean => {
                self.columns.push(column, &text[token.place()])
            }
            Token::Number(place) if data_type.is_numeric() => {
                self.columns.push(column, &text[place.clone()])
            }
            Token::Text(place, has_escapes) if *data_type != DataType::Boolean => {
                let (quoted, has_escapes) = (&text[place.clone()], *has_escapes);
                self.push_text(column, quoted, has_escapes)
            }
            _ => Err(self.columns.wrong_value(column, &text[token.place()])),
        }
    }
}

impl Format for JsonFormat {
    fn decode(
        &mut self,
        block: Block<'_>,
        refused: &mut Vec<Refusal>,
    ) -> Result<RecordBatch, ArrowError> {
        take_texts(block, refused, |text| {
            let taken = text.and_then(|text| self.take(text));
            self.columns.end_row(taken.is_ok());
            taken
        });
        self.columns.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use streamrt_wit::{DataType as Plan, Field as PlanField};

    fn format() -> JsonFormat {
        let nullable = |name: &str, plan| PlanField {
            nullable: true,
            ..PlanField::new(name, plan)
        };
        JsonFormat::new(streamrt_types::arrow_schema(&vec![
            nullable("n", Plan::I64),
            nullable("x", Plan::F64),
            nullable("s", Plan::String),
            nullable("b", Plan::Bool),
        ]))
    }

    /// The row of a record as JSON, or why not.
    fn row(text: &str) -> Result<String, String> {
        let mut format = format();
        let taken = format.take(text);
        format.columns.end_row(taken.is_ok());
        taken.map(|()| streamrt_operator::json::row(&format.columns.finish().unwrap(), 0))
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(
            row(text).unwrap_or_else(|reason| reason),
            expected,
            "{text}"
        );
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let no = |what: &str| format!("it is not one JSON object: {what}");
        check(
            r#"{"n":1,}"#,
            &no("`}` stands where a name in quotes should at column 8"),
        );
        check(
            r#"{"a":[1,],"n":1}"#,
            &no("`]` stands where a value should at column 9"),
        );
        check(r#"{"n":01}"#, &no("a number begins with 0 at column 8"));
        check(
            r#"{"n":1.}"#,
            &no("`}` stands where a digit should at column 8"),
        );
        check(
            r#"{"n":+1}"#,
            &no("`+` stands where a value should at column 6"),
        );
        check(
            r#"{"n":NaN}"#,
            &no("`N` stands where a value should at column 6"),
        );
        check(
            r#"{"n":1"#,
            &no("it ends where `,` or `}` should stand at column 7"),
        );
        check(
            "{\"s\":\"a\tb\"}",
            &no("a control character stands in a text at column 8"),
        );
        check(
            r#"{"s":"\x"}"#,
            &no("a broken escape stands in a text at column 7"),
        );
        check(
            r#"{"n":1} {"n":2}"#,
            &no("something follows it at column 9"),
        );
        check("[1]", "it is not one JSON object");
        check("warm", &no("`w` stands where a value should at column 1"));
        let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(row(&deep(DEPTH_MAX - 1)).is_ok());
        check(&deep(500_000), &no("it is nested too deeply at column 133"));
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        check(
            r#"{"n":9007199254740993.0,"x":"NaN"}"#,
            r#"{"n":9007199254740993,"x":"NaN","s":null,"b":null}"#,
        );
        check(
            r#"{"x":"-Infinity","n":"-5","b":true}"#,
            r#"{"n":-5,"x":"-Infinity","s":null,"b":true}"#,
        );
        check(
            r#" { "\u006e" : 1e3 , "s" : "\ud83d\ude00\n\/\"" } "#,
            r#"{"n":1000,"x":null,"s":"😀\n/\"","b":null}"#,
        );
        check(
            r#"{"n":1,"n":2,"other":{"n":[3]}}"#,
            r#"{"n":2,"x":null,"s":null,"b":null}"#,
        );
        check("{}", r#"{"n":null,"x":null,"s":null,"b":null}"#);
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        check(
            r#"{"x":1e400}"#,
            "column `x` is `1e400`, which is beyond 1.8e308, the greatest number of 64 bits",
        );
        check(
            r#"{"x":"-1e400"}"#,
            "column `x` is `\"-1e400\"`, which is beyond 1.8e308, the greatest number of 64 bits",
        );
        check(
            r#"{"n":1.5}"#,
            "column `n` is `1.5`, but it must be a whole number of 64 bits",
        );
        check(
            r#"{"n":"NaN"}"#,
            "column `n` is `\"NaN\"`, but it must be a whole number of 64 bits",
        );
        check(
            r#"{"n":9223372036854775808}"#,
            "column `n` is `9223372036854775808`, but it must be a whole number of 64 bits",
        );
        check(
            r#"{"x":""}"#,
            "column `x` is `\"\"`, but it must be a number",
        );
        check(r#"{"s":1}"#, "column `s` is `1`, but it must be a string");
        check(
            r#"{"s":"\ud83d"}"#,
            "column `s` is `\"\\ud83d\"`, but it must be a string",
        );
        check(
            r#"{"b":"true"}"#,
            "column `b` is `\"true\"`, but it must be true or false",
        );
        check(
            r#"{"b":{"a":[]}}"#,
            "column `b` is `{\"a\":[]}`, but it must be true or false",
        );
    }

    proptest! {
        /// serde_json decides what is JSON, for texts made from the grammar's own pieces, most of
        /// which are nearly JSON.
        #[test]
        fn what_is_json_is_as_others_say(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"n\"", "\"\\u00e9\"", "\"\\\"", "1", "-0.5e+3", "0", "true", "null", " ", "\t", "-", "e", "é", "\\", "\u{1}", "\"",
            ]), 0..14),
            wrap: bool,
        ) {
            let inside = pieces.concat();
            let text = if wrap { format!("{{\"a\":{inside}}}") } else { inside };
            // Not as a value, which would have to be a number that a machine can hold.
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            let is_object = is_json && text.trim_start().starts_with('{');
            prop_assert_eq!(format().scan(&text).is_ok(), is_object, "{}", text);
        }

        #[test]
        fn texts_and_floats_come_back(text: String, x: f64, n: i64) {
            let record = serde_json::json!({ "s": text, "n": n }).to_string();
            let expected = format!("{{\"n\":{n},\"x\":{x:?},\"s\":{},\"b\":null}}", serde_json::to_string(&text).unwrap());
            let found = row(&record.replacen('{', &format!("{{\"x\":{x:?},"), 1)).unwrap();
            // serde_json reads some floats a little wrong, so this one is read by std.
            let number = |text: &str| {
                let (before, rest) = text.split_once("\"x\":").unwrap();
                let (number, after) = rest.split_once(',').unwrap();
                let rest: Value = serde_json::from_str(&format!("{before}{after}")).unwrap();
                (number.parse::<f64>().unwrap(), rest)
            };
            prop_assert_eq!(number(&found), number(&expected));
        }
    }
}
