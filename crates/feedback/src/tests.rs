//! The store, and what is exported from it.

mod collection;
mod deletion;
mod schema;
mod trace;

use crate::export::{ExportFilter, ExportKind, ExportLines};
use crate::people::AccessRole;
use crate::records::{Act, AnswerId, Demonstration, Feedback, ModelIdentity, Ranking, Rating, RecordedAnswer};
use crate::store::{FeedbackStore, StoreError, UNDONE};
use crate::tasks::NewTask;
use gptkit_data::comparison::read_comparisons;
use gptkit_data::dialogue::{Message, Role as Speaker};
use gptkit_data::progress::Silent;
use gptkit_data::source::OnBadRecord;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub(crate) fn id(request: &str, choice: u64) -> AnswerId {
    AnswerId { request: request.to_owned(), choice }
}

pub(crate) fn answer(request: &str, choice: u64, model: &str, prompt: &str, text: &str) -> RecordedAnswer {
    RecordedAnswer {
        id: id(request, choice),
        person: Some("ann".to_owned()),
        model: ModelIdentity {
            name: model.to_owned(),
            folder: format!("runs/{model}"),
            weights: format!("w-{model}"),
            tokenizer: format!("t-{model}"),
            template: "plain".to_owned(),
            fingerprint: format!("fp-{model}"),
            dtype: "f32".to_owned(),
        },
        prompt: vec![Message::new(Speaker::User, prompt)],
        sampling: json!({ "temperature": 1.0, "seed": u64::MAX }),
        max_new_tokens: 16,
        stop: vec!["\n".to_owned()],
        text: text.to_owned(),
        tokens: Some(vec![1, 2, 70_000]),
        log_prob: Some(-1.25),
        finish: "stop".to_owned(),
        place: None,
    }
}

pub(crate) fn feedback(client_id: &str, person: &str, act: Act) -> Feedback {
    let (client_id, person) = (client_id.to_owned(), person.to_owned());
    Feedback { client_id, person, seconds: Some(2.5), note: None, supersedes: None, act }
}

pub(crate) fn ranking(answers: &[AnswerId], ranks: Option<&[u32]>, task: Option<i64>) -> Act {
    Act::Ranking(Ranking {
        answers: answers.to_vec(),
        ranking: ranks.map(<[u32]>::to_vec),
        skipped: ranks.is_none().then(|| UNDONE.to_owned()),
        both_bad: false,
        shown: (0..answers.len() as u64).rev().collect(),
        blind: true,
        task,
    })
}

/// A store with two answers by each of two models to one prompt; ann and bob agree to training.
pub(crate) fn filled(folder: &Path) -> FeedbackStore {
    let mut store = FeedbackStore::create(folder).unwrap();
    for name in ["ann", "bob"] {
        store.see(name, AccessRole::Labeler).unwrap();
        store.consent(name, true).unwrap();
    }
    let prompt = "Write to joe@mail.example.org. <script>\u{202e}";
    store
        .add_answers(&[
            answer("r1", 0, "a", prompt, "first"),
            answer("r1", 1, "a", prompt, "second \u{1b}[31m"),
            answer("r2", 0, "b", prompt, "a longer third"),
            answer("r3", 0, "b", "other", "x"),
        ])
        .unwrap();
    store
}

pub(crate) fn store_file(folder: &Path) -> PathBuf {
    crate::store::file_in(folder).unwrap()
}

pub(crate) fn exported(store: &FeedbackStore, kind: ExportKind, filter: &ExportFilter) -> Vec<Value> {
    let ExportLines { text, counts, .. } = store.lines(kind, filter).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len() as u64, counts.records);
    records
}

#[test]
fn what_is_stored_is_there_when_the_process_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let act = ranking(&[id("r1", 0), id("r1", 1), id("r2", 0)], Some(&[2, 1, 2]), None);
    let first = store.add(&feedback("c1", "ann", act.clone())).unwrap();
    assert_eq!((first.1, store.add(&feedback("c1", "ann", act)).unwrap()), (true, (first.0, false)), "sent twice");
    std::mem::forget(store);
    let store = FeedbackStore::open(folder.path()).unwrap();
    let answers = store.answers().unwrap();
    assert_eq!(
        (answers.len(), &answers[1]),
        (4, &answer("r1", 1, "a", "Write to joe@mail.example.org. <script>\u{202e}", "second \u{1b}[31m"))
    );
    let figures = store.figures(None).unwrap();
    assert_eq!((figures.counts.rankings, figures.counts.completions), (1, 4));
}

