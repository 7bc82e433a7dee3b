//! Functions without a graph, and window functions.

use streamrt_sdk::prelude::*;
use streamrt_sdk::{Cell, DataType, Field, testing};

/// Appends the two halves around the first occurrence of a separator.
fn functions(lib: &mut Library) -> Result<()> {
    let separator = lib.arg("separator")?;
    let input = vec![Field::new(lib.arg("column")?, DataType::String)];
    let half = |name: &str| Field {
        nullable: true,
        ..Field::new(name, DataType::String)
    };
    lib.extend(
        "split",
        input,
        vec![half("left"), half("right")],
        move |row, out| {
            let Some((left, right)) = row.str(0).and_then(|text| text.split_once(&separator))
            else {
                return Ok(());
            };
            out.push(Cell::String(left))?;
            out.push(Cell::String(right))
        },
    );
    lib.filter("not-empty", |text: &String| !text.is_empty());
    Ok(())
}

#[derive(Record, Clone, Debug, PartialEq)]
struct Line {
    number: i64,
    text: String,
}

#[derive(Record, Clone, Debug, PartialEq)]
struct Halves {
    number: i64,
    text: String,
    left: Option<String>,
    right: Option<String>,
}

#[test]
fn a_library_function_reads_and_appends_columns_that_arguments_name() {
    let mut split =
        testing::library(functions, ["--separator", "=", "--column", "text"]).function("split");
    split.push(
        Line {
            number: 1,
            text: "a=b".into(),
        },
        0,
    );
    split.push(
        Line {
            number: 2,
            text: "none".into(),
        },
        0,
    );
    let halves = |number, text: &str, left: Option<&str>, right: Option<&str>| Halves {
        number,
        text: text.into(),
        left: left.map(str::to_owned),
        right: right.map(str::to_owned),
    };
    assert_eq!(
        split.output::<Halves>(),
        [
            halves(1, "a=b", Some("a"), Some("b")),
            halves(2, "none", None, None)
        ]
    );
}

#[test]
fn missing_arguments_are_said() {
    let missing = testing::library_plan(functions, ["--separator", "="]).unwrap_err();
    assert_eq!(
        (missing.message(), missing.code()),
        ("the argument --column is missing", 2)
    );
}

/// Joins the rows of a window.
struct Join;

impl WindowFunction for Join {
    type In = Line;
    type Key = i64;
    type Out = String;

    fn process(
        &mut self,
        window: &Window<i64>,
        rows: &mut Rows<'_, Line>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        let mut text = format!(
            "{} [{}, {}) {}:",
            window.key,
            window.start,
            window.end,
            rows.len()
        );
        while let Some(row) = rows.next() {
            text.push_str(&row.text);
        }
        out.collect(text);
        Ok(())
    }
}

#[test]
fn a_window_function_sees_key_bounds_and_rows() {
    let window = Window {
        key: 7,
        start: 0,
        end: 10,
        watermark: 9,
        processing_time: 0,
    };
    let rows = ["a", "b"].map(|text| Line {
        number: 7,
        text: text.into(),
    });
    assert_eq!(
        testing::window(Join, window, &rows).unwrap(),
        ["7 [0, 10) 2:ab"]
    );
}
