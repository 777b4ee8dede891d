//! ROUGE-N and ROUGE-L (Lin 2004, §2 and §3.1) of one text against one reference, as Google's `rouge_score` computes
//! them without stemming. Its stemmer is NLTK's variant of Porter's, which is neither Porter's own nor Snowball's.

use std::collections::HashMap;

/// Each from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RougeScore {
    /// Share of the candidate that the reference has too.
    pub precision: f64,
    /// Share of the reference that the candidate has too.
    pub recall: f64,
    /// Harmonic mean of the two; 0 where both are.
    pub f1: f64,
}

impl RougeScore {
    /// `n_same` of `n_candidate`, and of `n_reference`; of none it is 0.
    fn new(n_same: usize, n_candidate: usize, n_reference: usize) -> Self {
        let share = |of: usize| n_same as f64 / of.max(1) as f64;
        let (precision, recall) = (share(n_candidate), share(n_reference));
        let f1 = if n_same == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
        Self { precision, recall, f1 }
    }
}

/// ROUGE-N: n-grams in common, each as often as both have it.
///
/// # Panics
/// When `n` is 0.
#[must_use]
pub fn rouge_n(n: usize, candidate: &str, reference: &str) -> RougeScore {
    let (candidate, reference) = (words(candidate), words(reference));
    let mut left: HashMap<&[String], usize> = HashMap::new();
    for ngram in reference.windows(n) {
        *left.entry(ngram).or_default() += 1;
    }
    let mut n_same = 0;
    for ngram in candidate.windows(n) {
        if let Some(count) = left.get_mut(ngram).filter(|count| **count > 0) {
            *count -= 1;
            n_same += 1;
        }
    }
    RougeScore::new(n_same, candidate.windows(n).len(), reference.windows(n).len())
}

/// ROUGE-L: the longest common subsequence of words, the text taken as one sentence.
#[must_use]
pub fn rouge_l(candidate: &str, reference: &str) -> RougeScore {
    let (candidate, reference) = (words(candidate), words(reference));
    RougeScore::new(longest_common_subsequence(&candidate, &reference), candidate.len(), reference.len())
}

fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut longest = vec![0; b.len() + 1]; // of the words of `a` so far, and as many words of `b` as the index says
    for word in a {
        let mut before = 0; // one word of each less
        for (i, other) in b.iter().enumerate() {
            let next = if word == other { before + 1 } else { longest[i + 1].max(longest[i]) };
            before = std::mem::replace(&mut longest[i + 1], next);
        }
    }
    longest[b.len()]
}

/// Runs of a to z and 0 to 9, in lower case.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let of_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    lower.split(|c| !of_word(c)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_testing::{assert_close, golden_cases, number};
    use proptest::prelude::*;

    #[test]
    fn scores_agree_with_the_reference() {
        for case in golden_cases("metrics.json", "rouge") {
            let (candidate, reference) = (case["candidate"].as_str().unwrap(), case["reference"].as_str().unwrap());
            for (name, score) in [
                ("rouge1", rouge_n(1, candidate, reference)),
                ("rouge2", rouge_n(2, candidate, reference)),
                ("rougeL", rouge_l(candidate, reference)),
            ] {
                let what = format!("{name} of {candidate:?}, {reference:?}");
                for (i, value) in [score.precision, score.recall, score.f1].into_iter().enumerate() {
                    assert_close(&format!("{what}, {i}"), [value], &[number(&case[name][i])], 1e-9);
                }
            }
        }
    }

    /// By hand: three of four words in order, then two.
    #[test]
    fn rouge_l_sees_order_and_single_words_do_not() {
        let reference = "sailors painted an anchor";
        assert_eq!(rouge_l("sailors paint an anchor", reference).f1, 0.75);
        assert_eq!(rouge_l("an anchor paint sailors", reference).f1, 0.5);
        assert_eq!(rouge_n(1, "an anchor paint sailors", reference).f1, 0.75);
        assert_eq!(rouge_n(2, "an anchor paint sailors", reference).f1, 1.0 / 3.0);
    }

    #[test]
    fn no_words_have_a_score_of_0() {
        for (candidate, reference) in [("", ""), ("", "a word"), ("a word", ""), ("!?", "…")] {
            assert_eq!(rouge_n(1, candidate, reference), RougeScore::default());
            assert_eq!(rouge_n(2, candidate, reference), RougeScore::default());
            assert_eq!(rouge_l(candidate, reference), RougeScore::default());
        }
    }

    /// The definition: the longest of all subsequences of `a` that `b` has.
    fn by_trying_all(a: &[String], b: &[String]) -> usize {
        let has = |subsequence: &[&String]| {
            let mut rest = b.iter();
            subsequence.iter().all(|word| rest.any(|other| other == *word))
        };
        let chosen = |set: u32| (0..a.len()).filter(|i| set >> i & 1 == 1).map(|i| &a[i]).collect::<Vec<_>>();
        (0..1 << a.len()).map(chosen).filter(|s| has(s)).map(|s| s.len()).max().unwrap()
    }

    proptest! {
        #[test]
        fn the_longest_common_subsequence_is_the_longest(a in "[a-c]{0,8}", b in "[a-c]{0,8}") {
            let letters = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
            let (a, b) = (letters(&a), letters(&b));
            prop_assert_eq!(longest_common_subsequence(&a, &b), by_trying_all(&a, &b));
        }

        #[test]
        fn recall_is_precision_from_the_other_side(a in "[a-d ]{0,16}", b in "[a-d ]{0,16}") {
            for (one, other) in [(rouge_n(1, &a, &b), rouge_n(1, &b, &a)), (rouge_l(&a, &b), rouge_l(&b, &a))] {
                prop_assert_eq!((one.precision, one.recall), (other.recall, other.precision));
                prop_assert!((0.0..=1.0).contains(&one.f1));
            }
        }
    }
}
