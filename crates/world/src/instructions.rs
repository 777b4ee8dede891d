//! Instructions with answers: six kinds, each graded by what the answer must hold. Short enough for a window of 128
//! tokens, and worded in few ways, so that a small model can learn to follow them. Answers vary in manner alone.

use serde::Serialize;

use super::grader::{MOST_WORDS, negates, position, words};
use super::grammar::Roles;
use super::manners::{Courtesy, Manners};
use super::map::Map;
use super::part::WorldPart;
use super::passage::{self, About, Fact, GOODS, Passage};
use super::plight::Plight;
use super::questions::StoryQuestion;
use super::small_talk;
use super::state::{Lies, StoryEvent};
use super::teller::Teller;
use super::words as vocabulary;
use gptkit_rng::{CorpusDraw, Dice};

/// What an answer that denies what the story tells says.
pub(super) const NOT_TOLD: &str = "The story does not tell.";

/// Any number of instructions, from a seed.
#[derive(Debug, Clone)]
pub struct Instructions {
    seed: u64,
    part: WorldPart,
    map: Map,
}

/// A prompt, and what answers it. As JSON: `prompt`, `completion`, `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instruction {
    /// What the model is told.
    pub prompt: String,
    /// A demonstration: [`Instruction::substance`], perhaps with courtesy around it.
    #[serde(rename = "completion")]
    pub answer: String,
    /// What it asks for.
    pub kind: InstructionKind,
    #[serde(skip)]
    expected: Expected,
}

/// What an instruction asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InstructionKind {
    /// A question that the passage answers.
    Answer,
    /// Tell a sentence with another person, place or thing.
    Rewrite,
    /// Finish a story with what must follow.
    Continue,
    /// A sum or a difference: of numbers from 0 to 9, at most 10 in all.
    Arithmetic,
    /// Who, or which things, are in the passage.
    List,
    /// A greeting, a question about the model itself, or something that it cannot do, to which it says so.
    SmallTalk,
}

impl InstructionKind {
    /// All of them.
    pub const ALL: [InstructionKind; 6] = [
        InstructionKind::Answer,
        InstructionKind::Rewrite,
        InstructionKind::Continue,
        InstructionKind::Arithmetic,
        InstructionKind::List,
        InstructionKind::SmallTalk,
    ];
    /// Those that are drawn.
    const DRAWN: [InstructionKind; 5] = {
        let [a, b, c, d, e, _] = Self::ALL;
        [a, b, c, d, e]
    };
}

/// One instruction in so many is small talk.
const TALK_EVERY: u64 = 25;

/// What the grader looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    /// The answer, word by word.
    Exactly,
    /// What a question's own grader takes.
    Question(StoryQuestion),
    /// The answer and no more, or the whole sentence that begins with `stem`.
    Ending { stem: String },
    /// This number last; other numbers only if they stand in the prompt.
    Number(usize),
    /// All of `these` in any order, and none of the others that a passage can have.
    All { these: Vec<&'static str>, out_of: Vec<&'static str> },
}

impl Instruction {
    /// The canonical answer, without courtesy; [`Instruction::grade`] takes others, too.
    #[must_use]
    pub fn substance(&self) -> &str {
        Manners::of(&self.answer).substance
    }

    /// Whether the substance of `reply` is right, whatever its manners. Case, punctuation and what stands around the
    /// answer in a short sentence do not matter, except where there is one answer: rewritten sentences, endings, and
    /// saying that the story does not tell.
    #[must_use]
    pub fn grade(&self, reply: &str) -> bool {
        let reply = Manners::of(reply).substance;
        let said = words(reply);
        if said.is_empty() || said.len() > MOST_WORDS {
            return false;
        }
        match &self.expected {
            Expected::Exactly => letter_words(reply).eq(letter_words(self.substance())),
            Expected::Question(question) => question.grade(reply),
            Expected::Ending { stem } => {
                let stem = words(stem);
                said.strip_prefix(stem.as_slice()).unwrap_or(&said) == words(self.substance())
            }
            Expected::Number(n) => {
                let asked = numbers(&self.prompt);
                let given = numbers(reply);
                given.split_last().is_some_and(|(last, rest)| last == n && rest.iter().all(|m| asked.contains(m)))
                    && !negates(&said)
            }
            Expected::All { these, out_of } => {
                let holds = |item: &str| position(&said, &words(item)).is_some();
                !negates(&said) && out_of.iter().all(|item| holds(item) == these.contains(item))
            }
        }
    }
}

