//! Comparison records → a prompt, its completions, and the place of each.
//!
//! The first record that has a [`ComparisonShape`] decides for its file; one of another shape is a bad record.

use crate::continuation::{continued, is_whole};
use crate::message::{AnswerUse, Message, Role, key, with_answers};
use crate::messages::{HISTORY, SYSTEM, turns};
use crate::progress::Progress;
use crate::record::{BadRecord, RecordPlace, Row, kind_of};
use crate::rows::read_rows;
use crate::skipped::Skipped;
use crate::source::OnBadRecord;
use crate::unused::Unused;
use anyhow::{Result, bail};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

/// A prompt and completions of it, ordered by somebody.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// File and line of its record.
    pub place: RecordPlace,
    /// The dialogue so far; the last message is the user's.
    pub prompt: Vec<Message>,
    /// Ways in which it goes on, each the assistant's answer, or several turns that begin and end with one; no two are the
    /// same.
    pub completions: Vec<Vec<Message>>,
    /// The place of each completion: 1 is the best, the same place a tie; every place up to the last is taken.
    pub places: Vec<u32>,
    /// What each is worth in truth, where that is known: the record's `gold`.
    pub gold: Option<Vec<f64>>,
    /// Whether each completion was cut off before its end, by a limit of length: the record's `cut`.
    pub cut: Vec<bool>,
    /// Completions that were dropped because they equal another one with the same rank.
    pub repeated: usize,
}

impl Comparison {
    /// The same for the same prompts; what decides which part a comparison is in.
    pub fn prompt_key(&self) -> u64 {
        key(&self.prompt)
    }

    /// Numbers of the better and the worse completion of each pair that is not tied.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        pairs(&self.places)
    }
}

/// Numbers of the better and the worse of each pair of different places.
pub fn pairs(places: &[u32]) -> impl Iterator<Item = (usize, usize)> {
    let n = places.len();
    (0..n).flat_map(move |i| (0..n).filter(move |&j| places[i] < places[j]).map(move |j| (i, j)))
}

/// How a record holds a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparisonShape {
    /// `prompt`, `completions` and `ranking`, the place of each completion.
    Ranking,
    /// A prompt, `chosen` and `rejected`.
    Pair {
        /// The name of the prompt.
        prompt: &'static str,
    },
    /// `chosen` and `rejected`, whole dialogues that begin alike.
    Dialogues,
    /// `history`, `human_ref_A` and `human_ref_B`, of which `labels` says which is better: 1 for A, 0 for B.
    Choice,
}

impl fmt::Display for ComparisonShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ranking => f.write_str("rankings (prompt, completions, ranking)"),
            Self::Pair { prompt } => write!(f, "pairs ({prompt}, chosen, rejected)"),
            Self::Dialogues => f.write_str("pairs of dialogues (chosen, rejected)"),
            Self::Choice => f.write_str("choices (history, human_ref_A, human_ref_B, labels)"),
        }
    }
}

/// Most completions of a prompt: they make pairs by the square of it. Ouyang et al. 2022 compare up to 9.
const MOST_COMPLETIONS: usize = 256;

const KNOWN: &str = "prompt (or question, instruction, input, query, messages, conversations), chosen, rejected; chosen and \
                     rejected, whole dialogues; prompt, completions, ranking; history, human_ref_A, human_ref_B, labels";
/// Names of the prompt of a pair.
const PROMPTS: [&str; 8] =
    ["prompt", "question", "instruction", "input", "query", "messages", "conversations", "conversation"];
/// Names of the scores of chosen and rejected.
const SCORES: [[&str; 2]; 4] = [
    ["score_chosen", "score_rejected"],
    ["chosen_score", "rejected_score"],
    ["chosen-rating", "rejected-rating"],
    ["chosen_rating", "rejected_rating"],
];

