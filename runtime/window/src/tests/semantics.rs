//! A test for each line of the rules on windows that the traces and the differential test do not
//! spell out.

use super::functions::{collecting, counting, counting_alone, mapping, reducing};
use super::*;
use streamrt_types::{ErrorKind, code};

fn check(bound_ms: u64, window: impl Fn() -> WindowOperator, input: Input<'_>, expected: &[&str]) {
    assert_eq!(run_all(bound_ms, window, input), expected);
}

#[test]
fn results_carry_max_timestamp_and_negative_times_round_down() {
    check(
        0,
        || builtin(tumbling(10), 0),
        &[(1, -11), (1, -1), (1, 0)],
        &[
            "+ 1 -20 -10 1 -11 -11 @-11",
            "+ 1 -10 0 1 -1 -1 @-1",
            "+ 1 0 10 1 0 0 @9",
        ],
    );
}

#[test]
fn the_offset_shifts_windows() {
    let assigner = WindowAssigner::Tumbling {
        size_ms: 10,
        offset_ms: 3,
        processing_time: false,
    };
    check(
        0,
        || builtin(assigner.clone(), 0),
        &[(1, 2), (1, 3)],
        &["+ 1 -7 3 1 2 2 @2", "+ 1 3 13 1 3 3 @12"],
    );
}

#[test]
fn a_late_row_fires_at_once_for_every_window_from_the_last_one_back() {
    check(
        0,
        || builtin(sliding(10, 5), 100),
        &[(1, 7), (1, 30), (1, 7)],
        &[
            "+ 1 0 10 1 7 7 @9",
            "+ 1 5 15 1 7 7 @14",
            "+ 1 5 15 2 7 7 @14",
            "+ 1 0 10 2 7 7 @9",
            "+ 1 25 35 1 30 30 @34",
            "+ 1 30 40 1 30 30 @39",
        ],
    );
}

#[test]
fn a_window_is_late_iff_its_cleanup_time_is_at_or_before_the_watermark() {
    // Cleanup of [0, 10) is 9 + 5: not yet at watermark 13, but at 14.
    check(
        0,
        || builtin(tumbling(10), 5),
        &[(1, 14), (1, 1)],
        &["+ 1 0 10 1 1 1 @9", "+ 1 10 20 1 14 14 @19"],
    );
    check(
        0,
        || builtin(tumbling(10), 5),
        &[(1, 15), (1, 1)],
        &["+ 1 10 20 1 15 15 @19", "late 1 1 @1"],
    );
}

#[test]
fn a_row_is_late_only_if_every_window_was_skipped() {
    // At watermark 11 the window [0, 10) of time 9 is gone, [5, 15) is not.
    check(
        0,
        || builtin(sliding(10, 5), 0),
        &[(1, 12), (2, 9)],
        &[
            "+ 2 5 15 1 9 9 @14",
            "+ 1 5 15 1 12 12 @14",
            "+ 1 10 20 1 12 12 @19",
        ]
        .map(|line| line),
    );
}

#[test]
fn the_late_count_rises() {
    let (mut chain, context, _) = chain(0, builtin(tumbling(10), 0));
    feed(
        &mut chain,
        &mut Recorder::default(),
        Batch::new(rows(&[(1, 50), (1, 3), (1, 4), (1, 51)])),
    );
    assert_eq!(
        context
            .metrics
            .late_records
            .load(std::sync::atomic::Ordering::Relaxed),
        2
    );
}

#[test]
fn a_row_too_far_in_the_future_goes_to_the_late_output_and_makes_no_other_late() {
    let configuration = Configuration {
        watermark_max_ahead_ms: Some(100),
        ..Configuration::default()
    };
    for batch_rows in BATCH_ROWS {
        for assigner in [tumbling(10), session(10)] {
            let (mut chain, context, _) =
                chain_with(0, builtin(assigner, 0), configuration.clone());
            let mut recorder = Recorder::default();
            for piece in [(1, 5), (1, 9_000_000), (1, 6), (1, 20)].chunks(batch_rows) {
                feed(&mut chain, &mut recorder, Batch::new(rows(piece)));
            }
            let lines: Vec<String> = recorder
                .lines()
                .into_iter()
                .filter(|line| !line.contains("w "))
                .collect();
            assert!(
                lines
                    .first()
                    .is_some_and(|line| line.starts_with("+ 1") && line.contains(" 2 5 6 @")),
                "{lines:?}"
            );
            assert_eq!(lines[1..], ["late 1 9000000 @9000000"]);
            assert_eq!(
                context
                    .metrics
                    .late_records
                    .load(std::sync::atomic::Ordering::Relaxed),
                1
            );
        }
    }
}