#[test]
fn feedback_about_what_was_not_stored_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let unknown = ranking(&[id("r1", 0), id("r9", 0)], Some(&[1, 2]), None);
    assert!(
        matches!(store.add(&feedback("c1", "ann", unknown)), Err(StoreError::UnknownAnswer(at)) if at == id("r9", 0))
    );
    let mixed = ranking(&[id("r1", 0), id("r3", 0)], Some(&[1, 2]), None);
    assert!(matches!(store.add(&feedback("c2", "ann", mixed)), Err(StoreError::DifferentPrompts)));
    assert_eq!(store.figures(None).unwrap().counts.rankings, 0);
}

#[test]
fn rankings_become_comparisons_that_training_reads() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let three = [id("r1", 0), id("r1", 1), id("r2", 0)];
    store.add(&feedback("c1", "ann", ranking(&three, Some(&[3, 1, 3]), None))).unwrap();
    store.add(&feedback("c2", "bob", ranking(&three[..2], Some(&[1, 1]), None))).unwrap();
    store.add(&feedback("c3", "eve", ranking(&three[..2], Some(&[1, 2]), None))).unwrap();
    let path = folder.path().join("c.jsonl");
    let counts = store.export_to(ExportKind::Comparisons, &ExportFilter::default(), &path).unwrap();
    assert_eq!(
        (counts.records, counts.masked, counts.left_out.len()),
        (1, 1, 1),
        "eve did not agree, bob sees no difference"
    );
    let record = &exported(&store, ExportKind::Comparisons, &ExportFilter::default())[0];
    assert_eq!(record["ranking"], json!([2, 1, 2]));
    assert_eq!(record["weights"], json!(["w-a", "w-a", "w-b"]));
    assert_eq!(record["sampling"][0]["seed"], json!(u64::MAX));
    let mut found = Vec::new();
    let read = read_comparisons(&path, OnBadRecord::Fail, &Silent, &mut |comparison| {
        found.push(comparison);
        Ok(ControlFlow::Continue(()))
    });
    read.unwrap();
    assert_eq!(found[0].prompt[0].content, "Write to [mail address]. <script>\u{202e}");
    assert_eq!(found[0].places, [2, 1, 2]);
    let all = ExportFilter { without_consent: true, mask: false, ..ExportFilter::default() };
    assert_eq!(exported(&store, ExportKind::Comparisons, &all).len(), 2);
    let of_ann = ExportFilter { person: Some("bob".to_owned()), ..ExportFilter::default() };
    assert_eq!(exported(&store, ExportKind::Comparisons, &of_ann).len(), 0);
    let parts = [0, 1].map(|part| ExportFilter { part: Some((part, 2)), ..all.clone() });
    let n: usize = parts.iter().map(|filter| exported(&store, ExportKind::Comparisons, filter).len()).sum();
    assert_eq!(n, 2, "each person is in one part");
    store.exclude("ann", true).unwrap();
    assert!(exported(&store, ExportKind::Comparisons, &ExportFilter::default()).is_empty());
}

#[test]
fn a_correction_supersedes_and_a_mark_leaves_an_answer_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let three = [id("r1", 0), id("r1", 1), id("r2", 0)];
    store.add(&feedback("c1", "ann", ranking(&three, Some(&[1, 2, 3]), None))).unwrap();
    let corrected = Feedback {
        supersedes: Some("c1".to_owned()),
        ..feedback("c2", "ann", ranking(&three, Some(&[3, 2, 1]), None))
    };
    store.add(&corrected).unwrap();
    let records = exported(&store, ExportKind::Comparisons, &ExportFilter::default());
    assert_eq!((records.len(), &records[0]["ranking"]), (1, &json!([3, 2, 1])));
    let marks = vec!["harmful-advice".to_owned()];
    let rating = Rating { answer: id("r2", 0), thumb: Some(false), likert: Some(2), marks: marks.clone() };
    store.add(&feedback("c3", "bob", Act::Rating(rating))).unwrap();
    let filter = ExportFilter { without_marks: marks, ..ExportFilter::default() };
    assert_eq!(exported(&store, ExportKind::Comparisons, &filter)[0]["ranking"], json!([2, 1]));
}

