//! Files of an older version.

use super::{exported, feedback, id, ranking};
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

/// `feedback.sqlite` as version 1 of `gptkit serve` wrote it: two people, a task, and a record of each kind.
fn served_version_1(folder: &Path) -> PathBuf {
    let path = folder.join("feedback.sqlite");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(
        r#"
        CREATE TABLE people (
            id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, consented_at TEXT, excluded_at TEXT) STRICT;
        CREATE TABLE models (
            id INTEGER PRIMARY KEY, name TEXT NOT NULL, folder TEXT NOT NULL, weights TEXT NOT NULL, fingerprint TEXT NOT NULL,
            dtype TEXT NOT NULL, UNIQUE (name, folder, fingerprint)) STRICT;
        CREATE TABLE completions (
            id INTEGER PRIMARY KEY, request TEXT NOT NULL, choice INTEGER NOT NULL, person INTEGER NOT NULL REFERENCES people,
            model INTEGER NOT NULL REFERENCES models, at TEXT NOT NULL, prompt TEXT NOT NULL, sampling TEXT NOT NULL,
            max_new_tokens INTEGER NOT NULL, stop TEXT NOT NULL, text TEXT NOT NULL, tokens TEXT NOT NULL, finish TEXT NOT NULL,
            UNIQUE (request, choice)) STRICT;
        CREATE TABLE rankings (
            id INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, person INTEGER NOT NULL REFERENCES people, at TEXT NOT NULL,
            seconds REAL, note TEXT, supersedes TEXT, ranking TEXT, shown TEXT NOT NULL, both_bad INTEGER NOT NULL,
            blind INTEGER NOT NULL, skipped TEXT, task INTEGER REFERENCES tasks) STRICT;
        CREATE TABLE ranked (
            ranking INTEGER NOT NULL REFERENCES rankings, number INTEGER NOT NULL, completion INTEGER NOT NULL
            REFERENCES completions, PRIMARY KEY (ranking, number)) STRICT;
        CREATE TABLE ratings (
            id INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, person INTEGER NOT NULL REFERENCES people, at TEXT NOT NULL,
            seconds REAL, note TEXT, supersedes TEXT, completion INTEGER NOT NULL REFERENCES completions, thumb INTEGER,
            likert INTEGER CHECK (likert BETWEEN 1 AND 7), marks TEXT NOT NULL) STRICT;
        CREATE TABLE demonstrations (
            id INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, person INTEGER NOT NULL REFERENCES people, at TEXT NOT NULL,
            seconds REAL, note TEXT, supersedes TEXT, messages TEXT NOT NULL, based_on INTEGER REFERENCES completions) STRICT;
        CREATE TABLE tasks (
            id INTEGER PRIMARY KEY, prompt TEXT NOT NULL, k INTEGER NOT NULL, model TEXT NOT NULL, temperature REAL NOT NULL,
            max_tokens INTEGER NOT NULL, seed INTEGER NOT NULL, leased_by INTEGER REFERENCES people, leased_until INTEGER,
            done INTEGER NOT NULL DEFAULT 0) STRICT;
        CREATE TABLE exports (
            id INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL, hash TEXT NOT NULL,
            filter TEXT NOT NULL) STRICT;
        CREATE TABLE export_records (
            export INTEGER NOT NULL REFERENCES exports, kind TEXT NOT NULL, record INTEGER NOT NULL,
            PRIMARY KEY (export, kind, record)) STRICT;
        PRAGMA application_id = 1735423078;
        PRAGMA user_version = 1;
        INSERT INTO people VALUES (1, 'ann', 'labeler', '2024-05-01T10:00:00Z', NULL), (2, 'bob', 'user', NULL, NULL);
        INSERT INTO models VALUES (1, 'chat', 'runs/a', 'w', 'fp_1', 'f32');
        INSERT INTO completions VALUES
            (3, 'r1', 0, 2, 1, '2024-05-01T10:00:01Z', '[{"role":"user","content":"q"}]', '{"seed":7}', 16, '["x"]', 'y', '[5,6]', 'stop'),
            (4, 'r1', 1, 2, 1, '2024-05-01T10:00:01Z', '[{"role":"user","content":"q"}]', '{"seed":7}', 16, '[]', 'w', '[8]', 'length');
        INSERT INTO tasks VALUES (1, '[{"role":"user","content":"q"}]', 2, 'chat', 1.0, 16, 3, 1, 1700000000, 1),
            (2, '[{"role":"user","content":"t"}]', 4, 'chat', 0.7, 16, 4, NULL, NULL, 0);
        INSERT INTO rankings VALUES (9, 'c1', 1, '2024-05-01T10:00:02Z', 2.5, 'n', NULL, '[2,1]', '[1,0]', 0, 1, NULL, 1);
        INSERT INTO ranked VALUES (9, 0, 3), (9, 1, 4);
        INSERT INTO ratings VALUES (1, 'c2', 2, '2024-05-01T10:00:03Z', NULL, NULL, NULL, 3, 1, 6, '["harmful"]');
        INSERT INTO demonstrations VALUES (1, 'c3', 1, '2024-05-01T10:00:04Z', 9.0, NULL, NULL,
            '[{"role":"user","content":"q"},{"role":"assistant","content":"z"}]', 4);
        INSERT INTO exports VALUES (1, '2024-05-01T10:00:05Z', 'comparisons', '/c.jsonl', 'h', '{}');
        INSERT INTO export_records VALUES (1, 'rankings', 9), (1, 'demonstrations', 1);
        "#,
    )
    .unwrap();
    path
}

