//! Labeled tasks of the kinds that GPT-1 was fine-tuned on (Radford et al. 2018, §4.2), from the world: what a record's
//! label claims is read from the state behind its text.

use serde::Serialize;

use super::grammar::Roles;
use super::map::Map;
use super::part::WorldPart;
use super::passage::{self, About, Ask, Fact, Passage};
use super::plight::Plight;
use super::state::{Feeling, Lies, StoryEvent};
use super::teller::Teller;
use super::words;
use gptkit_rng::{CorpusDraw, Dice};

/// What is asked of a text, or of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabeledTask {
    /// How the hero feels in the end, in four classes; the text does not say it.
    Classification,
    /// Whether the premise says what the hypothesis says.
    Entailment,
    /// Whether two texts say the same.
    Similarity,
    /// Which of four sentences ends the story.
    MultipleChoice,
    /// How many things the text speaks of, 0 to 5.
    Regression,
}

impl LabeledTask {
    /// All of them.
    pub const ALL: [LabeledTask; 5] = [
        LabeledTask::Classification,
        LabeledTask::Entailment,
        LabeledTask::Similarity,
        LabeledTask::MultipleChoice,
        LabeledTask::Regression,
    ];

    /// The labels that are words; none for a choice or a number.
    pub(super) fn labels(self) -> &'static [&'static str] {
        match self {
            LabeledTask::Classification => &["happy", "sad", "angry", "afraid"],
            LabeledTask::Entailment => &["entailment", "not_entailment"],
            LabeledTask::Similarity => &["paraphrase", "not_paraphrase"],
            LabeledTask::MultipleChoice | LabeledTask::Regression => &[],
        }
    }
}

