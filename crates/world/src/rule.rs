//! What leads from an input of a few words to an output, and the words.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

use super::part::WorldPart;
use super::words;
use gptkit_rng::Dice;

/// What leads from an input to its output. The first eight read lists of a color, an animal and a thing in any order, the
/// last three read one such word; within each kind all read the same inputs, so that these do not tell which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatternKind {
    /// The first of the three.
    FirstWord,
    /// The second of the three.
    MiddleWord,
    /// The third of the three.
    LastWord,
    /// All three, the last first.
    Reversed,
    /// All three, the first moved to the end.
    Rotated,
    /// The one that is a color.
    Color,
    /// The one that is an animal.
    Animal,
    /// The one that is a thing.
    Thing,
    /// What the word is: `color`, `animal` or `thing`.
    Category,
    /// What the word is, by labels that are drawn: a place for each category.
    Labels,
    /// What stands for the word in a table that is drawn: a few words, a place for each.
    Lookup,
}

impl PatternKind {
    /// All of them.
    pub const ALL: [PatternKind; 11] = [
        PatternKind::FirstWord,
        PatternKind::MiddleWord,
        PatternKind::LastWord,
        PatternKind::Reversed,
        PatternKind::Rotated,
        PatternKind::Color,
        PatternKind::Animal,
        PatternKind::Thing,
        PatternKind::Category,
        PatternKind::Labels,
        PatternKind::Lookup,
    ];

    /// Whether its inputs are three words.
    pub(super) fn reads_lists(self) -> bool {
        !matches!(self, PatternKind::Category | PatternKind::Labels | PatternKind::Lookup)
    }
}

impl fmt::Display for PatternKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PatternKind::FirstWord => "first-word",
            PatternKind::MiddleWord => "middle-word",
            PatternKind::LastWord => "last-word",
            PatternKind::Reversed => "reversed",
            PatternKind::Rotated => "rotated",
            PatternKind::Color => "color",
            PatternKind::Animal => "animal",
            PatternKind::Thing => "thing",
            PatternKind::Category => "category",
            PatternKind::Labels => "labels",
            PatternKind::Lookup => "lookup",
        })
    }
}

impl FromStr for PatternKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|pattern| pattern.to_string() == text).ok_or_else(|| {
            let names: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("use one of {}", names.join(", "))
        })
    }
}

/// One example of a pattern. Prints as the line that it is in documents, `- red fox cup -> red`: the dash gives the first
/// word the space before it that the others have, and with it the same token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatternRecord {
    /// One word or three.
    pub input: String,
    /// One word or three.
    pub output: String,
}

impl fmt::Display for PatternRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "- {} -> {}", self.input, self.output)
    }
}

/// What the words are, and how that is called.
const CATEGORIES: [&str; 3] = ["color", "animal", "thing"];

/// Words of each category that never stand alone in the train part: the last ones. A hash, as it parts combinations,
/// would part so few words unevenly.
const HELD_OUT: usize = 3;

/// Keys of a table of [`PatternKind::Lookup`].
const KEYS: usize = 4;

/// A pattern, with what is drawn for it.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pattern: PatternKind,
    /// Category or word, and the place that stands for it; sorted.
    table: Vec<(&'static str, &'static str)>,
}

impl Rule {
    /// With a table of this part, where there is one.
    pub(super) fn draw(pattern: PatternKind, part: WorldPart, dice: &mut Dice) -> Self {
        loop {
            let mut keys = match pattern {
                PatternKind::Labels => CATEGORIES.to_vec(),
                PatternKind::Lookup => keys(dice),
                _ => return Self { pattern, table: Vec::new() },
            };
            keys.sort_unstable();
            let mut places = places();
            dice.shuffle(&mut places);
            let table: Vec<_> = keys.into_iter().zip(places).collect();
            if WorldPart::of(&format!("{table:?}")) == part {
                return Self { pattern, table };
            }
        }
    }

    pub(super) fn record(&self, part: WorldPart, dice: &mut Dice) -> PatternRecord {
        let input = match self.pattern {
            PatternKind::Lookup => vec![dice.pick(&self.table).0],
            PatternKind::Category | PatternKind::Labels => vec![word(part, dice)],
            _ => list(part, dice),
        };
        PatternRecord { output: self.output(&input).join(" "), input: input.join(" ") }
    }

