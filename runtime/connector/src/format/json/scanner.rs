//! The grammar of JSON (RFC 8259), token by token, without a value being built.

use super::DEPTH_MAX;
use std::ops::Range;

/// A value, by its place in the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Missing,
    Null,
    True(Range<usize>),
    False(Range<usize>),
    Number(Range<usize>),
    /// A text with its quotes, and whether it contains escapes.
    Text(Range<usize>, bool),
    /// An object or an array.
    Nested(Range<usize>),
}

impl Token {
    /// The value with the quotes of a text.
    pub(super) fn place(&self) -> Range<usize> {
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

/// Scans one record.
pub(super) struct Scanner<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

impl Scanner<'_> {
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(super) fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    pub(super) fn wrong(&self, what: &str) -> String {
        format!("{what} at column {}", self.at + 1)
    }

    /// The clause that says what is there instead of `wanted`.
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
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.blanks();
        if self.peek().is_none() {
            Ok(())
        } else {
            Err(self.wrong("something follows it"))
        }
    }

    /// Steps into an object or array; whether it has anything in it.
    pub(super) fn begin(&mut self, close: u8) -> bool {
        self.at += 1;
        self.blanks();
        let more = self.peek() != Some(close);
        self.at += usize::from(!more);
        more
    }

    /// Steps over a comma or out of an object or array; whether another element must follow.
    pub(super) fn more(&mut self, close: u8) -> Result<bool, String> {
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

    /// The name of a field, with the colon after it.
    pub(super) fn name(&mut self) -> Result<Token, String> {
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

    pub(super) fn value(&mut self, depth: usize) -> Result<Token, String> {
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

    /// Steps over literal characters of a text.
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

/// Puts the decoded text into `unescaped`; `None` if half of a surrogate pair is missing.
pub(super) fn unescape(text: &str, unescaped: &mut String) -> Option<()> {
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

/// The character that an escape means, and the length of the escape.
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
