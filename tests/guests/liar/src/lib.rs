//! The test guest that breaks the interface: its map answers with inconsistent columns, as `--how`
//! says.
//!
//! It describes itself by the SDK and then answers `invoke` by hand, as a careless SDK would. Run
//! by `tests/tests/bad_input.rs`.
#![allow(unsafe_code)] // The exports of a component; the SDK's macro brings the same allowance of its own.

use streamrt_sdk::prelude::*;

#[derive(Record)]
struct Line {
    line: String,
    length: i64,
}

fn job(env: &mut Env) -> Result<()> {
    // Read by hand below.
    env.has("how");
    let lines = env.source("lines", File::lines(env.arg_or("input", "input")));
    let described = lines.map("liar", |line: &String| Line {
        line: line.clone(),
        length: line.len() as i64,
    });
    described.sink("output", File::json(env.arg_or("output", "out")));
    Ok(())
}

#[cfg(not(target_family = "wasm"))]
const _: fn(&mut Env) -> Result<()> = job;

#[cfg(target_family = "wasm")]
mod exports {
    use std::cell::RefCell;

    use streamrt_sdk::bindings::exports::streamrt::plugin::operator::{Error, Guest, Section};
    use streamrt_sdk::bindings::streamrt::plugin::types::Buffer;
    use streamrt_sdk::{bindings, glue};

    struct Liar;

    thread_local! {
        static HOW: RefCell<String> = const { RefCell::new(String::new()) };
    }

    const OFFSETS: u8 = 1;
    const DATA: u8 = 2;
    const COLUMN: u16 = 0;
    const ORIGIN: u16 = 5;

    fn column(node: u16, part: u8, bytes: Vec<u8>) -> Buffer {
        Buffer {
            role: COLUMN,
            node,
            part,
            bytes,
        }
    }

    fn offsets(values: &[i32]) -> Buffer {
        column(
            0,
            OFFSETS,
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        )
    }

    fn section(port: u16, rows: u32, buffers: Vec<Buffer>) -> Vec<Section> {
        vec![Section {
            role: 1,
            port,
            rows,
            buffers,
        }]
    }

    /// One row, `hi` and 2, or what the lie makes of it.
    fn answer(how: &str) -> Vec<Section> {
        let text = || column(0, DATA, b"hi".to_vec());
        let length = || column(1, DATA, 2i64.to_le_bytes().to_vec());
        match how {
            "lengths" => section(
                0,
                1,
                vec![offsets(&[0, 2]), text(), column(1, DATA, vec![2, 0, 0])],
            ),
            "offsets" => section(0, 1, vec![offsets(&[0, 1000]), text(), length()]),
            "descending" => section(0, 1, vec![offsets(&[2, 0]), text(), length()]),
            "negative" => section(0, 1, vec![offsets(&[-1, 2]), text(), length()]),
            "utf8" => section(
                0,
                1,
                vec![
                    offsets(&[0, 2]),
                    column(0, DATA, vec![0xff, 0xfe]),
                    length(),
                ],
            ),
            "missing" => section(0, 1, vec![offsets(&[0, 2]), text()]),
            "rows" => section(0, u32::MAX, vec![offsets(&[0, 2]), text(), length()]),
            "port" => section(7, 1, vec![offsets(&[0, 2]), text(), length()]),
            "origin" => {
                let origin = Buffer {
                    role: ORIGIN,
                    node: 0,
                    part: DATA,
                    bytes: 9u32.to_le_bytes().to_vec(),
                };
                section(0, 1, vec![origin, offsets(&[0, 2]), text(), length()])
            }
            _ => section(0, 1, vec![offsets(&[0, 2]), text(), length()]),
        }
    }

    impl Guest for Liar {
        fn describe(args: Vec<String>) -> Result<String, Error> {
            let how = args
                .iter()
                .skip_while(|arg| *arg != "--how")
                .nth(1)
                .cloned()
                .unwrap_or_default();
            HOW.set(how);
            glue::describe(|args| glue::build_job(super::job, args), args)
        }
        fn open(functions: Vec<u32>, context: String) -> Result<u32, Error> {
            glue::open(
                |args| glue::build_job(super::job, args),
                &functions,
                &context,
            )
        }
        fn invoke(_chain: u32, _call: u16, _input: Vec<Section>) -> Result<Vec<Section>, Error> {
            Ok(HOW.with_borrow(|how| answer(how)))
        }
        fn close(chain: u32) {
            glue::close(chain)
        }
    }

    bindings::export_operator!(Liar with_types_in bindings);
}