/// One example; its JSON has the fields as keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "fields are named as the papers name them")]
pub enum LabeledRecord {
    /// Of [`LabeledTask::Classification`].
    Classification { text: String, label: &'static str },
    /// Of [`LabeledTask::Entailment`].
    Entailment { premise: String, hypothesis: String, label: &'static str },
    /// Of [`LabeledTask::Similarity`].
    Similarity { text_a: String, text_b: String, label: &'static str },
    /// Of [`LabeledTask::MultipleChoice`]; the label is the position of the right choice, from 0.
    MultipleChoice { context: String, choices: Vec<String>, label: usize },
    /// Of [`LabeledTask::Regression`].
    Regression { text: String, label: usize },
}

/// Any number of records of a task, from a seed.
#[derive(Debug, Clone)]
pub struct LabeledRecords {
    task: LabeledTask,
    seed: u64,
    part: WorldPart,
    map: Map,
}

impl LabeledRecords {
    /// The records of this seed for this part. Of two seeds, those of the same part may rarely be the same.
    #[must_use]
    pub fn new(task: LabeledTask, seed: u64, part: WorldPart) -> Self {
        Self { task, seed, part, map: Map::new(seed) }
    }

    /// Record number `index`: a pure function of task, seed, part and number. Labels are drawn before the text, each as
    /// likely as the others.
    #[must_use]
    pub fn record(&self, index: u64) -> LabeledRecord {
        let mut dice = Dice::for_corpus(self.seed, CorpusDraw::Tasks { task: self.task as u8 }, index);
        let label = dice.below(match self.task {
            LabeledTask::Classification | LabeledTask::MultipleChoice => 4,
            LabeledTask::Entailment | LabeledTask::Similarity => 2,
            LabeledTask::Regression => 6,
        });
        loop {
            let (combination, record, rest) = match self.task {
                LabeledTask::Classification => self.classification(FEELINGS[label], dice),
                LabeledTask::Entailment => self.entailment(label == 0, dice),
                LabeledTask::Similarity => self.similarity(label == 0, dice),
                LabeledTask::MultipleChoice => self.multiple_choice(label, dice),
                LabeledTask::Regression => self.regression(label, dice),
            };
            if WorldPart::of(&combination) == self.part {
                return record;
            }
            dice = rest;
        }
    }

    fn classification(&self, feeling: Feeling, dice: Dice) -> (String, LabeledRecord, Dice) {
        let mut t = Teller::with_people(&self.map, dice, 3);
        if t.dice.chance(50) {
            t.line(&Roles::default(), &["Once there was a {a.trait} {a.kind} named {a.first}."]);
        }
        let fates: Vec<&Fate> = FATES.iter().filter(|fate| fate.feeling == feeling).collect();
        let fate = t.dice.pick(&fates);
        let things = if fate.fragile { words::FRAGILE } else { words::TOYS };
        let thing = t.thing(things, Lies::With(0), Some(0));
        let w = t.dice.pick(&["a soft knocking", "a strange scratching", "a long, low humming"]);
        let roles = Roles { a: 0, b: 1, c: 2, t: thing, w, ..Roles::default() };
        for sentence in fate.told {
            t.line(&roles, std::slice::from_ref(sentence));
        }
        t.happen(StoryEvent::Feel { who: 0, feeling, why: String::new() });
        let combination = passage::pair(&t.scene);
        let (text, state, dice) = t.finish();
        let label = state.ending.people[0].feels.map_or("", Feeling::word);
        (combination, LabeledRecord::Classification { text, label }, dice)
    }

    fn entailment(&self, holds: bool, mut dice: Dice) -> (String, LabeledRecord, Dice) {
        let about = dice.pick(&[About::Went, About::Found, About::Loved, About::Felt, About::Picked, About::Gave]);
        let (passage, ask, told, mut dice) = Passage::with_ask(&self.map, dice, about);
        let hypothesis = if holds {
            ask.say(&told)
        } else {
            // Said of the other person, of whom it does not hold, or said otherwise of this one.
            let asks = about.asks(&passage.state, &mut dice);
            let other = asks.into_iter().find(|other| other.question != ask.question && other.told != ask.told);
            match other {
                Some(other) if dice.chance(60) => other.say(&told),
                _ => ask.say(&wrong(about, &ask, &mut dice)),
            }
        };
        let label = LabeledTask::Entailment.labels()[usize::from(!holds)];
        (passage.combination(), LabeledRecord::Entailment { premise: passage.text, hypothesis, label }, dice)
    }

    fn similarity(&self, same: bool, dice: Dice) -> (String, LabeledRecord, Dice) {
        let mut t = Teller::with_people(&self.map, dice, 2);
        let places = [t.place(|_| true), t.place(|_| true)];
        let things = [0, 1, 0].map(|who| t.thing(words::TOYS, Lies::With(who), Some(who)));
        let spot = t.spot(places[0]);
        let likes = [t.liking(0), t.liking(1)];
        let first = t.dice.below(SAYINGS.len());
        let second = (first + 1 + t.dice.below(SAYINGS.len() - 1)) % SAYINGS.len();
        let changed = (!same).then(|| t.dice.below(2));
        let (mut text_a, mut text_b) = (Vec::new(), Vec::new());
        for (i, saying) in [first, second].into_iter().enumerate() {
            let (a, b) = if t.dice.chance(50) { (0, 1) } else { (1, 0) };
            let roles = Roles { a, b, t: things[i], q: places[0], x: spot, w: likes[0], ..Roles::default() };
            let mut others = roles;
            if changed == Some(i) {
                if saying == RACE || t.dice.chance(50) {
                    (others.a, others.b) = (b, a);
                } else {
                    (others.t, others.q, others.w) = (things[2], places[1], likes[1]);
                }
            }
            let wordings = SAYINGS[saying];
            let one = t.dice.below(wordings.len());
            let two = (one + 1 + t.dice.below(wordings.len() - 1)) % wordings.len();
            text_a.push(capital(&t.render(&roles, wordings[one])));
            text_b.push(capital(&t.render(&others, wordings[two])));
        }
        let combination = passage::pair(&t.scene);
        let (_, _, dice) = t.finish();
        let label = LabeledTask::Similarity.labels()[usize::from(!same)];
        (combination, LabeledRecord::Similarity { text_a: text_a.join(" "), text_b: text_b.join(" "), label }, dice)
    }

    fn multiple_choice(&self, label: usize, mut dice: Dice) -> (String, LabeledRecord, Dice) {
        let mut plights = Plight::ALL;
        dice.shuffle(&mut plights);
        let mut t = Teller::with_people(&self.map, dice, 3);
        let ending = plights[0].tell(&mut t);
        let mut wrong = vec![ending.contradiction()];
        for other in &plights[1..3] {
            let fork = t.dice.fork();
            let mut elsewhere = Teller::with_cast(&self.map, fork, &t.scene.people);
            wrong.push(other.tell(&mut elsewhere).sentence());
        }
        t.dice.shuffle(&mut wrong);
        let mut choices = wrong;
        choices.insert(label, ending.sentence());
        let combination = passage::pair(&t.scene);
        let (context, _, dice) = t.finish();
        (combination, LabeledRecord::MultipleChoice { context, choices, label }, dice)
    }

    fn regression(&self, label: usize, dice: Dice) -> (String, LabeledRecord, Dice) {
        let mut t = Teller::with_people(&self.map, dice, 2);
        let least = label.saturating_sub(3);
        let first = least + t.dice.below(label.min(3) - least + 1);
        for (who, n) in [(0, first), (1, label - first)] {
            let [one, two, three] =
                [0, 1, 2].map(|i| if i < n { t.thing(words::TOYS, Lies::With(who), Some(who)) } else { 0 });
            let roles = Roles { a: who, t: one, u: two, v: three, ..Roles::default() };
            match n {
                0 => {
                    let fact = t.dice.pick(&[Fact::Go, Fact::Love, Fact::Pick]);
                    fact.tell(&mut t, who, 1 - who);
                }
                1 => t.line(&roles, &["{A} had {t.a}."]),
                2 => t.line(&roles, &["{A} had {t.a} and {u.a}."]),
                _ => t.line(&roles, &["{A} had {t.a}, {u.a} and {v.a}."]),
            }
            if n > 0 && t.dice.chance(30) {
                Fact::Go.tell(&mut t, who, 1 - who);
            }
        }
        let combination = passage::pair(&t.scene);
        let (text, state, dice) = t.finish();
        (combination, LabeledRecord::Regression { text, label: state.ending.things.len() }, dice)
    }
}

/// A value that is not told, of the same sort and in the same form.
fn wrong(about: About, ask: &Ask, dice: &mut Dice) -> String {
    if matches!(about, About::Found | About::Gave) {
        let noun = loop {
            let noun = dice.pick(words::TOYS);
            if !ask.told.as_ref().is_some_and(|told| told.ends_with(noun)) {
                break noun;
            }
        };
        let color = dice.pick(words::COLORS);
        let phrase = if dice.chance(50) { format!("{color} {noun}") } else { noun.to_string() };
        return super::questions::article(&phrase);
    }
    ask.rivals[dice.below(ask.rivals.len())].clone()
}

fn capital(sentence: &str) -> String {
    let mut chars = sentence.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}

const FEELINGS: [Feeling; 4] = [Feeling::Happy, Feeling::Sad, Feeling::Angry, Feeling::Afraid];

/// A course of things that leaves `a` with a feeling, and that `b` is in. Few words belong to one feeling alone: things
/// are lost, found, taken, broken and given in several.
struct Fate {
    feeling: Feeling,
    fragile: bool,
    told: &'static [&'static str],
}

const fn fate(feeling: Feeling, told: &'static [&'static str]) -> Fate {
    Fate { feeling, fragile: false, told }
}

const fn fragile(feeling: Feeling, told: &'static [&'static str]) -> Fate {
    Fate { feeling, fragile: true, told }
}

