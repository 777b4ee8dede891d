//! Courtesy around an answer: people who write demonstrations use some, and the [gold scorer](super::Instruction::gold)
//! likes it in measure.

use gptkit_rng::Dice;

/// What may stand before an answer; none of their words denies or names anything.
const OPENERS: [&str; 3] = ["Gladly!", "Of course!", "Good day!"];

/// What may stand after it.
const CLOSERS: [&str; 3] = ["I hope that helps.", "Ask me more!", "I was glad to help."];

/// What one answer has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Courtesy {
    pub(super) opener: Option<&'static str>,
    pub(super) closer: Option<&'static str>,
}

impl Courtesy {
    /// As demonstrators write: half of the answers are plain, 25% have an opener, 15% a closer, 10% both.
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let (opener, closer) = (dice.pick(&OPENERS), dice.pick(&CLOSERS));
        match dice.below(100) {
            0..50 => Self { opener: None, closer: None },
            50..75 => Self { opener: Some(opener), closer: None },
            75..90 => Self { opener: None, closer: Some(closer) },
            _ => Self { opener: Some(opener), closer: Some(closer) },
        }
    }

    /// An answer with it.
    pub(super) fn around(self, substance: &str) -> String {
        self.repeated_around(1, substance, 1)
    }

    /// An answer with too much of it, if these numbers are more than 1.
    pub(super) fn repeated_around(self, openers: usize, substance: &str, closers: usize) -> String {
        let openers = self.opener.into_iter().flat_map(|opener| std::iter::repeat_n(opener, openers));
        let closers = self.closer.into_iter().flat_map(|closer| std::iter::repeat_n(closer, closers));
        openers.chain([substance]).chain(closers).collect::<Vec<_>>().join(" ")
    }
}

/// A reply, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manners<'r> {
    /// Openers that it begins with.
    pub openers: usize,
    /// What stands between them: the reply itself, if it has none.
    pub substance: &'r str,
    /// Closers that it ends with.
    pub closers: usize,
    /// Openers and closers elsewhere, in the substance.
    pub astray: usize,
}

impl<'r> Manners<'r> {
    /// Of any text, whatever its case and punctuation, in time linear in its length.
    #[must_use]
    pub fn of(reply: &'r str) -> Self {
        let words = spans(reply);
        let at_start = |words: &[(usize, &str)], phrases: &[&str]| {
            phrases.iter().map(|phrase| phrase_length(words, phrase)).find(|&length| length > 0)
        };
        let at_end = |words: &[(usize, &str)]| {
            CLOSERS.iter().map(|phrase| phrase_length_at_end(words, phrase)).find(|&length| length > 0)
        };
        let mut rest = words.as_slice();
        let (mut openers, mut closers, mut astray) = (0, 0, 0);
        while let Some(length) = at_start(rest, &OPENERS) {
            (rest, openers) = (&rest[length..], openers + 1);
        }
        let mut end = reply.len();
        while let Some(length) = at_end(rest) {
            end = rest[rest.len() - length].0;
            (rest, closers) = (&rest[..rest.len() - length], closers + 1);
        }
        let start = match rest.first() {
            Some(&(first, _)) if openers > 0 => first,
            None if openers + closers > 0 => end,
            _ => 0,
        };
        while !rest.is_empty() {
            let length = at_start(rest, &OPENERS).or_else(|| at_start(rest, &CLOSERS));
            astray += usize::from(length.is_some());
            rest = &rest[length.unwrap_or(1)..];
        }
        Self { openers, substance: reply[start..end].trim(), closers, astray }
    }

    /// Phrases beyond one opener before the substance and one closer after it.
    #[must_use]
    pub fn excess(&self) -> usize {
        self.openers.saturating_sub(1) + self.closers.saturating_sub(1) + self.astray
    }
}

/// Words, and where they begin.
fn spans(text: &str) -> Vec<(usize, &str)> {
    let separate = |c: char| !c.is_alphanumeric() && c != '\'';
    let start = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    text.split(separate).filter(|word| !word.is_empty()).map(|word| (start(word), word)).collect()
}