impl ComparisonShape {
    /// The shape of a record.
    ///
    /// # Errors
    /// When it has none.
    pub fn of(row: &Row) -> Result<Self, BadRecord> {
        let has = |key: &str| row.fields.contains_key(key);
        if has("prompt") && has("completions") {
            return Ok(Self::Ranking);
        }
        if has("chosen") && has("rejected") {
            // Whole dialogues bring their prompt; what else the record has may be a copy of one of them.
            let is_prompt = |key: &&str| has(key) && (*key == "prompt" || !is_whole(&row.fields["chosen"]));
            let prompt = PROMPTS.into_iter().find(is_prompt);
            return Ok(prompt.map_or(Self::Dialogues, |prompt| Self::Pair { prompt }));
        }
        if [HISTORY, "human_ref_A", "human_ref_B", "labels"].into_iter().all(has) {
            return Ok(Self::Choice);
        }
        let hint = match ["prompt", "completion", "label"].into_iter().all(has) {
            true => "; records with prompt, completion and label (KTO) are not supported",
            false => "",
        };
        Err(BadRecord::new(format!("is not a comparison: it has {}; accepted columns: {KNOWN}{hint}", row.keys())))
    }

    /// Names of the fields that are read of a record of this shape.
    pub fn fields(self) -> Vec<&'static str> {
        let mut fields = match self {
            Self::Ranking => vec!["prompt", "completions", "ranking", HISTORY],
            Self::Pair { prompt: prompt @ "instruction" } => {
                vec![prompt, "input", "context", "chosen", "rejected", HISTORY]
            }
            Self::Pair { prompt } => vec![prompt, "chosen", "rejected", HISTORY],
            Self::Dialogues => vec!["chosen", "rejected"],
            Self::Choice => vec![HISTORY, "human_ref_A", "human_ref_B", "labels"],
        };
        fields.extend(SYSTEM);
        fields
    }

    /// The prompt and the completions of `row`, whatever their order.
    ///
    /// # Errors
    /// When it has not this shape, or what is said is no dialogue.
    pub fn completions(self, row: &Row) -> Result<(Vec<Message>, Vec<Vec<Message>>), BadRecord> {
        let field = |name: &str| match row.fields.get(name) {
            Some(said) => Ok((name.to_owned(), said)),
            None => Err(row.lacks(name)),
        };
        let (prompt, said) = match self {
            Self::Ranking => {
                let list = listed(row, "completions")?.iter().enumerate();
                (Some("prompt"), list.map(|(i, said)| (format!("completion {}", i + 1), said)).collect())
            }
            Self::Pair { prompt } => (Some(prompt), vec![field("chosen")?, field("rejected")?]),
            Self::Dialogues => (None, vec![field("chosen")?, field("rejected")?]),
            Self::Choice => (Some(HISTORY), vec![field("human_ref_A")?, field("human_ref_B")?]),
        };
        let (prompt, completions) = continued(row, prompt, &said)?;
        for ((name, _), completion) in said.iter().zip(&completions) {
            if completion.iter().any(|message| message.use_of == AnswerUse::Masked) {
                return Err(BadRecord::new(format!(
                    "{name} has a message that is marked as not trained on; comparisons do not support such marks"
                )));
            }
        }
        Ok((with_answers(prompt, AnswerUse::Learned), completions))
    }

    /// The comparison that `row` holds.
    ///
    /// # Errors
    /// When it has not this shape, its places are no ranking, or what is said is no dialogue.
    fn comparison(self, row: &Row) -> Result<Comparison, BadRecord> {
        let (prompt, mut completions) = self.completions(row)?;
        let n = completions.len();
        let mut places = match self {
            Self::Ranking => ranking(row, n)?,
            // The same answer twice is a tie, whatever the record says.
            _ if completions[0] == completions[1] => vec![1, 1],
            Self::Choice if !is_first_better(row)? => vec![2, 1],
            Self::Pair { .. } | Self::Dialogues | Self::Choice => vec![1, 2],
        };
        let mut gold = gold(row, n)?;
        let mut cut = cut(row, n)?;
        let mut first: HashMap<u64, usize> = HashMap::new();
        let mut kept = Vec::with_capacity(n);
        for (i, completion) in completions.iter().enumerate() {
            let same = *first.entry(key(completion)).or_insert(i);
            if places[same] != places[i] {
                return Err(BadRecord::new(format!(
                    "completions {} and {} are the same, but have the ranks {} and {}",
                    same + 1,
                    i + 1,
                    places[same],
                    places[i]
                )));
            }
            kept.push(same == i);
        }
        let mut keep = kept.iter();
        completions.retain(|_| keep.next() == Some(&true));
        let mut keep = kept.iter();
        places.retain(|_| keep.next() == Some(&true));
        let mut keep = kept.iter();
        cut.retain(|_| keep.next() == Some(&true));
        if let Some(gold) = &mut gold {
            let mut keep = kept.iter();
            gold.retain(|_| keep.next() == Some(&true));
        }
        let repeated = n - completions.len();
        Ok(Comparison { place: row.place.clone(), prompt, completions, places, gold, cut, repeated })
    }
}