const FATES: &[Fate] = &[
    fate(Feeling::Happy, &["{A} lost {t.a}.", "{b} found it and gave it back to {a}."]),
    fate(Feeling::Happy, &["{b} took {t.a} from {a}.", "Soon {b} gave it back."]),
    fate(Feeling::Happy, &["{A} wanted to have {t.a}.", "In the end {b} gave it to {a}."]),
    fragile(Feeling::Happy, &["{A} had {t.a}, and it broke.", "{b} mended it for {a}."]),
    fate(Feeling::Happy, &["At night {a} heard {w}.", "It was only {b}, who had come to play with {a}."]),
    fate(Feeling::Happy, &["{A} was stuck in a deep hole.", "{b} heard {a.him} and pulled {a.him} out."]),
    fate(Feeling::Sad, &["{a} and {b} found {t.a}.", "Soon {a} lost it again."]),
    fate(Feeling::Sad, &["{A} wanted to have {t.a}.", "In the end {b} gave it to {c}."]),
    fragile(Feeling::Sad, &["{A} had {t.a}, and it broke.", "{b} could not mend it."]),
    fate(Feeling::Sad, &["{A} lost {t.a}.", "{b} looked for it, but nobody found it."]),
    fate(Feeling::Sad, &["It was {a.s} birthday.", "{b} did not come to play with {a}."]),
    fate(Feeling::Angry, &["{A} lost {t.a}.", "{b} found it and did not give it back to {a}."]),
    fate(Feeling::Angry, &["{b} took {t.a} from {a}.", "Soon {b} gave it to {c}."]),
    fragile(Feeling::Angry, &["{A} had {t.a}.", "{b} broke it and laughed at {a}."]),
    fate(Feeling::Angry, &["{A} had {t.a}.", "{b} took it from {a} and hid it."]),
    fate(Feeling::Afraid, &["At night {a} heard {w}.", "{A} called {b}, but nobody came."]),
    fate(Feeling::Afraid, &["{A} was stuck in a deep hole.", "{b} did not hear {a.him} and went home."]),
    fate(Feeling::Afraid, &["{a} and {b} lost their way at night.", "Then {a} heard {w}."]),
];

