//! Finds a custom section in a component, or in the core modules inside it, where a compiler puts
//! it.
//!
//! The bytes come from a user: every length is checked against what is there, and nesting is
//! bounded. It runs after the component was compiled, so damage is not reported here any more: it
//! only ends the search.

/// How deep components may be nested for the search; tools make two levels.
const DEPTH_MAX: usize = 4;

const CUSTOM: u8 = 0;
/// Sections of a component that hold a module or a component of their own.
const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// The contents of the first custom section of this name.
pub(crate) fn find<'a>(binary: &'a [u8], name: &str) -> Option<&'a [u8]> {
    search(binary, name, DEPTH_MAX)
}

fn search<'a>(binary: &'a [u8], name: &str, depth: usize) -> Option<&'a [u8]> {
    let mut rest = binary.get(8..)?;
    let is_component = binary.get(6) == Some(&1);
    while !rest.is_empty() {
        let (id, behind) = rest.split_first()?;
        let (content, behind) = take_block(behind)?;
        rest = behind;
        let found = match *id {
            CUSTOM => custom(content, name),
            CORE_MODULE | COMPONENT if is_component && depth > 0 => {
                search(content, name, depth - 1)
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn custom<'a>(content: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (found, data) = take_block(content)?;
    (found == name.as_bytes()).then_some(data)
}

/// Splits off a length and as many bytes.
fn take_block(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = take_u32(bytes)?;
    rest.split_at_checked(length as usize)
}

/// Splits off an unsigned LEB128 number.
fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((u32::try_from(value).ok()?, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::find;

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";

    fn check(sections: &[u8], expected: Option<&[u8]>) {
        assert_eq!(
            find(&[COMPONENT, sections].concat(), "ab"),
            expected,
            "{sections:?}"
        );
    }

    #[test]
    fn sections_are_found_in_a_component_and_in_its_module() {
        check(b"", None);
        check(b"\0\x05\x02abxy", Some(b"xy"));
        check(b"\0\x05\x02acxy\x07\x01z\0\x04\x02abx", Some(b"x"));
        check(
            &[b"\x01\x0e", MODULE, b"\0\x04\x02abm"].concat(),
            Some(b"m"),
        );
    }

    #[test]
    fn damage_ends_the_search() {
        for sections in [
            &b"\0"[..],
            b"\0\x05\x02ab",
            b"\0\xff\xff\xff\xff\xff\xff",
            b"\0\x02\x7fa",
            b"\x01\x02\0a",
        ] {
            check(sections, None);
        }
    }
}
