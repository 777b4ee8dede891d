//! Comparison records → a prompt, its completions, and the place of each.
//!
//! The first record that has a [`Shape`] decides for its file; one of another shape is a bad record.

use crate::dialogue::{Message, Role, checked, key, messages, turns};
use crate::progress::Progress;
use crate::record::{Bad, Place, Row, Skipped, kind_of, read_rows};
use crate::source::OnBadRecord;
use anyhow::{Result, bail};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// A prompt and completions of it, ordered by somebody.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Where its record stands.
    pub place: Place,
    /// The dialogue so far; the user speaks last.
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
    /// Completions that were left out because they said the same as another in the same place.
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
pub enum Shape {
    /// `prompt`, `completions` and `ranking`, the place of each completion.
    Ranking,
    /// `prompt`, `chosen` and `rejected`.
    Pair,
    /// `chosen` and `rejected`, whole dialogues that begin alike.
    Dialogues,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ranking => "rankings (prompt, completions, ranking)",
            Self::Pair => "pairs (prompt, chosen, rejected)",
            Self::Dialogues => "pairs of dialogues (chosen, rejected)",
        })
    }
}

/// Most completions of a prompt: they make pairs by the square of it. Ouyang et al. 2022 compare up to 9.
const MOST_COMPLETIONS: usize = 256;
/// Most bytes that the copies of a prompt may have.
const LARGEST_COPY: usize = 256 << 20;

const KNOWN: &str = "prompt, chosen, rejected; chosen and rejected, whole dialogues; prompt, completions, ranking";

impl Shape {
    /// The shape of a record.
    ///
    /// # Errors
    /// When it has none.
    pub fn of(row: &Row) -> Result<Self, Bad> {
        let has = |key: &str| row.fields.contains_key(key);
        match (has("prompt"), has("chosen") && has("rejected"), has("completions")) {
            (true, _, true) => Ok(Self::Ranking),
            (true, true, _) => Ok(Self::Pair),
            (false, true, _) => Ok(Self::Dialogues),
            _ => Err(Bad::new(format!("is no comparison: it has {}; known are {KNOWN}", row.keys()))),
        }
    }

    /// The prompt and the completions of `row`, whatever their order.
    ///
    /// # Errors
    /// When it has not this shape, or what is said is no dialogue.
    pub fn completions(self, row: &Row) -> Result<(Vec<Message>, Vec<Vec<Message>>), Bad> {
        let list;
        let said = match self {
            Self::Ranking => {
                list = listed(row, "completions")?;
                list.iter().enumerate().map(|(i, said)| (format!("completion {}", i + 1), said)).collect()
            }
            Self::Pair | Self::Dialogues => {
                let field = |key: &str| match row.fields.get(key) {
                    Some(said) => Ok((key.to_owned(), said)),
                    None => Err(Bad::new(format!("no \"{key}\"; the record has {}", row.keys()))),
                };
                vec![field("chosen")?, field("rejected")?]
            }
        };
        let mut prompt = if self == Self::Dialogues { Vec::new() } else { prompt(row)? };
        // Each completion is looked at behind its own copy of the prompt.
        let copied = said.len() * prompt.iter().map(|message| message.content.len()).sum::<usize>();
        if copied > LARGEST_COPY {
            return Err(Bad::new(format!("has a prompt too long for {} completions", said.len())));
        }
        let mut completions = Vec::with_capacity(said.len());
        for (name, said) in said {
            let mut whole = prompt.clone();
            whole.extend(continuation(&name, said, row, self == Self::Dialogues)?);
            // A system message that says nothing is none.
            completions.push(checked(whole).map_err(|bad| bad.within(&name))?);
        }
        let shared = match self {
            Self::Dialogues => shared_prompt(&completions),
            Self::Pair | Self::Ranking => completions.first().map_or(0, |_| checked_len(&prompt)),
        };
        if let Some(first) = completions.first() {
            prompt = first[..shared].to_vec();
        }
        if prompt.last().is_none_or(|last| last.role != Role::User) {
            return Err(Bad::new("chosen and rejected do not begin with the same prompt"));
        }
        completions.iter_mut().for_each(|whole| drop(whole.drain(..shared)));
        Ok((prompt, completions))
    }

