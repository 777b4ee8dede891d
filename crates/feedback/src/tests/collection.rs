//! The collection of `gptkit compare` in a store.

use super::{answer, exported, feedback, id, ranking};
use crate::choices::{HUMAN, Item, Judge, Judgment, StoredAnswer};
use crate::export::{ExportFilter, ExportKind};
use crate::records::{AnswerPlace, RecordedAnswer};
use crate::store::{FeedbackStore, StoreError};
use gptkit_data::dialogue::{Message, Role};
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const AT: &str = "2024-05-01T10:00:00Z";

fn ann() -> Judge {
    Judge { judge: HUMAN.to_owned(), who: "ann".to_owned() }
}

fn choice(item: u64, who: &str, ranking: Option<Vec<u32>>) -> Judgment {
    Judgment {
        record: None,
        item,
        judge: Judge { who: who.to_owned(), ..ann() },
        at: AT.to_owned(),
        ranking,
        scores: None,
        shown: Some(vec![1, 0]),
        seconds: Some(2.5),
    }
}

fn stored(store: &FeedbackStore) -> Vec<Judgment> {
    let choices = store.choices().unwrap();
    choices.into_iter().map(|choice| Judgment { record: None, ..choice }).collect()
}

fn item(number: u64) -> Item {
    let (place, world) = (format!("p.txt line {}", number + 1), (number == 0).then_some(7));
    Item { number, place, world, prompt: vec![Message::new(Role::User, "q \"1\"")] }
}

fn of_item(item: u64, number: u64, text: &str) -> RecordedAnswer {
    let place = Some(AnswerPlace { item, number });
    RecordedAnswer { person: None, place, ..answer(&format!("compare-a-{item}"), number, "a", "q \"1\"", text) }
}

/// A collection of `n` prompts with two answers each.
fn begun(folder: &Path, n: u64) -> FeedbackStore {
    let mut store = FeedbackStore::create(folder).unwrap();
    assert!(store.collection_settings().unwrap().is_empty());
    let settings = [("seed".to_owned(), Value::from(u64::MAX)), ("stop".to_owned(), serde_json::json!(["\n"]))];
    let items: Vec<Item> = (0..n).map(item).collect();
    assert!(store.begin_collection(&settings.into_iter().collect(), &items).unwrap());
    for item in 0..n {
        store.add_answers(&[of_item(item, 0, "x\0y"), of_item(item, 1, "")]).unwrap();
    }
    store
}

#[test]
fn what_is_kept_is_there_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = begun(folder.path(), 2);
    let gold = Judge { judge: "gold".to_owned(), who: "world".to_owned() };
    let scored = Judgment {
        judge: gold,
        scores: Some(vec![0.1, -1e-9]),
        shown: None,
        seconds: None,
        ..choice(1, "", Some(vec![2, 1]))
    };
    let choices = [choice(0, "ann", Some(vec![2, 1])), choice(1, "ann", None), scored];
    store.add_choices(&choices).unwrap();
    // As if the process had been killed.
    std::mem::forget(store);
    let mut store = FeedbackStore::open(folder.path()).unwrap();
    assert_eq!(store.collection_settings().unwrap()["seed"], u64::MAX);
    assert_eq!(store.items().unwrap(), [item(0), item(1)]);
    let answers = store.item_answers().unwrap();
    let empty = StoredAnswer { item: 1, number: 1, text: String::new(), tokens: 3, finish: "stop".to_owned() };
    assert_eq!((answers.len(), &answers[0].text, &answers[3]), (4, &"x\0y".to_owned(), &empty));
    assert_eq!(stored(&store), choices);
    assert!(!store.begin_collection(&serde_json::Map::new(), &[]).unwrap(), "a store has one collection");
    // They are the same records as those of the server.
    assert_eq!(store.answers().unwrap()[0], of_item(0, 0, "x\0y"));
    let figures = store.figures(None).unwrap();
    assert_eq!((figures.counts.completions, figures.counts.rankings, figures.counts.skipped), (4, 1, 1));
    assert!(exported(&store, ExportKind::Prompts, &ExportFilter::default()).is_empty(), "nobody asked them");
}

