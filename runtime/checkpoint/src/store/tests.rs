//! The store in memory and in a folder: what is put comes back whole, what exists is not written
//! over, what fails is tried again.

use super::*;
use crate::tests::faulty::{Fault, Faulty, Operation};
use object_store::memory::InMemory;
use std::path::PathBuf;

#[test]
fn what_is_there_whole_is_not_written_again() {
    let writes = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = writes.clone();
    let count = move |operation, _: &str| {
        counted.fetch_add(
            u64::from(operation == Operation::Put),
            std::sync::atomic::Ordering::Relaxed,
        );
        Fault::None
    };
    let store = Store::impatient(Arc::new(Faulty::new(Arc::new(InMemory::new()), count)));
    let put = |bytes: &[u8]| {
        store.put_once("plugins/x", bytes).unwrap();
        assert_eq!(store.read("plugins/x").unwrap().unwrap(), bytes);
        writes.load(std::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!(
        [put(b"abc"), put(b"abc"), put(b"abd"), put(b"abd")],
        [1, 1, 2, 2]
    );
}

fn local() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("a/b").to_str().unwrap()).unwrap();
    (folder, store)
}

fn check_all(store: &Store) {
    let stored = store.put("chk-1/0-0-1", b"states".to_vec()).unwrap();
    assert_eq!(store.get(&stored).unwrap(), b"states");
    assert!(matches!(
        store.create("log/1", b"x".to_vec()).unwrap(),
        Creation::Created
    ));
    assert!(matches!(
        store.create("log/1", b"x".to_vec()).unwrap(),
        Creation::Created
    ));
    assert!(
        matches!(store.create("log/1", b"yy".to_vec()).unwrap(), Creation::Exists(bytes) if bytes == b"x")
    );
    assert_eq!(
        store.list("").unwrap(),
        [("chk-1/0-0-1".to_owned(), 6), ("log/1".to_owned(), 1)]
    );
    assert_eq!(store.list("log").unwrap(), [("log/1".to_owned(), 1)]);
    assert_eq!(store.list("lo").unwrap(), []);
    assert_eq!(store.folders().unwrap(), ["chk-1", "log"]);
    assert_eq!(
        store.read_all(&["log/1".into(), "log/2".into()]).unwrap(),
        [Some(b"x".to_vec()), None]
    );
    store.delete("chk-1/0-0-1").unwrap();
    store.delete("chk-1/0-0-1").unwrap();
    assert_eq!(
        store.get(&stored).unwrap_err().code(),
        code::SNAPSHOT_DAMAGED
    );
    assert_eq!(store.folders().unwrap(), ["log"]);
    assert!(store.put("../outside", vec![]).is_err());
}

#[test]
fn memory_and_folder_do_the_same() {
    check_all(&Store::in_memory().unwrap());
    check_all(&Store::impatient(Arc::new(InMemory::new())));
    check_all(&local().1);
}

#[test]
fn what_is_damaged_or_missing_is_not_read() {
    let (_folder, store) = local();
    let stored = store.put("o", b"some states".to_vec()).unwrap();
    let file = PathBuf::from(store.location()).join("o");
    let check = |bytes: &[u8], part: &str| {
        fs::write(&file, bytes).unwrap();
        let error = store.get(&stored).unwrap_err();
        assert_eq!(error.code(), code::SNAPSHOT_DAMAGED);
        assert!(
            error.message().contains(part) && error.message().contains("`o`"),
            "{error}"
        );
    };
    for at in 0..11 {
        let mut changed = b"some states".to_vec();
        changed[at] ^= 1;
        check(&changed, "is damaged: 11 bytes");
        check(&changed[..at], &format!("but {at} bytes"));
    }
    fs::remove_file(&file).unwrap();
    assert!(
        store
            .get(&stored)
            .unwrap_err()
            .message()
            .starts_with("`o` is missing in /")
    );
}

#[test]
fn folders_and_urls_that_cannot_be_used_say_so() {
    let check = |result: Result<Store>, id: &str| assert_eq!(result.err().unwrap().code().id, id);
    check(Store::open("/proc/no/such"), "S7007");
    check(Store::existing("/no/such"), "S7007");
    check(Store::open("gopher://x"), "S2007");
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let (_folder, store) = local();
    let root = PathBuf::from(store.location());
    store.put("chk-1/kept#x", vec![1]).unwrap();
    fs::create_dir(root.join("chk-2")).unwrap();
    for file in ["chk-1/0-0-1#1", "chk-2/0-0-1#23"] {
        fs::write(root.join(file), b"half").unwrap();
    }
    assert_eq!(store.list("").unwrap().len(), 1);
    ["chk-1", "chk-2", "chk-3"]
        .into_iter()
        .for_each(|folder| store.remove_unfinished(folder).unwrap());
    assert!(
        root.join("chk-1/kept#x").exists()
            && !root.join("chk-1/0-0-1#1").exists()
            && !root.join("chk-2").exists()
    );
}