#[test]
fn a_better_answer_is_a_demonstration_and_a_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let messages = vec![Message::new(Speaker::User, "other"), Message::new(Speaker::Assistant, "better")];
    let written = Demonstration { messages: messages.clone(), based_on: Some(id("r3", 0)) };
    store.add(&feedback("c1", "ann", Act::Demonstration(written))).unwrap();
    let demonstrations = exported(&store, ExportKind::Demonstrations, &ExportFilter::default());
    assert_eq!(demonstrations[0]["messages"], json!(messages));
    let comparisons = exported(&store, ExportKind::Comparisons, &ExportFilter::default());
    assert_eq!(comparisons[0]["completions"], json!(["better", "x"]));
    assert_eq!(comparisons[0]["ranking"], json!([1, 2]));
    let prompts = exported(&store, ExportKind::Prompts, &ExportFilter::default());
    assert_eq!(prompts.iter().map(|record| record["prompt"].clone()).collect::<Vec<_>>().len(), 2, "each prompt once");
    let few = ExportFilter { prompts_per_person: 1, ..ExportFilter::default() };
    assert_eq!(exported(&store, ExportKind::Prompts, &few).len(), 1);
    store.export_to(ExportKind::Prompts, &ExportFilter::default(), &folder.path().join("p.jsonl")).unwrap();
    let sql = "SELECT c.request FROM export_records e JOIN completions c ON c.id = e.record ORDER BY c.id";
    let mut statement = store.connection.prepare(sql).unwrap();
    let noted = statement.query_map([], |row| row.get::<_, String>(0)).unwrap().collect::<Result<Vec<_>, _>>();
    assert_eq!(noted.unwrap(), ["r1", "r3"], "the store says which prompts are in the file");
}

#[test]
fn people_agree_as_often_as_they_order_two_answers_alike() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let three = [id("r1", 0), id("r1", 1), id("r2", 0)];
    store.add(&feedback("c1", "ann", ranking(&three, Some(&[1, 2, 3]), None))).unwrap();
    store.add(&feedback("c2", "bob", ranking(&three, Some(&[1, 3, 2]), None))).unwrap();
    let figures = store.figures(None).unwrap();
    let agreement = figures.agreement.unwrap();
    assert_eq!((agreement.n, (agreement.value * 3.0).round()), (3, 2.0));
    assert_eq!(figures.models.iter().map(|model| (model.wins, model.losses)).collect::<Vec<_>>(), [(3, 1), (1, 3)]);
    let of_ann = store.figures(Some("ann")).unwrap();
    assert_eq!(of_ann.counts.rankings, 1);
    let days: Vec<(u64, &str)> = figures.days.iter().map(|day| (day.rankings, day.person.as_str())).collect();
    assert_eq!((days, of_ann.days.len()), (vec![(1, "ann"), (1, "bob")], 1));
    let [a, b] = figures.models.as_slice() else { panic!("{figures:?}") };
    assert!(a.strength.value > b.strength.value && a.strength.low <= a.strength.value, "{figures:?}");
}