/// Words as they stand, lower-case.
fn letter_words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// The numbers in a text, in digits or in words.
fn numbers(text: &str) -> Vec<usize> {
    let number = |word: String| {
        let in_words = vocabulary::NUMBERS.iter().position(|number| *number == word);
        in_words.or_else(|| word.parse().ok())
    };
    letter_words(text).filter_map(number).collect()
}

/// An instruction before it is known which part it is in.
struct Draft {
    /// What [`WorldPart`] goes by.
    combination: String,
    prompt: String,
    substance: String,
    expected: Expected,
}

impl Instructions {
    /// The instructions of this seed for this part. Of two seeds, those of the same part may rarely be the same.
    #[must_use]
    pub fn new(seed: u64, part: WorldPart) -> Self {
        Self { seed, part, map: Map::new(seed) }
    }

    /// Instruction number `index`: a pure function of seed, part and number.
    #[must_use]
    pub fn instruction(&self, index: u64) -> Instruction {
        let mut dice = Dice::for_corpus(self.seed, CorpusDraw::Instructions, index);
        let kind = match dice.pick(&InstructionKind::DRAWN) {
            _ if index % TALK_EVERY == TALK_EVERY - 1 => InstructionKind::SmallTalk,
            kind => kind,
        };
        self.of_kind(kind, dice)
    }

    /// The manner of the answer is drawn last: it changes nothing else.
    pub(super) fn of_kind(&self, kind: InstructionKind, mut dice: Dice) -> Instruction {
        loop {
            let (draft, mut rest) = self.draft(kind, dice);
            let Draft { combination, prompt, substance, expected } = draft;
            if WorldPart::of(&combination) == self.part {
                let answer = match kind {
                    InstructionKind::SmallTalk => substance,
                    _ => Courtesy::draw(&mut rest).around(&substance),
                };
                return Instruction { prompt, answer, kind, expected };
            }
            dice = rest;
        }
    }

    fn draft(&self, kind: InstructionKind, dice: Dice) -> (Draft, Dice) {
        match kind {
            InstructionKind::Answer => self.question(dice),
            InstructionKind::Rewrite => self.rewriting(dice),
            InstructionKind::Continue => self.continuing(dice),
            InstructionKind::Arithmetic => self.arithmetic(dice),
            InstructionKind::List => self.list(dice),
            InstructionKind::SmallTalk => Self::talk(dice),
        }
    }

    fn question(&self, mut dice: Dice) -> (Draft, Dice) {
        let about = dice.pick(&About::ALL);
        let (passage, ask, told, dice) = Passage::with_ask(&self.map, dice, about);
        let prompt = format!("{} {}", passage.text, ask.question);
        let (substance, expected) = (ask.say(&told), Expected::Question(ask.graded(&told)));
        (Draft { combination: passage.combination(), prompt, substance, expected }, dice)
    }

