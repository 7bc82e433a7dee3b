//! The coordinator, one case after the other: what it does, in the order in which a user meets it.

use crate::coordinator::{Action, Coordinator, Settings, TaskNode, Topology};
use crate::requests::{Purpose, Request};
use Action::{Abort, Complete, Fail, Publish, Refuse, Retire, RollBack, Stop, Trigger};
use Purpose::{Checkpoint, Savepoint, Upgrade};
use std::time::Duration;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn settings() -> Settings {
    Settings {
        interval: Some(seconds(10)),
        min_pause: seconds(3),
        timeout: seconds(60),
        tolerable_failures: 1,
        retained: 2,
        first_checkpoint: 8,
        published: vec![5, 7],
    }
}

/// Two sources and a sink.
fn coordinator(settings: Settings) -> Coordinator<usize> {
    let task = |(name, predecessors): (&str, &[usize])| TaskNode {
        name: name.to_owned(),
        predecessors: predecessors.to_vec(),
    };
    let tasks = [
        ("read (1/2)", &[][..]),
        ("read (2/2)", &[]),
        ("write (1/1)", &[0, 1]),
    ]
    .map(task)
    .to_vec();
    Coordinator::new(settings, Topology { tasks })
}

fn trigger(checkpoint: u64, tasks: &[usize]) -> Action<usize> {
    Trigger {
        checkpoint,
        purpose: Checkpoint,
        tasks: tasks.to_vec(),
    }
}

fn savepoint(request: u64, stops: bool) -> Request {
    Request::Savepoint { request, stops }
}

fn acknowledge_all(coordinator: &mut Coordinator<usize>, checkpoint: u64) {
    let actions: Vec<_> = (0..3)
        .flat_map(|task| coordinator.acknowledged(task, checkpoint, task))
        .collect();
    assert!(
        matches!(&actions[..], [Publish { snapshots, .. }] if *snapshots == [Some(0), Some(1), Some(2)]),
        "{actions:?}"
    );
}

#[test]
fn one_checkpoint_follows_the_other_by_interval_and_pause_and_old_ones_retire() {
    let mut it = coordinator(settings());
    assert_eq!(it.tick(seconds(9)), []);
    assert_eq!(it.tick(seconds(10)), [trigger(8, &[0, 1])]);
    acknowledge_all(&mut it, 8);
    assert_eq!(it.tick(seconds(19)), []);
    assert_eq!(
        it.published(8),
        [
            Complete {
                checkpoint: 8,
                purpose: Checkpoint
            },
            Retire { checkpoint: 5 }
        ]
    );
    assert_eq!(
        it.tick(seconds(21)),
        [],
        "the pause after the last one is not over"
    );
    assert_eq!(it.tick(seconds(22)), [trigger(9, &[0, 1])]);
    acknowledge_all(&mut it, 9);
    assert_eq!(
        it.published(9),
        [
            Complete {
                checkpoint: 9,
                purpose: Checkpoint
            },
            Retire { checkpoint: 7 }
        ]
    );
    assert_eq!(it.tick(seconds(5)), [], "time never goes back");
    assert_eq!(it.tick(seconds(31)), []);
    assert_eq!(it.tick(seconds(32)), [trigger(10, &[0, 1])]);
}

#[test]
fn an_expiry_names_who_was_waited_for_and_a_success_resets_the_count() {
    let mut it = coordinator(settings());
    it.tick(seconds(10));
    it.acknowledged(1, 8, 1);
    let reason = "it took longer than 60s, and waits for `read (1/2)`, `write (1/1)`".to_owned();
    assert_eq!(
        it.tick(seconds(70)),
        [Abort {
            checkpoint: 8,
            purpose: Checkpoint,
            reason
        }]
    );
    assert_eq!(it.tick(seconds(73)), [trigger(9, &[0, 1])]);
    acknowledge_all(&mut it, 9);
    it.published(9);
    it.tick(seconds(90));
    assert!(
        matches!(&it.declined(2, 10, "full")[..], [Abort { checkpoint: 10, reason, .. }] if reason == "`write (1/1)` declined it: full")
    );
    it.tick(seconds(110));
    let actions = it.declined(2, 11, "full");
    let reason = "checkpoint 11 failed, and 1 failures in a row are tolerated: `write (1/1)` declined it: full".to_owned();
    assert!(
        matches!(&actions[..], [Abort { checkpoint: 11, .. }, Fail { .. }])
            && actions[1] == Fail { reason }
    );
    assert_eq!(it.tick(seconds(500)), []);
}