fn listed<'a>(row: &'a Row, key: &str) -> Result<&'a [Value], BadRecord> {
    match row.fields.get(key) {
        Some(Value::Array(list)) if (2..=MOST_COMPLETIONS).contains(&list.len()) => Ok(list),
        Some(Value::Array(list)) if list.len() > MOST_COMPLETIONS => {
            let what = format!("\"{key}\" has {} entries; the maximum is {MOST_COMPLETIONS}", list.len());
            Err(BadRecord::new(what))
        }
        Some(Value::Array(list)) => {
            Err(BadRecord::new(format!("\"{key}\" has {} entries; a comparison needs at least two", list.len())))
        }
        Some(other) => Err(BadRecord::new(format!("\"{key}\" is {}, not a list", kind_of(other)))),
        None => Err(row.lacks(key)),
    }
}

/// Whether `labels` of `row` says that A is better.
fn is_first_better(row: &Row) -> Result<bool, BadRecord> {
    match row.label("labels")?.as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(BadRecord::new(format!(
            "\"labels\" is {other:?}; use 1 if human_ref_A is better and 0 if human_ref_B is better"
        ))),
    }
}

/// The places of `n` completions, each one above the next better.
fn ranking(row: &Row, n: usize) -> Result<Vec<u32>, BadRecord> {
    let places = match row.fields.get("ranking") {
        Some(Value::Array(places)) => places,
        Some(other) => return Err(BadRecord::new(format!("\"ranking\" is {}, not a list of ranks", kind_of(other)))),
        None => return Err(row.lacks("ranking")),
    };
    if places.len() != n {
        let s = if places.len() == 1 { "" } else { "s" };
        return Err(BadRecord::new(format!("the ranking has {} value{s} for {n} completions", places.len())));
    }
    let mut numbers = Vec::with_capacity(n);
    for (i, place) in places.iter().enumerate() {
        match place.as_u64() {
            Some(place @ 1..) if place <= n as u64 => numbers.push(place as u32),
            Some(place) => {
                let says = format!("completion {} has rank {place}; ranks go from 1 (the best) to {n}", i + 1);
                return Err(BadRecord::new(says));
            }
            None => {
                return Err(BadRecord::new(format!("the rank of completion {} is {place}, not a whole number", i + 1)));
            }
        }
    }
    // After a tie, places go on with the next number, or with the number of all before.
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    let mut dense: Vec<u32> = sorted.clone();
    dense.dedup();
    let is_dense = dense.iter().enumerate().all(|(i, &place)| place as usize == i + 1);
    let counts = |&place: &u32| sorted.partition_point(|&other| other < place) + 1 == place as usize;
    if !is_dense && !dense.iter().all(counts) {
        let missing = (1..=n as u32).find(|place| !dense.contains(place)).unwrap_or_default();
        return Err(BadRecord::new(format!(
            "no completion has rank {missing}, but some have a later one: {numbers:?}"
        )));
    }
    Ok(numbers.iter().map(|place| dense.partition_point(|other| other < place) as u32 + 1).collect())
}

fn gold(row: &Row, n: usize) -> Result<Option<Vec<f64>>, BadRecord> {
    let list = match row.fields.get("gold") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(BadRecord::new(format!("\"gold\" is {}, not a list", kind_of(other)))),
    };
    let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
    match numbers {
        Some(numbers) if numbers.len() == n => Ok(Some(numbers)),
        _ => Err(BadRecord::new(format!("\"gold\" is not a list of {n} numbers, one per completion"))),
    }
}

fn cut(row: &Row, n: usize) -> Result<Vec<bool>, BadRecord> {
    let list = match row.fields.get("cut") {
        None | Some(Value::Null) => return Ok(vec![false; n]),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(BadRecord::new(format!("\"cut\" is {}, not a list", kind_of(other)))),
    };
    let found: Option<Vec<bool>> = list.iter().map(Value::as_bool).collect();
    match found {
        Some(found) if found.len() == n => Ok(found),
        _ => Err(BadRecord::new(format!("\"cut\" is not a list of {n} values true or false, one per completion"))),
    }
}