#[test]
fn a_store_of_version_1_is_converted_with_all_its_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = served_version_1(folder.path());
    let mut store = FeedbackStore::open(folder.path()).unwrap();
    assert_eq!(store.path(), path, "in place");
    let answers = store.answers().unwrap();
    let first = &answers[0];
    assert_eq!((answers.len(), first.person.as_deref(), &first.tokens), (2, Some("bob"), &Some(vec![5, 6])));
    assert_eq!((first.model.weights.as_str(), first.model.tokenizer.as_str(), first.log_prob), ("w", "", None));
    assert_eq!((&first.sampling, &first.stop), (&json!({ "seed": 7 }), &vec!["x".to_owned()]));
    let kept = store.provenance("ranking-9".parse().unwrap(), None).unwrap().unwrap();
    assert_eq!((kept.answers[0].rank, kept.seconds, kept.note.as_deref()), (Some(2), Some(2.5), Some("n")));
    assert_eq!((kept.fields["task"].as_i64(), kept.exports[0].path.as_str()), (Some(1), "/c.jsonl"));
    let counts = store.figures(None).unwrap().counts;
    assert_eq!((counts.rankings, counts.ratings, counts.demonstrations, counts.tasks_waiting), (1, 1, 1, 1));
    let all = ExportFilter::default();
    assert_eq!(exported(&store, ExportKind::Comparisons, &all).len(), 2, "ann agreed to training");
    assert_eq!(store.next_task("bob").unwrap().0.unwrap().id, 2);
    assert_eq!(store.exports().unwrap()[0].n_records(), 2);
    drop(store);
    let converted = Connection::open(&path).unwrap();
    let tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name LIKE 'old%'";
    assert_eq!(converted.query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    assert_eq!(
        converted.query_row("SELECT sum(n_tokens) FROM completions", [], |row| row.get::<_, i64>(0)).unwrap(),
        3
    );
    let broken = "SELECT count(*) FROM pragma_foreign_key_check";
    assert_eq!(converted.query_row(broken, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    // A number is not used again, or a trace would lead to the wrong person.
    let mut store = FeedbackStore::open(folder.path()).unwrap();
    store.delete_person("ann").unwrap().unwrap();
    let answers = [id("r1", 0), id("r1", 1)];
    let next = feedback("c4", "bob", ranking(&answers, Some(&[1, 2]), None));
    assert_eq!(store.add(&next).unwrap(), (10, true));
}

#[test]
fn a_store_of_version_1_that_cannot_be_converted_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = served_version_1(folder.path());
    let old = Connection::open(&path).unwrap();
    old.execute_batch("UPDATE completions SET tokens = 'x' WHERE id = 4").unwrap();
    drop(old);
    let error = format!("{:#}", FeedbackStore::open(folder.path()).unwrap_err());
    assert!(error.contains("feedback.sqlite cannot be converted to format version 2"), "{error}");
    let old = Connection::open(&path).unwrap();
    let version: i64 = old.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let n: i64 = old.query_row("SELECT count(*) FROM completions", [], |row| row.get(0)).unwrap();
    assert_eq!((version, n), (1, 2));
}
