//! GPT-3's ten arithmetic tasks (Brown et al. 2020, §3.9.1), drawn and not stored.

use gptkit_data::split::Split;
use gptkit_rng::Dice;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// A kind of question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// Sums of two numbers below 100.
    TwoDigitAddition,
    /// Their differences, which may be negative.
    TwoDigitSubtraction,
    /// Sums of two numbers below 1,000.
    ThreeDigitAddition,
    /// Their differences.
    ThreeDigitSubtraction,
    /// Sums of two numbers below 10,000.
    FourDigitAddition,
    /// Their differences.
    FourDigitSubtraction,
    /// Sums of two numbers below 100,000.
    FiveDigitAddition,
    /// Their differences.
    FiveDigitSubtraction,
    /// Products of two numbers below 100.
    TwoDigitMultiplication,
    /// Two operations on three numbers below 10, the second in parentheses.
    OneDigitComposite,
}

/// A question and its one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exercise {
    /// As the paper words it: `What is 48 plus 76?`
    pub question: String,
    /// In digits, with `-` before a negative number: `124`.
    pub answer: String,
}

impl Arithmetic {
    /// All of them, in the order of the paper's table 3.9.
    pub const ALL: [Self; 10] = [
        Self::TwoDigitAddition,
        Self::TwoDigitSubtraction,
        Self::ThreeDigitAddition,
        Self::ThreeDigitSubtraction,
        Self::FourDigitAddition,
        Self::FourDigitSubtraction,
        Self::FiveDigitAddition,
        Self::FiveDigitSubtraction,
        Self::TwoDigitMultiplication,
        Self::OneDigitComposite,
    ];

    /// The table's name of it, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoDigitAddition => "2d+",
            Self::TwoDigitSubtraction => "2d-",
            Self::ThreeDigitAddition => "3d+",
            Self::ThreeDigitSubtraction => "3d-",
            Self::FourDigitAddition => "4d+",
            Self::FourDigitSubtraction => "4d-",
            Self::FiveDigitAddition => "5d+",
            Self::FiveDigitSubtraction => "5d-",
            Self::TwoDigitMultiplication => "2dx",
            Self::OneDigitComposite => "1dc",
        }
    }

    /// Number `index` of the questions under `seed`: drawn as the paper draws them, until one is of `part`. Two numbers
    /// may have the same question, as in any random draw.
    #[must_use]
    pub fn instance(self, seed: u64, index: u64, split: Split) -> Exercise {
        let mut dice = Dice::for_evaluation(seed, &format!("arithmetic {}", self.name()), index);
        loop {
            let exercise = self.draw(&mut dice);
            if split_of(&exercise.question) == split {
                return exercise;
            }
        }
    }

    /// Operands are uniform in [0, 10ⁿ), so that some have fewer digits than n.
    fn draw(self, dice: &mut Dice) -> Exercise {
        let (below, operator) = match self {
            Self::TwoDigitAddition => (100, '+'),
            Self::TwoDigitSubtraction => (100, '-'),
            Self::ThreeDigitAddition => (1_000, '+'),
            Self::ThreeDigitSubtraction => (1_000, '-'),
            Self::FourDigitAddition => (10_000, '+'),
            Self::FourDigitSubtraction => (10_000, '-'),
            Self::FiveDigitAddition => (100_000, '+'),
            Self::FiveDigitSubtraction => (100_000, '-'),
            Self::TwoDigitMultiplication => (100, '*'),
            Self::OneDigitComposite => return composite(dice),
        };
        let [a, b] = [(); 2].map(|()| dice.below(below) as i64);
        let word = match operator {
            '+' => "plus",
            '-' => "minus",
            _ => "times",
        };
        Exercise { question: format!("What is {a} {word} {b}?"), answer: applied(a, operator, b).to_string() }
    }
}

/// Questions of one part are never of the other, whatever the seeds: decided by the question itself. One in eight is for
/// demonstrations.
fn split_of(question: &str) -> Split {
    if blake3::hash(question.as_bytes()).as_bytes()[0] < 32 { Split::Train } else { Split::HeldOut }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Arithmetic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|task| task.name() == text).ok_or_else(|| format!("use one of {}", names()))
    }
}

/// `What is 6+(4*8)?`
fn composite(dice: &mut Dice) -> Exercise {
    let [a, b, c] = [(); 3].map(|()| dice.below(10) as i64);
    let [first, second] = [(); 2].map(|()| dice.pick(&['+', '-', '*']));
    let answer = applied(a, first, applied(b, second, c));
    Exercise { question: format!("What is {a}{first}({b}{second}{c})?"), answer: answer.to_string() }
}