    /// A sentence, and how it has to be told.
    fn rewriting(&self, dice: Dice) -> (Draft, Dice) {
        let mut t = Teller::with_people(&self.map, dice, 3);
        let (p, q) = (t.place(|_| true), t.place(|_| true));
        let things = [0, 1].map(|who| t.thing(vocabulary::TOYS, Lies::With(who), Some(who)));
        let (w, verb) = (t.dice.pick(vocabulary::LIKES), t.dice.pick(&["went", "walked", "hurried"]));
        let before = Roles { a: 0, b: 2, t: things[0], p, w, x: verb, ..Roles::default() };
        // Each with what it speaks of, beside a person.
        let (template, place, thing) = t.dice.pick(&[
            ("{a} {x} to {p} and found {t.a}.", true, true),
            ("{a} {x} to {p}. There {a.he} found {t.a}.", true, true),
            ("{a} {x} to {p} with {b}.", true, false),
            ("{a} lost {a.his} {t.own} on the way to {p}.", true, true),
            ("{a} was happy because {a.he} had found {t.a}.", false, true),
            ("{a} gave {t.a} to {b}.", false, true),
            ("{a} loved {w}.", false, false),
            ("{a} had {t.a} and loved {w}.", false, true),
        ]);
        let (mut with, mut after) = (format!("about {}", t.scene.people[1].name), Roles { a: 1, ..before });
        let mut combination = passage::pair(&t.scene);
        let way = t.dice.below(3);
        if way == 1 && place {
            let place = &t.scene.places[q].name;
            (with, after) = (format!("with {place}"), Roles { p: q, ..before });
            combination = format!("{} {place}", t.scene.people[0].name);
        } else if way == 2 && thing {
            let new = t.render(&Roles { t: things[1], ..before }, "{t.a}");
            (with, after) = (format!("with {new}"), Roles { t: things[1], ..before });
            combination = format!("{} {}", t.scene.people[0].name, t.scene.things[things[1]].noun);
        }
        let sentence = t.render(&before, template);
        let substance = t.render(&after, template);
        let prompt = format!("Tell it {with}: {sentence}");
        let (_, _, dice) = t.finish();
        (Draft { combination, prompt, substance, expected: Expected::Exactly }, dice)
    }

    fn continuing(&self, mut dice: Dice) -> (Draft, Dice) {
        let plight = dice.pick(&Plight::ALL);
        let mut t = Teller::with_people(&self.map, dice, 3);
        let ending = plight.tell(&mut t);
        let prompt = format!("Finish the story: {} {}", t.text(), ending.stem);
        let substance = format!("{}.", ending.right);
        let combination = passage::pair(&t.scene);
        let (_, _, dice) = t.finish();
        (Draft { combination, prompt, substance, expected: Expected::Ending { stem: ending.stem } }, dice)
    }

    /// In words of the world, or bare; both are answered by the whole sum, so that one teaches the other.
    fn arithmetic(&self, mut dice: Dice) -> (Draft, Dice) {
        let sum = dice.chance(50);
        let in_words = dice.chance(50);
        let (m, n) = loop {
            let (m, n) = (dice.below(10), dice.below(10));
            let fits = if sum { m + n <= 10 } else { n <= m };
            // One apple is no apples, and nobody gives none.
            if fits && (!in_words || m > 1 && n > 0) {
                break (m, n);
            }
        };
        let goods = dice.pick(GOODS);
        let (right, sign) = if sum { (m + n, "plus") } else { (m - n, "minus") };
        let (prompt, right, dice) = if in_words {
            let mut t = Teller::with_people(&self.map, dice, 2);
            let (w, x) = (m.to_string(), n.to_string());
            let roles = Roles { a: 0, b: 1, w: &w, x: &x, y: goods, ..Roles::default() };
            t.happen(StoryEvent::Gather { who: 0, verb: "pick", goods, n: m });
            if sum {
                t.happen(StoryEvent::Gather { who: 0, verb: "pick", goods, n });
                t.line(&roles, &["{a} had {w} {y} and got {x} more.", "{a} picked {w} {y}, and then {x} more."]);
            } else {
                t.happen(StoryEvent::Share { from: 0, to: 1, goods, n });
                t.line(&roles, &["{a} had {w} {y} and gave {x} to {b}.", "{a} had {w} {y}, and {b} ate {x} of them."]);
            }
            let prompt = format!("{} How many {goods} did {} have then?", t.text(), t.scene.people[0].name);
            let right = t.scene.count(0, goods);
            let (_, _, dice) = t.finish();
            (prompt, right, dice)
        } else {
            let prompt = match dice.below(3) {
                0 => format!("What is {m} {sign} {n}?"),
                1 => format!("How much is {m} {sign} {n}?"),
                _ => format!("Tell me: {m} {sign} {n}."),
            };
            (prompt, right, dice)
        };
        let substance = format!("{m} {sign} {n} is {right}.");
        (Draft { combination: prompt.clone(), prompt, substance, expected: Expected::Number(right) }, dice)
    }