/// Hands the comparisons of the file `path` to `sink`, and says which shape its records have. One that is no sound
/// comparison is left out and counted, or ends the reading, as `on_bad` says; so does one that `sink` calls [`BadRecord`]. Where
/// `sink` breaks, reading ends.
///
/// # Errors
/// As [`read_rows`], and when the file holds no comparison.
pub fn read_comparisons(
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Comparison) -> Result<ControlFlow<()>>,
) -> Result<(ComparisonShape, Skipped)> {
    let (mut shape, mut unused) = (None, Unused::default());
    let skipped = read_rows(path, on_bad, progress, &mut |row| {
        let own = ComparisonShape::of(&row)?;
        let shape = *shape.get_or_insert(own);
        if shape != own {
            return Err(BadRecord::new(format!("has the format {own}, but earlier records have {shape}")).into());
        }
        let comparison = shape.comparison(&row)?;
        unused.take(&row, &shape.fields());
        remark(&row, &comparison, &mut unused);
        sink(comparison)
    })?;
    unused.warn(&path.display(), progress);
    match (shape, skipped.first.as_ref()) {
        (Some(shape), _) => Ok((shape, skipped)),
        (None, Some(first)) => bail!("{} contains no comparison; the first problem: {first}", path.display()),
        (None, None) => bail!("{} contains no records", path.display()),
    }
}

