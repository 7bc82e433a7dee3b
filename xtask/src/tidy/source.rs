//! What the tidy check wants to know of one source file: its functions, and which lines are tests.

use super::mask::mask;

/// A source file, read once.
pub struct Source {
    lines: Vec<String>,
    /// The same lines without comments and literals.
    pub code: Vec<String>,
    pub functions: Vec<Function>,
    /// Line ranges of items under `#[cfg(test)]`, from 0, ends included.
    tests: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// Line of its `fn`, from 0.
    pub start: usize,
    pub lines: usize,
}

impl Source {
    pub fn new(text: &str) -> Source {
        let code: Vec<String> = mask(text).lines().map(str::to_owned).collect();
        let starts = |needle: &str| {
            (0..code.len())
                .filter(|&line| code[line].contains(needle))
                .collect::<Vec<_>>()
        };
        let tests = starts("#[cfg(test)]")
            .into_iter()
            .filter_map(|line| Some((line, end_of_block(&code, line, 0)?)))
            .collect();
        let functions = (0..code.len())
            .filter_map(|line| function_at(&code, line))
            .collect();
        Source {
            lines: text.lines().map(str::to_owned).collect(),
            code,
            functions,
            tests,
        }
    }

    pub fn n_lines(&self) -> usize {
        self.lines.len()
    }

    pub fn opens_with_a_description(&self) -> bool {
        self.lines
            .first()
            .is_some_and(|line| line.starts_with("//!"))
    }

    pub fn is_test(&self, line: usize) -> bool {
        self.tests
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&line))
    }

    /// Whether a comment right above the function says why it is long.
    pub fn has_reason(&self, function: &Function) -> bool {
        let above = self.lines[..function.start]
            .iter()
            .rev()
            .map(|line| line.trim());
        let mut notes = above.take_while(|line| line.starts_with("//") || line.starts_with("#["));
        notes.any(|line| line.starts_with("//") && line.to_lowercase().contains("long"))
    }
}

/// The function whose `fn` stands in this line, if it has a body.
fn function_at(code: &[String], line: usize) -> Option<Function> {
    let text = &code[line];
    let at = text
        .match_indices("fn ")
        .map(|(at, _)| at)
        .find(|&at| at == 0 || text[..at].ends_with([' ', '(']))?;
    let name: String = text[at + 3..]
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    let end = end_of_block(code, line, at)?;
    // `fn (A) -> B` is a type.
    (!name.is_empty()).then(|| Function {
        name,
        start: line,
        lines: end - line + 1,
    })
}

/// The line in which the next block closes; `None` if a `;` outside of brackets ends the item
/// first.
fn end_of_block(code: &[String], line: usize, column: usize) -> Option<usize> {
    let (mut braces, mut brackets) = (0usize, 0isize);
    for (number, text) in code.iter().enumerate().skip(line) {
        let text = if number == line {
            &text[column..]
        } else {
            text.as_str()
        };
        for c in text.chars() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                ';' if braces == 0 && brackets == 0 => return None,
                '{' => braces += 1,
                '}' if braces <= 1 => return Some(number),
                '}' => braces -= 1,
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions(text: &str) -> Vec<(String, usize, usize)> {
        Source::new(text)
            .functions
            .into_iter()
            .map(|f| (f.name, f.start, f.lines))
            .collect()
    }

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let text = "impl A {\n    pub fn a(x: [u8; 2]) -> B\n    where\n        B: C,\n    {\n        \"}\"\n    }\n    fn b();\n    fn c() {}\n}\n";
        assert_eq!(
            functions(text),
            [("a".to_owned(), 1, 6), ("c".to_owned(), 8, 1)]
        );
        assert_eq!(functions("type F = fn (u8) -> u8;\nlet fnord = 1;\n"), []);
    }

    #[test]
    fn tests_are_the_items_under_the_attribute() {
        let source =
            Source::new("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n");
        assert_eq!(
            (0..6).map(|line| source.is_test(line)).collect::<Vec<_>>(),
            [false, true, true, true, true, false]
        );
        assert!(!Source::new("#[cfg(test)]\nmod tests;\nfn a() {}\n").is_test(2));
    }

    #[test]
    fn a_reason_is_a_comment_right_above() {
        let reason = |above: &str| {
            let source = Source::new(&format!("{above}\nfn a() {{}}\n"));
            source.has_reason(&source.functions[0])
        };
        assert!(reason("// Long: one arm for each code.\n#[inline]"));
        assert!(!reason("// Long: of another item.\n"));
        assert!(!reason("/// Adds."));
    }
}
