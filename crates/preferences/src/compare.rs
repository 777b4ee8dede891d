//! Answers → ranks: from people, who judge blind, and from automatic judges.

use crate::collection::Collection;
use anyhow::Result;
use gptkit_data::dialogue::{Message, Role};
use gptkit_data::progress::{Progress, Unit};
use gptkit_data::synthetic::{SimulatedLabeler, SyntheticInstruction, SyntheticInstructions};
use gptkit_feedback::choices::{Item, Judge, Judgment, StoredAnswer};
use gptkit_feedback::store::now;
use gptkit_reward::model::Scorer;
use gptkit_reward::score::places;
use gptkit_rng::order::shuffled;
use gptkit_train::interrupt::{Interrupt, Stop};
use std::time::Duration;

/// Number of choices of an automatic judge that are stored together.
const STORED: usize = 64;

/// A judge that need not be asked.
#[derive(Debug)]
pub enum AutomaticJudge<'a> {
    /// A reward model: the higher reward is better.
    Rewards(&'a Scorer),
    /// The embedded world's hidden scorer.
    Gold(SyntheticInstructions),
    /// The embedded world's simulated labeler, who is noisy.
    Labeler(SimulatedLabeler, SyntheticInstructions),
}

/// The place of each answer, and what the judge gives each, if it gives numbers.
pub(crate) type AnswerRanks = (Vec<u32>, Option<Vec<f64>>);

impl AutomaticJudge<'_> {
    /// The judgment of `answers`; nothing if they are too long for the judge. Identical answers have the same rank.
    ///
    /// # Errors
    /// When it does not know the prompt, or cannot read it.
    pub(crate) fn judge(&self, item: &Item, answers: &[&str]) -> Result<Option<AnswerRanks>> {
        let first: Vec<usize> = first_of_text(answers);
        let distinct: Vec<usize> = distinct(&first);
        let texts: Vec<&str> = distinct.iter().map(|&i| answers[i]).collect();
        let of_all = |i: usize| distinct.iter().position(|&d| d == first[i]).unwrap_or(0);
        let spread = |places: Vec<u32>| (0..answers.len()).map(|i| places[of_all(i)]).collect();
        let spread_scores = |scores: Vec<f32>| (0..answers.len()).map(|i| f64::from(scores[of_all(i)])).collect();
        let instruction = |world: &SyntheticInstructions| -> Result<SyntheticInstruction> {
            Ok(world.instruction(item.number_in_world()?))
        };
        match self {
            Self::Rewards(scorer) => {
                let said = |text: &&str| vec![Message::new(Role::Assistant, *text)];
                let completions: Vec<Vec<Message>> = texts.iter().map(said).collect();
                let scored = scorer.score(&item.prompt, &completions)?;
                Ok(scored.map(|scored| (spread(places(&scored.rewards)), Some(spread_scores(scored.rewards)))))
            }
            Self::Gold(world) => {
                let instruction = instruction(world)?;
                let gold: Vec<f64> = answers.iter().map(|answer| instruction.gold(answer)).collect();
                let narrow: Vec<f32> = gold.iter().map(|&x| x as f32).collect();
                Ok(Some((places(&narrow), Some(gold))))
            }
            Self::Labeler(labeler, world) => {
                Ok(Some((spread(labeler.rank(&instruction(world)?, item.number, &texts)), None)))
            }
        }
    }
}

/// Of each answer, the number of the first that says the same.
fn first_of_text(answers: &[&str]) -> Vec<usize> {
    let first = |answer: &&str| answers.iter().position(|other| other == answer).unwrap_or(0);
    answers.iter().map(first).collect()
}

fn texts(answers: &[StoredAnswer]) -> Vec<&str> {
    answers.iter().map(|answer| answer.text.as_str()).collect()
}

fn distinct(first: &[usize]) -> Vec<usize> {
    (0..first.len()).filter(|&i| first[i] == i).collect()
}

/// Has `machine` judge all that `judge`, which it is, has not judged yet. Returns why it stopped before the end, if it did.
///
/// # Errors
/// When it cannot judge, or the choices cannot be stored.
pub fn judge_all(
    collection: &mut Collection,
    judge: &Judge,
    machine: &AutomaticJudge,
    interrupt: &Interrupt,
    progress: &dyn Progress,
) -> Result<Option<Stop>> {
    let unjudged = collection.unjudged(judge)?;
    let answers = collection.answers()?;
    let n = collection.items.len();
    let task = progress.task(&format!("judging by {}", judge.judge), Some(n as u64), Unit::Items);
    task.resume_at((n - unjudged.len()) as u64);
    for numbers in unjudged.chunks(STORED) {
        let mut choices = Vec::with_capacity(numbers.len());
        let mut stop = None;
        for &number in numbers {
            let item = &collection.items[number as usize];
            let (ranking, scores) = match machine.judge(item, &texts(&answers[number as usize]))? {
                Some((places, scores)) => (Some(places), scores),
                None => (None, None),
            };
            choices.push(Judgment { ranking, scores, ..unasked(number, judge) });
            task.advance(1);
            stop = interrupt.reason(Duration::ZERO);
            if stop.is_some() {
                break;
            }
        }
        collection.choose(&choices)?;
        if stop.is_some() {
            return Ok(stop);
        }
    }
    Ok(None)
}