#[test]
fn choices_are_stored_all_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = begun(folder.path(), 2);
    store.add_choices(&[choice(0, "ann", Some(vec![1, 2]))]).unwrap();
    // The second of the two is of a prompt that does not exist.
    let error = store.add_choices(&[choice(1, "ann", None), choice(9, "ann", None)]).unwrap_err();
    assert!(error.to_string().contains("prompt 9 has no answers"), "{error}");
    assert_eq!(store.choices().unwrap().len(), 1);
}

#[test]
fn only_what_somebody_saw_is_undone_and_only_by_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = begun(folder.path(), 2);
    assert_eq!(store.undo_choice("ann", AT).unwrap(), None);
    let settled = Judgment { shown: None, ..choice(1, "ann", Some(vec![1, 1])) };
    store.add_choices(&[choice(0, "ann", Some(vec![2, 1])), settled, choice(1, "bob", None)]).unwrap();
    assert_eq!(store.undo_choice("ann", AT).unwrap(), Some(0));
    assert_eq!(store.undo_choice("ann", AT).unwrap(), None);
    assert_eq!(store.choices().unwrap().len(), 2);
    store.add_choices(&[choice(0, "ann", Some(vec![1, 2])), choice(0, "ann", Some(vec![2, 1]))]).unwrap();
    let choices = store.choices().unwrap();
    assert_eq!(choices.len(), 3, "a second choice supersedes the first");
    assert_eq!(choices[2].ranking, Some(vec![2, 1]));
    let kept: i64 = store.connection.query_row("SELECT count(*) FROM rankings", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 6, "no record is changed or removed");
}

#[test]
fn a_store_that_another_process_writes_is_not_called_damaged_and_stays_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = begun(folder.path(), 1);
    store.connection.busy_timeout(Duration::ZERO).unwrap();
    let other = Connection::open(super::store_file(folder.path())).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(store.items().unwrap().len(), 1, "readers do not wait");
    let refused = store.add_choices(&[choice(0, "ann", Some(vec![1, 2]))]).unwrap_err();
    assert!(refused.to_string().contains("another process has been writing the store"), "{refused}");
    other.execute_batch("ROLLBACK").unwrap();
    store.add_choices(&[choice(0, "ann", Some(vec![1, 2]))]).unwrap();
    assert_eq!(FeedbackStore::open(folder.path()).unwrap().choices().unwrap().len(), 1);
}

/// Two people at the page of a server, each with a connection of the server's process, and `gptkit compare`: as three
/// connections to one file.
#[test]
fn two_people_and_a_collection_use_one_store_at_the_same_time() {
    const N: u64 = 40;
    let folder = tempfile::tempdir().unwrap();
    drop(begun(folder.path(), N));
    let open = || FeedbackStore::create(folder.path()).unwrap();
    std::thread::scope(|scope| {
        for who in ["bob", "eve"] {
            scope.spawn(move || {
                let mut store = open();
                for i in 0..N {
                    let (request, ids) = (format!("r-{who}-{i}"), [0, 1]);
                    store.add_answers(&ids.map(|choice| answer(&request, choice, "a", who, "text"))).unwrap();
                    let act = ranking(&ids.map(|choice| id(&request, choice)), Some(&[1, 2]), None);
                    // The page sends a record again when it had no reply.
                    let sent = [0, 1].map(|_| store.add(&feedback(&format!("{who}-{i}"), who, act.clone())));
                    assert_eq!(sent.map(|sent| sent.unwrap().1), [true, false]);
                }
            });
        }
        scope.spawn(move || {
            let mut store = open();
            for item in 0..N {
                store.add_choices(&[choice(item, "ann", Some(vec![2, 1]))]).unwrap();
            }
        });
    });
    let store = FeedbackStore::open(folder.path()).unwrap();
    let items: BTreeSet<u64> = store.choices().unwrap().iter().map(|choice| choice.item).collect();
    assert_eq!((items.len() as u64, store.choices().unwrap().len() as u64), (N, N));
    let figures = store.figures(None).unwrap();
    assert_eq!((figures.counts.rankings, figures.counts.completions), (3 * N, 6 * N));
    drop(store);
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["feedback.sqlite"], "a store that nobody has open is one file");
}

#[test]
fn an_unknown_answer_is_not_ranked() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = begun(folder.path(), 1);
    let act = ranking(&[id("compare-a-0", 0), id("compare-a-0", 7)], Some(&[1, 2]), None);
    assert!(matches!(store.add(&feedback("c", "ann", act)), Err(StoreError::UnknownAnswer(_))));
}
