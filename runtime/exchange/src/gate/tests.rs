//! What comes out of a gate for what its channels send.

use super::*;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use streamrt_types::{Mark, WATERMARK_MAX};

fn batch(watermark: Watermark) -> StreamElement {
    let columns = RecordBatch::try_from_iter([(
        "n",
        Arc::new(Int64Array::from(vec![watermark])) as ArrayRef,
    )])
    .unwrap();
    StreamElement::Batch(Batch {
        marks: vec![Mark { row: 1, watermark }],
        ..Batch::new(columns)
    })
}

/// Everything that comes out until nothing is left, in short form.
fn drain(gate: &mut InputGate) -> Vec<String> {
    let mut events = Vec::new();
    loop {
        match gate.poll(Some(Duration::ZERO)).unwrap() {
            GateEvent::Nothing => return events,
            GateEvent::EndOfInput => {
                events.push("end".to_owned());
                return events;
            }
            GateEvent::Batch(batch) => events.push(format!(
                "batch {:?}",
                batch.marks.iter().map(|m| m.watermark).collect::<Vec<_>>()
            )),
            GateEvent::SecondInput(batch) => events.push(format!(
                "second input {:?}",
                batch.marks.iter().map(|m| m.watermark).collect::<Vec<_>>()
            )),
            GateEvent::Watermark(watermark) => events.push(format!("watermark {watermark}")),
            GateEvent::Status(status) => events.push(format!("{status:?}")),
            GateEvent::SplitFinished(number) => events.push(format!("split {number} finished")),
            GateEvent::Barrier(barrier, _) => {
                events.push(format!("barrier {}", barrier.checkpoint))
            }
        }
    }
}

#[test]
fn no_batch_passes_before_every_channel_has_told_its_status() {
    let mut gate = InputGate::new(2, 1 << 20);
    let (one, two) = (gate.sender(0), gate.sender(1));
    one.send(StreamElement::Status(Status::Active)).unwrap();
    one.send(batch(7)).unwrap();
    assert_eq!(drain(&mut gate), Vec::<String>::new());
    two.send(StreamElement::Status(Status::Idle)).unwrap();
    assert_eq!(drain(&mut gate), ["Active", "batch [7]"]);
    one.send(StreamElement::EndOfInput).unwrap();
    assert_eq!(drain(&mut gate), ["Idle"]);
    two.send(StreamElement::EndOfInput).unwrap();
    assert_eq!(drain(&mut gate), ["Finished", "end"]);
}

#[test]
fn two_inputs_share_watermark_status_and_barriers() {
    let mut gate = InputGate::new(2, 1 << 20);
    gate.set_second_input(&[1]);
    (0..2).for_each(|channel| {
        assert!(
            gate.sender(channel)
                .send(StreamElement::Status(Status::Active))
                .is_ok()
        )
    });
    gate.sender(0).send(batch(7)).unwrap();
    assert_eq!(drain(&mut gate), ["Active", "batch []"]);
    gate.sender(1).send(batch(5)).unwrap();
    assert_eq!(drain(&mut gate), ["second input [5]"]);
    gate.sender(1).send(barrier(1)).unwrap();
    gate.sender(1).send(batch(9)).unwrap();
    gate.sender(0).send(StreamElement::EndOfInput).unwrap();
    // The first channel has ended without the final watermark.
    assert_eq!(drain(&mut gate), ["barrier 1", "second input [7]"]);
}

#[test]
fn a_channel_that_does_not_begin_with_its_status_is_refused() {
    let mut gate = InputGate::new(1, 1 << 20);
    gate.sender(0).send(batch(7)).unwrap();
    assert_eq!(
        gate.poll(None).unwrap_err().message(),
        "the first element of a channel is its status"
    );
}

/// Sends (channel, element) pairs to two active channels and compares what comes out after
/// each.
fn check_barriers(script: &[(usize, StreamElement, &[&str])]) {
    let mut gate = InputGate::new(2, 1 << 20);
    (0..2).for_each(|channel| {
        assert!(
            gate.sender(channel)
                .send(StreamElement::Status(Status::Active))
                .is_ok()
        )
    });
    assert_eq!(drain(&mut gate), ["Active"]);
    for (step, (channel, element, expected)) in script.iter().enumerate() {
        gate.sender(*channel).send(element.clone()).unwrap();
        assert_eq!(drain(&mut gate), *expected, "step {step}");
    }
}

fn barrier(checkpoint: u64) -> StreamElement {
    StreamElement::Barrier(Barrier { checkpoint })
}