#[test]
fn of_many_who_create_one_succeeds_and_nobody_sees_a_torn_object() {
    let (_folder, local) = local();
    for store in [local, Store::in_memory().unwrap()] {
        let create = |writer: u8| {
            let store = store.clone();
            std::thread::spawn(move || {
                match store.create("log/1", vec![writer; 100_000]).unwrap() {
                    Creation::Created => true,
                    Creation::Exists(bytes) => {
                        assert!(
                            bytes.len() == 100_000 && bytes.iter().all(|byte| *byte == bytes[0])
                        );
                        false
                    }
                    Creation::Failed(error) => panic!("{error}"),
                }
            })
        };
        let writers: Vec<_> = (0..8).map(create).collect();
        assert_eq!(
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .filter(|created| *created)
                .count(),
            1
        );
    }
}

/// `faults[i]` meets the i-th operation of that kind.
fn faulty(operation: Operation, faults: &'static [Fault]) -> Store {
    let counted = std::sync::atomic::AtomicUsize::new(0);
    let fault = move |asked, _: &str| match asked == operation {
        true => *faults
            .get(counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
            .unwrap_or(&Fault::None),
        false => Fault::None,
    };
    Store::impatient(Arc::new(Faulty::new(Arc::new(InMemory::new()), fault)))
}

#[test]
fn what_fails_now_and_then_is_tried_again_and_not_for_ever() {
    use Fault::{Lost, Refused};
    let put = |faults| faulty(Operation::Put, faults).put("o", vec![1]);
    put(&[Refused, Lost, Refused, Lost]).unwrap();
    let error = put(&[Refused; 5]).unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (code::STORE, "cannot write `o` in memory, tried 5 times")
    );
    assert_eq!(
        put(&[Fault::Damaged]).unwrap_err().message(),
        "what was just written cannot be read back"
    );
    let list = |faults| faulty(Operation::List, faults).list("");
    assert_eq!(list(&[Refused, Refused]).unwrap(), []);
    assert_eq!(list(&[Refused; 5]).unwrap_err().code(), code::STORE);
}

#[test]
fn an_ambiguous_create_is_settled_by_reading_back() {
    use Fault::{Lost, Refused};
    let create = |faults| faulty(Operation::Create, faults).create("o", vec![1]);
    for faults in [
        &[Lost][..],
        &[Refused, Lost],
        &[Lost, Refused],
        &[Lost, Lost, Lost, Lost, Lost],
        &[Refused, Refused, Refused, Refused, Lost],
    ] {
        assert!(
            matches!(create(faults).unwrap(), Creation::Created),
            "{faults:?}"
        );
    }
    let unknown = create(&[Refused; 5]).unwrap_err();
    assert_eq!(
        unknown.message(),
        "it is not known whether an entry was written: cannot create `o` in memory, tried 5 times"
    );
    assert!(matches!(
        create(&[Fault::Forbidden]).unwrap(),
        Creation::Failed(_)
    ));
}

#[test]
fn a_disk_that_refuses_leaves_nothing_behind() {
    let (_folder, store) = local();
    let long = format!("log/{}", "n".repeat(255));
    assert!(
        matches!(store.create(&long, vec![1]).unwrap(), Creation::Failed(error) if error.code() == code::STORE)
    );
    assert_eq!(store.put(&long, vec![1]).unwrap_err().code(), code::STORE);
    assert_eq!(store.list("").unwrap(), []);
    fs::write(
        PathBuf::from(store.location()).join("chk-1"),
        b"a file in the way",
    )
    .unwrap();
    assert_eq!(
        store.put("chk-1/0-0-1", vec![1]).unwrap_err().code(),
        code::SNAPSHOT_DAMAGED
    );
    assert_eq!(
        store.create("chk-1/0-0-1", vec![1]).unwrap_err().code(),
        code::SNAPSHOT_DAMAGED
    );
}

/// Does what it is told, and loses every answer to a write.
#[derive(Default)]
struct Forgetful(Memory);

impl Objects for Forgetful {
    fn read(&self, object: &str, length: Length) -> Result<Found, Failure> {
        self.0.read(object, length)
    }
    fn write(&self, object: &str, bytes: Vec<u8>, replace: bool) -> Result<(), Failure> {
        self.0.write(object, bytes, replace)?;
        Err(Failure {
            kind: FailureKind::Other,
            cause: "the answer is lost".into(),
            attempts: 3,
            unknown: true,
        })
    }
    fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, Failure> {
        self.0.list(folder)
    }
    fn folders(&self) -> Result<Vec<String>, Failure> {
        self.0.folders()
    }
    fn delete(&self, object: &str) -> Result<(), Failure> {
        self.0.delete(object)
    }
}

#[test]
fn whatever_holds_the_bytes_may_stand_below_a_store() {
    let store = Store::over(Arc::new(Forgetful::default()), "a place");
    assert!(matches!(
        store.create("log/1", vec![1]).unwrap(),
        Creation::Created
    ));
    assert_eq!(
        store.put("o", vec![2]).unwrap_err().message(),
        "cannot write `o` in a place, tried 3 times"
    );
    assert_eq!(store.read("o").unwrap(), Some(vec![2]));
}
