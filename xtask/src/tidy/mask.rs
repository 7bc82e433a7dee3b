//! Blanks out comments and literals, so that the tidy check looks only at code. Lines stay where
//! they are.
//!
//! Not a parser: it knows as much of Rust's lexer as is needed to tell code from text, namely
//! comments (nested), strings (plain, raw, byte, C), and the difference between a character and a
//! lifetime.

/// Returns the text with every character of comments and literals replaced by a blank; line ends
/// stay.
pub fn mask(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = at + literal_length(&chars[at..], previous(&chars, at));
        match end > at {
            true => out.extend(
                chars[at..end]
                    .iter()
                    .map(|&c| if c == '\n' { '\n' } else { ' ' }),
            ),
            false => out.push(chars[at]),
        }
        at = end.max(at + 1);
    }
    out
}

fn previous(chars: &[char], at: usize) -> Option<char> {
    at.checked_sub(1).map(|before| chars[before])
}

/// Length of the comment or literal that begins here; 0 if none does.
fn literal_length(rest: &[char], previous: Option<char>) -> usize {
    match rest {
        ['/', '/', ..] => rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment(rest),
        ['"', ..] => quoted(rest, '"'),
        ['\'', ..] => character(rest),
        ['r', '"' | '#', ..] if !previous.is_some_and(is_word_but_prefix) => raw_string(rest),
        _ => 0,
    }
}

/// In `br"..."` and `cr"..."` a letter stands before the `r`; any other word character makes it the
/// end of a name.
fn is_word_but_prefix(c: char) -> bool {
    (c.is_alphanumeric() || c == '_') && c != 'b' && c != 'c'
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// `'x'` and `'\n'` are characters, `'a` is a lifetime.
fn character(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', ..] => quoted(rest, '\''),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

fn raw_string(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    let open = 1 + hashes;
    if rest.get(open) != Some(&'"') {
        return 0;
    }
    let closes = |at: &usize| {
        rest[*at] == '"'
            && rest[at + 1..]
                .iter()
                .take(hashes)
                .filter(|&&c| c == '#')
                .count()
                == hashes
    };
    (open + 1..rest.len())
        .find(closes)
        .map_or(rest.len(), |at| at + 1 + hashes)
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn only_code_is_left() {
        for (text, expected) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("x\"y")"#, "f(      )"),
            (r##"f(r#"a"b"#, 1)"##, "f(        , 1)"),
            (r#"f(b"a", br"b")"#, "f(b   , b    )"),
            ("'a' 'b: '\\'' x", "    'b:      x"),
            ("for x in y", "for x in y"),
            ("r#type", "r#type"),
            ("\"open", "     "),
            ("a \"b\nc\" d", "a   \n   d"),
        ] {
            assert_eq!(mask(text), expected, "{text}");
        }
    }
}
