//! BLEU of a corpus (Papineni et al. 2002) as sacrebleu computes it by default (Post 2018): tokens of mteval-v13a, case
//! kept, orders 1 to 4, exponential smoothing, brevity against the reference that is closest in length.

use crate::answers::{is_python_space, python_split};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// The longest n-grams.
pub const ORDER: usize = 4;

/// What BLEU must know of a sentence; of a corpus it is their sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BleuCounts {
    /// n-grams of the candidate, n from 1, that a reference has too; each as often as one reference has it at most.
    pub matches: [u64; ORDER],
    /// n-grams of the candidate.
    pub totals: [u64; ORDER],
    /// Tokens of the candidate.
    pub candidate_len: u64,
    /// Tokens of the reference that is closest in length, the shorter of two.
    pub reference_len: u64,
}

impl BleuCounts {
    /// Counts of one sentence.
    ///
    /// # Panics
    /// Without a reference.
    #[must_use]
    pub fn new(candidate: &str, references: &[impl AsRef<str>]) -> Self {
        let candidate = tokens(candidate);
        let references: Vec<Vec<String>> = references.iter().map(|one| tokens(one.as_ref())).collect();
        let n = candidate.len();
        let closest = references.iter().map(Vec::len).min_by_key(|&len| (len.abs_diff(n), len));
        let mut counts = Self {
            candidate_len: n as u64,
            reference_len: closest.expect("a candidate has a reference") as u64,
            ..Self::default()
        };
        for order in 0..ORDER {
            let mut most: HashMap<&[String], u64> = HashMap::new();
            for reference in &references {
                for (ngram, count) in ngrams(reference, order + 1) {
                    let most = most.entry(ngram).or_default();
                    *most = count.max(*most);
                }
            }
            for (ngram, count) in ngrams(&candidate, order + 1) {
                counts.totals[order] += count;
                counts.matches[order] += count.min(most.get(ngram).copied().unwrap_or(0));
            }
        }
        counts
    }

    /// From 0 to 100: brevity penalty × geometric mean of the precisions, in percent. The first precision of 0 becomes
    /// half an n-gram, the next a quarter … (Chen and Cherry 2014, method 3). 0 where no word matches, and where no
    /// sentence is long enough for the longest n-grams.
    #[must_use]
    pub fn score(&self) -> f64 {
        if self.matches == [0; ORDER] || self.totals.contains(&0) {
            return 0.0;
        }
        let mut smoothing = 1.0;
        let mut sum_of_logs = 0.0;
        for (&matches, &total) in self.matches.iter().zip(&self.totals) {
            let precision = if matches == 0 {
                smoothing *= 2.0;
                1.0 / (smoothing * total as f64)
            } else {
                matches as f64 / total as f64
            };
            sum_of_logs += precision.ln();
        }
        let ratio = self.reference_len as f64 / self.candidate_len as f64;
        let brevity_penalty = (1.0 - ratio).exp().min(1.0);
        100.0 * brevity_penalty * (sum_of_logs / ORDER as f64).exp()
    }
}