/// Counts what is questionable about a comparison.
fn remark(row: &Row, comparison: &Comparison, unused: &mut Unused) {
    /// Bytes of a prompt from which on an answer does not begin with the same ones by chance.
    const LONG: usize = 20;
    let score = |name: &str| row.fields.get(name).and_then(Value::as_f64);
    let scores = SCORES.iter().find_map(|[chosen, rejected]| Some((score(chosen)?, score(rejected)?)));
    if scores.is_some_and(|(chosen, rejected)| chosen <= rejected) {
        unused.remark("the score of chosen is not higher than the score of rejected");
    }
    let asked = comparison.prompt.last().map_or("", |last| last.content.trim());
    let repeats =
        |answer: &Vec<Message>| answer.first().is_some_and(|first| first.content.trim_start().starts_with(asked));
    let is_transcript = |answer: &Vec<Message>| {
        answer.first().is_some_and(|first| turns(&first.content).is_some_and(|turns| turns[0].role == Role::User))
    };
    if comparison.completions.iter().any(is_transcript) {
        unused.remark("an answer is a transcript that does not begin with the prompt; it is used as plain text");
    }
    if asked.len() >= LONG && comparison.completions.iter().all(repeats) {
        unused.remark("both answers begin with the text of the prompt; it is used as a part of them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::continuation::LARGEST_COPY;
    use serde_json::json;

    fn row(value: Value) -> Row {
        let Value::Object(fields) = value else { panic!("{value} is no object") };
        Row { place: RecordPlace { file: "a.jsonl".into(), line: 1 }, fields }
    }

    fn read(value: Value) -> Result<Comparison, BadRecord> {
        let row = row(value);
        ComparisonShape::of(&row)?.comparison(&row)
    }

    fn bad(value: Value) -> String {
        read(value).unwrap_err().to_string()
    }

    fn answers(comparison: &Comparison) -> Vec<&str> {
        comparison.completions.iter().map(|turns| turns[0].content.as_str()).collect()
    }

    #[test]
    fn pairs_and_rankings_are_read_in_each_of_their_forms() {
        let user = |text: &str| json!({ "role": "user", "content": text });
        let says = |text: &str| json!([{ "role": "assistant", "content": text }]);
        for value in [
            json!({ "prompt": "Hi", "chosen": "Hello", "rejected": "What?" }),
            json!({ "prompt": [user("Hi")], "chosen": says("Hello"), "rejected": says("What?") }),
            json!({ "prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hello", "rejected": "What?" }),
            json!({ "chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: What?" }),
            json!({ "prompt": "Hi", "completions": ["Hello", "What?"], "ranking": [1, 2] }),
        ] {
            let comparison = read(value.clone()).unwrap_or_else(|e| panic!("{value}: {e}"));
            assert_eq!(comparison.prompt, [Message::new(Role::User, "Hi")], "{value}");
            let said: Vec<&str> = answers(&comparison).into_iter().map(str::trim).collect();
            assert_eq!((said, comparison.places.as_slice()), (vec!["Hello", "What?"], &[1, 2][..]), "{value}");
        }
    }

    /// The prompt, and the two completions.
    type Split = (Vec<(Role, String)>, Vec<Vec<(Role, String)>>);

    fn split(value: Value) -> Result<Split, String> {
        let texts =
            |messages: Vec<Message>| messages.into_iter().map(|m| (m.role, m.content.trim().to_owned())).collect();
        let comparison = read(value).map_err(|bad| bad.to_string())?;
        Ok((texts(comparison.prompt), comparison.completions.into_iter().map(texts).collect()))
    }

    #[test]
    fn a_prompt_that_the_answers_repeat_is_read_once() {
        let of = |role: Role, text: &str| (role, text.to_owned());
        let user = |text: &str| json!({ "role": "user", "content": text });
        let says = |text: &str| json!({ "role": "assistant", "content": text });
        let system = json!({ "role": "system", "content": "s" });
        let transcript = |answer: &str| format!("\n\nHuman: q\n\nAssistant: {answer}");
        let answers = vec![vec![of(Role::Assistant, "a")], vec![of(Role::Assistant, "b")]];
        let plain = (vec![of(Role::User, "q")], answers.clone());
        let ruled = (vec![of(Role::System, "s"), of(Role::User, "q")], answers.clone());
        for (value, expected) in [
            (json!({ "prompt": "q", "chosen": [user("q"), says("a")], "rejected": [user("q"), says("b")] }), &plain),
            (
                json!({ "prompt": "\n\nHuman: q\n\nAssistant:", "chosen": transcript("a"), "rejected": transcript("b") }),
                &plain,
            ),
            (json!({ "prompt": "q", "chosen": transcript("a"), "rejected": transcript("b") }), &plain),
            (json!({ "prompt": [user("q")], "chosen": [user("q"), says("a")], "rejected": [says("b")] }), &plain),
            (json!({ "question": "q", "chosen": "a", "rejected": "b" }), &plain),
            (json!({ "instruction": "q", "input": "", "chosen": "a", "rejected": "b" }), &plain),
            (
                json!({ "conversations": [{ "from": "human", "value": "q" }], "chosen": { "from": "gpt", "value": "a" },
                "rejected": { "from": "gpt", "value": "b" } }),
                &plain,
            ),
            (json!({ "system": "s", "question": "q", "chosen": "a", "rejected": "b" }), &ruled),
            (
                json!({ "messages": [user("q"), says("a")], "chosen": [user("q"), says("a")],
                "rejected": [user("q"), says("b")] }),
                &plain,
            ),
            (json!({ "system": "s", "chosen": [user("q"), says("a")], "rejected": [user("q"), says("b")] }), &ruled),
            (
                json!({ "prompt": "q", "chosen": [system, user("q"), says("a")], "rejected": [system, user("q"), says("b")] }),
                &ruled,
            ),
            (
                json!({ "prompt": [system, user("q")], "chosen": [user("q"), says("a")], "rejected": [user("q"), says("b")] }),
                &ruled,
            ),
        ] {
            assert_eq!(split(value.clone()).as_ref(), Ok(expected), "{value}");
        }
        // The prompt is the first of the user's messages, and the answers share more.
        let long = |answer: &str| json!([user("q"), says("x"), user("r"), says(answer)]);
        let (prompt, found) = split(json!({ "prompt": "q", "chosen": long("a"), "rejected": long("b") })).unwrap();
        assert_eq!((prompt.len(), found), (3, answers));
        let other = split(json!({ "prompt": "z", "chosen": long("a"), "rejected": long("b") })).unwrap_err();
        assert_eq!(other, "the dialogues do not begin with the prompt");
        let mixed = json!({ "prompt": "z", "chosen": long("a"), "rejected": "b" });
        assert_eq!(split(mixed).unwrap_err(), "chosen is a dialogue that does not begin with the prompt");
        let differ = json!({ "system": "t", "prompt": "q", "chosen": [system, user("q"), says("a")], "rejected": "b" });
        assert!(split(differ).unwrap_err().contains("the dialogue has a different system message"));
    }

    #[test]
    fn a_choice_between_two_says_which_is_better() {
        let choice = |labels: Value| {
            let value = json!({ "history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": labels });
            read(value).map(|comparison| comparison.places).map_err(|bad| bad.to_string())
        };
        assert_eq!((choice(json!(1)), choice(json!(0))), (Ok(vec![1, 2]), Ok(vec![2, 1])));
        assert!(choice(json!(2)).unwrap_err().contains("\"labels\" is \"2\"; use 1"));
    }

    #[test]
    fn marks_in_answers_are_refused_and_in_prompts_they_do_not_matter() {
        let marked = json!({ "role": "assistant", "content": "a", "weight": 0 });
        let said = bad(json!({ "prompt": "q", "chosen": [marked], "rejected": "b" }));
        assert!(said.starts_with("chosen has a message that is marked as not trained on"), "{said}");
        let user = json!({ "role": "user", "content": "q" });
        let asked = read(json!({ "prompt": [user, marked, user], "chosen": "a", "rejected": "b" })).unwrap();
        assert!(asked.prompt.iter().all(|message| message.use_of == AnswerUse::Learned));
    }

    #[test]
    fn kto_is_named() {
        let said = ComparisonShape::of(&row(json!({ "prompt": "q", "completion": "a", "label": true })))
            .unwrap_err()
            .to_string();
        assert!(said.ends_with("(KTO) are not supported"), "{said}");
    }

    #[test]
    fn dialogues_share_all_turns_up_to_the_last_question_that_is_the_same() {
        let text = |turns: &[&str]| {
            let who = ["Human", "Assistant"].into_iter().cycle();
            turns.iter().zip(who).map(|(turn, who)| format!("\n\n{who}: {turn}")).collect::<String>()
        };
        let split = |a: &[&str], b: &[&str]| {
            let comparison = read(json!({ "chosen": text(a), "rejected": text(b) }));
            comparison.map(|c| (c.prompt.len(), c.completions[0].len(), c.completions[1].len()))
        };
        assert_eq!(split(&["a", "b", "c", "d"], &["a", "b", "c", "e"]).unwrap(), (3, 1, 1));
        assert_eq!(
            split(&["a", "b", "c", "d"], &["a", "b", "x", "d"]).unwrap(),
            (1, 3, 3),
            "the answer b is shared, too"
        );
        assert_eq!(split(&["a", "b"], &["a", "b", "c", "d"]).unwrap(), (1, 1, 3));
        assert!(split(&["a", "b"], &["x", "b"]).unwrap_err().to_string().contains("the same prompt"));
    }

    #[test]
    fn places_are_dense_whichever_way_ties_are_counted() {
        let places = |ranking: Value| {
            let n = ranking.as_array().unwrap().len();
            let completions: Vec<String> = (0..n).map(|i| i.to_string()).collect();
            read(json!({ "prompt": "p", "completions": completions, "ranking": ranking })).map(|c| c.places)
        };
        assert_eq!(places(json!([3, 1, 2])).unwrap(), [3, 1, 2]);
        assert_eq!(places(json!([1, 2, 2, 4])).unwrap(), [1, 2, 2, 3]);
        assert_eq!(places(json!([1, 2, 2, 3])).unwrap(), [1, 2, 2, 3]);
        assert_eq!(places(json!([1, 1])).unwrap(), [1, 1]);
        for (wrong, says) in [
            (json!([1, 3, 3]), "no completion has rank 2, but some have a later one: [1, 3, 3]"),
            (json!([2, 3]), "completion 2 has rank 3; ranks go from 1 (the best) to 2"),
            (json!([0, 1]), "completion 1 has rank 0"),
            (json!([1, 1, 2, 4]), "no completion has rank 3"),
            (json!([1, null]), "the rank of completion 2 is null"),
            (json!([1, 1.5]), "1.5, not a whole number"),
        ] {
            let message = places(wrong).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn the_same_completion_counts_once_and_never_beside_itself() {
        let ranked = |completions: [&str; 3], ranking: [u32; 3]| {
            let (gold, cut) = ([1.0, 2.0, 3.0], [false, true, false]);
            read(json!({ "prompt": "p", "completions": completions, "ranking": ranking, "gold": gold, "cut": cut }))
        };
        let comparison = ranked(["a", "b", "a"], [1, 2, 1]).unwrap();
        assert_eq!((answers(&comparison), comparison.repeated), (vec!["a", "b"], 1));
        assert_eq!((comparison.places, comparison.gold), (vec![1, 2], Some(vec![1.0, 2.0])));
        assert_eq!(comparison.cut, [false, true]);
        let message = ranked(["a", "b", "a"], [1, 2, 3]).unwrap_err().to_string();
        assert_eq!(message, "completions 1 and 3 are the same, but have the ranks 1 and 3");
        let tied = read(json!({ "prompt": "p", "chosen": "a", "rejected": "a" })).unwrap();
        assert_eq!((answers(&tied), tied.places.as_slice(), tied.repeated), (vec!["a"], &[1][..], 1));
    }

    #[test]
    fn what_is_no_comparison_says_why() {
        for (value, says) in [
            (json!({ "prompt": "p", "chosen": "a" }), "is not a comparison: it has prompt, chosen; accepted columns:"),
            (json!({ "prompt": "p", "chosen": "a", "rejected": " " }), "rejected: message 2 is an empty completion"),
            (json!({ "prompt": " ", "chosen": "a", "rejected": "b" }), "the prompt is empty"),
            (json!({ "prompt": "p", "chosen": "a", "rejected": 3 }), "rejected is a number, not a string or messages"),
            (json!({ "chosen": "a", "rejected": "b" }), "chosen is not a dialogue"),
            (
                json!({ "prompt": "p", "completions": ["a"], "ranking": [1] }),
                "\"completions\" has 1 entries; a comparison needs",
            ),
            (
                json!({ "prompt": "p", "completions": ["a", ""], "ranking": [1, 2] }),
                "completion 2: message 2 is an empty",
            ),
            (
                json!({ "prompt": "p", "completions": ["a", "b"] }),
                "\"ranking\" is missing; the record has prompt, completions",
            ),
            (
                json!({ "prompt": "p", "completions": ["a", "b"], "ranking": [1] }),
                "the ranking has 1 value for 2 completions",
            ),
            (
                json!({ "prompt": "p", "completions": ["a", "b"], "ranking": [1, 2, 3] }),
                "the ranking has 3 values for 2 completions",
            ),
            (
                json!({ "prompt": "p", "completions": ["a", "b"], "ranking": [1, 2], "gold": [1] }),
                "not a list of 2 numbers",
            ),
            (json!({ "prompt": "p", "chosen": "a", "rejected": "b", "cut": true }), "\"cut\" is a boolean, not a list"),
            (
                json!({ "prompt": "p", "chosen": "a", "rejected": "b", "cut": [true] }),
                "not a list of 2 values true or false",
            ),
            (
                json!({ "prompt": [{ "role": "assistant", "content": "x" }], "chosen": "a", "rejected": "b" }),
                "does not end with a message of the user",
            ),
        ] {
            let message = bad(value.clone());
            assert!(message.contains(says), "{value}: {message}");
        }
    }

    #[test]
    fn a_ranking_of_thousands_is_refused() {
        let record = |n: usize, prompt: &str| {
            let completions: Vec<String> = (0..n).map(|i| format!("c{i}")).collect();
            json!({ "prompt": prompt, "completions": completions, "ranking": (1..=n).collect::<Vec<_>>() })
        };
        assert_eq!(read(record(MOST_COMPLETIONS, "p")).unwrap().completions.len(), MOST_COMPLETIONS);
        assert_eq!(bad(record(10_000, "p")), "\"completions\" has 10000 entries; the maximum is 256");
        let long = "p".repeat(LARGEST_COPY / 200);
        assert_eq!(bad(record(201, &long)), "the prompt is too long to repeat it for 201 completions");
    }

    #[test]
    fn prompts_have_keys_of_their_own() {
        let of = |prompt: &str, answer: &str| {
            read(json!({ "prompt": prompt, "chosen": answer, "rejected": "other" })).unwrap().prompt_key()
        };
        assert_eq!(of("a", "b"), of("a", "c"));
        assert_ne!(of("a", "b"), of("ab", "b"));
        let said = |texts: &[&str]| key(&texts.iter().map(|t| Message::new(Role::User, *t)).collect::<Vec<_>>());
        assert_ne!(said(&["a", "b"]), said(&["ab"]));
    }

    #[test]
    fn ties_make_no_pairs() {
        assert_eq!(pairs(&[2, 1, 2]).collect::<Vec<_>>(), [(1, 0), (1, 2)]);
        assert_eq!(pairs(&[1, 1]).count(), 0);
    }
}