/// How many words `phrase` has, if these begin with it; else 0.
fn phrase_length(words: &[(usize, &str)], phrase: &str) -> usize {
    let phrase = spans(phrase);
    let begins = words.len() >= phrase.len()
        && phrase.iter().zip(words).all(|((_, wanted), (_, word))| word.eq_ignore_ascii_case(wanted));
    if begins { phrase.len() } else { 0 }
}

fn phrase_length_at_end(words: &[(usize, &str)], phrase: &str) -> usize {
    let length = spans(phrase).len();
    if words.len() < length { 0 } else { phrase_length(&words[words.len() - length..], phrase) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn of(reply: &str) -> (usize, &str, usize, usize) {
        let Manners { openers, substance, closers, astray } = Manners::of(reply);
        (openers, substance, closers, astray)
    }

    #[test]
    fn openers_and_closers_are_told_from_the_substance() {
        for (reply, parts) in [
            ("Mia found a kite.", (0, "Mia found a kite.", 0, 0)),
            (" the red kite\n", (0, "the red kite", 0, 0)),
            ("Gladly! Mia found a kite. I hope that helps.", (1, "Mia found a kite.", 1, 0)),
            ("GLADLY, MIA FOUND A KITE! i hope that helps", (1, "MIA FOUND A KITE!", 1, 0)),
            ("Gladly! Gladly! Of course. 7. Ask me more!", (3, "7.", 1, 0)),
            ("7. Ask me more! I was glad to help. Ask me more!", (0, "7.", 3, 0)),
            ("7. Gladly!", (0, "7. Gladly!", 0, 1)),
            ("Ask me more! 7. Of course, 7. Good day!", (0, "Ask me more! 7. Of course, 7. Good day!", 0, 3)),
            ("Good day! I hope that helps.", (1, "", 1, 0)),
            ("Gladly!", (1, "", 0, 0)),
            ("Mia hopes that helps.", (0, "Mia hopes that helps.", 0, 0)),
            ("Of", (0, "Of", 0, 0)),
            ("", (0, "", 0, 0)),
            ("...", (0, "...", 0, 0)),
        ] {
            assert_eq!(of(reply), parts, "{reply:?}");
        }
    }

    #[test]
    fn phrases_beyond_one_on_each_side_are_in_excess() {
        for (reply, excess) in [
            ("7.", 0),
            ("Gladly! 7. Ask me more!", 0),
            ("Gladly! Of course! 7. Ask me more! Ask me more! Ask me more!", 3),
            ("Ask me more! 7.", 1),
            ("Gladly!", 0),
        ] {
            assert_eq!(Manners::of(reply).excess(), excess, "{reply:?}");
        }
    }

    #[test]
    fn manners_are_as_frequent_as_they_say() {
        let mut dice = Dice::for_story(5, 0);
        let mut counts = BTreeMap::new();
        for _ in 0..10_000 {
            let Courtesy { opener, closer } = Courtesy::draw(&mut dice);
            *counts.entry((opener.is_some(), closer.is_some())).or_insert(0_u32) += 1;
        }
        for (has, expected) in
            [((false, false), 5000), ((true, false), 2500), ((false, true), 1500), ((true, true), 1000)]
        {
            assert!(counts[&has].abs_diff(expected) < 200, "{counts:?}"); // 4 standard errors
        }
    }

    proptest! {
        #[test]
        fn what_manners_are_put_around_is_found_again(seed: u64, openers in 1_usize..4, closers in 1_usize..4) {
            let manner = Courtesy::draw(&mut Dice::for_story(seed, 0));
            let text = manner.repeated_around(openers, "3 plus 4 is 7.", closers);
            let has = |phrase: Option<&str>, n: usize| phrase.map_or(0, |_| n);
            prop_assert_eq!(of(&text), (has(manner.opener, openers), "3 plus 4 is 7.", has(manner.closer, closers), 0));
        }

        #[test]
        fn any_text_has_its_substance_within_it(reply in "(Gladly|of course|I hope that helps|\u{e9}|\\PC{0,4}|[ .!]){0,9}") {
            prop_assert!(reply.contains(Manners::of(&reply).substance));
        }
    }
}
