//! Every message survives the way through bytes; what does not come from here is refused.

use crate::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use streamrt_checkpoint::{OperatorEntry, Published, SnapshotKind, Stored, SubtaskSnapshot};
use streamrt_graph::{FunctionRef, JobSpec};
use streamrt_types::{Configuration, Error, code};
use streamrt_wit::Plan;

fn plan() -> JobPlan {
    let text = json!({
        "version": 2,
        "name": "words",
        "nodes": [{
            "id": 0, "uid": "lines", "name": "lines", "inputs": [], "outputs": [],
            "body": {"kind": "source", "connector": "datagen", "options": {"rows": 7}, "schema": []},
        }],
        "functions": [],
    });
    let parsed: Result<Plan, _> = serde_json::from_value(text);
    let nodes = parsed.map(|plan| plan.nodes).unwrap_or_default();
    let mut configuration = Configuration::default();
    configuration.set("batch.rows", "16").unwrap();
    JobPlan {
        spec: JobSpec {
            name: "words".into(),
            nodes,
            functions: Vec::<FunctionRef>::new(),
        },
        components: vec![Component {
            name: "words".into(),
            digest: "ab".repeat(32),
            args: vec!["--input".into(), "x".into()],
            replaces: None,
        }],
        configuration: Arc::new(configuration),
        parallelism: 2,
        max_parallelism: 128,
        grants: BTreeMap::from([("log".into(), "/var/log".into())]),
    }
}

fn restore() -> Restore {
    let manifest = Stored {
        path: "chk-7/1.manifest".into(),
        bytes: 12,
        checksum: "c".into(),
    };
    let published = Published {
        checkpoint: 7,
        kind: SnapshotKind::Checkpoint,
        manifest,
        location: None,
        uncommitted: false,
    };
    Restore {
        location: "/jobs/a".into(),
        published,
    }
}

fn check<M: Serialize + DeserializeOwned + PartialEq + Debug + Clone>(message: M) {
    let envelope = Envelope {
        job: "0123456789abcdef0123456789abcdef".into(),
        epoch: 3,
        generation: 4,
        sender: "tm-1".into(),
        sequence: 5,
        message,
    };
    let bytes = encode(&envelope).unwrap();
    assert_eq!(decode::<M>(&bytes).unwrap(), envelope);
    for cut in [0, 3, bytes.len() - 1] {
        let error = decode::<M>(&bytes[..cut]).unwrap_err();
        assert_eq!(error.code(), code::BAD_MESSAGE, "{cut} bytes of it");
    }
    let mut newer = bytes.clone();
    newer[0] += 1;
    let error = decode::<M>(&newer).unwrap_err();
    let expected = "a message is of version 2, but this streamrt knows versions up to 1";
    assert_eq!(error.message(), expected);
    let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
    assert!(decode::<M>(&longer).is_err(), "one byte too many");
}

fn region() -> Scope {
    Scope::Region {
        region: 1,
        old_generation: 3,
        counts: true,
    }
}

#[test]
fn what_is_asked_of_a_taskmanager_survives_the_wire() {
    let (step, plan) = (9, Arc::new(plan()));
    check(ToTaskManager::Open {
        step,
        scope: Scope::Job,
        version: 1,
        plan: plan.clone(),
        restore: Some(restore()),
        job: "01234567".into(),
    });
    check(ToTaskManager::Settle {
        step,
        scope: region(),
        version: 1,
        plan: plan.clone(),
        job: "01234567".into(),
        generation: 4,
        promised: None,
        interruptible: true,
    });
    check(ToTaskManager::Prepare {
        step,
        scope: region(),
        job: "01234567".into(),
        generation: 4,
    });
    check(ToTaskManager::Start { scope: Scope::Job });
    check(ToTaskManager::Trigger {
        checkpoint: 8,
        tasks: vec![0, 3],
        savepoint: Some("/sp".into()),
        upgrade: Some(2),
    });
    check(ToTaskManager::Complete { checkpoint: 8 });
    check(ToTaskManager::Abort { checkpoint: 8 });
    check(ToTaskManager::Cancel {
        regions: vec![0, 1],
    });
    check(ToTaskManager::Wish { wish: Wish::Drain });
    check(ToTaskManager::PrepareUpgrade {
        step,
        version: 2,
        plan,
        in_place: true,
    });
}

