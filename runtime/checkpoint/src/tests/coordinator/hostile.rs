//! Every input at every moment, however little sense it makes: no rule breaks.

use super::*;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Hostile {
    machine: Machine,
    rules: Rules,
    now: Duration,
    requests: u32,
    losses: u32,
}

fn hostile_inputs(state: &Hostile, n_tasks: usize, last: u64) -> Vec<Input> {
    let mut inputs = Vec::new();
    for checkpoint in FIRST - 1..=last {
        inputs.extend((0..=n_tasks).flat_map(|task| {
            [
                Input::Acknowledged(task, checkpoint, false),
                Input::Declined(task, checkpoint),
            ]
        }));
        inputs.extend([
            Input::Published(checkpoint),
            Input::PublishFailed(checkpoint),
        ]);
    }
    inputs.extend((0..=n_tasks).flat_map(|task| [Input::Ended(task), Input::Finished(task)]));
    if state.losses > 0 {
        inputs.extend([Input::Suspend(vec![0]), Input::Suspend(vec![n_tasks])]);
    }
    if state.rules.suspended {
        inputs.push(Input::Resume);
    }
    inputs.extend([INTERVAL, TIMEOUT].map(|passes| Input::Tick(state.now + passes)));
    inputs.push(Input::Tick(Duration::ZERO));
    if state.rules.stopped.is_some() {
        inputs.extend((0..=n_tasks).flat_map(|task| {
            (FIRST..=last).map(move |checkpoint| Input::Committed(task, checkpoint))
        }));
    }
    if state.requests > 0 {
        inputs.extend(requests(state.requests).map(Input::Request));
    }
    inputs
}

/// All that can be asked for.
pub(super) fn requests(number: u32) -> [Request; 5] {
    let request = u64::from(number);
    let savepoint = |stops| Request::Savepoint { request, stops };
    [
        Request::Stop,
        Request::Upgrade { request },
        savepoint(false),
        savepoint(true),
        Request::AtEnd { request },
    ]
}

fn hostile_next(state: &Hostile, n_tasks: usize, last: u64) -> Vec<Hostile> {
    // Beyond the last number nothing new is to be seen.
    if state.rules.last > last || state.now > 3 * INTERVAL {
        return Vec::new();
    }
    let step = |input: &Input| {
        let mut next = state.clone();
        next.rules.hear(input);
        for action in feed(&mut next.machine, input) {
            next.rules.check(input, &action, n_tasks);
        }
        next.rules.check_done();
        match input {
            Input::Tick(now) => next.now = next.now.max(*now),
            Input::Request(_) => next.requests -= 1,
            Input::Suspend(_) => next.losses -= 1,
            _ => (),
        }
        next
    };
    hostile_inputs(state, n_tasks, last)
        .iter()
        .map(step)
        .collect()
}

fn explore_hostile(predecessors: &[&[usize]], tolerable_failures: u32, losses: u32) {
    let machine = machine(predecessors, tolerable_failures);
    let rules = Rules {
        kept: [3].into(),
        ..Rules::default()
    };
    let start = Hostile {
        machine,
        rules,
        now: Duration::ZERO,
        requests: 1,
        losses,
    };
    let (states, _) = explore(start, |state| {
        hostile_next(state, predecessors.len(), FIRST + 1)
    });
    assert!(states.len() > 1000, "{}", states.len());
    type Seen = fn(&Rules) -> bool;
    let kept: Seen = |rules| rules.kept.contains(&(FIRST + 1));
    let seen: [Seen; 5] = [
        |rules| rules.failed,
        |rules| rules.publishing,
        |rules| rules.ended,
        |rules| rules.upgrade_failed,
        kept,
    ];
    for seen in seen {
        assert!(
            states.iter().any(|state| seen(&state.rules)),
            "the bounds are too tight"
        );
    }
}

#[test]
fn no_input_at_any_moment_breaks_a_rule() {
    explore_hostile(&[&[]], 0, 1);
    explore_hostile(CHAIN_2, 1, 0);
}