fn unasked(item: u64, judge: &Judge) -> Judgment {
    let judge = judge.clone();
    Judgment { record: None, item, judge, at: now(), ranking: None, scores: None, shown: None, seconds: None }
}

/// Answers as a person sees them: those that differ, in an order that tells nothing of who wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlindQuestion {
    /// Number of the prompt.
    pub item: u64,
    /// Numbers of the answers, in the order in which they are shown.
    pub shown: Vec<usize>,
    /// Of each answer, the number of the one that stands for it.
    first: Vec<usize>,
}

impl BlindQuestion {
    /// About these answers to a prompt; `seed` and the prompt's number draw the order.
    pub fn new(item: u64, answers: &[StoredAnswer], seed: u64) -> Self {
        let first = first_of_text(&texts(answers));
        let distinct = distinct(&first);
        let n = distinct.len() as u64;
        let shown = (0..n).map(|i| distinct[shuffled(item * n + i, n, seed) as usize]).collect();
        Self { item, shown, first }
    }

    /// Whether all answers are the same, so that there is nothing to ask.
    pub fn is_settled(&self) -> bool {
        self.shown.len() < 2
    }

    /// The automatic choice that all answers are tied.
    pub fn settled(&self, judge: &Judge) -> Judgment {
        Judgment { ranking: Some(vec![1; self.first.len()]), ..unasked(self.item, judge) }
    }

    /// What `judge` chose in `seconds`: the place of each answer as they were shown, or nothing.
    pub fn chosen(&self, judge: &Judge, places: Option<&[u32]>, seconds: f64) -> Judgment {
        let place = |first: &usize| {
            let at = self.shown.iter().position(|number| number == first);
            places.and_then(|places| places.get(at?)).copied().unwrap_or(1)
        };
        Judgment {
            ranking: places.map(|_| self.first.iter().map(place).collect()),
            shown: Some(self.shown.iter().map(|&number| number as u64).collect()),
            seconds: Some((seconds * 10.0).round() / 10.0),
            ..unasked(self.item, judge)
        }
    }
}