    /// Something that is said to the model.
    fn talk(mut dice: Dice) -> (Draft, Dice) {
        let (prompt, answer) = small_talk::draw(&mut dice);
        let (prompt, substance) = (prompt.to_owned(), answer.to_owned());
        (Draft { combination: prompt.clone(), prompt, substance, expected: Expected::Exactly }, dice)
    }

    fn list(&self, dice: Dice) -> (Draft, Dice) {
        let mut dice = dice;
        let (people, n) = (dice.chance(50), 2 + dice.below(2));
        let mut t = Teller::with_people(&self.map, dice, if people { n } else { 2 });
        if people {
            for who in 0..n {
                let fact = t.dice.pick(&[Fact::Go, Fact::Find, Fact::Love, Fact::Pick]);
                fact.tell(&mut t, who, who);
            }
        } else {
            for i in 0..n {
                let fact = if i < n - 1 || t.dice.chance(60) { Fact::Find } else { Fact::Love };
                fact.tell(&mut t, i % 2, i % 2);
            }
            if t.scene.things.len() < 2 {
                Fact::Find.tell(&mut t, 0, 0);
            }
        }
        let text = t.text().to_string();
        let combination = passage::pair(&t.scene);
        let scene = t.scene.clone();
        let (_, _, dice) = t.finish();
        let draft = if people {
            let these: Vec<&str> = scene.people.iter().map(|person| person.name).collect();
            let substance =
                format!("{}.", enumerate(&these.iter().map(|name| (*name).to_string()).collect::<Vec<_>>()));
            let out_of = [vocabulary::SHE, vocabulary::HE].concat();
            let prompt = format!("{text} Who is in the story?");
            Draft { combination, prompt, substance, expected: Expected::All { these, out_of } }
        } else {
            let these: Vec<&str> = scene.things.iter().map(|thing| thing.noun).collect();
            let named: Vec<String> = scene.things.iter().map(passage::phrase).collect();
            let substance = format!("There is {}.", enumerate(&named));
            let prompt = format!("{text} Which things are in the story?");
            Draft { combination, prompt, substance, expected: Expected::All { these, out_of: passage::nouns() } }
        };
        (draft, dice)
    }
}

