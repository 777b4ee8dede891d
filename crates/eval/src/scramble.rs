//! GPT-3's five word-scrambling tasks (Brown et al. 2020, §3.9.2): recover a word from its letters.

use gptkit_rng::Dice;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Words to scramble: this many, the most frequent …
const N_WORDS: usize = 10_000;
/// … of more than 4 letters and less than 15.
const LETTERS: RangeInclusive<usize> = 5..=14;
/// What is put between letters.
const BETWEEN: [u8; 33] = *b" !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// A way to scramble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scramble {
    /// The last letters first: `lyinevitab`.
    CycleLetters,
    /// All letters but the first and the last in another order: `criroptuon`.
    Anagrams1,
    /// All letters but the first two and the last two: `opoepnnt`.
    Anagrams2,
    /// A punctuation mark or a space between any two letters: `s.u!c/c!e.s s i/o/n`.
    RandomInsertion,
    /// From the last letter to the first: `stcejbo`.
    ReversedWords,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scrambled {
    /// The letters as they are shown.
    pub scrambled: String,
    /// What to say.
    pub word: String,
}

impl Scramble {
    /// All of them, in the order of the paper's table 3.10.
    pub const ALL: [Self; 5] =
        [Self::CycleLetters, Self::Anagrams1, Self::Anagrams2, Self::RandomInsertion, Self::ReversedWords];

    /// Name of the task.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CycleLetters => "cycle-letters",
            Self::Anagrams1 => "anagrams-1",
            Self::Anagrams2 => "anagrams-2",
            Self::RandomInsertion => "random-insertion",
            Self::ReversedWords => "reversed-words",
        }
    }

    /// Scrambles `word`, instance `index` under `seed`. The result is the word only where no other is possible: letters
    /// that are all the same, too few that may move, a palindrome.
    #[must_use]
    pub fn instance(self, word: &str, seed: u64, index: u64) -> Scrambled {
        let mut dice = Dice::for_evaluation(seed, self.name(), index);
        let mut letters: Vec<char> = word.chars().collect();
        match self {
            Self::CycleLetters => cycle(&mut letters, &mut dice),
            Self::Anagrams1 => shuffle_within(&mut letters, 1, &mut dice),
            Self::Anagrams2 => shuffle_within(&mut letters, 2, &mut dice),
            Self::RandomInsertion => letters = with_insertions(&letters, &mut dice),
            Self::ReversedWords => letters.reverse(),
        }
        Scrambled { scrambled: letters.into_iter().collect(), word: word.to_owned() }
    }
}

impl fmt::Display for Scramble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scramble {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|task| task.name() == text).ok_or_else(|| format!("use one of {}", names()))
    }
}

fn cycle(letters: &mut [char], dice: &mut Dice) {
    let changes = |by: &usize| letters.iter().zip(letters.iter().cycle().skip(*by)).any(|(a, b)| a != b);
    let by: Vec<usize> = (1..letters.len()).filter(changes).collect();
    if !by.is_empty() {
        letters.rotate_left(dice.pick(&by));
    }
}

fn shuffle_within(letters: &mut [char], margin: usize, dice: &mut Dice) {
    let end = letters.len().saturating_sub(margin);
    let Some(inner) = letters.get_mut(margin..end) else { return };
    if inner.windows(2).all(|pair| pair[0] == pair[1]) {
        return;
    }
    let before = inner.to_vec();
    while inner == before {
        dice.shuffle(inner);
    }
}

fn with_insertions(letters: &[char], dice: &mut Dice) -> Vec<char> {
    let mut all = Vec::with_capacity(2 * letters.len());
    for (i, &letter) in letters.iter().enumerate() {
        if i > 0 {
            all.push(dice.pick(&BETWEEN).into());
        }
        all.push(letter);
    }
    all
}

