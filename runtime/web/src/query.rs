//! What stands after the `?` of a path.

use streamrt_types::{Error, Result, code};

/// The value of a parameter. Commas may be escaped; nothing else that is asked for has to be.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value);
    Some(value.last()?.replace("%2C", ",").replace("%2c", ","))
}

/// The same of a number.
///
/// # Errors
/// S6009 if it is none.
pub(crate) fn number(query: Option<&str>, name: &str) -> Result<Option<u64>> {
    let Some(text) = parameter(query, name) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let message = format!("`{name}` is `{text}`, but it must be a number");
        Error::new(code::BAD_REQUEST, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_names() {
        let query = Some("get=a%2Cb&wait_ms=12&get=c,d&empty");
        assert_eq!(parameter(query, "get").as_deref(), Some("c,d"));
        assert_eq!(parameter(Some("get=a%2Cb"), "get").as_deref(), Some("a,b"));
        assert_eq!(parameter(query, "empty"), None);
        assert_eq!(number(query, "wait_ms").unwrap(), Some(12));
        assert_eq!(number(None, "wait_ms").unwrap(), None);
        assert_eq!(
            number(query, "get").unwrap_err().message(),
            "`get` is `c,d`, but it must be a number"
        );
    }
}