/// Which of [`SAYINGS`] has no thing, place or liking that could be another.
const RACE: usize = 4;

/// Ways to say one thing: `a` and `b`, the thing `t`, the place `q`, the spot `x`, the liking `w`.
const SAYINGS: &[&[&str]] = &[
    &["{a} gave {t.a} to {b}.", "{b} got {t.a} from {a}.", "From {a}, {b} got {t.a}."],
    &["{a} went to {q}.", "{a} walked to {q}.", "{a} set off for {q} and was soon there."],
    &["{a} loved {w}.", "{a} liked {w} best of all.", "Nothing made {a} happier than {w}."],
    &["{a} found {t.a} {x}.", "{x} lay {t.a}, and {a} found it."],
    &["{a} won the race against {b}.", "{a} ran faster than {b}.", "In the race {a} was faster than {b}."],
];

#[cfg(test)]
mod tests {
    use super::super::grader;
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn some(task: LabeledTask, part: WorldPart) -> Vec<LabeledRecord> {
        let tasks = LabeledRecords::new(task, 3, part);
        (0..3000).map(|index| tasks.record(index)).collect()
    }

    fn label(record: &LabeledRecord) -> String {
        match record {
            LabeledRecord::Classification { label, .. }
            | LabeledRecord::Entailment { label, .. }
            | LabeledRecord::Similarity { label, .. } => (*label).to_string(),
            LabeledRecord::MultipleChoice { label, .. } | LabeledRecord::Regression { label, .. } => label.to_string(),
        }
    }

    fn texts(record: &LabeledRecord) -> Vec<&String> {
        match record {
            LabeledRecord::Classification { text, .. } | LabeledRecord::Regression { text, .. } => vec![text],
            LabeledRecord::Entailment { premise, hypothesis, .. } => vec![premise, hypothesis],
            LabeledRecord::Similarity { text_a, text_b, .. } => vec![text_a, text_b],
            LabeledRecord::MultipleChoice { context, choices, .. } => std::iter::once(context).chain(choices).collect(),
        }
    }

    #[test]
    fn a_record_is_a_function_of_task_seed_part_and_index() {
        for task in LabeledTask::ALL {
            let (one, again) =
                (LabeledRecords::new(task, 3, WorldPart::HeldOut), LabeledRecords::new(task, 3, WorldPart::HeldOut));
            for index in (0..50).rev() {
                assert_eq!(one.record(index), again.record(index));
            }
            assert_ne!(one.record(0), LabeledRecords::new(task, 4, WorldPart::HeldOut).record(0));
        }
    }