#[test]
fn a_record_says_who_made_it_from_which_answers_and_which_exports_hold_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let three = [id("r1", 0), id("r1", 1), id("r2", 0)];
    store.add(&feedback("c1", "ann", ranking(&three, Some(&[1, 2, 3]), None))).unwrap();
    let corrected = ranking(&three, Some(&[3, 2, 1]), None);
    store.add(&Feedback { supersedes: Some("c1".to_owned()), ..feedback("c2", "ann", corrected) }).unwrap();
    let rating = Rating { answer: id("r2", 0), thumb: Some(false), likert: Some(2), marks: vec!["opinion".to_owned()] };
    store.add(&feedback("c3", "bob", Act::Rating(rating))).unwrap();
    let messages = vec![Message::new(Speaker::User, "other"), Message::new(Speaker::Assistant, "better")];
    let written = Demonstration { messages, based_on: Some(id("r3", 0)) };
    store.add(&feedback("c4", "bob", Act::Demonstration(written))).unwrap();
    store.export_to(ExportKind::Comparisons, &ExportFilter::default(), &folder.path().join("c.jsonl")).unwrap();
    let listed: Vec<(String, String, bool)> = store
        .records(None, 0)
        .unwrap()
        .into_iter()
        .map(|record| (record.id.to_string(), record.person.name, record.is_superseded))
        .collect();
    let has = |id: &str, person: &str, old| listed.contains(&(id.to_owned(), person.to_owned(), old));
    assert!(
        has("ranking-1", "ann", true) && has("ranking-2", "ann", false) && has("rating-1", "bob", false),
        "{listed:?}"
    );
    assert_eq!(
        (listed.len(), store.records(Some("ann"), 0).unwrap().len(), store.records(None, 3).unwrap().len()),
        (4, 2, 1)
    );
    let of = |id: &str, person| store.provenance(id.parse().unwrap(), person).unwrap();
    let record = of("ranking-2", None).unwrap();
    assert_eq!((record.fields["ranking"].clone(), record.fields["blind"].clone()), (json!([3, 2, 1]), json!(true)));
    assert_eq!(record.answers.iter().map(|answer| answer.rank.unwrap()).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!(
        (record.answers[2].model.weights.as_str(), &record.answers[2].sampling["seed"]),
        ("w-b", &json!(u64::MAX))
    );
    assert_eq!((record.exports.len(), of("ranking-1", None).unwrap().exports.len()), (1, 0));
    assert_eq!(
        of("rating-1", None).unwrap().fields,
        *json!({ "thumb": "down", "likert": 2, "marks": ["opinion"] }).as_object().unwrap()
    );
    assert_eq!(of("demonstration-1", None).unwrap().answers[0].text, "x");
    assert!(of("rating-1", Some("ann")).is_none() && of("rating-9", None).is_none());
}

pub(crate) fn new_task(seed: u64) -> NewTask {
    NewTask {
        messages: vec![Message::new(Speaker::User, "q")],
        k: 2,
        model: "a".to_owned(),
        temperature: 1.0,
        max_tokens: 16,
        seed,
        known_best: None,
        is_repeated: false,
    }
}

#[test]
fn a_repeated_task_shows_a_second_person_the_answers_that_the_first_one_ranked() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    store.add_tasks("ann", &[NewTask { is_repeated: true, ..new_task(1) }]).unwrap();
    let first = store.next_task("ann").unwrap().0.unwrap();
    assert_eq!((first.id, first.answers.len()), (1, 0));
    assert_eq!(store.next_task("bob").unwrap(), (None, 1), "ann has it");
    let two = [id("r1", 1), id("r1", 0)];
    store.add(&feedback("c1", "ann", ranking(&two, Some(&[1, 2]), Some(1)))).unwrap();
    assert_eq!(store.next_task("ann").unwrap(), (None, 0), "nobody repeats their own task");
    let second = store.next_task("bob").unwrap().0.unwrap();
    let answers: Vec<&str> = second.answers.iter().map(|answer| answer.text.as_str()).collect();
    assert_eq!((second.id, answers), (2, vec!["second \u{1b}[31m", "first"]));
    assert_eq!(store.next_task("eve").unwrap().0, None, "bob has it");
    store.add(&feedback("c2", "bob", ranking(&two, Some(&[1, 2]), Some(2)))).unwrap();
    assert_eq!(store.next_task("eve").unwrap(), (None, 0));
    let agreement = store.figures(None).unwrap().agreement.unwrap();
    assert_eq!((agreement.value, agreement.n), (1.0, 1));
}

