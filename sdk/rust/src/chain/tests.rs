//! Tests of a chain of functions in one call.

use super::*;
use crate::column::i64_bytes;
use crate::host::Imports;
use crate::process::{Context, ProcessFunction, ProcessStage, Setup};
use crate::record::Record;
use crate::stream::function;
use crate::transform::{Collector, Filter, FlatMap, KeyProjection, Map};
use streamrt_wit::{DataType, Field, FunctionKind};

type Link = (Function, Maker);

fn numbers(name: &str) -> Schema {
    vec![Field::new(name, DataType::I64)]
}

fn even() -> Link {
    (
        function(
            FunctionKind::Filter,
            "even",
            numbers("value"),
            OutputColumns::Forward,
        ),
        Maker::stage(Filter::new(|n: &i64| n % 2 == 0)),
    )
}

fn big() -> Link {
    (
        function(
            FunctionKind::Filter,
            "big",
            numbers("value"),
            OutputColumns::Forward,
        ),
        Maker::stage(Filter::new(|n: &i64| *n > 2)),
    )
}

fn tenfold() -> Link {
    let output = OutputColumns::Replace {
        schema: numbers("value"),
    };
    (
        function(FunctionKind::Map, "tenfold", numbers("value"), output),
        Maker::stage(Map::<i64, i64, _>::new(|n| 10 * n)),
    )
}

fn key() -> Link {
    let output = OutputColumns::Extend {
        schema: numbers("key"),
    };
    (
        function(FunctionKind::KeyProjection, "key", numbers("value"), output),
        Maker::stage(KeyProjection::<i64, i64, _>::new(|n| n % 3)),
    )
}

fn twice() -> Link {
    let output = OutputColumns::Replace {
        schema: numbers("value"),
    };
    let twice = |n: &i64, out: &mut Collector<i64>| (0..2).for_each(|_| out.collect(n));
    (
        function(FunctionKind::FlatMap, "twice", numbers("value"), output),
        Maker::stage(FlatMap::<i64, i64, _>::new(twice)),
    )
}

/// Records under which watermark and at which time a row comes.
struct Times;

impl ProcessFunction for Times {
    type In = i64;
    type Key = ();
    type Out = String;

    fn on_element(
        &mut self,
        row: &i64,
        ctx: &mut Context<'_, ()>,
        out: &mut Collector<String>,
    ) -> Result<()> {
        out.collect(format!(
            "{row} at {:?} under {}",
            ctx.timestamp(),
            ctx.watermark()
        ));
        Ok(())
    }
}

fn times() -> Link {
    let output = OutputColumns::Replace {
        schema: String::schema(),
    };
    let mut function_of_times = Times;
    let setup = Setup::open(&mut function_of_times);
    let declared = Function {
        time: true,
        ..function(FunctionKind::Process, "times", numbers("value"), output)
    };
    (
        declared,
        Maker::stage(ProcessStage::new(function_of_times, setup, false)),
    )
}

fn input() -> Section {
    let buffers = vec![
        plain(buffer::TIME, i64_bytes(&[10, 11, 12, 13, 14, 15])),
        plain(buffer::MARK_ROW, u32_bytes(&[3, 6])),
        plain(buffer::MARK_WATERMARK, i64_bytes(&[9, 20])),
    ];
    let column = OwnedColumn {
        validity: None,
        offsets: None,
        data: i64_bytes(&[0, 1, 2, 3, 4, 5]),
    };
    section(codes::section::ROWS, 0, 6, buffers, vec![column])
}

fn invoke(links: Vec<Link>) -> Vec<Section> {
    let host: Rc<dyn StateHost> = Rc::new(Imports);
    Chain::new(links, &host)
        .unwrap()
        .invoke(codes::call::PROCESS, &[input()])
        .unwrap()
}

/// Origins (none: the identity) and the sent columns of the only output.
fn check(links: Vec<Link>, origin: Option<&[u32]>, columns: &[&[i64]]) {
    let port = (links.len() as u16 - 1) << 8;
    let sections = invoke(links);
    let [output] = &sections[..] else {
        panic!("{} sections", sections.len())
    };
    assert_eq!(output.port, port);
    assert_eq!(
        find(output, buffer::ORIGIN),
        origin.map(u32_bytes).as_deref()
    );
    let sent: Vec<Vec<u8>> = output
        .buffers
        .iter()
        .filter(|buffer| buffer.role == buffer::COLUMN)
        .map(|buffer| buffer.bytes.clone())
        .collect();
    assert_eq!(
        sent,
        columns
            .iter()
            .map(|column| i64_bytes(column))
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_chain_sends_what_the_host_does_not_have_and_counts_from_its_own_rows() {
    check(vec![even()], Some(&[0, 2, 4]), &[]);
    check(vec![even(), big()], Some(&[4]), &[]);
    check(vec![tenfold()], None, &[&[0, 10, 20, 30, 40, 50]]);
    check(vec![even(), tenfold()], Some(&[0, 2, 4]), &[&[0, 20, 40]]);
    check(
        vec![tenfold(), big()],
        Some(&[1, 2, 3, 4, 5]),
        &[&[10, 20, 30, 40, 50]],
    );
    check(vec![even(), tenfold(), big()], Some(&[2, 4]), &[&[20, 40]]);
    check(vec![key()], None, &[&[0, 1, 2, 0, 1, 2]]);
    check(vec![even(), key(), big()], Some(&[4]), &[&[1]]);
    check(
        vec![tenfold(), even(), key()],
        None,
        &[&[0, 10, 20, 30, 40, 50], &[0, 1, 2, 0, 1, 2]],
    );
    check(vec![big(), twice(), even()], Some(&[4, 4]), &[&[4, 4]]);
}

#[test]
fn times_and_marks_reach_functions_behind_others() {
    let sections = invoke(vec![big(), twice(), times()]);
    let table = Table::of(&sections[0], 1);
    let columns = String::columns(&table).unwrap();
    let texts: Vec<String> = (0..table.n_rows)
        .map(|row| crate::state::loaded(&columns, row))
        .collect();
    let expected = [3, 4, 5].map(|n| format!("{n} at Some({}) under 9", n + 10));
    assert_eq!(
        texts,
        expected
            .iter()
            .flat_map(|text| [text.clone(), text.clone()])
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_column_that_does_not_reach_a_function_is_said() {
    let host: Rc<dyn StateHost> = Rc::new(Imports);
    let other = (
        function(
            FunctionKind::Filter,
            "other",
            numbers("price"),
            OutputColumns::Forward,
        ),
        even().1,
    );
    let error = Chain::new(vec![even(), other], &host)
        .unwrap()
        .invoke(codes::call::PROCESS, &[input()])
        .unwrap_err();
    assert_eq!(
        error.message(),
        "other: the column price does not reach it inside the chain"
    );
}
