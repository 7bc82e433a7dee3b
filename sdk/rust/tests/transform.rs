//! Stateless functions through the harness, with records of every column type.

use streamrt_sdk::prelude::*;
use streamrt_sdk::testing;

#[derive(Record, Clone, Debug, Default, PartialEq)]
struct Everything {
    a: bool,
    b: i32,
    c: i64,
    d: u32,
    e: u64,
    f: f32,
    g: f64,
    h: String,
    i: Vec<u8>,
    j: Option<bool>,
    k: Option<i64>,
    l: Option<String>,
    r#type: Option<Vec<u8>>,
}

#[derive(Record, Clone, Debug, Default, PartialEq)]
struct Part {
    l: Option<String>,
    c: i64,
}

fn job(env: &mut Env) {
    let rows = env.source("rows", File::json::<Everything>("rows.json"));
    rows.map("same", |row: &Everything| row.clone())
        .sink("1", Print);
    rows.map("positive", |row: &Everything| {
        if row.c < 0 {
            Err(Error::new("negative"))
        } else {
            Ok(row.c)
        }
    })
    .sink("2", Print);
    rows.filter("even", |row: &Everything| row.c % 2 == 0)
        .sink("3", Print);
    rows.filter_on("named", |part: &Part| part.l.is_some() && part.c > 0)
        .sink("4", Print);
    rows.filter_by("short", Everything::H, |h: &str| h.len() < 2)
        .sink("5", Print);
    rows.filter_by("short-bytes", Everything::H.bytes(), |h: &[u8]| h.len() < 2)
        .sink("5-bytes", Print);
    rows.filter_by("numbered", Everything::L.bytes(), |l: Option<&[u8]>| {
        l.is_some_and(|l| l.ends_with(b"1"))
    })
    .sink("5-option", Print);
    rows.flat_map("repeat", |row: &Everything, out: &mut Collector<String>| {
        (0..row.c).for_each(|_| out.collect(&row.h))
    })
    .sink("6", Print);
}

fn rows() -> Vec<Everything> {
    let row = |c: i64| Everything {
        a: c % 3 == 0,
        b: -c as i32,
        c,
        d: u32::MAX,
        e: u64::MAX - c as u64,
        f: c as f32 / 2.0,
        g: f64::MIN_POSITIVE,
        h: "h".repeat(c as usize),
        i: vec![0, c as u8],
        j: (c % 2 == 0).then_some(c % 4 == 0),
        k: (c % 5 != 0).then_some(c),
        l: (c % 3 != 0).then(|| format!("ü{c}")),
        r#type: Some(Vec::new()),
    };
    (0..20).map(row).collect()
}

/// What `uid` makes of all rows in one call, which must be the same as of the rows one by one.
fn check<O: Record + PartialEq + std::fmt::Debug>(uid: &str) -> Vec<O> {
    let operator = || testing::harness(job, [""]).operator(uid);
    let (mut at_once, mut one_by_one) = (operator(), operator());
    at_once.batch(rows().into_iter().map(|row| testing::Event::Row(row, 0)));
    rows().into_iter().for_each(|row| one_by_one.push(row, 0));
    let output = at_once.output();
    assert_eq!(one_by_one.output::<O>(), output);
    output
}

#[test]
fn records_survive_the_way_in_and_out() {
    assert_eq!(check::<Everything>("same"), rows());
}

#[test]
fn transforms_do_what_their_closures_say() {
    let of = |keep: fn(&Everything) -> bool| rows().into_iter().filter(keep).collect::<Vec<_>>();
    assert_eq!(check::<i64>("positive"), (0..20).collect::<Vec<_>>());
    assert_eq!(check::<Everything>("even"), of(|row| row.c % 2 == 0));
    assert_eq!(
        check::<Everything>("named"),
        of(|row| row.l.is_some() && row.c > 0)
    );
    assert_eq!(check::<Everything>("short"), of(|row| row.h.len() < 2));
    assert_eq!(
        check::<Everything>("short-bytes"),
        of(|row| row.h.len() < 2)
    );
    assert_eq!(
        check::<Everything>("numbered"),
        of(|row| row.l.as_ref().is_some_and(|l| l.ends_with('1')))
    );
    assert_eq!(check::<String>("repeat").len(), 190);
}

#[test]
fn a_refused_row_is_an_error_with_its_sentence() {
    let mut positive = testing::harness(job, [""]).operator("positive");
    let refused = positive.try_push(
        Everything {
            c: -1,
            ..Everything::default()
        },
        0,
    );
    assert_eq!(refused.unwrap_err().message(), "negative");
}
