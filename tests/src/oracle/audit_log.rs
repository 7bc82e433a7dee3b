//! What `audit-log` must print: the large transfers, as they are.

use serde::Serialize;

use super::{Outputs, at};

const LARGE_CENTS: i64 = 100_000;

#[derive(Serialize)]
struct Transfer {
    from: i64,
    to: i64,
    cents: i64,
    time: i64,
}

fn parse(line: &str) -> Option<Transfer> {
    let mut fields = line.split(',').map(|field| field.parse().ok());
    let mut next = || fields.next().flatten();
    Some(Transfer {
        from: next()?,
        to: next()?,
        cents: next()?,
        time: next()?,
    })
}

pub(super) fn run(lines: &[&str]) -> Result<Outputs, String> {
    let mut outputs = Outputs::default();
    for (number, line) in lines.iter().enumerate() {
        let transfer = at(number, parse(line), line)?;
        if transfer.cents >= LARGE_CENTS {
            outputs.main(&transfer);
        }
    }
    Ok(outputs)
}
