//! Whether a reply to a [`StoryQuestion`] is right: by words, not by letters.

use super::questions::{QuestionKind, StoryQuestion};

const NEGATIONS: [&str; 11] =
    ["no", "not", "never", "nobody", "nothing", "none", "nowhere", "neither", "nor", "without", "unknown"];

/// Longer replies are refused: naming everything is no answer.
pub(super) const MOST_WORDS: usize = 40;

impl StoryQuestion {
    /// Whether `reply` gives the answer, alone or in a short sentence: `the garden`, `In the garden.`, `The ball is in the
    /// garden.` Case, punctuation, articles and possessives (his, her) do not matter, and 3 is three. Refused: a reply that
    /// also names a rival answer, that negates, that is longer than 40 words. Yes or no must be the first word.
    #[must_use]
    pub fn grade(&self, reply: &str) -> bool {
        let reply = words(reply);
        if reply.is_empty() || reply.len() > MOST_WORDS {
            return false;
        }
        if self.kind == QuestionKind::YesNo {
            let yes = self.answer == "yes";
            let against = |word: &String| if yes { NEGATIONS.contains(&word.as_str()) } else { word == "yes" };
            return reply[0] == self.answer && !reply.iter().any(against);
        }
        let ask = words(&self.ask);
        let rivals: Vec<Vec<String>> =
            self.rivals.iter().map(|rival| words(rival)).filter(|rival| position(&ask, rival).is_none()).collect();
        std::iter::once(&self.answer).chain(&self.accept).any(|right| {
            let right = words(right);
            let Some(start) = position(&reply, &right) else { return false };
            let end = start + right.len();
            let rest = [&reply[..start], &reply[end..]];
            let negated = rest.iter().any(|part| negates(part));
            // Milk is a rival of milk pudding, but not where it is a part of it.
            let rival = rivals.iter().any(|rival| {
                let mut windows = reply.windows(rival.len().max(1)).enumerate();
                windows.any(|(i, window)| window == rival && !(start <= i && i + rival.len() <= end))
            });
            !negated && !rival
        })
    }
}

/// Whether one of the words denies something.
pub(super) fn negates(words: &[String]) -> bool {
    words.iter().any(|word| NEGATIONS.contains(&word.as_str()))
}

/// Lower-case words without articles and possessives; `didn't` is `did not`, `3` is `three`.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '\u{2019}') {
        let mut word: String = word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        if let Some(number) = word.parse::<usize>().ok().and_then(|n| super::words::NUMBERS.get(n)) {
            word = (*number).to_string();
        }
        let negated = [
            "dont", "doesnt", "didnt", "isnt", "wasnt", "arent", "werent", "cant", "cannot", "couldnt", "hasnt",
            "hadnt", "havent", "wont",
        ];
        if negated.contains(&word.as_str()) {
            words.push("not".to_string());
        } else if !matches!(word.as_str(), "" | "a" | "an" | "the" | "his" | "her" | "their" | "its" | "some") {
            words.push(word);
        }
    }
    words
}

/// Where `part` begins in `whole`; an empty part is nowhere.
pub(super) fn position(whole: &[String], part: &[String]) -> Option<usize> {
    if part.is_empty() {
        return None;
    }
    whole.windows(part.len()).position(|window| window == part)
}