/// The ranks of `n` answers from an order such as `2 1=3 4`: from best to worst, with `=` between tied answers. `>` and
/// `,` are allowed as separators.
///
/// # Errors
/// Says what is wrong with it.
pub fn order(text: &str, n: usize) -> Result<Vec<u32>, String> {
    let example = match n {
        2 => "2 1, or 1=2 when none is better".to_owned(),
        _ => format!("{n} 1=2{}", (3..n).map(|i| format!(" {i}")).collect::<String>()),
    };
    let wrong = |what: String| Err(format!("{what}; write all {n} numbers from best to worst, for example {example}"));
    let mut places = vec![0; n];
    // Around `=` there may be spaces.
    let joined = text.split('=').map(str::trim).collect::<Vec<_>>().join("=");
    let groups = joined.split(|c: char| c.is_whitespace() || c == '>' || c == ',').filter(|group| !group.is_empty());
    for (place, group) in (1..).zip(groups) {
        for number in group.split('=') {
            match number.parse::<usize>() {
                Ok(i) if (1..=n).contains(&i) && places[i - 1] == 0 => places[i - 1] = place,
                Ok(i) if (1..=n).contains(&i) => return wrong(format!("{i} occurs twice")),
                Ok(i) => return wrong(format!("there is no answer {i}")),
                Err(_) if number.is_empty() => return wrong("a number is missing next to =".to_owned()),
                Err(_) => return wrong(format!("{number:?} is not a number")),
            }
        }
    }
    match places.iter().position(|&place| place == 0) {
        Some(i) => wrong(format!("{} is missing", i + 1)),
        None => Ok(places),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::tests::collected;
    use crate::settings::tests::settings;
    use gptkit_data::progress::Silent;
    use gptkit_data::split::Split;

    fn answers(texts: &[&str]) -> Vec<StoredAnswer> {
        let answer = |(number, text): (usize, &&str)| StoredAnswer {
            item: 0,
            number: number as u64,
            text: (*text).to_owned(),
            tokens: 1,
            finish: "stop".to_owned(),
        };
        texts.iter().enumerate().map(answer).collect()
    }

    fn judge(name: &str) -> Judge {
        Judge { judge: name.to_owned(), who: "1".to_owned() }
    }

    #[test]
    fn an_order_is_read_as_it_is_written() {
        for (text, places) in [
            ("2 1=3 4", &[2, 1, 2, 3][..]),
            (" 4 > 3 > 2 > 1 ", &[4, 3, 2, 1]),
            ("1,2,3,4", &[1, 2, 3, 4]),
            ("1 = 2=3 =4", &[1, 1, 1, 1]),
            ("3 1 = 4, 2", &[2, 3, 1, 2]),
        ] {
            assert_eq!(order(text, 4).as_deref(), Ok(places), "{text}");
        }
        for (text, says) in [
            ("2 1 4", "3 is missing; write all 4 numbers from best to worst, for example 4 1=2 3"),
            ("", "1 is missing"),
            ("2 1=2 3 4", "2 occurs twice"),
            ("1 2 3 5", "there is no answer 5"),
            ("0 1 2 3", "there is no answer 0"),
            ("1 2 3 x4", "\"x4\" is not a number"),
            ("-1 2 3 4", "\"-1\" is not a number"),
            ("1== 2 3 4", "a number is missing next to ="),
            ("=", "a number is missing next to ="),
            ("2134", "there is no answer 2134"),
            ("99999999999999999999999", "is not a number"),
        ] {
            let error = order(text, 4).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(order("1", 2).unwrap_err().ends_with("for example 2 1, or 1=2 when none is better"));
    }

    #[test]
    fn a_choice_is_of_the_answers_and_not_of_the_order_in_which_they_were_shown() {
        let texts = answers(&["w", "x", "w", "y"]);
        let mut orders = std::collections::BTreeSet::new();
        for item in 0..40 {
            let question = BlindQuestion::new(item, &texts, 1);
            assert_eq!(question, BlindQuestion::new(item, &texts, 1));
            orders.insert(question.shown.clone());
            let mut sorted = question.shown.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 3], "what says the same is shown once");
            // x is the best, then w, then y.
            let rank = [2, 1, 9, 3];
            let places: Vec<u32> = question.shown.iter().map(|&number| rank[number]).collect();
            let choice = question.chosen(&judge("human"), Some(&places), 1.23);
            assert_eq!(choice.ranking, Some(vec![2, 1, 2, 3]));
            assert_eq!(question.chosen(&judge("human"), None, 1.0).ranking, None);
        }
        assert_eq!(orders.len(), 6, "all orders come");
        let pair = answers(&["x", "y"]);
        let swapped = (0..1000).filter(|&item| BlindQuestion::new(item, &pair, 3).shown == [1, 0]).count();
        assert!((450..550).contains(&swapped), "{swapped} of 1000 are swapped");
        let same = BlindQuestion::new(0, &answers(&["x", "x"]), 1);
        assert!(same.is_settled());
        assert_eq!(same.settled(&judge("human")).ranking, Some(vec![1, 1]));
    }

    #[test]
    fn the_worlds_judges_judge_what_they_have_not_judged_yet() {
        let folder = tempfile::tempdir().unwrap();
        let world = SyntheticInstructions::new(1, Split::Train);
        let right = world.instruction(0).canonical_answer().to_owned();
        let all: [(&str, &[&str]); 2] = [("q", &["", &right, "", "Gladly!"]), ("r", &["", "", "", ""])];
        let mut collection = collected(folder.path(), settings(Some(4), "world"), &all);
        let interrupt = Interrupt::default();
        let gold = judge("gold");
        let judged =
            judge_all(&mut collection, &gold, &AutomaticJudge::Gold(world.clone()), &interrupt, &Silent).unwrap();
        assert_eq!(judged, None);
        let choices = collection.choices().unwrap();
        assert_eq!(choices[0].ranking, Some(vec![2, 1, 2, 2]), "courtesy alone is worth no more than nothing");
        assert_eq!(choices[0].scores.as_ref().unwrap()[1], 4.0);
        assert_eq!(choices[1].ranking, Some(vec![1; 4]));
        assert!(collection.unjudged(&gold).unwrap().is_empty());
        let labeler = AutomaticJudge::Labeler(SimulatedLabeler::new(1), world);
        judge_all(&mut collection, &judge("labeler"), &labeler, &interrupt, &Silent).unwrap();
        let ranking = collection.choices().unwrap()[2].ranking.clone().unwrap();
        assert_eq!(ranking[0], ranking[2]);
        assert_eq!(collection.choices().unwrap().len(), 4);
    }
}
