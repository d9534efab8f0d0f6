//! Every case in `sim/regressions` found a bug once, and is kept so that it does not come back. Each file says which.

use std::path::Path;

use polity_sim::case::Case;
use polity_sim::run::run;

#[test]
fn no_bug_has_come_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut files: Vec<_> =
        folder.read_dir().expect("the folder is there").map(|file| file.expect("it can be read").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("it can be read");
        let case = Case::from_json(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(!case.note.is_empty(), "{}: say what it found", file.display());
        let report = run(&case);
        assert!(report.is_ok(), "{}: {report}\n{:#?}", file.display(), report.violations);
    }
}
