//! Files of an older version.

use super::exported;
use crate::choices::{Judge, Judgment};
use crate::export::{ExportFilter, ExportKind};
use crate::store::FeedbackStore;
use rusqlite::Connection;
use serde_json::json;
use std::path::{Path, PathBuf};

/// `comparisons.sqlite` as version 1 of `gptkit compare` wrote it: two models, three prompts, two people and two automatic
/// judges.
fn version_1(folder: &Path) -> PathBuf {
    let path = folder.join("comparisons.sqlite");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(
        r#"
        CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
        CREATE TABLE items (number INTEGER PRIMARY KEY, place TEXT NOT NULL, world INTEGER, prompt TEXT NOT NULL) STRICT;
        CREATE TABLE answers (
            item INTEGER NOT NULL REFERENCES items, number INTEGER NOT NULL, model TEXT NOT NULL, text TEXT NOT NULL,
            tokens INTEGER NOT NULL, finish TEXT NOT NULL, PRIMARY KEY (item, number)) STRICT;
        CREATE TABLE choices (
            id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items, judge TEXT NOT NULL, who TEXT NOT NULL,
            at TEXT NOT NULL, ranking TEXT, scores TEXT, shown TEXT, seconds REAL, UNIQUE (item, judge, who)) STRICT;
        PRAGMA application_id = 1735423075;
        PRAGMA user_version = 1;
        INSERT INTO settings VALUES ('a', '"runs/a"'), ('weights-of-a', '"1"'), ('b', '"runs/b"'), ('weights-of-b', '"2"'),
            ('prompts', '"p.txt"'), ('max-new-tokens', '16'), ('stop', '["\n\n"]'), ('temperature', '0.7'),
            ('repetition-penalty', '1.0'), ('seed', '18446744073709551615');
        INSERT INTO items VALUES (0, 'p.txt line 1', NULL, '[{"role":"user","content":"q"}]'),
            (1, 'p.txt line 2', 7, '[{"role":"user","content":"r"}]'), (2, 'p.txt line 3', NULL, '[{"role":"user","content":"s"}]');
        INSERT INTO answers VALUES (0, 0, 'a', 'x', 3, 'stop'), (0, 1, 'b', 'y', 4, 'length'), (1, 0, 'a', 'x', 3, 'stop'),
            (1, 1, 'b', 'x', 3, 'stop'), (2, 0, 'a', '', 0, 'stop'), (2, 1, 'b', 'z', 5, 'stop');
        INSERT INTO choices VALUES
            (1, 0, 'human', 'ann', '2024-05-01T10:00:00Z', '[2,1]', NULL, '[1,0]', 2.5),
            (2, 0, 'gold', 'world', '2024-05-01T10:00:01Z', '[1,2]', '[4.0,-1e-9]', NULL, NULL),
            (4, 1, 'human', 'ann', '2024-05-01T10:00:02Z', '[1,1]', NULL, NULL, NULL),
            (5, 2, 'human', 'ann', '2024-05-01T10:00:03Z', NULL, NULL, '[0,1]', 1.0),
            (6, 0, 'human', 'gold', '2024-05-01T10:00:04Z', '[1,2]', NULL, '[0,1]', 3.0),
            (7, 0, 'runs/rm', '0123', '2024-05-01T10:00:05Z', NULL, NULL, NULL, NULL);
        "#,
    )
    .unwrap();
    path
}

#[test]
fn a_file_of_version_1_is_converted_with_all_its_choices() {
    let folder = tempfile::tempdir().unwrap();
    let path = version_1(folder.path());
    let store = FeedbackStore::open(folder.path()).unwrap();
    assert_eq!(store.path(), path, "in place");
    assert_eq!(store.collection_settings().unwrap()["seed"], u64::MAX);
    assert_eq!(store.collection_settings().unwrap().len(), 10);
    let items = store.items().unwrap();
    assert_eq!((items.len(), items[1].world, items[2].prompt[0].content.as_str()), (3, Some(7), "s"));
    let answers = store.item_answers().unwrap();
    let texts: Vec<(&str, u64)> = answers.iter().map(|answer| (answer.text.as_str(), answer.tokens)).collect();
    assert_eq!(texts, [("x", 3), ("y", 4), ("x", 3), ("x", 3), ("", 0), ("z", 5)]);
    let choice = |item, judge: &str, who: &str, second, ranking: Option<&[u32]>| Judgment {
        record: None,
        item,
        judge: Judge { judge: judge.to_owned(), who: who.to_owned() },
        at: format!("2024-05-01T10:00:0{second}Z"),
        ranking: ranking.map(<[u32]>::to_vec),
        scores: None,
        shown: None,
        seconds: None,
    };
    let expected = [
        Judgment { shown: Some(vec![1, 0]), seconds: Some(2.5), ..choice(0, "human", "ann", 0, Some(&[2, 1])) },
        choice(1, "human", "ann", 2, Some(&[1, 1])),
        Judgment { shown: Some(vec![0, 1]), seconds: Some(1.0), ..choice(2, "human", "ann", 3, None) },
        Judgment { shown: Some(vec![0, 1]), seconds: Some(3.0), ..choice(0, "human", "gold", 4, Some(&[1, 2])) },
        Judgment { scores: Some(vec![4.0, -1e-9]), ..choice(0, "gold", "world", 1, Some(&[1, 2])) },
        choice(0, "runs/rm", "0123", 5, None),
    ];
    let choices: Vec<Judgment> =
        store.choices().unwrap().into_iter().map(|choice| Judgment { record: None, ..choice }).collect();
    assert_eq!(choices, expected);
    let recorded = store.answers().unwrap();
    let second = &recorded[recorded.iter().position(|answer| answer.text == "y").unwrap()];
    assert_eq!((second.model.weights.as_str(), second.model.name.as_str(), &second.tokens), ("2", "b", &None));
    assert_eq!(second.sampling, json!({ "temperature": 0.7, "repetition-penalty": 1.0, "seed": 0 }));
    let all = ExportFilter::default();
    assert_eq!(exported(&store, ExportKind::Comparisons, &all).len(), 2, "compare is used for training");
    drop(store);
    assert_eq!(FeedbackStore::open(folder.path()).unwrap().choices().unwrap().len(), 6, "once");
}

#[test]
fn a_file_of_version_1_that_cannot_be_converted_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = version_1(folder.path());
    let old = Connection::open(&path).unwrap();
    old.execute_batch("DELETE FROM settings WHERE name = 'b'").unwrap();
    drop(old);
    let error = format!("{:#}", FeedbackStore::open(folder.path()).unwrap_err());
    assert!(error.contains("cannot be converted to format version 2: some answers"), "{error}");
    let old = Connection::open(&path).unwrap();
    let n: i64 = old.query_row("SELECT count(*) FROM choices", [], |row| row.get(0)).unwrap();
    assert_eq!(n, 6);
}

#[test]
fn two_processes_may_convert_a_file_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    version_1(folder.path());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(FeedbackStore::open(folder.path()).unwrap().choices().unwrap().len(), 6));
        }
    });
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("feedback.sqlite");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let error = FeedbackStore::create(folder.path()).unwrap_err().to_string();
    assert!(error.contains("feedback.sqlite is damaged or is not a store of feedback"), "{error}");
    let mode: String =
        Connection::open(&path).unwrap().pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete", "the file of another program is left alone");
    version_1(folder.path());
    let error = FeedbackStore::create(folder.path()).unwrap_err().to_string();
    assert!(error.contains("contains feedback.sqlite and comparisons.sqlite"), "{error}");
}