#[test]
fn windows_that_merely_touch_merge_and_a_bridge_merges_two() {
    let expected = ["+ 1 0 20 2 0 10 @19", "+ 1 21 31 1 21 21 @30"];
    check(
        100,
        || builtin(session(10), 0),
        &[(1, 0), (1, 10), (1, 21)],
        &expected,
    );
    let expected = ["+ 1 0 28 3 0 18 @27"];
    check(
        100,
        || builtin(session(10), 0),
        &[(1, 0), (1, 18), (1, 9)],
        &expected,
    );
    check(
        100,
        || collecting(session(10), 0, None),
        &[(1, 0), (1, 18), (1, 9)],
        &["+ 1 0 28 \"0,18,9\" @27"],
    );
    check(
        100,
        || counting(session(10), 0, None),
        &[(1, 0), (1, 18), (1, 9)],
        &["+ 1 0 28 \"3\" @27"],
    );
    check(
        100,
        || reducing(session(10)),
        &[(1, 5), (1, 23), (1, 14), (2, 1)],
        &["+ 2 1 @10", "+ 1 5 @32"],
    );
}

#[test]
fn a_late_row_that_joins_a_live_session_is_accepted() {
    // At watermark 19 a session of its own, [5, 15), would be late.
    check(
        0,
        || builtin(session(10), 0),
        &[(1, 14), (2, 20), (1, 5)],
        &["+ 1 5 24 2 5 14 @23", "+ 2 20 30 1 20 20 @29"],
    );
    check(
        0,
        || builtin(session(10), 0),
        &[(1, 16), (2, 20), (1, 5)],
        &[
            "+ 1 16 26 1 16 16 @25",
            "+ 2 20 30 1 20 20 @29",
            "late 1 5 @5",
        ],
    );
}

#[test]
fn what_cannot_merge_is_rejected_when_the_job_is_built() {
    let error = mapping(session(10)).err().unwrap();
    assert_eq!(
        (error.kind(), error.code().id),
        (ErrorKind::Invalid, code::INVALID_JOB.id)
    );
}

#[test]
fn count_windows_fire_and_purge_at_every_nth_row_of_a_key() {
    let input = [(1, 5), (2, 6), (1, 1), (1, 7), (1, 8), (2, 9)];
    let bounds = format!("{} {}", i64::MIN, i64::MAX);
    let line = |rest: &str| format!("+ {} {bounds} {} @{}", &rest[..1], &rest[2..], i64::MAX);
    let expected = [line("1 2 1 5"), line("1 2 7 8"), line("2 2 6 9")];
    assert_eq!(
        run_all(0, || builtin(WindowAssigner::Count { rows: 2 }, 0), &input),
        expected
    );
    let expected = [line("1 \"5,1\""), line("1 \"7,8\""), line("2 \"6,9\"")];
    assert_eq!(
        run_all(
            0,
            || collecting(WindowAssigner::Count { rows: 2 }, 0, None),
            &input
        ),
        expected
    );
}

#[test]
fn the_global_window_fires_at_the_end_of_a_bounded_input() {
    let fired = run_all(
        0,
        || counting(WindowAssigner::Global, 0, None),
        &[(1, 5), (2, 6), (1, 1)],
    );
    let bounds = format!("{} {}", i64::MIN, i64::MAX);
    assert_eq!(
        fired,
        [
            format!("+ 1 {bounds} \"2\" @{}", i64::MAX),
            format!("+ 2 {bounds} \"1\" @{}", i64::MAX)
        ]
    );
}

#[test]
fn count_and_global_windows_need_no_event_time() {
    for assigner in [WindowAssigner::Count { rows: 2 }, WindowAssigner::Global] {
        let (context, _) = context();
        let mut chain = OperatorChain::new();
        chain.push(
            Box::new(counting_alone(assigner)),
            context,
            vec![(0, Target::Exit(0))],
        );
        chain.open().unwrap();
        let mut recorder = Recorder::default();
        feed(
            &mut chain,
            &mut recorder,
            Batch::new(rows(&[(1, 0), (1, 0)])),
        );
        // The final watermark comes in a job without event time as well, unless the job is stopped.
        chain
            .head(&mut recorder, &mut |operator, output| {
                operator.watermark(WATERMARK_MAX, output)
            })
            .unwrap();
        chain
            .end_of_input(Some(EndOfTime::Drop), &mut recorder)
            .unwrap();
        let fired: Vec<String> = recorder
            .lines()
            .into_iter()
            .filter(|line| line.starts_with('+'))
            .collect();
        assert_eq!(fired, [format!("+ 2 @{}", i64::MAX)]);
    }
}

#[test]
fn a_global_window_does_not_fire_when_the_job_is_stopped() {
    let (context, _) = context();
    let mut chain = OperatorChain::new();
    chain.push(
        Box::new(counting_alone(WindowAssigner::Global)),
        context,
        vec![(0, Target::Exit(0))],
    );
    chain.open().unwrap();
    let mut recorder = Recorder::default();
    feed(
        &mut chain,
        &mut recorder,
        Batch::new(rows(&[(1, 0), (1, 0)])),
    );
    chain.end_of_input(None, &mut recorder).unwrap();
    assert_eq!(recorder.lines(), [] as [String; 0]);
}

