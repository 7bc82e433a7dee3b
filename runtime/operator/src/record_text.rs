//! The bytes of a record that was refused, as text: whole and exact in a dead letter, short in a
//! message.

use std::fmt::Write;

/// The number of characters of a record that a message shows.
const SHOWN_MAX: usize = 1000;

/// How the text of a dead letter represents the bytes of its record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RecordEncoding {
    /// It is these bytes.
    #[default]
    Utf8,
    /// They are not text: base64 by RFC 4648, with padding.
    Base64,
}

impl RecordEncoding {
    /// The name in dead letters.
    pub fn name(self) -> &'static str {
        match self {
            RecordEncoding::Utf8 => "utf-8",
            RecordEncoding::Base64 => "base64",
        }
    }
}

/// A text from which the bytes can be recovered, and how.
pub fn exact(bytes: Vec<u8>) -> (String, RecordEncoding) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, RecordEncoding::Utf8),
        Err(e) => (base64(e.as_bytes()), RecordEncoding::Base64),
    }
}

/// The beginning of a record for a one-line message, with the record's length if that is not all of
/// it.
pub fn short(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN_MAX)]);
    let mut shown = String::new();
    for c in text.chars().take(SHOWN_MAX) {
        match c {
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    if text.chars().nth(SHOWN_MAX).is_some() || bytes.len() > 4 * SHOWN_MAX {
        // Writing to a string cannot fail.
        write!(shown, "... ({} bytes)", bytes.len()).ok();
    }
    shown
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            text.push(if place <= three.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_kept_in_base64() {
        let check = |bytes: &[u8], text: &str, encoding: &str| {
            let (found, found_encoding) = exact(bytes.to_vec());
            assert_eq!((found.as_str(), found_encoding.name()), (text, encoding));
        };
        check("é,1\0".as_bytes(), "é,1\0", "utf-8");
        check(b"", "", "utf-8");
        check(b"\xff", "/w==", "base64");
        check(b"a\xff", "Yf8=", "base64");
        check(b"a\xffb", "Yf9i", "base64");
        check(b"\xfb\xf0caf\xe9", "+/BjYWbp", "base64");
        // The vectors of RFC 4648.
        for (bytes, text) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_message_shows_the_begin_in_one_line() {
        assert_eq!(short("a\tb\u{1b}[2Jé".as_bytes()), "a\\tb\\u{1b}[2Jé");
        assert_eq!(short(&[b'x'; 1000]), "x".repeat(1000));
        assert_eq!(
            short(&[b'x'; 2005]),
            format!("{}... (2005 bytes)", "x".repeat(1000))
        );
        assert_eq!(
            short(&[b'x'; 16 << 20]),
            format!("{}... (16777216 bytes)", "x".repeat(1000))
        );
    }
}