#[test]
fn what_a_taskmanager_says_survives_the_wire() {
    let (task, generation, checkpoint) = (3, 4, 8);
    let operators = vec![OperatorEntry {
        uid: "count".into(),
        vertex: 1,
        parallelism: 2,
    }];
    let opened = Opened {
        operators,
        dead_letters: 5,
        is_bounded: true,
        remarks: vec!["it ends".into()],
    };
    for answered in [
        Answered::Opened(opened),
        Answered::Settled,
        Answered::Prepared,
        Answered::UpgradePrepared,
    ] {
        check(FromTaskManager::Answer {
            step: 9,
            result: Ok(answered),
        });
    }
    let error = WireError::new(code::STORE, "the disk is gone");
    check(FromTaskManager::Answer {
        step: 9,
        result: Err(error.clone()),
    });
    check(FromTaskManager::Acknowledged {
        task,
        generation,
        checkpoint,
        snapshot: SubtaskSnapshot::finished(1, 0),
        report: SubtaskReport {
            name: "count (1/2)".into(),
            bytes: 7,
            ..SubtaskReport::default()
        },
    });
    check(FromTaskManager::Declined {
        task,
        generation,
        checkpoint,
        reason: "no".into(),
    });
    check(FromTaskManager::Committed {
        task,
        generation,
        checkpoint,
    });
    check(FromTaskManager::Ended { task, generation });
    check(FromTaskManager::Finished {
        task,
        generation,
        dead_letters: 1,
    });
    check(FromTaskManager::RegionEnded {
        region: 1,
        generation,
        error: Some(error),
    });
}

/// Bytes that version 1 wrote; they are read for ever.
#[test]
fn messages_of_version_1_are_read() {
    let envelope = Envelope {
        job: "0123456789abcdef0123456789abcdef".into(),
        epoch: 3,
        generation: 4,
        sender: "tm-1".into(),
        sequence: 5,
        message: ToTaskManager::Trigger {
            checkpoint: 8,
            tasks: vec![0, 3],
            savepoint: Some("/sp".into()),
            upgrade: None,
        },
    };
    let stored = include_bytes!("../tests/fixtures/1/trigger.bin");
    assert_eq!(decode::<ToTaskManager>(stored).unwrap(), envelope);
    let report = Envelope {
        job: envelope.job.clone(),
        epoch: 3,
        generation: 4,
        sender: "tm-1".into(),
        sequence: 6,
        message: FromTaskManager::RegionEnded {
            region: 1,
            generation: 4,
            error: Some(WireError::new(code::STORE, "the disk is gone")),
        },
    };
    let stored = include_bytes!("../tests/fixtures/1/region-ended.bin");
    assert_eq!(decode::<FromTaskManager>(stored).unwrap(), report);
}

#[test]
fn an_error_keeps_its_code_and_its_causes() {
    let cause = Error::new(code::FILE_IO, "no space").with_source(std::io::Error::other("28"));
    let error = Error::new(code::STORE, "it cannot be written").with_source(cause);
    let wire = WireError::from(&error);
    assert_eq!(wire.causes, ["no space", "28"]);
    assert_eq!(wire.consequence, Consequence::MayPass);
    let back = Error::from(wire);
    assert_eq!(back.code(), code::STORE);
    assert_eq!(back.with_causes(), "it cannot be written: no space: 28");
    let missing = WireError::new(code::FILE_MISSING, "there is no file x");
    assert_eq!(missing.consequence, Consequence::Permanent);
    let unknown = WireError {
        code: "S0000".into(),
        ..missing
    };
    assert_eq!(unknown.known_code(), code::INTERNAL);
}