    /// The comparison that `row` holds.
    ///
    /// # Errors
    /// When it has not this shape, its places are no ranking, or what is said is no dialogue.
    fn comparison(self, row: &Row) -> Result<Comparison, Bad> {
        let (prompt, mut completions) = self.completions(row)?;
        let n = completions.len();
        let mut places = match self {
            Self::Ranking => ranking(row, n)?,
            Self::Pair | Self::Dialogues => vec![1, 2],
        };
        let mut gold = gold(row, n)?;
        let mut cut = cut(row, n)?;
        if self != Self::Ranking && completions[0] == completions[1] {
            return Err(Bad::new("chosen and rejected are the same"));
        }
        let mut first: HashMap<u64, usize> = HashMap::new();
        let mut kept = Vec::with_capacity(n);
        for (i, completion) in completions.iter().enumerate() {
            let same = *first.entry(key(completion)).or_insert(i);
            if places[same] != places[i] {
                return Err(Bad::new(format!(
                    "completions {} and {} are the same, and have the places {} and {}",
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

fn listed<'a>(row: &'a Row, key: &str) -> Result<&'a [Value], Bad> {
    match row.fields.get(key) {
        Some(Value::Array(list)) if (2..=MOST_COMPLETIONS).contains(&list.len()) => Ok(list),
        Some(Value::Array(list)) if list.len() > MOST_COMPLETIONS => {
            let what = format!("\"{key}\" has {} entries; a comparison has at most {MOST_COMPLETIONS}", list.len());
            Err(Bad::new(what))
        }
        Some(Value::Array(list)) => {
            Err(Bad::new(format!("\"{key}\" has {} of the two or more that a comparison needs", list.len())))
        }
        Some(other) => Err(Bad::new(format!("\"{key}\" is {}, not a list", kind_of(other)))),
        None => Err(Bad::new(format!("no \"{key}\"; the record has {}", row.keys()))),
    }
}

/// The dialogue under `prompt`: messages, a transcript, or what the user says.
pub(crate) fn prompt(row: &Row) -> Result<Vec<Message>, Bad> {
    let mut prompt = match row.fields.get("prompt") {
        Some(Value::Array(_)) => messages(row, "prompt")?,
        _ => {
            let text = row.text("prompt")?;
            turns(text).unwrap_or_else(|| vec![Message::new(Role::User, text)])
        }
    };
    // A transcript may end where the assistant is to speak.
    if prompt.last().is_some_and(|last| last.role == Role::Assistant && last.content.is_empty()) {
        prompt.pop();
    }
    match prompt.last() {
        Some(last) if last.role == Role::User && !last.content.trim().is_empty() => Ok(prompt),
        Some(last) if last.role == Role::User => Err(Bad::empty("the prompt is empty")),
        _ => Err(Bad::new("the prompt does not end with the user's message, which is to be answered")),
    }
}

/// Messages of `prompt` that [`checked`] keeps.
fn checked_len(prompt: &[Message]) -> usize {
    let silent = |first: &&Message| first.role == Role::System && first.content.trim().is_empty();
    prompt.len() - usize::from(prompt.first().filter(silent).is_some())
}

/// What `said` adds to a prompt, or the whole dialogue.
fn continuation(name: &str, said: &Value, row: &Row, whole: bool) -> Result<Vec<Message>, Bad> {
    match said {
        Value::String(text) if !whole => Ok(vec![Message::new(Role::Assistant, text.as_str())]),
        Value::String(text) => turns(text).ok_or_else(|| {
            Bad::new(format!("{name} is no dialogue: it has no turns of \"Human:\" and \"Assistant:\""))
        }),
        Value::Array(_) => {
            let fields = [(name.to_owned(), said.clone())].into_iter().collect();
            messages(&Row { place: row.place.clone(), fields }, name).map_err(|bad| bad.within(name))
        }
        other => Err(Bad::new(format!("{name} is {}, not text or messages", kind_of(other)))),
    }
}

/// Messages that all dialogues begin with, up to one of the user's.
fn shared_prompt(dialogues: &[Vec<Message>]) -> usize {
    let [first, rest @ ..] = dialogues else { return 0 };
    let alike = |other: &Vec<Message>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    let shared = rest.iter().map(alike).min().unwrap_or(0);
    let is_question = |i: &usize| first.get(i - 1).is_some_and(|message| message.role == Role::User);
    (1..=shared).rev().find(is_question).unwrap_or(0)
}

/// The places of `n` completions, each one above the next better.
fn ranking(row: &Row, n: usize) -> Result<Vec<u32>, Bad> {
    let places = match row.fields.get("ranking") {
        Some(Value::Array(places)) => places,
        Some(other) => return Err(Bad::new(format!("\"ranking\" is {}, not a list of places", kind_of(other)))),
        None => return Err(Bad::new(format!("no \"ranking\"; the record has {}", row.keys()))),
    };
    if places.len() != n {
        let s = if places.len() == 1 { "" } else { "s" };
        return Err(Bad::new(format!("the ranking has {} place{s} for {n} completions", places.len())));
    }
    let mut numbers = Vec::with_capacity(n);
    for (i, place) in places.iter().enumerate() {
        match place.as_u64() {
            Some(place @ 1..) if place <= n as u64 => numbers.push(place as u32),
            Some(place) => {
                let says = format!("completion {} has place {place}; places go from 1, the best, to {n}", i + 1);
                return Err(Bad::new(says));
            }
            None => return Err(Bad::new(format!("the place of completion {} is {place}, not a whole number", i + 1))),
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
        return Err(Bad::new(format!("no completion has place {missing}, and some have later ones: {numbers:?}")));
    }
    Ok(numbers.iter().map(|place| dense.partition_point(|other| other < place) as u32 + 1).collect())
}

fn gold(row: &Row, n: usize) -> Result<Option<Vec<f64>>, Bad> {
    let list = match row.fields.get("gold") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(Bad::new(format!("\"gold\" is {}, not a list", kind_of(other)))),
    };
    let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
    match numbers {
        Some(numbers) if numbers.len() == n => Ok(Some(numbers)),
        _ => Err(Bad::new(format!("\"gold\" is no list of {n} numbers, one a completion"))),
    }
}

fn cut(row: &Row, n: usize) -> Result<Vec<bool>, Bad> {
    let list = match row.fields.get("cut") {
        None | Some(Value::Null) => return Ok(vec![false; n]),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(Bad::new(format!("\"cut\" is {}, not a list", kind_of(other)))),
    };
    let found: Option<Vec<bool>> = list.iter().map(Value::as_bool).collect();
    match found {
        Some(found) if found.len() == n => Ok(found),
        _ => Err(Bad::new(format!("\"cut\" is no list of {n} times true or false, one a completion"))),
    }
}

/// Hands the comparisons of the file `path` to `sink`, and says which shape its records have. One that is no sound
/// comparison is left out and counted, or ends the reading, as `on_bad` says; so does one that `sink` calls [`Bad`].
///
/// # Errors
/// As [`read_rows`], and when the file holds no comparison.
pub fn read_comparisons(
    path: &Path,
    on_bad: OnBadRecord,
    progress: &dyn Progress,
    sink: &mut dyn FnMut(Comparison) -> Result<()>,
) -> Result<(Shape, Skipped)> {
    let mut shape = None;
    let skipped = read_rows(path, on_bad, progress, &mut |row| {
        let own = Shape::of(&row)?;
        let shape = *shape.get_or_insert(own);
        if shape != own {
            return Err(Bad::new(format!("holds {own}, and the records before it {shape}")).into());
        }
        sink(shape.comparison(&row)?)
    })?;
    match (shape, skipped.first.as_ref()) {
        (Some(shape), _) => Ok((shape, skipped)),
        (None, Some(first)) => bail!("{} holds no comparison; {first}", path.display()),
        (None, None) => bail!("{} holds no records", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(value: Value) -> Row {
        let Value::Object(fields) = value else { panic!("{value} is no object") };
        Row { place: Place { file: "a.jsonl".into(), line: 1 }, fields }
    }

    fn read(value: Value) -> Result<Comparison, Bad> {
        let row = row(value);
        Shape::of(&row)?.comparison(&row)
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
            (json!([1, 3, 3]), "no completion has place 2, and some have later ones: [1, 3, 3]"),
            (json!([2, 3]), "completion 2 has place 3; places go from 1, the best, to 2"),
            (json!([0, 1]), "completion 1 has place 0"),
            (json!([1, 1, 2, 4]), "no completion has place 3"),
            (json!([1, null]), "the place of completion 2 is null"),
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
        assert_eq!(message, "completions 1 and 3 are the same, and have the places 1 and 3");
        assert_eq!(bad(json!({ "prompt": "p", "chosen": "a", "rejected": "a" })), "chosen and rejected are the same");
    }

    #[test]
    fn what_is_no_comparison_says_why() {
        for (value, says) in [
            (json!({ "prompt": "p", "chosen": "a" }), "is no comparison: it has prompt, chosen; known are"),
            (json!({ "prompt": "p", "chosen": "a", "rejected": " " }), "rejected: message 2 is an empty completion"),
            (json!({ "prompt": " ", "chosen": "a", "rejected": "b" }), "the prompt is empty"),
            (json!({ "prompt": "p", "chosen": "a", "rejected": 3 }), "rejected is a number, not text or messages"),
            (json!({ "chosen": "a", "rejected": "b" }), "chosen is no dialogue"),
            (json!({ "prompt": "p", "completions": ["a"], "ranking": [1] }), "\"completions\" has 1 of the two"),
            (
                json!({ "prompt": "p", "completions": ["a", ""], "ranking": [1, 2] }),
                "completion 2: message 2 is an empty",
            ),
            (json!({ "prompt": "p", "completions": ["a", "b"] }), "no \"ranking\"; the record has prompt, completions"),
            (json!({ "prompt": "p", "completions": ["a", "b"], "ranking": [1] }), "1 place for 2 completions"),
            (json!({ "prompt": "p", "completions": ["a", "b"], "ranking": [1, 2, 3] }), "3 places for 2 completions"),
            (
                json!({ "prompt": "p", "completions": ["a", "b"], "ranking": [1, 2], "gold": [1] }),
                "no list of 2 numbers",
            ),
            (
                json!({ "prompt": "p", "chosen": "a", "rejected": "b", "cut": true }),
                "\"cut\" is true or false, not a list",
            ),
            (
                json!({ "prompt": "p", "chosen": "a", "rejected": "b", "cut": [true] }),
                "no list of 2 times true or false",
            ),
            (
                json!({ "prompt": [{ "role": "assistant", "content": "x" }], "chosen": "a", "rejected": "b" }),
                "does not end with the user's message",
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
        assert_eq!(bad(record(10_000, "p")), "\"completions\" has 10000 entries; a comparison has at most 256");
        let long = "p".repeat(LARGEST_COPY / 200);
        assert_eq!(bad(record(201, &long)), "has a prompt too long for 201 completions");
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
