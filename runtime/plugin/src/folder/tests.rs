//! A granted folder next to what must not be reached.

use super::*;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

/// A granted folder next to a secret outside it.
struct Place {
    outside: TempDir,
    folder: Folder,
}

impl Place {
    fn new() -> Place {
        let outside = TempDir::new().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let folder = Folder::open(&outside.path().join("granted")).unwrap();
        Place { outside, folder }
    }

    fn inside(&self, name: &str) -> std::path::PathBuf {
        self.outside.path().join("granted").join(name)
    }
}

fn code_of<T>(answer: Answer<T>) -> u16 {
    answer.map_or_else(|error| error.code, |_| 0)
}

/// Every operation by which a path could lead out.
#[track_caller]
fn check_refused(place: &Place, path: &str) {
    let folder = &place.folder;
    folder.write("own", b"own").unwrap();
    let codes = [
        code_of(folder.read(path, 0, 9)),
        code_of(folder.write(path, b"x")),
        code_of(folder.append(path, b"x")),
        code_of(folder.rename("own", &format!("{path}/x"))),
        code_of(folder.rename(&format!("{path}/x"), "y")),
        code_of(folder.list(&format!("{path}/x"))),
        code_of(folder.look(&format!("{path}/x"))),
        code_of(folder.remove(&format!("{path}/x"))),
        code_of(folder.make_folder(&format!("{path}/x"))),
        code_of(folder.sync(path)),
    ];
    assert_eq!(codes, [error::REFUSED; 10], "{path}");
    assert_eq!(
        std::fs::read_to_string(place.outside.path().join("secret")).unwrap(),
        "secret"
    );
    assert_eq!(
        std::fs::read_dir(place.outside.path()).unwrap().count(),
        2,
        "something was made outside by {path}"
    );
}

#[test]
fn nothing_leads_out() {
    let place = Place::new();
    place.folder.make_folder("sub").unwrap();
    let absolute = place.outside.path().join("secret");
    let long = "x/".repeat(600);
    for path in [
        "..",
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        absolute.to_str().unwrap(),
        ".",
        "sub//x",
        "a\0b",
        &long,
    ] {
        check_refused(&place, path);
    }
}

#[test]
fn links_are_followed_nowhere() {
    let place = Place::new();
    symlink(place.outside.path().join("secret"), place.inside("file")).unwrap();
    symlink(place.outside.path(), place.inside("up")).unwrap();
    symlink("own", place.inside("harmless")).unwrap();
    for path in ["file", "up/secret", "harmless"] {
        check_refused(&place, path);
    }
    assert_eq!(
        place.folder.look("file").unwrap().unwrap().kind,
        entry::OTHER,
        "a link stands for itself"
    );
    place.folder.write("own", b"own").unwrap();
    place.folder.rename("own", "file").unwrap();
    assert_eq!(
        place.folder.read("file", 0, 9).unwrap(),
        b"own",
        "a link is replaced, and not its target"
    );
    assert!(place.folder.remove("up").unwrap());
    assert_eq!(
        std::fs::read_to_string(place.outside.path().join("secret")).unwrap(),
        "secret"
    );
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let place = Place::new();
    let made = std::process::Command::new("mkfifo")
        .arg(place.inside("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    let folder = &place.folder;
    let codes = [
        code_of(folder.read("pipe", 0, 1)),
        code_of(folder.append("pipe", b"x")),
        code_of(folder.sync("pipe")),
        code_of(folder.read("", 0, 1)),
    ];
    assert_eq!(codes, [error::REFUSED; 4]);
}

#[test]
fn files_are_written_read_moved_and_removed() {
    let place = Place::new();
    let folder = &place.folder;
    folder.append("a", b"one").unwrap();
    folder.append("a", b"two").unwrap();
    assert_eq!(folder.read("a", 2, 3).unwrap(), b"etw");
    assert_eq!(folder.read("a", 9, 3).unwrap(), b"");
    folder.write("a", b"new").unwrap();
    folder.make_folder("sub").unwrap();
    folder.make_folder("sub").unwrap();
    folder.rename("a", "sub/b").unwrap();
    folder.sync("sub/b").unwrap();
    folder.sync("sub").unwrap();
    folder.sync("").unwrap();
    let names = |path: &str| {
        folder
            .list(path)
            .unwrap()
            .into_iter()
            .map(|entry| (entry.name, entry.kind, entry.size))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(""), [("sub".to_owned(), entry::FOLDER, 0)]);
    assert_eq!(names("sub"), [("b".to_owned(), entry::FILE, 3)]);
    assert_eq!(
        (
            folder.look("a").unwrap().is_none(),
            folder.look("gone/a").unwrap().is_none()
        ),
        (true, true)
    );
    assert_eq!(
        (
            code_of(folder.read("a", 0, 1)),
            code_of(folder.rename("a", "c")),
            code_of(folder.list("gone"))
        ),
        (error::MISSING, error::MISSING, error::MISSING)
    );
    assert_eq!(
        code_of(folder.remove("sub")),
        error::UNAVAILABLE,
        "a folder that is not empty"
    );
    assert_eq!(
        (
            folder.remove("sub/b").unwrap(),
            folder.remove("sub/b").unwrap(),
            folder.remove("sub").unwrap()
        ),
        (true, false, true)
    );
}