#[test]
fn the_last_checkpoint_comes_at_once_and_is_the_last() {
    let mut it = coordinator(Settings {
        interval: None,
        ..settings()
    });
    assert_eq!(it.finished(0), []);
    assert_eq!(it.ended(1), []);
    assert_eq!(it.ended(2), [trigger(8, &[1, 2])]);
    it.acknowledged(1, 8, 1);
    let snapshots = vec![None, Some(1), Some(2)];
    assert_eq!(
        it.acknowledged(2, 8, 2),
        [Publish {
            checkpoint: 8,
            purpose: Checkpoint,
            snapshots
        }]
    );
    assert_eq!(
        it.published(8)[0],
        Complete {
            checkpoint: 8,
            purpose: Checkpoint
        }
    );
    assert_eq!(
        [it.tick(seconds(100)), it.finished(1), it.finished(2)],
        [vec![], vec![], vec![]]
    );
    let refused = Refuse {
        request: 1,
        reason: "all tasks of the job have ended".to_owned(),
    };
    assert_eq!(it.request(savepoint(1, false)), [refused]);
    let drained = Savepoint {
        request: 2,
        stops: false,
    };
    let none = Trigger {
        checkpoint: 9,
        purpose: drained,
        tasks: vec![],
    };
    let publish = Publish {
        checkpoint: 9,
        purpose: drained,
        snapshots: vec![None, None, None],
    };
    assert_eq!(
        it.request(Request::AtEnd { request: 2 }),
        [none, publish],
        "a savepoint of the end is never too late"
    );
}

#[test]
fn the_last_checkpoint_is_tried_again_after_a_pause() {
    let mut it = coordinator(Settings {
        interval: None,
        ..settings()
    });
    (0..3).for_each(|task| drop(it.ended(task)));
    assert!(matches!(&it.declined(1, 8, "full")[..], [Abort { .. }]));
    assert_eq!(it.tick(seconds(2)), []);
    assert_eq!(it.tick(seconds(3)), [trigger(9, &[0, 1, 2])]);
}

#[test]
fn a_request_waits_for_the_pending_one_alone() {
    let mut it = coordinator(settings());
    it.tick(seconds(10));
    assert_eq!(
        [
            it.request(savepoint(1, false)),
            it.request(savepoint(2, false))
        ],
        [vec![], vec![]]
    );
    acknowledge_all(&mut it, 8);
    let trigger = |checkpoint, request| Trigger {
        checkpoint,
        purpose: Savepoint {
            request,
            stops: false,
        },
        tasks: vec![0, 1],
    };
    assert_eq!(it.published(8)[2], trigger(9, 1));
    acknowledge_all(&mut it, 9);
    assert_eq!(
        it.publish_failed(9, "full")[1..],
        [trigger(10, 2)],
        "the job goes on without the savepoint"
    );
}

#[test]
fn a_job_stops_when_all_tasks_have_committed_and_nothing_begins_behind() {
    let mut it = coordinator(settings());
    it.request(Request::Stop);
    assert!(
        matches!(
            it.declined(0, 8, "full")[..],
            [Abort {
                checkpoint: 8,
                purpose: Purpose::Stop,
                ..
            }]
        ),
        "it waits for the pause"
    );
    assert_eq!(
        it.tick(seconds(10)),
        [Trigger {
            checkpoint: 9,
            purpose: Purpose::Stop,
            tasks: vec![0, 1]
        }]
    );
    it.request(savepoint(1, false));
    acknowledge_all(&mut it, 9);
    let refused = Refuse {
        request: 1,
        reason: "the job has stopped".to_owned(),
    };
    assert_eq!(it.published(9)[2..], [refused]);
    assert_eq!(
        [
            it.committed(0, 8),
            it.committed(0, 9),
            it.committed(0, 9),
            it.finished(1)
        ],
        [vec![], vec![], vec![], vec![]]
    );
    assert_eq!((it.committed(2, 9), it.stopped_at()), (vec![Stop], Some(9)));
    assert_eq!(it.tick(seconds(100)), []);
}

#[test]
fn a_savepoint_stops_the_job_only_if_it_is_whole() {
    let mut it = coordinator(settings());
    it.request(savepoint(1, true));
    it.declined(0, 8, "full");
    assert_eq!(
        it.tick(seconds(10)),
        [trigger(9, &[0, 1])],
        "the job goes on"
    );
    acknowledge_all(&mut it, 9);
    it.published(9);
    it.request(savepoint(2, true));
    acknowledge_all(&mut it, 10);
    assert_eq!((it.published(10).len(), it.stopped_at()), (1, Some(10)));
}