#[test]
fn a_record_without_a_timestamp_is_an_error_that_names_the_operator() {
    for window in [builtin(tumbling(10), 0), builtin(session(10), 0)] {
        let (context, _) = context();
        let mut chain = OperatorChain::new();
        chain.push(Box::new(window), context, vec![(0, Target::Exit(0))]);
        chain.open().unwrap();
        let error = chain.head(&mut Recorder::default(), &mut |operator, output| {
            operator.batch(Batch::new(rows(&[(1, 2)])), output)
        });
        assert_eq!(
            error.unwrap_err().message(),
            r#"operator `op`: record {"key":1,"time":2} has no event time"#
        );
    }
}

#[test]
fn a_time_beyond_all_windows_is_an_error() {
    for window in [builtin(tumbling(10), 0), builtin(session(10), 0)] {
        let (mut chain, _, _) = chain(0, window);
        let mut batch = Some(Batch::new(rows(&[(1, i64::MAX - 1)])));
        let error = chain.head(&mut Recorder::default(), &mut |operator, output| {
            operator.batch(batch.take().unwrap(), output)
        });
        assert_eq!(error.unwrap_err().code().id, code::TIME_RANGE.id);
    }
}

/// Processing-time windows: (clock, rows that arrive then), and what comes out by the clock only.
fn check_clock(assigner: &WindowAssigner, steps: &[(i64, Input<'_>)], expected: &[&str]) {
    for window in [
        |a: &WindowAssigner| builtin(a.clone(), 0),
        |a: &WindowAssigner| counting(a.clone(), 7, None),
    ] {
        let (mut chain, _, clock) = chain(0, window(assigner));
        let mut recorder = Recorder::default();
        for (now_ms, input) in steps {
            clock.set_ms(*now_ms);
            if chain
                .next_processing_time()
                .is_some_and(|time| time <= *now_ms)
            {
                chain.processing_time(*now_ms, &mut recorder).unwrap();
            }
            if !input.is_empty() {
                feed(&mut chain, &mut recorder, Batch::new(rows(input)));
            }
        }
        chain
            .head(&mut recorder, &mut |operator, output| {
                operator.watermark(WATERMARK_MAX, output)
            })
            .unwrap();
        chain
            .end_of_input(Some(EndOfTime::Drop), &mut recorder)
            .unwrap();
        let of_results = |line: &String| {
            line.starts_with('+').then(|| {
                line.split(' ')
                    .take(5)
                    .collect::<Vec<_>>()
                    .join(" ")
                    .replace('"', "")
            })
        };
        assert_eq!(
            recorder
                .lines()
                .iter()
                .filter_map(of_results)
                .collect::<Vec<_>>(),
            expected
        );
    }
}

#[test]
fn processing_time_windows_go_by_the_clock_and_ignore_lateness_and_marks() {
    let steps: &[(i64, Input<'_>)] = &[
        (3, &[(1, 500), (1, 20)]),
        (9, &[(1, 5)]),
        (10, &[(1, 5)]),
        (20, &[]),
    ];
    check_clock(
        &WindowAssigner::Tumbling {
            size_ms: 10,
            offset_ms: 0,
            processing_time: true,
        },
        steps,
        &["+ 1 0 10 3", "+ 1 10 20 1"],
    );
    let steps: &[(i64, Input<'_>)] = &[
        (3, &[(1, 500)]),
        (8, &[(1, 20)]),
        (17, &[]),
        (18, &[]),
        (19, &[(1, 5)]),
    ];
    check_clock(
        &WindowAssigner::Session {
            gap_ms: 10,
            processing_time: true,
        },
        steps,
        &["+ 1 3 18 2"],
    );
}

/// Three rows in processing-time windows, and then the end. Returns the results, and how many
/// windows were dropped.
fn at_the_end(window: WindowOperator, end: Option<EndOfTime>) -> (Vec<String>, u64) {
    let (mut chain, context, clock) = chain(0, window);
    clock.set_ms(3);
    let mut recorder = Recorder::default();
    feed(
        &mut chain,
        &mut recorder,
        Batch::new(rows(&[(1, 500), (2, 20), (1, 7)])),
    );
    chain.end_of_input(end, &mut recorder).unwrap();
    let of_results = |line: &String| {
        line.starts_with('+').then(|| {
            line.split(' ')
                .take(5)
                .collect::<Vec<_>>()
                .join(" ")
                .replace('"', "")
        })
    };
    let results = recorder.lines().iter().filter_map(of_results).collect();
    (
        results,
        context
            .metrics
            .dropped_at_end
            .load(std::sync::atomic::Ordering::Relaxed),
    )
}

#[test]
fn windows_of_processing_time_fire_at_the_end_or_are_counted() {
    let sliding = WindowAssigner::Sliding {
        size_ms: 20,
        slide_ms: 10,
        offset_ms: 0,
        processing_time: true,
    };
    let session = WindowAssigner::Session {
        gap_ms: 10,
        processing_time: true,
    };
    let windows = [
        |a: &WindowAssigner| builtin(a.clone(), 0),
        |a: &WindowAssigner| counting(a.clone(), 7, None),
    ];
    for window in windows {
        let mut fired = at_the_end(window(&sliding), Some(EndOfTime::Fire));
        fired.0.sort();
        assert_eq!(
            fired,
            (
                vec![
                    "+ 1 -10 10 2".into(),
                    "+ 1 0 20 2".into(),
                    "+ 2 -10 10 1".into(),
                    "+ 2 0 20 1".into()
                ],
                0
            )
        );
        assert_eq!(
            at_the_end(window(&sliding), Some(EndOfTime::Drop)),
            (Vec::new(), 4)
        );
        assert_eq!(
            at_the_end(window(&session), Some(EndOfTime::Fire)),
            (vec!["+ 1 3 13 2".into(), "+ 2 3 13 1".into()], 0)
        );
        assert_eq!(
            at_the_end(window(&session), Some(EndOfTime::Drop)),
            (Vec::new(), 2)
        );
        assert_eq!(
            at_the_end(window(&session), None),
            (Vec::new(), 0),
            "a stop fires nothing, and drops nothing"
        );
    }
    let fired = |end| {
        at_the_end(counting(WindowAssigner::Global, 0, None), end)
            .0
            .len()
    };
    assert_eq!((fired(Some(EndOfTime::Drop)), fired(None)), (2, 0));
}

#[test]
fn a_clock_that_falls_back_loses_no_row() {
    let steps: &[(i64, Input<'_>)] = &[(25, &[(1, 0)]), (30, &[]), (4, &[(1, 0)]), (40, &[])];
    check_clock(
        &WindowAssigner::Tumbling {
            size_ms: 10,
            offset_ms: 0,
            processing_time: true,
        },
        steps,
        &["+ 1 20 30 1", "+ 1 30 40 1"],
    );
}

/// The dead letters of a run under the policy `skip`, and the results.
fn skipping(window: WindowOperator, input: Input<'_>) -> (Vec<String>, Vec<String>) {
    let letters = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (kept, (mut context, _)) = (letters.clone(), context());
    context.configuration = Arc::new(Configuration {
        poison_policy: streamrt_types::PoisonPolicy::Skip,
        ..Configuration::default()
    });
    context.dead_letters = Arc::new(move |letter| {
        kept.lock().unwrap().push(format!(
            "{} {} {} {:?}",
            letter.uid, letter.key, letter.record, letter.time_ms
        ));
        Ok(())
    });
    let mut chain = OperatorChain::new();
    chain.push(
        Box::new(window),
        context,
        vec![(0, Target::Exit(0)), (1, Target::Exit(1))],
    );
    chain.open().unwrap();
    let mut recorder = Recorder::default();
    feed(
        &mut chain,
        &mut recorder,
        Batch {
            times: streamrt_types::Times::Column(1),
            ..Batch::new(rows(input))
        },
    );
    chain
        .head(&mut recorder, &mut |operator, output| {
            operator.watermark(WATERMARK_MAX, output)
        })
        .unwrap();
    let letters = letters.lock().unwrap().clone();
    (letters, recorder.main().to_vec())
}

#[test]
fn a_failing_window_has_no_record_its_dead_letter_is_uid_key_namespace_and_time() {
    let input = [(1, 5), (2, 6), (3, 7), (2, 16)];
    let (letters, lines) = skipping(collecting(tumbling(10), 0, Some(6)), &input);
    assert_eq!(letters, [r#"op {"key":2} window [0, 10) Some(9)"#]);
    assert_eq!(
        lines,
        [
            "+ 1 0 10 \"5\" @9",
            "+ 3 0 10 \"7\" @9",
            "w 9",
            "+ 2 10 20 \"16\" @19",
            "end"
        ]
    );
}

#[test]
fn a_record_that_an_aggregate_fails_on_is_left_out() {
    let (letters, lines) = skipping(
        counting(sliding(10, 5), 0, Some(6)),
        &[(1, 5), (1, 6), (2, 6), (1, 7)],
    );
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0], r#"op {"key":1} {"key":1,"time":6} Some(6)"#);
    assert_eq!(
        lines,
        ["+ 1 0 10 \"2\" @9", "w 9", "+ 1 5 15 \"2\" @14", "end"],
        "no result for a key without accepted rows"
    );
}
