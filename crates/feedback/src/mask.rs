//! Personal data in texts: mail addresses, telephone and card numbers are replaced, as InstructGPT's authors filtered the
//! training prompts (Ouyang et al. 2022, §3.2).

use regex::{Captures, Regex};
use std::sync::LazyLock;

/// A mail address.
static MAIL: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+").ok());
/// Digits with the signs that people put between them.
static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\+?\d[\d ()./-]{6,}\d").ok());

/// The fewest and the most digits of a telephone number (ITU-T E.164 allows 15), and of a card number (ISO/IEC 7812).
const PHONE: std::ops::RangeInclusive<usize> = 8..=15;
const CARD: std::ops::RangeInclusive<usize> = 13..=19;

/// `text` with personal data replaced, and how much was.
pub fn masked(text: &str) -> (String, u64) {
    let mut n = 0;
    let mut replace = |text: &str, pattern: &Option<Regex>, with: &dyn Fn(&str) -> Option<&'static str>| {
        let Some(pattern) = pattern else { return text.to_owned() };
        let one = |found: &Captures<'_>| match with(&found[0]) {
            Some(name) => {
                n += 1;
                name.to_owned()
            }
            None => found[0].to_owned(),
        };
        pattern.replace_all(text, one).into_owned()
    };
    let without_mail = replace(text, &MAIL, &|_| Some("[mail address]"));
    let masked = replace(&without_mail, &NUMBER, &number);
    (masked, n)
}

/// The name of the kind of personal data that some digits are, if they are any.
fn number(text: &str) -> Option<&'static str> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let is_phone = text.starts_with('+') || text.starts_with('0') || text.contains('(');
    if CARD.contains(&digits.len()) && luhn(&digits) {
        Some("[card number]")
    } else if PHONE.contains(&digits.len()) && is_phone {
        Some("[telephone number]")
    } else {
        None
    }
}

/// Whether the check digit of a card number is right (Luhn 1960).
fn luhn(digits: &[u32]) -> bool {
    let doubled = |(i, &digit): (usize, &u32)| match i % 2 {
        0 => digit,
        _ if digit > 4 => 2 * digit - 9,
        _ => 2 * digit,
    };
    digits.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personal_data_is_replaced_and_other_numbers_stay() {
        for (text, masked_text, n) in [
            ("Write to ann.lee+x@mail.example.org, please.", "Write to [mail address], please.", 1),
            ("Call +1 (555) 010-9999 or 030/1234567.", "Call [telephone number] or [telephone number].", 2),
            ("My card is 4111 1111 1111 1111.", "My card is [card number].", 1),
            ("4111 1111 1111 1112 is none", "4111 1111 1111 1112 is none", 0),
            ("3.14159265 and 1,000,000,000 and 2022-11-30", "3.14159265 and 1,000,000,000 and 2022-11-30", 0),
            ("a@b is none", "a@b is none", 0),
        ] {
            assert_eq!(masked(text), (masked_text.to_owned(), n));
        }
    }
}