#[test]
fn a_savepoint_of_the_end_stands_before_the_last_checkpoint() {
    let mut it = coordinator(Settings {
        interval: None,
        ..settings()
    });
    assert_eq!(it.request(Request::AtEnd { request: 1 }), []);
    (0..2).for_each(|task| assert_eq!(it.finished(task), []));
    let purpose = Savepoint {
        request: 1,
        stops: false,
    };
    assert_eq!(
        it.ended(2),
        [Trigger {
            checkpoint: 8,
            purpose,
            tasks: vec![2]
        }]
    );
    it.acknowledged(2, 8, 2);
    assert_eq!(
        it.published(8),
        [
            Complete {
                checkpoint: 8,
                purpose
            },
            trigger(9, &[2])
        ]
    );
}

#[test]
fn an_upgrade_counts_like_a_checkpoint_or_is_rolled_back() {
    let mut it = coordinator(Settings {
        tolerable_failures: 5,
        ..settings()
    });
    let upgrade = |request| Trigger {
        checkpoint: 7 + request,
        purpose: Upgrade { request },
        tasks: vec![0, 1],
    };
    assert_eq!(it.request(Request::Upgrade { request: 1 }), [upgrade(1)]);
    assert_eq!(it.request(Request::Upgrade { request: 2 }), []);
    acknowledge_all(&mut it, 8);
    let published = [
        Complete {
            checkpoint: 8,
            purpose: Upgrade { request: 1 },
        },
        Retire { checkpoint: 5 },
        upgrade(2),
    ];
    assert_eq!(it.published(8), published);
    it.request(savepoint(3, false));
    let actions = it.declined(1, 9, "full");
    assert!(
        matches!(actions[..], [Abort { checkpoint: 9, .. }, RollBack { .. }]),
        "{actions:?}"
    );
    assert!(it.holds(3), "the attempt that follows is asked for it");
    assert_eq!(
        it.tick(seconds(500)),
        [],
        "new code may run: nothing else may be published"
    );
}

#[test]
fn a_savepoint_that_a_failure_of_tasks_meets_is_made_behind_it() {
    for asked in [savepoint(1, true), Request::AtEnd { request: 1 }] {
        let mut it = coordinator(Settings {
            interval: None,
            ..settings()
        });
        if let Request::AtEnd { .. } = asked {
            (0..3).for_each(|task| drop(it.ended(task)));
        }
        it.request(asked);
        if let Request::AtEnd { .. } = asked {
            // The last checkpoint is pending: it is served after it.
            assert!(matches!(
                it.declined(0, 8, "full")[..],
                [Abort { checkpoint: 8, .. }, Trigger { checkpoint: 9, .. }]
            ));
        }
        let aborted = it.suspend(&[0, 1, 2]);
        assert!(
            matches!(
                aborted[..],
                [Abort {
                    purpose: Savepoint { request: 1, .. },
                    ..
                }]
            ),
            "{aborted:?}"
        );
        assert!(it.holds(1));
        if let Request::AtEnd { .. } = asked {
            assert_eq!(
                it.resume(),
                [],
                "the tasks run again, and have to end first"
            );
            (0..2).for_each(|task| assert_eq!(it.ended(task), []));
            assert!(matches!(
                it.ended(2)[..],
                [Trigger {
                    purpose: Savepoint {
                        request: 1,
                        stops: false
                    },
                    ..
                }]
            ));
        } else {
            assert!(matches!(
                it.resume()[..],
                [Trigger {
                    purpose: Savepoint {
                        request: 1,
                        stops: true
                    },
                    ..
                }]
            ));
        }
    }
}

#[test]
fn a_task_that_ends_while_a_checkpoint_is_pending_hands_the_trigger_on() {
    let mut it = coordinator(settings());
    it.tick(seconds(10));
    assert_eq!(it.finished(0), []);
    assert_eq!(it.ended(1), [trigger(8, &[2])]);
    assert_eq!(it.acknowledged(1, 7, 1), []);
    assert_eq!(it.acknowledged(9, 8, 9), []);
    it.acknowledged(2, 8, 2);
    assert_eq!(it.acknowledged(2, 8, 77), []);
    let snapshots = vec![None, Some(1), Some(2)];
    assert_eq!(
        it.acknowledged(1, 8, 1),
        [Publish {
            checkpoint: 8,
            purpose: Checkpoint,
            snapshots
        }]
    );
    assert_eq!(
        it.tick(seconds(1000)),
        [],
        "what is being published does not expire"
    );
}