impl Add for BleuCounts {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for BleuCounts {
    fn add_assign(&mut self, other: Self) {
        for order in 0..ORDER {
            self.matches[order] += other.matches[order];
            self.totals[order] += other.totals[order];
        }
        self.candidate_len += other.candidate_len;
        self.reference_len += other.reference_len;
    }
}

impl Sum for BleuCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

/// n-grams and how often each occurs.
fn ngrams(tokens: &[String], n: usize) -> HashMap<&[String], u64> {
    let mut counts = HashMap::new();
    for ngram in tokens.windows(n) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

/// Tokens of mteval-v13a: ASCII punctuation alone, but periods and commas inside of numbers, apostrophes, and hyphens
/// that follow no digit. Its four rules run one after the other, each from left to right over what the last one left.
#[must_use]
pub fn tokens(text: &str) -> Vec<String> {
    let text = text.trim_end_matches(is_python_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let point = |c: char| matches!(c, '.' | ',');
    let digit = |c: char| c.is_ascii_digit();
    let text = spaced_where_alone(&format!(" {text} "));
    let text = spaced_where_pair(&text, |a, b| !digit(a) && point(b), |a, b| [a, ' ', b, ' ']);
    let text = spaced_where_pair(&text, |a, b| point(a) && !digit(b), |a, b| [' ', a, ' ', b]);
    let text = spaced_where_pair(&text, |a, b| digit(a) && b == '-', |a, b| [a, ' ', b, ' ']);
    python_split(&text).map(str::to_owned).collect()
}

/// Spaces around ASCII punctuation other than `'`, `,`, `-` and `.`.
fn spaced_where_alone(text: &str) -> String {
    let mut spaced = String::with_capacity(2 * text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.') {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(c);
        }
    }
    spaced
}

/// What `with` makes of every two neighbors that are a `pair`; no character is in two pairs.
fn spaced_where_pair(text: &str, pair: impl Fn(char, char) -> bool, with: impl Fn(char, char) -> [char; 4]) -> String {
    let mut spaced = String::with_capacity(2 * text.len());
    let mut rest = text.chars().peekable();
    while let Some(a) = rest.next() {
        match rest.next_if(|&b| pair(a, b)) {
            Some(b) => spaced.extend(with(a, b)),
            None => spaced.push(a),
        }
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_testing::{assert_close, golden_cases, number, strings};
    use proptest::prelude::*;

    #[test]
    fn tokens_agree_with_the_reference() {
        for case in golden_cases("metrics.json", "tokens") {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokens(text), strings(&case["tokens"]), "{text:?}");
        }
    }

    #[test]
    fn corpora_agree_with_the_reference() {
        for case in golden_cases("metrics.json", "bleu") {
            let candidates = strings(&case["candidates"]);
            let references: Vec<_> = case["references"].as_array().unwrap().iter().map(strings).collect();
            let sum: BleuCounts = candidates.iter().zip(&references).map(|(c, r)| BleuCounts::new(c, r)).sum();
            let of = |name: &str| serde_json::from_value::<[u64; ORDER]>(case[name].clone()).unwrap();
            assert_eq!((sum.matches, sum.totals), (of("matches"), of("totals")), "{candidates:?}");
            let lengths = (case["candidate_len"].as_u64().unwrap(), case["reference_len"].as_u64().unwrap());
            assert_eq!((sum.candidate_len, sum.reference_len), lengths, "{candidates:?}");
            assert_close(&format!("{candidates:?}"), [sum.score()], &[number(&case["score"])], 1e-9);
        }
    }

    /// By hand: matches 5/6, 3/5, 1/4, 0/3, the last smoothed to 1/(2 · 3); 6 words against 7.
    #[test]
    fn a_sentence_agrees_with_the_definition() {
        let counts = BleuCounts::new("we saw two boats at night", &["we saw some boats at night again"]);
        assert_eq!((counts.matches, counts.totals), ([5, 3, 1, 0], [6, 5, 4, 3]));
        let want = 100.0 * (-1.0 / 6.0f64).exp() * (5.0 / 6.0 * 3.0 / 5.0 * 1.0 / 4.0 * 1.0 / 6.0f64).powf(0.25);
        assert!((counts.score() - want).abs() < 1e-12, "{}", counts.score());
    }

    #[test]
    fn a_word_counts_as_often_as_one_reference_has_it() {
        let counts = BleuCounts::new("go go go go", &["go on", "go north and go home"]);
        assert_eq!(counts.matches[0], 2);
        assert_eq!(counts.reference_len, 5, "off by 1, the other by 2");
        assert_eq!(BleuCounts::new("one two three", &["a b c d", "a b"]).reference_len, 2, "the shorter of two");
    }

    #[test]
    #[should_panic(expected = "a candidate has a reference")]
    fn a_candidate_without_a_reference_is_refused() {
        let _ = BleuCounts::new("the cat", &[] as &[&str]);
    }

    proptest! {
        #[test]
        fn a_score_is_a_percentage_and_its_own_best(text in "[a-d]( [a-d]){3,12}", other in "[a-d]( [a-d]){3,12}") {
            prop_assert!((BleuCounts::new(&text, &[&text]).score() - 100.0).abs() < 1e-9);
            let score = BleuCounts::new(&text, &[&other]).score();
            prop_assert!((0.0..=100.0 + 1e-9).contains(&score));
            prop_assert!(BleuCounts::new(&text, &[&other, &text]).score() >= score - 1e-9);
        }

        #[test]
        fn tokens_keep_every_character_but_white_space(text in "[ -%'-~–é½]{0,40}") { // no &, no entity
            prop_assume!(!text.contains("<skipped>"));
            let without = |text: &str| text.replace(' ', "");
            prop_assert_eq!(tokens(&text).concat(), without(&text));
        }
    }
}
