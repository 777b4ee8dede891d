//! A collection → the files that are read by others: comparisons that a reward model learns from, and a summary.

use crate::collection::Collection;
use crate::settings::{Side, StoredSampling};
use crate::win_rates::{Agreement, JudgeSummary, agreements};
use anyhow::Result;
use gptkit_data::comparison::pairs;
use gptkit_data::disk;
use gptkit_data::synthetic::SyntheticInstructions;
use gptkit_feedback::choices::{Judge, Judgment, StoredAnswer};
use gptkit_feedback::export::{dense, prompt_value};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// File of the summary below a collection's folder.
pub const SUMMARY: &str = "summary.json";

/// A file of comparisons: what judges of one name chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    /// Where it lies.
    pub path: PathBuf,
    /// Comparisons in it.
    pub comparisons: u64,
    /// Choices that tell nothing apart, and are not in it.
    pub ties: u64,
    /// Choices that are not in it because an answer is empty: two of two, or all but one of K.
    pub empty: u64,
}

/// All that is known of a collection.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CollectionSummary {
    /// Prompts.
    pub prompts: u64,
    /// Answers that ended for want of room.
    pub cut_answers: u64,
    /// What each judge said.
    pub verdicts: Vec<JudgeSummary>,
    /// How far each two agree that judged the same prompts.
    pub agreements: Vec<Agreement>,
    /// The files, by the judge's name.
    pub exports: BTreeMap<String, Export>,
}

/// File of the comparisons by `judge` below a collection's folder: `comparisons-human.jsonl`, for a reward model's folder
/// its last name.
pub fn export_path(folder: &Path, judge: &str) -> PathBuf {
    let name =
        Path::new(judge).file_name().map_or_else(|| judge.to_owned(), |name| name.to_string_lossy().into_owned());
    folder.join(format!("comparisons-{name}.jsonl"))
}

/// Writes the files of `collection` whole, in place of older ones, and says what is in them.
///
/// # Errors
/// When the collection is damaged, or a file cannot be written.
pub fn write(collection: &mut Collection) -> Result<CollectionSummary> {
    let (answers, choices) = (collection.answers()?, collection.choices()?);
    let same = |item: u64, a: usize, b: usize| {
        let answers = &answers[item as usize];
        answers[a].text == answers[b].text
    };
    let (n_answers, are_two) = (collection.settings.n_answers(), collection.settings.b.is_some());
    let alike = |item: u64| (1..n_answers).all(|i| same(item, 0, i));
    let judges: BTreeSet<&Judge> = choices.iter().map(|choice| &choice.judge).collect();
    let verdict = |judge: &Judge| {
        let own: Vec<&Judgment> = choices.iter().filter(|choice| choice.judge == *judge).collect();
        JudgeSummary::of(judge, &own, are_two, alike)
    };
    let mut exports = BTreeMap::new();
    let names: BTreeSet<&str> = judges.iter().map(|judge| judge.judge.as_str()).collect();
    for name in names {
        let folder = collection.folder.clone();
        // Reward models of the same last name share a file.
        let own =
            choices.iter().filter(|choice| export_path(&folder, &choice.judge.judge) == export_path(&folder, name));
        exports.insert(name.to_owned(), export(collection, &answers, own, name)?);
    }
    let cut_answers = answers.iter().flatten().filter(|answer| answer.finish == "length").count() as u64;
    let summary = CollectionSummary {
        prompts: collection.items.len() as u64,
        cut_answers,
        verdicts: judges.into_iter().map(verdict).collect(),
        agreements: agreements(&choices, same),
        exports,
    };
    let mut whole = serde_json::to_value(&summary)?;
    whole["settings"] = serde_json::to_value(&collection.settings)?;
    disk::write_json(&collection.folder.join(SUMMARY), &whole)?;
    Ok(summary)
}