/// The most frequent words of 5 to 14 letters in `texts`, in lower case, the most frequent first and equally frequent
/// ones in the order of the alphabet. 10,000 of them, or as many as there are. `don't` is no word of letters, and no
/// part of it is one. The vocabulary is in memory, the text is not.
pub fn frequent_words(texts: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    let mut counts: HashMap<String, u64> = HashMap::new();
    for text in texts {
        let apostrophe = |c: char| matches!(c, '\'' | '’');
        for word in text.as_ref().split(|c: char| !c.is_alphanumeric() && !apostrophe(c)) {
            let word = word.trim_matches(apostrophe);
            if !word.is_empty() && word.chars().all(char::is_alphabetic) {
                let word = word.to_lowercase();
                if LETTERS.contains(&word.chars().count()) {
                    *counts.entry(word).or_default() += 1;
                }
            }
        }
    }
    let mut words: Vec<(String, u64)> = counts.into_iter().collect();
    words.sort_unstable_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
    words.truncate(N_WORDS);
    words.into_iter().map(|(word, _)| word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn scrambled(kind: Scramble, word: &str, index: u64) -> String {
        let Scrambled { scrambled, word: answer } = kind.instance(word, 1, index);
        assert_eq!(answer, word);
        scrambled
    }

    fn sorted(text: &str) -> Vec<char> {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    }

    #[test]
    fn every_other_result_is_drawn_and_the_word_is_not() {
        for (kind, word, want) in [
            (Scramble::CycleLetters, "abcd", 3),
            (Scramble::CycleLetters, "papa", 1), // apap
            (Scramble::Anagrams1, "abcde", 5),   // 3! − 1
            (Scramble::Anagrams1, "abbbe", 0),
            (Scramble::Anagrams2, "abcdefg", 5),
            (Scramble::Anagrams2, "abcdef", 1),
            (Scramble::Anagrams2, "abcde", 0), // one letter may move, and nowhere
            (Scramble::Anagrams2, "abc", 0),
            (Scramble::Anagrams1, "é", 0),
            (Scramble::CycleLetters, "aaaa", 0),
            (Scramble::CycleLetters, "", 0),
            (Scramble::ReversedWords, "añb", 1),
            (Scramble::ReversedWords, "level", 0),
        ] {
            let drawn: HashSet<String> = (0..200).map(|index| scrambled(kind, word, index)).collect();
            if want == 0 {
                assert_eq!(drawn, HashSet::from([word.to_owned()]), "{kind:?} {word}");
            } else {
                assert!(!drawn.contains(word) && drawn.len() == want, "{kind:?} {word}: {drawn:?}");
            }
        }
        assert_eq!(scrambled(Scramble::ReversedWords, "garden", 0), "nedrag");
    }

    #[test]
    fn every_mark_is_inserted() {
        let marks: HashSet<char> =
            (0..300).flat_map(|i| scrambled(Scramble::RandomInsertion, "ab", i).chars().nth(1)).collect();
        assert_eq!(marks.len(), 33);
        assert!(marks.iter().all(|&c| c == ' ' || c.is_ascii_punctuation()));
    }

    /// Changes whenever the generator does.
    #[test]
    fn the_first_instances_are_what_they_were() {
        let first = Scramble::ALL.map(|kind| scrambled(kind, "lighthouse", 0));
        assert_eq!(first, ["ighthousel", "lhtoighuse", "lihtoughse", "l~i@g>h:t~h+o;u)s]e", "esuohthgil"]);
    }

    proptest! {
        #[test]
        fn the_letters_stay_and_the_margins_where_they_were(word in "[a-zé]{4,15}", seed in 0u64..9, index in 0u64..9) {
            for kind in Scramble::ALL {
                let Scrambled { scrambled, .. } = kind.instance(&word, seed, index);
                prop_assert_eq!(&kind.instance(&word, seed, index).scrambled, &scrambled);
                let (was, is): (Vec<char>, Vec<char>) = (word.chars().collect(), scrambled.chars().collect());
                let margin = match kind {
                    Scramble::Anagrams1 => 1,
                    Scramble::Anagrams2 => 2,
                    Scramble::CycleLetters | Scramble::ReversedWords => 0,
                    Scramble::RandomInsertion => {
                        prop_assert_eq!(is.len(), 2 * was.len() - 1);
                        prop_assert_eq!(is.into_iter().step_by(2).collect::<Vec<_>>(), was);
                        continue;
                    }
                };
                prop_assert_eq!(sorted(&scrambled), sorted(&word));
                prop_assert_eq!(&is[..margin], &was[..margin]);
                prop_assert_eq!(&is[is.len() - margin..], &was[was.len() - margin..]);
                if kind == Scramble::CycleLetters {
                    prop_assert!(word.repeat(2).contains(&scrambled));
                }
            }
        }
    }

    #[test]
    fn frequent_words_are_letters_alone_and_ordered() {
        let texts = [
            "A Stone-mason came; the stone, 'stone', hadn't moved.",
            "Bells' bells: four, x2yzw, déjàs, mason",
            "STONE",
        ];
        assert_eq!(frequent_words(texts), ["stone", "bells", "mason", "déjàs", "moved"]);
        let [short, long] = [14, 15].map(|n| "a".repeat(n));
        assert_eq!(frequent_words([&short, &long]), [short.as_str()]);
    }

    #[test]
    fn at_most_ten_thousand_words_and_the_rarest_go() {
        let word = |i: u32| format!("{i:05}").bytes().map(|d| char::from(d - b'0' + b'a')).collect::<String>();
        let frequent = (0..10_000).map(|i| format!("{0} {0}", word(i + 1)));
        let words = frequent_words(std::iter::once(word(0)).chain(frequent));
        assert_eq!(words.len(), 10_000);
        assert_eq!((words[0].as_str(), words[9_999].as_str()), (word(1).as_str(), word(10_000).as_str()));
    }
}