#[test]
fn rows_behind_a_barrier_wait_for_the_barriers_of_the_other_channels() {
    check_barriers(&[
        (0, barrier(1), &[]),
        (0, batch(3), &[]),
        (1, batch(5), &["batch []"]),
        (1, barrier(1), &["barrier 1", "batch [3]"]),
        (1, barrier(1), &[]),
        (0, batch(4), &["batch [4]"]),
    ]);
}

#[test]
fn a_channel_that_ends_counts_as_aligned_and_a_later_barrier_replaces_one_that_will_not_come() {
    check_barriers(&[
        (0, barrier(1), &[]),
        (1, barrier(2), &[]),
        (1, batch(9), &[]),
        (0, barrier(2), &["barrier 2", "batch []"]),
        (0, barrier(3), &[]),
        (1, StreamElement::EndOfInput, &["barrier 3"]),
        (0, barrier(4), &["barrier 4"]),
    ]);
}

#[test]
fn an_abandoned_checkpoint_frees_its_channels_and_its_late_barriers_mean_nothing() {
    let mut gate = InputGate::new(2, 1 << 20);
    (0..2).for_each(|channel| {
        assert!(
            gate.sender(channel)
                .send(StreamElement::Status(Status::Active))
                .is_ok()
        )
    });
    gate.sender(0).send(barrier(1)).unwrap();
    gate.sender(0).send(batch(3)).unwrap();
    assert_eq!(drain(&mut gate), ["Active"]);
    gate.abandon(1);
    assert_eq!(drain(&mut gate), ["batch []"]);
    gate.sender(1).send(barrier(1)).unwrap();
    gate.sender(1).send(StreamElement::Watermark(3)).unwrap();
    assert_eq!(drain(&mut gate), ["watermark 3"]);
}

#[test]
fn a_gate_whose_channels_have_ended_gives_the_barrier_that_it_is_asked_for_once() {
    let mut gate = InputGate::new(1, 1 << 20);
    gate.trigger(Barrier { checkpoint: 1 });
    assert_eq!(drain(&mut gate), [""; 0]);
    gate.sender(0).send(StreamElement::EndOfInput).unwrap();
    assert_eq!(drain(&mut gate), ["Finished", "barrier 1", "end"]);
    gate.trigger(Barrier { checkpoint: 2 });
    gate.trigger(Barrier { checkpoint: 2 });
    assert_eq!(drain(&mut gate), ["barrier 2", "end"]);
}

#[test]
fn a_restored_watermark_comes_before_any_row_and_holds_until_all_have_passed_it() {
    let mut gate = InputGate::new(2, 1 << 20);
    gate.restore(7);
    gate.sender(0)
        .send(StreamElement::Status(Status::Active))
        .unwrap();
    gate.sender(0).send(batch(9)).unwrap();
    gate.sender(1)
        .send(StreamElement::Status(Status::Active))
        .unwrap();
    assert_eq!(drain(&mut gate), ["Active", "watermark 7", "batch []"]);
    gate.sender(1).send(StreamElement::Watermark(8)).unwrap();
    assert_eq!(
        (drain(&mut gate), gate.watermark()),
        (vec!["watermark 8".to_owned()], 8)
    );
}

#[test]
fn a_barrier_passes_a_task_that_is_not_done_if_nothing_stands_before_it() {
    let mut gate = InputGate::new(2, 1 << 20);
    (0..2).for_each(|channel| {
        assert!(
            gate.sender(channel)
                .send(StreamElement::Status(Status::Active))
                .is_ok()
        )
    });
    assert_eq!(drain(&mut gate), ["Active"]);
    gate.sender(0).send(barrier(1)).unwrap();
    gate.sender(1).send(batch(3)).unwrap();
    gate.sender(1).send(barrier(1)).unwrap();
    assert!(
        gate.poll_barrier().unwrap().is_none(),
        "rows stand before it"
    );
    assert_eq!(drain(&mut gate), ["batch []", "barrier 1"]);
    gate.sender(0).send(barrier(2)).unwrap();
    let next = |gate: &mut InputGate| {
        gate.poll_barrier()
            .unwrap()
            .map(|(barrier, _)| barrier.checkpoint)
    };
    gate.sender(1)
        .send(StreamElement::SplitFinished(1))
        .unwrap();
    gate.sender(1).send(StreamElement::Watermark(8)).unwrap();
    gate.sender(1).send(StreamElement::EndOfInput).unwrap();
    assert_eq!(
        next(&mut gate),
        None,
        "a generator of this task may have the split in its state"
    );
    assert_eq!(drain(&mut gate), ["split 1 finished", "barrier 2"]);
    gate.sender(0).send(StreamElement::Watermark(6)).unwrap();
    gate.sender(0)
        .send(StreamElement::Status(Status::Idle))
        .unwrap();
    gate.sender(0).send(barrier(3)).unwrap();
    assert_eq!(
        (next(&mut gate), gate.watermark()),
        (Some(3), 8),
        "what waits is in the checkpoint"
    );
    assert_eq!(next(&mut gate), None);
    gate.sender(0).send(StreamElement::EndOfInput).unwrap();
    gate.trigger(Barrier { checkpoint: 4 });
    assert_eq!(next(&mut gate), Some(4));
    assert_eq!(
        drain(&mut gate),
        ["watermark 6", "watermark 8", "Idle", "Finished", "end"]
    );
}

