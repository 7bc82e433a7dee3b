//! The TLS parameters of a URL: the library that reads the rest does not know all of them.

/// Taken out of a URL.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TlsParameters {
    /// `sslmode`
    pub mode: Option<String>,
    /// `sslrootcert`
    pub roots: Option<String>,
}

impl TlsParameters {
    /// Takes them out of `postgresql://host/database?sslmode=require` or of `host=h
    /// sslmode=require`, and returns what is left. What cannot be read is left in, for the library
    /// to report.
    pub fn take(url: &str) -> (TlsParameters, String) {
        let mut taken = TlsParameters::default();
        let rest = match url.split_once("://").and_then(|_| url.split_once('?')) {
            Some((front, query)) => {
                let is_left = |pair: &&str| {
                    pair.split_once('=')
                        .is_none_or(|(name, value)| !taken.put(name, &decoded(value)))
                };
                let left: Vec<&str> = query.split('&').filter(is_left).collect();
                if left.is_empty() {
                    front.to_owned()
                } else {
                    format!("{front}?{}", left.join("&"))
                }
            }
            None if url.contains("://") => url.to_owned(),
            None => words(url)
                .into_iter()
                .filter(|word| !taken.take_word(word))
                .collect::<Vec<_>>()
                .join(" "),
        };
        (taken, rest)
    }

    fn put(&mut self, name: &str, value: &str) -> bool {
        let place = match name {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.roots,
            _ => return false,
        };
        *place = Some(value.to_owned());
        true
    }

    fn take_word(&mut self, word: &str) -> bool {
        word.split_once('=')
            .is_some_and(|(name, value)| self.put(name.trim(), &unquoted(value.trim())))
    }
}

/// `name=value` each, with quotes and backslashes as they were.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut in_quotes, mut characters) =
        (Vec::new(), String::new(), false, text.chars());
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                word.push(character);
                word.extend(characters.next());
            }
            space if space.is_whitespace() && !in_quotes => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()))
            }
            character => {
                in_quotes ^= character == '\'';
                word.push(character);
            }
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

fn unquoted(value: &str) -> String {
    let inner = value
        .strip_prefix('\'')
        .and_then(|value| value.strip_suffix('\''))
        .unwrap_or(value);
    let (mut text, mut characters) = (String::new(), inner.chars());
    while let Some(character) = characters.next() {
        text.extend(if character == '\\' {
            characters.next()
        } else {
            Some(character)
        });
    }
    text
}

/// `%41` is `A`. Anything else stays as it is.
fn decoded(value: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), value.as_bytes());
    while let Some((&first, behind)) = rest.split_first() {
        let hex = behind
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, mode: Option<&str>, roots: Option<&str>, left: &str) {
        let expected = TlsParameters {
            mode: mode.map(str::to_owned),
            roots: roots.map(str::to_owned),
        };
        assert_eq!(TlsParameters::take(url), (expected, left.to_owned()));
    }

    #[test]
    fn parameters_of_tls_are_taken_out_of_both_forms() {
        check("postgresql://u@h/d", None, None, "postgresql://u@h/d");
        check(
            "postgresql://u@h/d?sslmode=require",
            Some("require"),
            None,
            "postgresql://u@h/d",
        );
        let url = "postgresql://u@h/d?a=b&sslrootcert=%2Fetc%2Fca%20x.pem&sslmode=verify-full&c=d";
        check(
            url,
            Some("verify-full"),
            Some("/etc/ca x.pem"),
            "postgresql://u@h/d?a=b&c=d",
        );
        check("host=h user=u", None, None, "host=h user=u");
        let words =
            r"host=h sslmode=verify-ca sslrootcert='/a b/it\'s.pem' password='a b sslmode=x'";
        check(
            words,
            Some("verify-ca"),
            Some("/a b/it's.pem"),
            "host=h password='a b sslmode=x'",
        );
        check("http:", None, None, "http:");
        check(
            "postgresql://u@h/d?sslmode",
            None,
            None,
            "postgresql://u@h/d?sslmode",
        );
        check(
            "postgresql://u@h/d?sslmode=%zz",
            Some("%zz"),
            None,
            "postgresql://u@h/d",
        );
    }
}