    /// Of an input that the pattern reads.
    fn output(&self, input: &[&'static str]) -> Vec<&'static str> {
        let of_category = |name| input.iter().copied().filter(|word| category(word) == name).collect();
        let in_table = |key| self.table.iter().filter(|row| row.0 == key).map(|row| row.1).collect();
        match self.pattern {
            PatternKind::FirstWord => vec![input[0]],
            PatternKind::MiddleWord => vec![input[1]],
            PatternKind::LastWord => vec![input[2]],
            PatternKind::Reversed => vec![input[2], input[1], input[0]],
            PatternKind::Rotated => vec![input[1], input[2], input[0]],
            PatternKind::Color => of_category("color"),
            PatternKind::Animal => of_category("animal"),
            PatternKind::Thing => of_category("thing"),
            PatternKind::Category => vec![category(input[0])],
            PatternKind::Labels => in_table(category(input[0])),
            PatternKind::Lookup => in_table(input[0]),
        }
    }
}

/// A color, an animal and a thing, in any order.
fn list(part: WorldPart, dice: &mut Dice) -> Vec<&'static str> {
    loop {
        let mut list: Vec<_> = CATEGORIES.iter().map(|name| dice.pick(&words_of(name))).collect();
        let mut combination = list.clone();
        combination.sort_unstable();
        dice.shuffle(&mut list);
        if WorldPart::of(&combination.join(" ")) == part {
            return list;
        }
    }
}

/// A word of any category, all as likely.
fn word(part: WorldPart, dice: &mut Dice) -> &'static str {
    let words = words_of(dice.pick(&CATEGORIES));
    let (train, held_out) = words.split_at(words.len() - HELD_OUT);
    dice.pick(if part == WorldPart::Train { train } else { held_out })
}

/// Different words as they stand alone in documents.
fn keys(dice: &mut Dice) -> Vec<&'static str> {
    let mut keys = Vec::with_capacity(KEYS);
    while keys.len() < KEYS {
        let key = word(WorldPart::Train, dice);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The words of a category, those that are one word.
fn words_of(name: &str) -> Vec<&'static str> {
    match name {
        "color" => words::COLORS.to_vec(),
        "animal" => words::ANIMALS.iter().map(|kind| kind.noun).collect(),
        _ => words::TOYS.iter().copied().filter(|noun| !noun.contains(' ')).collect(),
    }
}

fn category(word: &str) -> &'static str {
    CATEGORIES.into_iter().find(|name| words_of(name).contains(&word)).unwrap_or_default()
}

/// Places of one word, without `the`: they stand for categories and words in tables.
fn places() -> Vec<&'static str> {
    let names = words::SITES.iter().map(|site| site.name.trim_start_matches("the "));
    names.filter(|name| !name.contains(' ')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_pattern_is_named_as_it_is_printed_and_in_json() {
        for pattern in PatternKind::ALL {
            assert_eq!(pattern.to_string().parse(), Ok(pattern));
            assert_eq!(serde_json::to_value(pattern).unwrap(), pattern.to_string());
        }
        assert!("last".parse::<PatternKind>().unwrap_err().contains("last-word"));
    }

    #[test]
    fn outputs_are_what_the_pattern_says() {
        let output = |pattern, input: &[&'static str]| {
            let table = match pattern {
                PatternKind::Labels => vec![("animal", "pond"), ("color", "farm"), ("thing", "hill")],
                _ => vec![("cup", "lake"), ("fox", "barn"), ("goat", "farm"), ("red", "cave")],
            };
            Rule { pattern, table }.output(input).join(" ")
        };
        let list = ["fox", "cup", "red"];
        for (pattern, expected) in [
            (PatternKind::FirstWord, "fox"),
            (PatternKind::MiddleWord, "cup"),
            (PatternKind::LastWord, "red"),
            (PatternKind::Reversed, "red cup fox"),
            (PatternKind::Rotated, "cup red fox"),
            (PatternKind::Color, "red"),
            (PatternKind::Animal, "fox"),
            (PatternKind::Thing, "cup"),
        ] {
            assert_eq!(output(pattern, &list), expected, "{pattern}");
        }
        assert_eq!(list.map(|word| output(PatternKind::Category, &[word])), ["animal", "thing", "color"]);
        assert_eq!(list.map(|word| output(PatternKind::Labels, &[word])), ["pond", "hill", "farm"]);
        assert_eq!(list.map(|word| output(PatternKind::Lookup, &[word])), ["barn", "lake", "cave"]);
    }

    #[test]
    fn a_word_is_of_one_category_or_a_place() {
        let all: Vec<&str> = CATEGORIES.iter().flat_map(|name| words_of(name)).chain(places()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all.len(), 12 + 12 + 19 + 18);
    }

    #[test]
    fn a_record_prints_as_a_line_and_has_its_two_keys() {
        let record = PatternRecord { input: "red fox cup".to_owned(), output: "red".to_owned() };
        assert_eq!(record.to_string(), "- red fox cup -> red");
        assert_eq!(serde_json::to_string(&record).unwrap(), r#"{"input":"red fox cup","output":"red"}"#);
    }
}