/// `a, b and c`.
fn enumerate(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn some(part: WorldPart) -> Vec<Instruction> {
        let instructions = Instructions::new(3, part);
        (0..3000).map(|index| instructions.instruction(index)).collect()
    }

    #[test]
    fn an_instruction_is_a_function_of_seed_part_and_index() {
        let (one, again) = (Instructions::new(3, WorldPart::Train), Instructions::new(3, WorldPart::Train));
        let other = Instructions::new(4, WorldPart::Train);
        let mut differ = 0;
        for index in (0..50).rev() {
            assert_eq!(one.instruction(index), again.instruction(index));
            differ += usize::from(one.instruction(index) != other.instruction(index));
        }
        assert!(differ > 45, "{differ}");
    }

    #[test]
    fn every_answer_is_right_and_no_other_instructions_answer_is() {
        for part in [WorldPart::Train, WorldPart::HeldOut] {
            let all = some(part);
            for (i, instruction) in all.iter().enumerate() {
                assert!(instruction.grade(&instruction.answer), "{instruction:?}");
                assert!(instruction.grade(&format!(" {}\n", instruction.answer.to_uppercase())), "{instruction:?}");
                for wrong in ["", " \n", "...", "I do not know.", "yes", "Once upon a time"] {
                    assert!(!instruction.grade(wrong), "{wrong:?}: {instruction:?}");
                }
                let repeated = [instruction.answer.as_str(); 50].join(" ");
                assert!(!instruction.grade(&repeated), "{instruction:?}");
                // Any two of a kind may have one answer, and a sum may be what somebody picked.
                let neighbor = &all[(i + 1) % all.len()];
                let is_sum = |one: &Instruction| one.kind == InstructionKind::Arithmetic;
                let number = (is_sum(instruction) || is_sum(neighbor))
                    && [instruction, neighbor].iter().all(|one| !numbers(&one.answer).is_empty());
                if neighbor.kind != instruction.kind && !number {
                    assert!(!instruction.grade(&neighbor.answer), "{:?}: {instruction:?}", neighbor.answer);
                }
                assert!(!instruction.grade(NOT_TOLD), "{instruction:?}");
            }
        }
    }

    #[test]
    fn manners_make_nothing_right_and_nothing_wrong() {
        let mut dice = Dice::for_story(3, 0);
        let all = some(WorldPart::Train);
        for (instruction, neighbor) in all.iter().zip(&all[1..]) {
            let manner = Courtesy::draw(&mut dice);
            let substance = instruction.substance();
            assert!(instruction.grade(&manner.repeated_around(3, substance, 2)), "{manner:?}: {instruction:?}");
            for reply in [neighbor.substance(), NOT_TOLD, "", "I do not know.", &substance[..substance.len() / 2]] {
                let courteous = manner.around(reply);
                assert_eq!(instruction.grade(&courteous), instruction.grade(reply), "{courteous}: {instruction:?}");
            }
            for courtesy in ["Gladly!", "Good day! Ask me more!"] {
                assert!(!instruction.grade(courtesy), "{instruction:?}");
            }
        }
    }

    #[test]
    fn half_of_the_answers_are_plain_and_prompts_say_nothing_of_it() {
        for kind in InstructionKind::DRAWN {
            let of_kind = some(WorldPart::Train).into_iter().filter(|instruction| instruction.kind == kind);
            let plain: Vec<bool> = of_kind.map(|instruction| instruction.substance() == instruction.answer).collect();
            let share = plain.iter().filter(|plain| **plain).count() as f64 / plain.len() as f64;
            assert!((0.4..=0.6).contains(&share), "{kind:?}: {share}"); // of about 500, 4 standard errors
        }
    }

    /// Each answer has wordings to learn from and others to measure with, and none has courtesy around it.
    #[test]
    fn small_talk_is_on_both_sides_and_rare() {
        for part in [WorldPart::Train, WorldPart::HeldOut] {
            let all = some(part);
            let talk: Vec<&Instruction> = all.iter().filter(|one| one.kind == InstructionKind::SmallTalk).collect();
            assert_eq!(talk.len() * TALK_EVERY as usize, all.len());
            let answers: BTreeSet<&str> = talk.iter().map(|one| one.answer.as_str()).collect();
            assert!(answers.len() >= if part == WorldPart::Train { 5 } else { 3 }, "{answers:?}");
            assert!(talk.iter().all(|one| one.substance() == one.answer && one.grade(&one.answer)));
        }
    }

    /// Changes whenever the generator does; the manners of answers come last, and change nothing before them.
    #[test]
    fn the_first_instructions_are_what_they_were() {
        let instructions = Instructions::new(1, WorldPart::Train);
        for (index, prompt, substance) in [
            (
                0,
                "Tell it with the school: Freya hurried to the lake with Nora.",
                "Freya hurried to the school with Nora.",
            ),
            (
                1,
                "Mia found a golden button. Noah liked jumping in puddles best of all. Mia found a ribbon between two \
                 wet rocks. Which things are in the story?",
                "There is a golden button and a ribbon.",
            ),
        ] {
            let instruction = instructions.instruction(index);
            assert_eq!((instruction.prompt.as_str(), instruction.substance()), (prompt, substance));
        }
    }

    #[test]
    fn rivals_are_wrong_alone_and_beside_the_answer() {
        let mut checked = 0;
        for instruction in some(WorldPart::Train) {
            match &instruction.expected {
                Expected::Question(question) => {
                    for rival in question.rivals.iter().filter(|rival| !question.ask.contains(rival.as_str())) {
                        assert!(!instruction.grade(rival), "{rival}: {instruction:?}");
                        let both = format!("{} {rival}", instruction.answer);
                        assert!(!instruction.grade(&both), "{rival}: {instruction:?}");
                        checked += 1;
                    }
                }
                Expected::Number(n) => {
                    for wrong in (0..20).filter(|wrong| wrong != n) {
                        assert!(!instruction.grade(&wrong.to_string()), "{wrong}: {instruction:?}");
                        assert!(!instruction.grade(&format!("{n} or {wrong}")), "{wrong}: {instruction:?}");
                    }
                    assert!(instruction.grade(&n.to_string()));
                    assert!(instruction.grade(vocabulary::NUMBERS[*n]));
                }
                Expected::All { these, out_of } => {
                    assert!(!instruction.grade(these[0]), "{instruction:?}");
                    let backwards: Vec<&str> = these.iter().rev().copied().collect();
                    assert!(instruction.grade(&backwards.join(", ")), "{instruction:?}");
                    let stranger = out_of.iter().find(|one| !these.contains(one)).unwrap();
                    assert!(!instruction.grade(&format!("{} {stranger}", backwards.join(", "))), "{instruction:?}");
                }
                Expected::Ending { stem } => {
                    assert!(instruction.grade(&format!("{stem} {}", instruction.substance())), "{instruction:?}");
                    assert!(!instruction.grade(stem), "{instruction:?}");
                    assert!(!instruction.grade(&format!("{stem} nobody.")), "{instruction:?}");
                }
                Expected::Exactly => {
                    assert!(!instruction.grade(&instruction.prompt), "{instruction:?}");
                    assert!(!instruction.grade(&format!("{} Yes.", instruction.answer)), "{instruction:?}");
                }
            }
        }
        assert!(checked > 1000, "{checked}");
    }

    /// Whether a passage tells what a question asks, read from the text alone.
    fn text_tells(passage: &str, question: &str) -> bool {
        if let Some(noun) = question.strip_prefix("What color was the ") {
            let noun = noun.trim_end_matches('?');
            return vocabulary::COLORS.iter().any(|color| passage.contains(&format!("{color} {noun}")));
        }
        if let Some(noun) = question.strip_prefix("Where was the ") {
            let noun = noun.strip_suffix(" found?").unwrap();
            let after = |sentence: &str| sentence.split_once(noun).is_some_and(|(_, spot)| !spot.trim().is_empty());
            return passage.trim_end_matches('.').split(". ").any(|s| s.contains(" found ") && after(s));
        }
        let (verbs, name): (&[&str], &str) = match question.split(' ').collect::<Vec<_>>()[..] {
            ["Where", "did", name, "go?"] => (&["went to", "walked to"], name),
            ["What", "did", name, "find?"] => (&["found"], name),
            ["What", "did", name, "love", ..] => (&["loved", "liked"], name),
            ["What", "did", name, "give", ..] => (&["gave"], name),
            ["How", "did", name, "feel?"] => (&["was", "felt"], name),
            ["How", "many", _, "did", name, "pick?"] => (&["picked"], name),
            ["Why", "was", name, ..] => (&["because"], name),
            _ => panic!("{question}"),
        };
        let mut subject = String::new();
        passage.split(". ").any(|sentence| {
            let (first, rest) = sentence.split_once(' ').unwrap();
            if !matches!(first, "He" | "She") {
                subject = first.to_string();
            }
            let says = |verb: &&str| format!(" {rest}").contains(&format!(" {verb} "));
            // The reason of a feeling is no deed: she had won the race.
            let told = verbs == ["because"] || verbs == ["was", "felt"] || !rest.contains(" because ");
            subject == name && told && verbs.iter().any(says)
        })
    }

    #[test]
    fn answers_stand_in_the_passage() {
        for instruction in some(WorldPart::HeldOut) {
            if let Expected::Question(expected) = &instruction.expected {
                let (passage, question) = instruction.prompt.rsplit_once(". ").unwrap();
                assert!(text_tells(passage, question), "{instruction:?}");
                assert!(position(&words(passage), &words(&expected.answer)).is_some(), "{instruction:?}");
            }
        }
    }

    #[test]
    fn kinds_are_equally_frequent_and_prompts_rarely_the_same() {
        for part in [WorldPart::Train, WorldPart::HeldOut] {
            let mut kinds = BTreeMap::new();
            let all = some(part);
            for instruction in &all {
                *kinds.entry(instruction.kind).or_insert(0) += 1;
            }
            // Of 2,880 that are no small talk.
            for kind in InstructionKind::DRAWN {
                assert!((576 - 90..=576 + 90).contains(&kinds[&kind]), "{kind:?} in {kinds:?}");
            }
            let told = all.iter().filter(|i| InstructionKind::DRAWN.contains(&i.kind));
            let told = told.filter(|i| i.kind != InstructionKind::Arithmetic);
            let prompts: BTreeSet<&str> = told.clone().map(|i| i.prompt.as_str()).collect();
            assert!(prompts.len() * 100 > told.count() * 95);
        }
    }

    #[test]
    fn prompt_and_answer_are_at_most_280_ascii_characters() {
        for instruction in some(WorldPart::Train).iter().chain(&some(WorldPart::HeldOut)) {
            let Instruction { prompt, answer, .. } = instruction;
            assert!(prompt.len() + answer.len() <= 280, "{}: {instruction:?}", prompt.len() + answer.len());
            for text in [prompt, answer] {
                assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text}");
                for wrong in ["  ", "{", "}", " .", "..", " ,"] {
                    assert!(!text.contains(wrong), "{wrong:?} in: {text}");
                }
                assert!(text.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit()) || text == answer, "{text}");
            }
        }
    }

    #[test]
    fn no_seed_trains_on_what_another_holds_out() {
        let held_out: BTreeSet<String> = some(WorldPart::HeldOut).into_iter().map(|i| i.prompt).collect();
        for seed in [3, 4] {
            let train = Instructions::new(seed, WorldPart::Train);
            for index in 0..3000 {
                assert!(!held_out.contains(&train.instruction(index).prompt));
            }
        }
    }

    #[test]
    fn held_out_words_all_occur_in_training() {
        let train: BTreeSet<String> =
            some(WorldPart::Train).iter().flat_map(|i| words(&format!("{} {}", i.prompt, i.answer))).collect();
        // Small talk is in the words of people, whom nobody can foretell.
        for instruction in some(WorldPart::HeldOut).iter().filter(|i| i.kind != InstructionKind::SmallTalk) {
            for word in words(&instruction.prompt) {
                assert!(train.contains(&word), "{word}: {instruction:?}");
            }
        }
    }

    /// What the world's stories do not say, and an instruction must.
    #[test]
    fn few_words_are_not_the_worlds() {
        let world = super::super::World::new(7);
        let known: BTreeSet<String> = (0..2000).flat_map(|index| words(&world.story(index).text)).collect();
        let mut new = BTreeSet::new();
        let all = some(WorldPart::Train).into_iter().filter(|i| i.kind != InstructionKind::SmallTalk);
        for Instruction { prompt, answer, .. } in all {
            new.extend(words(&format!("{prompt} {answer}")).into_iter().filter(|word| !known.contains(word)));
        }
        let new: Vec<&str> = new.iter().map(String::as_str).collect();
        assert_eq!(new, ["color", "finish", "hope", "minus", "pick", "plus", "which", "zero"]);
    }
}