fn export<'a>(
    collection: &mut Collection,
    answers: &[Vec<StoredAnswer>],
    choices: impl Iterator<Item = &'a Judgment>,
    judge: &str,
) -> Result<Export> {
    let path = export_path(&collection.folder, judge);
    let mut export = Export { path, comparisons: 0, ties: 0, empty: 0 };
    let world = collection.settings.prompts().world();
    let (mut lines, mut records) = (String::new(), Vec::new());
    for choice in choices {
        let Some(places) = &choice.ranking else { continue };
        let answers = &answers[choice.item as usize];
        // Nobody learns from an empty answer: a dialogue has none.
        let kept: Vec<usize> = (0..answers.len()).filter(|&i| !answers[i].text.is_empty()).collect();
        let of_kept: Vec<u32> = kept.iter().map(|&i| places[i]).collect();
        if pairs(places).next().is_none() {
            export.ties += 1;
        } else if pairs(&of_kept).next().is_none() {
            export.empty += 1;
        } else {
            let record = record(collection, world.as_ref(), answers, choice, (&kept, of_kept));
            lines += &(Value::Object(record).to_string() + "\n");
            export.comparisons += 1;
            records.extend(choice.record);
        }
    }
    collection.write_export(&export.path, &lines, judge, &records)?;
    Ok(export)
}

/// A choice as [`gptkit_data::comparison`] reads it, with the places of those answers that are `kept`.
fn record(
    collection: &Collection,
    world: Option<&SyntheticInstructions>,
    answers: &[StoredAnswer],
    choice: &Judgment,
    (kept, places): (&[usize], Vec<u32>),
) -> Map<String, Value> {
    let (item, settings) = (&collection.items[choice.item as usize], &collection.settings);
    let instruction = item.world.and_then(|number| Some(world?.instruction(number)));
    let gold = |i: usize| instruction.as_ref().map(|instruction| instruction.gold(&answers[i].text));
    let model = |i: usize| if settings.side(i as u64) == Side::B { settings.b.as_ref() } else { Some(&settings.a) };
    let mut record = Map::new();
    let mut put = |name: &str, value: Value| record.insert(name.to_owned(), value);
    put("prompt", prompt_value(&item.prompt));
    let cut = |i: usize| answers[i].finish == "length";
    let order: Vec<usize> = if settings.b.is_some() {
        let (chosen, rejected) = if places[0] < places[1] { (0, 1) } else { (1, 0) };
        put("chosen", json!(answers[chosen].text));
        put("rejected", json!(answers[rejected].text));
        put("models", json!({ "chosen": model(chosen), "rejected": model(rejected) }));
        vec![chosen, rejected]
    } else {
        put("completions", kept.iter().map(|&i| json!(answers[i].text)).collect());
        put("ranking", json!(dense(&places)));
        put("models", json!(settings.a));
        kept.to_vec()
    };
    if order.iter().any(|&i| cut(i)) {
        put("cut", order.iter().map(|&i| json!(cut(i))).collect());
    }
    if let Some(gold) = order.into_iter().map(gold).collect::<Option<Vec<f64>>>() {
        put("gold", json!(gold));
    }
    put("judge", json!(choice.judge.judge));
    put("who", json!(choice.judge.who));
    put("at", json!(choice.at));
    put("sampling", sampling(&settings.sampling, settings.max_new_tokens));
    record
}

