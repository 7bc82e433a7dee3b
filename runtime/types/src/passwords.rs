//! Passwords in texts that are kept or shown.

/// What replaces a password.
const HIDDEN: &str = "***";

/// The names under which connections take a password, as in `password=secret`.
const NAMES: [&str; 3] = ["password=", "passwd=", "pwd="];

/// Removes the secret from a text that may contain a URL like `postgresql://user:secret@host` or a
/// word like `password=secret`. Texts that differ only in passwords become equal.
pub fn without_passwords(text: &str) -> String {
    without_words(&without_user_infos(text))
}

/// `scheme://user:secret@host`
fn without_user_infos(text: &str) -> String {
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((front, behind)) = rest.split_once("://") {
        kept.push_str(front);
        kept.push_str("://");
        rest = behind;
        let word = &rest[..rest
            .find(|c: char| c.is_whitespace() || ['"', '\'', '`'].contains(&c))
            .unwrap_or(rest.len())];
        let authority = &word[..word.find(['/', '?', '#']).unwrap_or(word.len())];
        // A password with a slash should have been encoded, but is a password nevertheless.
        let end = authority.rfind('@').or_else(|| word.find('@'));
        if let Some((end, (user, _))) =
            end.and_then(|end| Some((end, word[..end].split_once(':')?)))
        {
            kept.push_str(user);
            kept.push(':');
            kept.push_str(HIDDEN);
            rest = &rest[end..];
        }
    }
    kept + rest
}

/// `password=secret`, also in quotes, and at the end of a name, as in `sslpassword=secret`.
fn without_words(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (mut kept, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(start) = NAMES
        .iter()
        .filter_map(|name| lower[at..].find(name).map(|found| at + found + name.len()))
        .min()
    {
        kept.push_str(&text[at..start]);
        kept.push_str(HIDDEN);
        at = start + length_of_value(&text[start..]);
    }
    kept + &text[at..]
}

fn length_of_value(text: &str) -> usize {
    let Some(quoted) = text.strip_prefix('\'') else {
        return text
            .find(|c: char| c.is_whitespace() || ['&', '"', '\'', '`'].contains(&c))
            .unwrap_or(text.len());
    };
    let mut is_escaped = false;
    let is_end = |c: char| {
        let ends = c == '\'' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    };
    quoted.find(is_end).map_or(text.len(), |end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(without_passwords(text), expected);
        assert_eq!(without_passwords(expected), expected, "once is enough");
    }

    #[test]
    fn no_password_stays() {
        check(
            "postgresql://me:secret@host:5432/db",
            "postgresql://me:***@host:5432/db",
        );
        check(
            "postgresql://me@host:5432/db",
            "postgresql://me@host:5432/db",
        );
        check("postgresql://host:5432/db", "postgresql://host:5432/db");
        check(
            "--url=postgres://me:s:e@c@host/db?x=a@b",
            "--url=postgres://me:***@host/db?x=a@b",
        );
        check("postgres://me:se/cret@host/db", "postgres://me:***@host/db");
        check(
            "postgres://me:%40x@host and http://you:y@there/",
            "postgres://me:***@host and http://you:***@there/",
        );
        check(
            "postgresql://host/db?user=me&password=secret&sslmode=require",
            "postgresql://host/db?user=me&password=***&sslmode=require",
        );
        check(
            "host=h password=secret user=me",
            "host=h password=*** user=me",
        );
        check(
            r"host=h PassWord='it\'s secret' user=me",
            "host=h PassWord=*** user=me",
        );
        check("sslpassword=secret pwd=other", "sslpassword=*** pwd=***");
        check("password='without an end", "password=***");
        check("äöü://ä:ß@ü password=é", "äöü://ä:***@ü password=***");
        check(
            "nothing to hide: a@b, 12:30, s3://bucket/path",
            "nothing to hide: a@b, 12:30, s3://bucket/path",
        );
    }
}