/// Sends what a task makes of an event of its gate. A watermark makes results fire, with a mark
/// between them, as a sweep of windows has it.
fn pass_on(event: GateEvent, to: &ChannelSender) {
    let elements = match event {
        GateEvent::Status(status) => vec![StreamElement::Status(status)],
        GateEvent::Watermark(watermark) => vec![
            batch(watermark.min(100) - 1),
            StreamElement::Watermark(watermark),
        ],
        GateEvent::EndOfInput => vec![StreamElement::EndOfInput],
        event => panic!("{event:?} was not sent"),
    };
    for element in elements {
        to.send(element).unwrap();
    }
}

/// A job that was killed when its readers had nothing left, and the tasks after them much.
#[test]
fn a_task_that_is_restored_at_its_end_does_not_outrun_another_one() {
    let mut tasks = [0, 1].map(|_| InputGate::new(1, 1 << 20));
    let mut last = InputGate::new(2, 1 << 20);
    last.restore(5);
    for task in &mut tasks {
        task.restore(7);
        for element in [
            StreamElement::Status(Status::Idle),
            StreamElement::Watermark(WATERMARK_MAX),
            StreamElement::EndOfInput,
        ] {
            task.sender(0).send(element).unwrap();
        }
    }
    let [fast, slow] = &mut tasks;
    let mut next = |gate: &mut InputGate, channel: usize| {
        let event = gate.poll(None).unwrap();
        let is_end = matches!(event, GateEvent::EndOfInput);
        pass_on(event, &last.sender(channel));
        (is_end, drain(&mut last))
    };
    assert_eq!(
        next(slow, 1),
        (false, vec![]),
        "the other's status is missing"
    );
    let mut of_fast = Vec::new();
    loop {
        let (is_end, events) = next(fast, 0);
        of_fast.extend(events);
        if is_end {
            break;
        }
    }
    assert_eq!(of_fast, ["Active", "watermark 5", "batch []", "batch []"]);
    let of_slow = [0; 6].map(|_| next(slow, 1).1.join(", "));
    let end = format!("batch [99], watermark {WATERMARK_MAX}");
    assert_eq!(
        of_slow,
        [
            "batch [6], watermark 7",
            "Idle",
            "Ending",
            &end,
            "Finished",
            "end"
        ]
    );
}

/// Two tasks have the same two sources, of which one has never had a row. The first task hears of
/// its end last.
#[test]
fn of_two_tasks_the_one_that_ends_first_does_not_outrun_the_other() {
    let mut tasks = [0, 1].map(|_| InputGate::new(2, 1 << 20));
    let mut last = InputGate::new(2, 1 << 20);
    let end = [
        StreamElement::Watermark(WATERMARK_MAX),
        StreamElement::EndOfInput,
    ];
    for task in &tasks {
        let (source, without_rows) = (task.sender(0), task.sender(1));
        without_rows
            .send(StreamElement::Status(Status::Idle))
            .unwrap();
        for element in [
            StreamElement::Status(Status::Active),
            StreamElement::Watermark(7),
            StreamElement::Status(Status::Ending),
        ] {
            source.send(element).unwrap();
        }
        for element in &end {
            source.send(element.clone()).unwrap();
        }
    }
    let ends = [0, 1].map(|number: usize| tasks[number].sender(1));
    let mut pass = |number: usize| {
        loop {
            let event = tasks[number].poll(Some(Duration::ZERO)).unwrap();
            match event {
                GateEvent::Nothing => break,
                GateEvent::EndOfInput => {
                    pass_on(event, &last.sender(number));
                    break;
                }
                event => pass_on(event, &last.sender(number)),
            }
        }
        drain(&mut last)
    };
    assert_eq!(pass(0), [""; 0], "the other's status is missing");
    for element in &end {
        ends[1].send(element.clone()).unwrap();
    }
    assert_eq!(
        pass(1),
        [
            "Active",
            "batch []",
            "batch [6]",
            "watermark 7",
            "Idle",
            "batch []"
        ],
        "the first has windows to fire"
    );
    for element in end {
        ends[0].send(element).unwrap();
    }
    let done = format!("watermark {WATERMARK_MAX}");
    assert_eq!(pass(0), ["Ending", "batch [99]", &done, "Finished", "end"]);
}