    #[test]
    fn labels_are_balanced() {
        for task in LabeledTask::ALL {
            for part in [WorldPart::Train, WorldPart::HeldOut] {
                let mut labels: BTreeMap<String, usize> = BTreeMap::new();
                for record in some(task, part) {
                    *labels.entry(label(&record)).or_default() += 1;
                }
                let fair = 3000 / labels.len();
                assert!(labels.values().all(|&n| n.abs_diff(fair) < fair / 5), "{task:?}: {labels:?}");
                let words: BTreeSet<&str> = task.labels().iter().copied().collect();
                assert!(words.is_empty() || labels.keys().map(String::as_str).collect::<BTreeSet<_>>() == words);
            }
        }
    }

    #[test]
    fn keys_are_those_of_the_task() {
        let keys = |task| {
            let json = serde_json::to_value(LabeledRecords::new(task, 3, WorldPart::Train).record(0)).unwrap();
            json.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(keys(LabeledTask::Classification), "text label");
        assert_eq!(keys(LabeledTask::Entailment), "premise hypothesis label");
        assert_eq!(keys(LabeledTask::Similarity), "text_a text_b label");
        assert_eq!(keys(LabeledTask::MultipleChoice), "context choices label");
        assert_eq!(keys(LabeledTask::Regression), "text label");
    }

    #[test]
    fn texts_are_whole_sentences_of_at_most_300_characters() {
        for task in LabeledTask::ALL {
            for record in some(task, WorldPart::Train).iter().chain(&some(task, WorldPart::HeldOut)) {
                let texts = texts(record);
                assert!(texts.iter().map(|text| text.len()).sum::<usize>() <= 360, "{record:?}");
                for text in texts {
                    assert!(text.len() <= 300 && text.ends_with('.'), "{text}");
                    assert!(text.starts_with(|c: char| c.is_ascii_uppercase()), "{text}");
                    for bad in ["  ", "{", "}", " .", "..", " ,"] {
                        assert!(!text.contains(bad), "{bad:?} in: {text}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_seed_trains_on_what_another_holds_out() {
        for task in LabeledTask::ALL {
            let all = |record: &LabeledRecord| texts(record).into_iter().cloned().collect::<Vec<_>>().join("\n");
            let held_out: BTreeSet<String> = some(task, WorldPart::HeldOut).iter().map(all).collect();
            let train = LabeledRecords::new(task, 4, WorldPart::Train);
            for record in some(task, WorldPart::Train).into_iter().chain((0..1000).map(|index| train.record(index))) {
                assert!(!held_out.contains(&all(&record)), "{record:?}");
            }
        }
    }

    #[test]
    fn held_out_words_all_occur_in_training() {
        for task in LabeledTask::ALL {
            let words = |record: &LabeledRecord| {
                let texts = texts(record).iter().map(|text| text.to_lowercase()).collect::<Vec<_>>().join(" ");
                texts.split(|c: char| !c.is_alphanumeric()).map(str::to_string).collect::<Vec<_>>()
            };
            let train: BTreeSet<String> = some(task, WorldPart::Train).iter().flat_map(words).collect();
            for record in some(task, WorldPart::HeldOut) {
                assert!(words(&record).iter().all(|word| train.contains(word)), "{record:?}");
            }
        }
    }

    /// Best accuracy of a guess by one word of the text alone: which words occur decides nothing by itself.
    fn best_by_a_word(records: &[(Vec<String>, String)]) -> (f64, String) {
        let labels: BTreeSet<&String> = records.iter().map(|(_, label)| label).collect();
        let all: BTreeSet<&String> = records.iter().flat_map(|(words, _)| words).collect();
        let count = |with: &dyn Fn(&Vec<String>) -> bool| {
            let n = |label: &String| records.iter().filter(|(words, its)| with(words) && its == label).count();
            labels.iter().map(|label| n(label)).max().unwrap_or(0)
        };
        let mut best = (0.0, String::new());
        for word in all {
            let right = count(&|words| words.contains(word)) + count(&|words| !words.contains(word));
            let accuracy = right as f64 / records.len() as f64;
            if accuracy > best.0 {
                best = (accuracy, word.clone());
            }
        }
        best
    }

    fn worded(task: LabeledTask, of: fn(&LabeledRecord) -> Option<&String>) -> Vec<(Vec<String>, String)> {
        let records = some(task, WorldPart::Train);
        let pair = |record: &LabeledRecord| {
            let text = of(record).cloned().unwrap_or_default();
            let words = text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect();
            (words, label(record))
        };
        records[..1000].iter().map(pair).collect()
    }

    #[test]
    fn no_word_gives_the_feeling_away_and_the_text_does_not_name_it() {
        for record in some(LabeledTask::Classification, WorldPart::Train) {
            let said = grader::words(texts(&record)[0]);
            assert!(!said.contains(&label(&record)), "{record:?}");
        }
        let (accuracy, word) =
            best_by_a_word(&worded(LabeledTask::Classification, |record| texts(record).first().copied()));
        assert!(accuracy < 0.6, "{word}: {accuracy}");
    }

    #[test]
    fn a_hypothesis_or_one_text_alone_gives_nothing_away() {
        for task in [LabeledTask::Entailment, LabeledTask::Similarity] {
            for of in [0, 1] {
                let of: fn(&LabeledRecord) -> Option<&String> = if of == 0 {
                    |record| texts(record).first().copied()
                } else {
                    |record| texts(record).get(1).copied()
                };
                let (accuracy, word) = best_by_a_word(&worded(task, of));
                assert!(accuracy < 0.6, "{task:?}: {word}: {accuracy}");
            }
        }
    }

    #[test]
    fn choices_differ_and_one_of_them_is_right() {
        for record in some(LabeledTask::MultipleChoice, WorldPart::Train) {
            let LabeledRecord::MultipleChoice { choices, label, .. } = &record else { panic!("{record:?}") };
            assert_eq!((choices.len(), *label < 4), (4, true));
            assert_eq!(choices.iter().collect::<BTreeSet<_>>().len(), 4, "{record:?}");
            // The contradiction begins as the right ending does.
            let begins = |choice: &&String| choice.split(' ').take(2).eq(choices[*label].split(' ').take(2));
            assert!(choices.iter().filter(begins).count() >= 2, "{record:?}");
        }
    }

    #[test]
    fn the_number_is_how_many_things_are_named() {
        for record in some(LabeledTask::Regression, WorldPart::Train) {
            let LabeledRecord::Regression { text, label } = &record else { panic!("{record:?}") };
            let said = grader::words(text);
            let named = |noun: &&str| grader::position(&said, &grader::words(noun)).is_some();
            assert_eq!(passage::nouns().into_iter().filter(named).count(), *label, "{text}");
        }
    }

    /// What the hypothesis claims is in the premise up to the verb's other wording, or it is not.
    #[test]
    fn who_went_where_is_entailed_exactly_when_the_premise_says_so() {
        let mut checked = 0;
        for record in some(LabeledTask::Entailment, WorldPart::HeldOut) {
            let LabeledRecord::Entailment { premise, hypothesis, label } = &record else { panic!("{record:?}") };
            let Some((name, place)) = hypothesis.split_once(" went to ") else { continue };
            let mut subject = "";
            let mut says = false;
            for sentence in premise.trim_end_matches('.').split(". ") {
                let first = sentence.split(' ').next().unwrap();
                subject = if matches!(first, "He" | "She") { subject } else { first };
                let to = sentence.split_once(" went to ").or(sentence.split_once(" walked to "));
                says |= subject == name && to.is_some_and(|(_, to)| to == place.trim_end_matches('.'));
            }
            assert_eq!(says, *label == "entailment", "{record:?}");
            checked += 1;
        }
        assert!(checked > 200, "{checked}");
    }
}
