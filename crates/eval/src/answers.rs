//! Free-form answers against accepted ones, as SQuAD's evaluation v1.1 scores them (Rajpurkar et al. 2016, §6.1), and
//! numbers, as lm-evaluation-harness compares GSM8K's.

use std::collections::HashMap;

/// White space as Python's `str.split` has it: Unicode's, and four control characters.
pub(crate) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Words of white space of Python's kind.
pub(crate) fn python_split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_python_space).filter(|word| !word.is_empty())
}

/// Lower case, then without ASCII punctuation, then without the articles a, an and the, white space as single spaces.
///
/// In that order: of `A.` nothing is left, of `the-end` `theend`, and of `the–end`, whose dash is not ASCII, `–end`.
#[must_use]
pub fn normalized(answer: &str) -> String {
    let bare: String = answer.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let mut kept = String::with_capacity(bare.len());
    let mut rest = bare.as_str();
    while let Some(first) = rest.chars().next() {
        let of_word = first.is_alphanumeric();
        let end = rest.find(|c: char| c.is_alphanumeric() != of_word).unwrap_or(rest.len());
        let run;
        (run, rest) = rest.split_at(end);
        kept.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
    }
    python_split(&kept).collect::<Vec<_>>().join(" ")
}

/// Whether one of `accepted` is what was `said`, both [`normalized`].
#[must_use]
pub fn exact_match(said: &str, accepted: &[String]) -> bool {
    let said = normalized(said);
    accepted.iter().any(|one| normalized(one) == said)
}

/// Whether the number that was `said` first is one of `accepted`. Commas, a dollar sign before it and a full stop after it
/// count for nothing (lm-evaluation-harness, `gsm8k.yaml`, `regexes_to_ignore`). An answer without a number counts as wrong.
#[must_use]
pub fn same_number(said: &str, accepted: &[String]) -> bool {
    let said = number(said);
    said.is_some() && accepted.iter().any(|one| number(one) == said)
}

/// The number that `text` begins with: a sign, digits and full stops.
fn number(text: &str) -> Option<String> {
    let bare: String = text.trim().chars().filter(|c| !matches!(c, ',' | '$')).collect();
    let (sign, digits) = bare.strip_prefix('-').map_or(("", bare.as_str()), |rest| ("-", rest));
    let end = digits.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(digits.len());
    let digits = digits[..end].strip_suffix('.').unwrap_or(&digits[..end]);
    digits.contains(|c: char| c.is_ascii_digit()).then(|| format!("{sign}{digits}"))
}

/// F1 of the words of what was `said`, both [`normalized`], against the accepted answer that is the best for it; from 0
/// to 1, 0 where no answer is accepted. As in v1.1, two answers without words have no word in common: 0.
#[must_use]
pub fn f1(said: &str, accepted: &[String]) -> f64 {
    let said = normalized(said);
    accepted.iter().map(|one| word_f1(&said, &normalized(one))).fold(0.0, f64::max)
}

fn word_f1(said: &str, accepted: &str) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    let (mut n_said, mut n_accepted, mut n_same) = (0, 0, 0);
    for word in python_split(accepted) {
        *left.entry(word).or_default() += 1;
        n_accepted += 1;
    }
    for word in python_split(said) {
        n_said += 1;
        if let Some(n) = left.get_mut(word).filter(|n| **n > 0) {
            *n -= 1;
            n_same += 1;
        }
    }
    if n_same == 0 {
        return 0.0;
    }
    let (precision, recall) = (f64::from(n_same) / f64::from(n_said), f64::from(n_same) / f64::from(n_accepted));
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_testing::{assert_close, golden_cases, number, strings};
    use proptest::prelude::*;

    #[test]
    fn answers_agree_with_the_reference() {
        for case in golden_cases("metrics.json", "answers") {
            let (said, accepted) = (case["said"].as_str().unwrap(), strings(&case["accepted"]));
            assert_eq!(normalized(said), case["normalized"].as_str().unwrap(), "{said:?}");
            assert_eq!(exact_match(said, &accepted), case["exact_match"].as_bool().unwrap(), "{said:?}: {accepted:?}");
            assert_close(&format!("{said:?}: {accepted:?}"), [f1(said, &accepted)], &[number(&case["f1"])], 1e-9);
        }
    }

    #[test]
    fn numbers_are_compared_however_they_are_written() {
        for (said, right, same) in [
            ("1,000", "1000", true),
            ("1000.", "1,000", true),
            ("$18", "18", true),
            ("-$1,250.50.", "-1250.50", true),
            ("18 eggs a day", "18", true),
            ("18%", "18", true),
            ("18", "180", false),
            ("-18", "18", false),
            ("", "18", false),
            ("eighteen", "eighteen", false),
        ] {
            assert_eq!(same_number(said, &[right.to_owned()]), same, "{said:?}, {right:?}");
        }
    }

    #[test]
    fn the_best_accepted_answer_counts() {
        let accepted = ["in the old town".to_owned(), "Paris".to_owned()];
        assert!(exact_match("the Paris!", &accepted));
        assert!(!exact_match("Paris, France", &accepted));
        // One of two words, and all of the accepted ones: 2 · ½ · 1 / (½ + 1).
        assert!((f1("Paris, France", &accepted) - 2.0 / 3.0).abs() < 1e-12);
        assert!(!exact_match("Paris", &[]));
        assert_eq!(f1("Paris", &[]), 0.0);
    }

    proptest! {
        #[test]
        fn f1_is_even_and_sees_no_order(a in "[a-e ]{0,12}", b in "[a-e ]{0,12}") {
            let backwards = |text: &str| text.split(' ').rev().collect::<Vec<_>>().join(" ");
            let score = f1(&a, std::slice::from_ref(&b));
            prop_assert!((0.0..=1.0).contains(&score));
            prop_assert!((f1(&b, std::slice::from_ref(&a)) - score).abs() < 1e-12);
            prop_assert!((f1(&backwards(&a), &[b]) - score).abs() < 1e-12);
        }

        #[test]
        fn normalizing_again_changes_nothing(text in "([ -~–é]|the|an?){0,20}") {
            let once = normalized(&text);
            prop_assert_eq!(normalized(&once), once);
        }
    }
}