fn sampling(tokens: &StoredSampling, max_new_tokens: usize) -> Value {
    let mut sampling = json!(tokens);
    sampling["max-new-tokens"] = json!(max_new_tokens);
    sampling
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::tests::collected;
    use crate::settings::tests::settings;
    use gptkit_data::comparison::{Comparison, ComparisonShape, read_comparisons};
    use gptkit_data::progress::Silent;
    use gptkit_data::source::OnBadRecord;

    fn chosen(item: u64, judge: &str, ranking: &[u32]) -> Judgment {
        Judgment {
            record: None,
            item,
            judge: Judge { judge: judge.to_owned(), who: "1".to_owned() },
            at: "2024-05-01T10:00:00Z".to_owned(),
            ranking: (!ranking.is_empty()).then(|| ranking.to_vec()),
            scores: None,
            shown: None,
            seconds: None,
        }
    }

    fn read(path: &Path) -> (ComparisonShape, Vec<Comparison>) {
        let mut all = Vec::new();
        let (shape, skipped) = read_comparisons(path, OnBadRecord::Fail, &Silent, &mut |comparison| {
            all.push(comparison);
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(skipped.total(), 0);
        (shape, all)
    }

    fn texts(comparison: &Comparison) -> Vec<&str> {
        comparison.completions.iter().map(|said| said[0].content.as_str()).collect()
    }

    #[test]
    fn pairs_are_read_back_as_they_were_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let human = "Human: q\n\nAssistant: a";
        let all: [(&str, &[&str]); 5] = [
            ("q", &["x", "y"]),
            (human, &["x", "y"]),
            ("tied", &["x", "y"]),
            ("empty", &["", "y"]),
            ("s", &["x", "y"]),
        ];
        let mut collection = collected(folder.path(), settings(None, "p.txt"), &all);
        let choices = [&[2, 1][..], &[1, 2], &[1, 1], &[2, 1], &[]];
        let choices: Vec<Judgment> =
            choices.iter().zip(0..).map(|(places, item)| chosen(item, "human", places)).collect();
        collection.choose(&choices).unwrap();
        collection.choose(&[chosen(0, "runs/rm-1", &[1, 2])]).unwrap();
        let summary = write(&mut collection).unwrap();
        let export = &summary.exports["human"];
        assert_eq!((export.comparisons, export.ties, export.empty), (2, 1, 1));
        let (shape, found) = read(&folder.path().join("comparisons-human.jsonl"));
        assert_eq!((shape, found.len()), (ComparisonShape::Pair { prompt: "prompt" }, 2));
        assert_eq!((texts(&found[0]), &found[0].places), (vec!["y", "x"], &vec![1, 2]));
        assert_eq!((texts(&found[1]), found[1].prompt[0].content.as_str()), (vec!["x", "y"], human));
        assert_eq!(texts(&read(&folder.path().join("comparisons-rm-1.jsonl")).1[0]), ["x", "y"]);
        let line = std::fs::read_to_string(&export.path).unwrap();
        let record: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        assert_eq!(record["models"], json!({ "chosen": "runs/b", "rejected": "runs/a" }));
        assert_eq!(record["sampling"]["temperature"], 0.7);
        assert_eq!((&record["who"], &record["at"]), (&json!("1"), &json!("2024-05-01T10:00:00Z")));
        let summary: Value = serde_json::from_slice(&std::fs::read(folder.path().join(SUMMARY)).unwrap()).unwrap();
        assert_eq!(summary["verdicts"][0]["win_rate"]["ties"], 1);
        assert_eq!(summary["agreements"][0]["agreed"]["value"], 0.0);
        assert_eq!(summary["settings"]["prompts"], "p.txt");
    }

    #[test]
    fn answers_that_were_cut_for_length_are_marked() {
        let folder = tempfile::tempdir().unwrap();
        let all: [(&str, &[&str]); 2] = [("q", &["x…", "y"]), ("r", &["x", "y"])];
        let mut collection = collected(folder.path(), settings(None, "p.txt"), &all);
        collection.choose(&[chosen(0, "human", &[2, 1]), chosen(1, "human", &[2, 1])]).unwrap();
        let found = read(&write(&mut collection).unwrap().exports["human"].path).1;
        assert_eq!((texts(&found[0]), found[0].cut.as_slice()), (vec!["y", "x…"], &[false, true][..]));
        assert_eq!(found[1].cut, [false, false]);
        disk::create_dir(&folder.path().join("k")).unwrap();
        let mut ranked = collected(&folder.path().join("k"), settings(Some(3), "p.txt"), &[("q", &["x…", "", "z"])]);
        ranked.choose(&[chosen(0, "human", &[2, 3, 1])]).unwrap();
        let found = read(&write(&mut ranked).unwrap().exports["human"].path).1;
        assert_eq!((texts(&found[0]), found[0].cut.as_slice()), (vec!["x…", "z"], &[true, false][..]));
    }

    #[test]
    fn rankings_are_read_back_without_empty_answers_and_with_what_they_are_worth() {
        let folder = tempfile::tempdir().unwrap();
        let all: [(&str, &[&str]); 2] = [("q", &["", "x", "y", "x"]), ("r", &["", "x", "x", "x"])];
        let mut collection = collected(folder.path(), settings(Some(4), "world:2"), &all);
        collection.choose(&[chosen(0, "labeler", &[2, 3, 1, 3]), chosen(1, "labeler", &[2, 1, 1, 1])]).unwrap();
        let summary = write(&mut collection).unwrap();
        assert_eq!((summary.exports["labeler"].comparisons, summary.exports["labeler"].empty), (1, 1));
        let (shape, found) = read(&summary.exports["labeler"].path);
        assert_eq!(
            (shape, texts(&found[0]), &found[0].places),
            (ComparisonShape::Ranking, vec!["x", "y"], &vec![2, 1])
        );
        assert_eq!((found[0].gold.as_ref().unwrap().len(), found[0].repeated), (2, 1));
    }
}