fn applied(a: i64, operator: char, b: i64) -> i64 {
    match operator {
        '+' => a + b,
        '-' => a - b,
        _ => a * b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn some(kind: Arithmetic, seed: u64, split: Split) -> Vec<Exercise> {
        (0..2000).map(|index| kind.instance(seed, index, split)).collect()
    }

    /// Operands and operators of a question, and whether the last two are in parentheses.
    fn read(question: &str) -> (Vec<i64>, Vec<char>, bool) {
        let asked = question.strip_prefix("What is ").unwrap().strip_suffix('?').unwrap();
        let asked = asked.replace(" plus ", "+").replace(" minus ", "-").replace(" times ", "*");
        let operators = asked.chars().filter(|c| "+-*".contains(*c)).collect();
        let parentheses = asked.ends_with(')') && asked[2..].starts_with('(');
        let numbers = asked.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
        (numbers.map(|n| n.parse().unwrap()).collect(), operators, parentheses)
    }

    #[test]
    fn answers_are_right_and_operands_have_their_range() {
        for kind in Arithmetic::ALL {
            let name = kind.name();
            let below = if kind == Arithmetic::OneDigitComposite { 10 } else { 10i64.pow(name[..1].parse().unwrap()) };
            let (mut least, mut most) = (i64::MAX, 0);
            for Exercise { question, answer } in some(kind, 1, Split::HeldOut) {
                let (numbers, operators, parentheses) = read(&question);
                let answer: i64 = answer.parse().unwrap();
                assert!(numbers.iter().all(|n| (0..below).contains(n)), "{question}");
                least = numbers.iter().copied().fold(least, i64::min);
                most = numbers.iter().copied().fold(most, i64::max);
                let is = |of: char, a: i64, b: i64| match of {
                    '+' => a + b,
                    '-' => a - b,
                    '*' => a * b,
                    _ => unreachable!(),
                };
                match (&numbers[..], &operators[..]) {
                    (&[a, b], &[operator]) => {
                        assert!(name.ends_with(if operator == '*' { 'x' } else { operator }), "{name}: {question}");
                        assert_eq!(is(operator, a, b), answer, "{question}");
                    }
                    (&[a, b, c], &[first, second]) => {
                        assert!(name == "1dc" && parentheses, "{name}: {question}");
                        assert_eq!(is(first, a, is(second, b, c)), answer, "{question}");
                    }
                    _ => panic!("{question}"),
                }
            }
            assert!(least < below / 50 + 1 && most >= below - below / 50 - 1, "{name}: {least} to {most}");
        }
    }

    #[test]
    fn nothing_that_is_asked_was_shown_under_any_seed() {
        for kind in Arithmetic::ALL {
            let questions = |seed, part| some(kind, seed, part).into_iter().map(|exercise| exercise.question);
            let shown: HashSet<String> = questions(1, Split::Train).chain(questions(2, Split::Train)).collect();
            assert!(shown.len() > 500, "{}: {}", kind.name(), shown.len());
            assert!(
                questions(1, Split::HeldOut).chain(questions(3, Split::HeldOut)).all(|asked| !shown.contains(&asked))
            );
        }
    }

    #[test]
    fn an_instance_is_a_function_of_seed_kind_index_and_part() {
        for part in [Split::Train, Split::HeldOut] {
            for kind in Arithmetic::ALL {
                assert_eq!(some(kind, 1, part), some(kind, 1, part));
                assert_ne!(some(kind, 1, part), some(kind, 2, part));
            }
        }
        let operands = |kind: Arithmetic| read(&kind.instance(1, 0, Split::HeldOut).question).0;
        assert_ne!(operands(Arithmetic::TwoDigitAddition), operands(Arithmetic::TwoDigitMultiplication));
    }

    /// The draws themselves: one question in eight is for demonstrations.
    #[test]
    fn one_question_in_eight_is_shown() {
        let all = (0..100).flat_map(|a| (0..100).map(move |b| format!("What is {a} plus {b}?")));
        let n = all.filter(|question| split_of(question) == Split::Train).count();
        assert!((1118..=1382).contains(&n), "{n}"); // 4 standard errors
    }

    /// Changes whenever the generator does.
    #[test]
    fn the_first_instances_are_what_they_were() {
        for (kind, question, answer) in [
            (Arithmetic::TwoDigitSubtraction, "What is 35 minus 98?", "-63"),
            (Arithmetic::OneDigitComposite, "What is 8-(0-3)?", "11"),
        ] {
            let exercise = kind.instance(1, 0, Split::HeldOut);
            assert_eq!((exercise.question.as_str(), exercise.answer.as_str()), (question, answer));
        }
    }
}