#[test]
fn one_in_ten_tasks_has_a_known_best_answer_and_the_figures_say_who_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let known = |n: u64| NewTask { known_best: Some((id(&format!("k{n}"), 0), "right".to_owned())), ..new_task(n) };
    let tasks: Vec<NewTask> = (0..2).map(known).chain((2..14).map(new_task)).collect();
    store.add_tasks("bob", &tasks).unwrap();
    let mut seeds = Vec::new();
    for n in 0..14 {
        let task = store.next_task("ann").unwrap().0.unwrap();
        seeds.push(task.seed);
        let request = format!("t{n}");
        store
            .add_answers(&[answer(&request, 0, "a", "q", "wrong"), answer(&request, 1, "b", "q", "long wrong")])
            .unwrap();
        let mut two = vec![id(&request, 0), id(&request, 1)];
        let best = task.answers.first().map(|known| known.id.clone());
        two.splice(1.., best);
        let ranks: &[u32] = if task.seed == 0 { &[2, 1] } else { &[1, 1] };
        store.add(&feedback(&request, "ann", ranking(&two, Some(&ranks[..two.len()]), Some(task.id)))).unwrap();
    }
    let known_at: Vec<usize> = (0..14).filter(|&n| seeds[n] < 2).collect();
    assert_eq!(known_at, [9, 13], "the tenth, and the other one when no task without a known answer is left");
    let figures = store.figures(None).unwrap();
    let ann = figures.people.iter().find(|person| person.name == "ann").unwrap();
    let found = ann.known_best.unwrap();
    assert_eq!((found.value, found.n), (0.5, 2), "a tie is not a find");
    assert!(figures.models.is_empty(), "the known answer is not a model");
}

#[test]
fn a_task_is_with_one_person_at_a_time_until_it_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    store.add_tasks("ann", &[new_task(1), new_task(2)]).unwrap();
    let of = |store: &mut FeedbackStore, name: &str| store.next_task(name).unwrap().0.map(|task| task.seed);
    assert_eq!([of(&mut store, "ann"), of(&mut store, "bob"), of(&mut store, "ann")], [Some(1), Some(2), Some(1)]);
    assert_eq!(of(&mut store, "eve"), None);
    let done = ranking(&[id("r1", 0), id("r1", 1)], Some(&[1, 2]), Some(1));
    store.add(&feedback("c1", "ann", done)).unwrap();
    assert_eq!((of(&mut store, "ann"), store.next_task("ann").unwrap().1), (None, 1));
    let undone = ranking(&[id("r1", 0), id("r1", 1)], None, Some(1));
    store.add(&Feedback { supersedes: Some("c1".to_owned()), ..feedback("c2", "ann", undone) }).unwrap();
    assert_eq!(of(&mut store, "ann"), Some(1), "taken back");
}

#[test]
fn files_that_are_no_store_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(FeedbackStore::open(folder.path()).unwrap_err().to_string().contains("gptkit serve --feedback"));
    drop(filled(folder.path()));
    let path = store_file(folder.path());
    let bytes = std::fs::read(&path).unwrap();
    for from in (0..bytes.len()).step_by(997) {
        let mut bytes = bytes.clone();
        bytes[from..].iter_mut().take(40).for_each(|byte| *byte ^= 0x5a);
        gptkit_data::disk::write(&path, &bytes).unwrap();
        // Whatever is found, nothing panics.
        let _ = FeedbackStore::open(folder.path()).map(|store| (store.answers(), store.figures(None)));
    }
    gptkit_data::disk::write(&path, &[7; 5000]).unwrap();
    assert!(format!("{:#}", FeedbackStore::create(folder.path()).unwrap_err()).contains("damaged"));
}

#[test]
fn a_full_disk_is_named_and_what_was_stored_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path());
    let pages: i64 = store.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    store.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let long = "x".repeat(100_000);
    assert!(matches!(store.add_answers(&[answer("r9", 0, "a", "p", &long)]), Err(StoreError::DiskFull)));
    let rating = |request| Rating { answer: id(request, 0), thumb: Some(true), likert: None, marks: Vec::new() };
    let lost = store.add(&feedback("c1", "ann", Act::Rating(rating("r9"))));
    assert!(matches!(lost, Err(StoreError::DiskFull)), "{lost:?}");
    assert!(store.add(&feedback("c2", "ann", Act::Rating(rating("r1")))).is_ok());
    assert_eq!(store.answers().unwrap().len(), 4);
}
