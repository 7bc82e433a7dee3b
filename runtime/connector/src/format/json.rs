//! JSON lines, a block at a time: an object in each, by the letter of RFC 8259. Called by
//! [`super::BlockDecoder`].
//!
//! 1. A record is walked over once; where the value of a column stands is noted. Of a name that
//!    stands twice the last value counts.
//! 2. When all of the record has turned out to be JSON, the values are read.
//!
//! Numbers may also stand in quotes, as may what JSON has no number for: `NaN`, `Infinity`,
//! `-Infinity`. They are never read through a floating point number on their way to a whole one.

use super::columns::Columns;
use super::{Format, Refusal, take_texts};
use crate::record_buffer::Block;
use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, DataType, SchemaRef};
use std::collections::HashMap;
use std::ops::Range;

/// Values inside of values that a record may have: the walk over them is a recursion.
const DEPTH_MAX: usize = 128;

pub struct JsonFormat {
    columns: Columns,
    types: Vec<DataType>,
    names: Names,
    /// For each column, what the record at hand has.
    found: Vec<Token>,
    /// A text without its escapes.
    unescaped: String,
}

/// A value, by its place in the record.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Missing,
    Null,
    True(Range<usize>),
    False(Range<usize>),
    Number(Range<usize>),
    /// With its quotes; and whether escapes are in it.
    Text(Range<usize>, bool),
    /// An object or an array.
    Nested(Range<usize>),
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

    /// Walks over the record.
    fn scan(&mut self, text: &str) -> Result<(), String> {
        self.found.clear();
        self.found.resize(self.types.len(), Token::Missing);
        self.names.next = 0;
        let mut scanner = Scanner { text, at: 0 };
        scanner.blanks();
        if scanner.peek() != Some(b'{') {
            // A value of another kind is told from text that is none.
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

    /// Pushes what stands between quotes; a report shows them.
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

impl Token {
    /// With the quotes of a text.
    fn place(&self) -> Range<usize> {
        match self {
            Token::Missing | Token::Null => 0..0,
            Token::True(place)
            | Token::False(place)
            | Token::Number(place)
            | Token::Text(place, _)
            | Token::Nested(place) => place.clone(),
        }
    }
}

/// Walks over one record.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn wrong(&self, what: &str) -> String {
        format!("{what} at column {}", self.at + 1)
    }

    /// Says what stands where `wanted` should.
    fn expected(&self, wanted: &str) -> String {
        match self.text[self.at..].chars().next() {
            None => self.wrong(&format!("it ends where {wanted} should stand")),
            Some(found) => self.wrong(&format!(
                "`{}` stands where {wanted} should",
                found.escape_debug()
            )),
        }
    }

    /// Only blanks may follow.
    fn end(&mut self) -> Result<(), String> {
        self.blanks();
        if self.peek().is_none() {
            Ok(())
        } else {
            Err(self.wrong("something follows it"))
        }
    }

    /// Steps into an object or array; whether it has anything in it.
    fn begin(&mut self, close: u8) -> bool {
        self.at += 1;
        self.blanks();
        let more = self.peek() != Some(close);
        self.at += usize::from(!more);
        more
    }

    /// Steps over a comma or out of an object or array; whether another element must follow.
    fn more(&mut self, close: u8) -> Result<bool, String> {
        self.blanks();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.blanks();
                Ok(true)
            }
            Some(found) if found == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.expected(&format!("`,` or `{}`", char::from(close)))),
        }
    }

    /// The name of a field, with the colon behind it.
    fn name(&mut self) -> Result<Token, String> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a name in quotes"));
        }
        let name = self.string()?;
        self.blanks();
        if self.peek() != Some(b':') {
            return Err(self.expected("`:`"));
        }
        self.at += 1;
        self.blanks();
        Ok(name)
    }

    fn value(&mut self, depth: usize) -> Result<Token, String> {
        let begin = self.at;
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number().map(Token::Number),
            Some(b'{' | b'[') => self.nested(depth).map(|()| Token::Nested(begin..self.at)),
            Some(b't') => self.word("true").map(|()| Token::True(begin..self.at)),
            Some(b'f') => self.word("false").map(|()| Token::False(begin..self.at)),
            Some(b'n') => self.word("null").map(|()| Token::Null),
            _ => Err(self.expected("a value")),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn nested(&mut self, depth: usize) -> Result<(), String> {
        if depth >= DEPTH_MAX {
            return Err(self.wrong("it is nested too deeply"));
        }
        let is_object = self.peek() == Some(b'{');
        let close = if is_object { b'}' } else { b']' };
        let mut more = self.begin(close);
        while more {
            is_object.then(|| self.name()).transpose()?;
            self.value(depth + 1)?;
            more = self.more(close)?;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<Token, String> {
        let (begin, mut has_escapes) = (self.at, false);
        self.at += 1;
        loop {
            self.plain();
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Token::Text(begin..self.at, has_escapes));
                }
                Some(b'\\') => {
                    has_escapes = true;
                    self.escape()?;
                }
                None => return Err(self.expected("`\"`")),
                Some(_) => return Err(self.wrong("a control character stands in a text")),
            }
        }
    }

    /// Steps over what stands for itself in a text.
    fn plain(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest
            .iter()
            .position(|&byte| matches!(byte, b'"' | b'\\' | 0..0x20))
            .unwrap_or(rest.len());
    }

    fn escape(&mut self) -> Result<(), String> {
        let rest = &self.text.as_bytes()[self.at + 1..];
        let length = match rest.first() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') if rest.len() >= 5 && rest[1..5].iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return Err(self.wrong("a broken escape stands in a text")),
        };
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Result<Range<usize>, String> {
        let begin = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let leading_zero = self.peek() == Some(b'0');
        if self.digits()? > 1 && leading_zero {
            return Err(self.wrong("a number begins with 0"));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        self.exponent().map(|()| begin..self.at)
    }

    fn exponent(&mut self) -> Result<(), String> {
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<usize, String> {
        let n_digits = self.text.as_bytes()[self.at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        self.at += n_digits;
        if n_digits > 0 {
            Ok(n_digits)
        } else {
            Err(self.expected("a digit"))
        }
    }
}

/// Puts the text that is meant into `unescaped`; `None` if a half of a surrogate pair is missing.
fn unescape(text: &str, unescaped: &mut String) -> Option<()> {
    unescaped.clear();
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        unescaped.push_str(&rest[..at]);
        let (meant, length) = escaped(&rest[at..])?;
        unescaped.push(meant);
        rest = &rest[at + length..];
    }
    unescaped.push_str(rest);
    Some(())
}

/// The character that an escape stands for, and the length of the escape.
fn escaped(escape: &str) -> Option<(char, usize)> {
    match escape.as_bytes().get(1)? {
        b'b' => Some(('\u{8}', 2)),
        b'f' => Some(('\u{c}', 2)),
        b'n' => Some(('\n', 2)),
        b'r' => Some(('\r', 2)),
        b't' => Some(('\t', 2)),
        b'u' => unit(escape),
        &other => Some((char::from(other), 2)),
    }
}

/// The character of `\uXXXX`, or of a pair of them; and the length.
fn unit(escape: &str) -> Option<(char, usize)> {
    let code = |at: usize| {
        escape
            .get(at..at + 4)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
    };
    match code(2)? {
        high @ 0xD800..=0xDBFF if escape.get(6..8) == Some("\\u") => {
            let low = code(8)?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
            Some((char::from_u32(0x10000 + ((high - 0xD800) << 10) + low)?, 12))
        }
        code => Some((char::from_u32(code)?, 6)),
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
        /// serde_json is the judge of what is JSON: of texts of the grammar's own pieces, most of
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
            let is_object = matches!(serde_json::from_str::<Value>(&text), Ok(Value::Object(_)));
            prop_assert_eq!(format().scan(&text).is_ok(), is_object, "{}", text);
        }

        #[test]
        fn texts_and_floats_come_back(text: String, x: f64, n: i64) {
            let record = serde_json::json!({ "s": text, "n": n }).to_string();
            let expected = format!("{{\"n\":{n},\"x\":{x:?},\"s\":{},\"b\":null}}", serde_json::to_string(&text).unwrap());
            let found = row(&record.replacen('{', &format!("{{\"x\":{x:?},"), 1)).unwrap();
            let (found, expected): (Value, Value) = (serde_json::from_str(&found).unwrap(), serde_json::from_str(&expected).unwrap());
            prop_assert_eq!(found, expected);
        }
    }
}
