//! Deleting a person.

use super::{answer, exported, feedback, filled, id, new_task, ranking, store_file};
use crate::export::{ExportFilter, ExportKind};
use crate::records::{Act, Demonstration, Feedback, RecordId, RecordKind, RecordedAnswer};
use crate::store::FeedbackStore;
use crate::tasks::NewTask;
use crate::trace::NotedRecord;
use gptkit_data::dialogue::{Message, Role};

#[test]
fn nothing_that_a_person_wrote_stays_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let asked =
        RecordedAnswer { person: Some("eve".to_owned()), ..answer("r9", 0, "a", "SECRET-PROMPT", "SECRET-ANSWER") };
    store.add_answers(&[asked]).unwrap();
    let answers = [id("r1", 0), id("r1", 1)];
    let noted = Feedback {
        note: Some("SECRET-NOTE".to_owned()),
        ..feedback("c1", "eve", ranking(&answers, Some(&[1, 2]), None))
    };
    store.add(&noted).unwrap();
    store.add(&feedback("c2", "ann", ranking(&answers, Some(&[1, 2]), None))).unwrap();
    let messages =
        vec![Message::new(Role::User, "SECRET-PROMPT"), Message::new(Role::Assistant, "better, but SECRET-QUOTED")];
    let written = Demonstration { messages, based_on: Some(id("r9", 0)) };
    store.add(&feedback("c3", "bob", Act::Demonstration(written))).unwrap();
    store.consent("eve", true).unwrap();
    let all = ExportFilter { person: Some("eve".to_owned()), ..ExportFilter::default() };
    store.export_to(ExportKind::Comparisons, &all, &folder.path().join("c.jsonl")).unwrap();
    let of_ann = ExportFilter { person: Some("ann".to_owned()), ..ExportFilter::default() };
    store.export_to(ExportKind::Comparisons, &of_ann, &folder.path().join("a.jsonl")).unwrap();

    // The page of a server is open at the same time.
    let other = FeedbackStore::open(folder.path()).unwrap();
    let report = store.delete_person("eve").unwrap().unwrap();
    let expected = [("answer", 1), ("demonstration", 1), ("ranking", 1)];
    assert_eq!(report.records.into_iter().collect::<Vec<_>>(), expected, "bob's text quotes the prompt");
    assert_eq!(report.exports.into_iter().collect::<Vec<_>>(), [1]);
    for ending in ["", "-wal"] {
        let path = format!("{}{ending}", store_file(folder.path()).display());
        let bytes = std::fs::read(path).unwrap();
        for text in ["SECRET", "eve"] {
            assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text} in *{ending}");
        }
    }
    assert_eq!(other.answers().unwrap().len(), 4);
    let exports = store.exports().unwrap();
    assert_eq!((exports[0].n_records(), exports[0].deleted, exports[1].n_records()), (0, 1, 1));
    let deleted = store.record(RecordId { kind: RecordKind::Ranking, number: 1 }).unwrap();
    assert!(matches!(deleted, Some(NotedRecord::Deleted { .. })), "{deleted:?}");
    assert_eq!(exported(&store, ExportKind::Comparisons, &ExportFilter::default()).len(), 1);
    assert_eq!(store.delete_person("eve").unwrap(), None);
    // A number is not used again, or a trace would lead to the wrong person.
    let last = store.add(&feedback("c4", "ann", ranking(&answers, Some(&[2, 1]), None))).unwrap();
    assert_eq!(last, (3, true));
    store.delete_person("ann").unwrap();
    let next = store.add_answers(&[answer("r1", 0, "a", "q", "x"), answer("r1", 1, "a", "q", "y")]);
    next.unwrap();
    assert_eq!(store.add(&feedback("c5", "bob", ranking(&answers, Some(&[2, 1]), None))).unwrap(), (4, true));
}

#[test]
fn a_task_stays_without_the_known_best_answer_of_its_author() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let known = NewTask { known_best: Some((id("k1", 0), "right".to_owned())), ..new_task(1) };
    store.add_tasks("eve", &[known]).unwrap();
    assert_eq!(store.next_task("ann").unwrap().0.unwrap().answers.len(), 1);
    assert_eq!(store.delete_person("eve").unwrap().unwrap().records["answer"], 1);
    assert_eq!(store.next_task("ann").unwrap().0.unwrap().answers.len(), 0);
}
