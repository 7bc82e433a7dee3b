//! A key on the command line: the value of its one column, or a JSON array of the values of its
//! columns. One that no key can be equal to is an error, since it would find nothing, as a key does
//! that is not there.

use crate::snapshot::column_type;
use serde_json::Value;
use streamrt_types::{Error, Result, code};
use streamrt_wit::DataType;

/// Reads a key of these columns, as a state's types have them: the values, or the bytes in
/// hexadecimal digits where the types do not tell.
///
/// # Errors
/// `Invalid` (S6004) if it has another shape.
pub fn parse(columns: &Value, text: &str) -> Result<Value> {
    let columns: Option<Vec<(DataType, bool)>> = columns
        .as_array()
        .and_then(|columns| columns.iter().map(column_type).collect());
    let Some(columns) = columns else {
        return Ok(Value::String(text.to_owned()));
    };
    let json = serde_json::from_str::<Value>(text).ok();
    let values = match (json, columns.len()) {
        (Some(Value::Array(values)), n) if values.len() == n => values,
        // A text needs no quotes.
        (Some(value), 1) if is_of(columns[0], &value) => vec![value],
        (_, 1) => vec![Value::String(text.to_owned())],
        _ => return Err(refuse(&columns, text)),
    };
    let fits = values
        .iter()
        .zip(&columns)
        .all(|(value, column)| is_of(*column, value));
    if fits {
        Ok(Value::Array(values))
    } else {
        Err(refuse(&columns, text))
    }
}

fn refuse(columns: &[(DataType, bool)], text: &str) -> Error {
    let names: Vec<String> = columns
        .iter()
        .map(|(data_type, _)| {
            serde_json::json!(data_type)
                .as_str()
                .unwrap_or("?")
                .to_owned()
        })
        .collect();
    let wanted = match &names[..] {
        [] => "no columns: leave `--key` out".to_owned(),
        [one] => format!("one column of type {one}"),
        _ => format!(
            "{} columns: give a JSON array of {}",
            names.len(),
            names.join(", ")
        ),
    };
    Error::new(
        code::WRONG_USE,
        format!("`--key {text}` fits no key of this state, which has {wanted}"),
    )
}

fn is_of((data_type, nullable): (DataType, bool), value: &Value) -> bool {
    match (data_type, value) {
        (_, Value::Null) => nullable,
        (DataType::Bool, value) => value.is_boolean(),
        (DataType::I32 | DataType::I64, value) => value.is_i64(),
        (DataType::U32 | DataType::U64, value) => value.is_u64(),
        (DataType::F32 | DataType::F64, value) => value.is_number(),
        (DataType::String | DataType::Binary, value) => value.is_string(),
    }
}

/// Whether a key of the state is the one that is looked for.
pub fn is_same(key: &Value, wanted: &Value) -> bool {
    match (key, wanted) {
        (Value::Array(key), Value::Array(wanted)) => {
            key.len() == wanted.len() && key.iter().zip(wanted).all(|(a, b)| is_same(a, b))
        }
        // 1 and 1.0 are one number.
        (Value::Number(key), Value::Number(wanted)) => {
            key == wanted || (key.is_f64() || wanted.is_f64()) && key.as_f64() == wanted.as_f64()
        }
        _ => key == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_of_the_wrong_shape_is_refused_and_not_looked_for() {
        let check = |columns: Value, text: &str, expected: Result<Value, &str>| match (
            parse(&columns, text),
            expected,
        ) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(error), Err(part)) => assert!(error.message().contains(part), "{text}: {error}"),
            (found, _) => panic!("{text}: {found:?}"),
        };
        check(json!(["i64"]), "5", Ok(json!([5])));
        check(json!(["i64"]), "[5]", Ok(json!([5])));
        check(json!(["i64"]), "five", Err("one column of type i64"));
        check(json!(["i64"]), "[5, 6]", Err("one column of type i64"));
        check(json!(["i64"]), "5.5", Err("one column of type i64"));
        check(json!(["u64"]), "-1", Err("one column of type u64"));
        check(json!(["Utf8"]), "a b", Ok(json!(["a b"])));
        check(json!(["string"]), "5", Ok(json!(["5"])));
        check(json!(["string"]), "\"5\"", Ok(json!(["5"])));
        check(json!([["string", true]]), "null", Ok(json!([null])));
        check(json!(["string", "i64"]), "[\"a\", 1]", Ok(json!(["a", 1])));
        check(
            json!(["string", "i64"]),
            "a",
            Err("2 columns: give a JSON array of string, i64"),
        );
        check(json!(["string", "i64"]), "[1, \"a\"]", Err("2 columns"));
        check(json!([]), "a", Err("no columns"));
        check(json!(null), "00ff", Ok(json!("00ff")));
    }

    #[test]
    fn numbers_are_compared_by_value() {
        assert!(
            is_same(&json!([1.0, "a"]), &json!([1, "a"]))
                && !is_same(&json!([1]), &json!([2]))
                && !is_same(&json!(["1"]), &json!([1]))
        );
    }
}
