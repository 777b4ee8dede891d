//! Simulated labelers: they rank answers by what these are [worth](Instruction::gold), each with noise of their own.

use super::instructions::Instruction;
use gptkit_rng::{CorpusDraw, Dice};

/// Scale of the noise, in units of gold. Chosen once, so that two labelers agree on as many pairs as InstructGPT's
/// trained labelers did, 72.6 ± 1.5% (Ouyang et al. 2022, §3.4).
const NOISE: f64 = 0.95;

/// One labeler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labeler {
    seed: u64,
}

impl Labeler {
    /// Labelers of different seeds are independent.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The place of each answer to comparison number `index`: 1 is the best, and places have no gaps. Only answers of the
    /// same text share a place.
    ///
    /// An answer's rank goes by its gold and Gumbel noise, which depends on the labeler, `index` and where it stands: a
    /// draw from Plackett and Luce's model, in which a pair of answers is ordered as in Bradley and Terry's, one above
    /// the other with probability `σ((gold - other gold) / scale of the noise)`.
    #[must_use]
    pub fn rank(self, instruction: &Instruction, index: u64, answers: &[&str]) -> Vec<u32> {
        let mut dice = Dice::for_corpus(self.seed, CorpusDraw::Labeler, index);
        let noise: Vec<f64> = answers.iter().map(|_| gumbel(dice.unit())).collect();
        let seen = |i: usize| {
            let first = answers.iter().position(|answer| *answer == answers[i]).unwrap_or(i);
            instruction.gold(answers[first]) + NOISE * noise[first]
        };
        let seen: Vec<f64> = (0..answers.len()).map(seen).collect();
        let mut order: Vec<usize> = (0..answers.len()).collect();
        order.sort_by(|&a, &b| seen[b].total_cmp(&seen[a]));
        let mut places = vec![1; answers.len()];
        for pair in order.windows(2) {
            places[pair[1]] = places[pair[0]] + u32::from(answers[pair[0]] != answers[pair[1]]);
        }
        places
    }
}

/// From a number between 0 and 1.
fn gumbel(uniform: f64) -> f64 {
    -(-uniform.ln()).ln()
}

#[cfg(test)]
mod tests {
    use super::super::{Comparisons, InstructionKind, Instructions, WorldPart};
    use super::*;

    fn sum() -> Instruction {
        let instructions = Instructions::new(3, WorldPart::Train);
        (0..).map(|index| instructions.instruction(index)).find(|one| one.kind == InstructionKind::Arithmetic).unwrap()
    }

    #[test]
    fn a_ranking_is_a_function_of_labeler_and_index() {
        let (sum, answers) = (sum(), ["7.", "8.", "Gladly! 8.", "Yes.", "I do not know"]);
        let rank = |seed: u64, index: u64| Labeler::new(seed).rank(&sum, index, &answers);
        let mut differ = [0; 2];
        for index in (0..100).rev() {
            assert_eq!(rank(1, index), rank(1, index));
            differ[0] += usize::from(rank(1, index) != rank(2, index));
            differ[1] += usize::from(rank(1, index) != rank(1, index + 1));
        }
        assert!(differ[0] > 50 && differ[1] > 50, "{differ:?}");
    }

    #[test]
    fn the_same_text_has_the_same_place_and_no_place_is_left_out() {
        let sum = sum();
        let answers = [sum.substance(), "Yes.", sum.substance(), "no", "Yes."];
        for index in 0..200 {
            let places = Labeler::new(1).rank(&sum, index, &answers);
            assert_eq!((places[0], places[1]), (places[2], places[4]));
            let mut different = [places[0], places[1], places[3]];
            different.sort_unstable();
            assert_eq!(different, [1, 2, 3], "{places:?}");
        }
        assert!(Labeler::new(1).rank(&sum, 0, &[]).is_empty());
    }

    /// Of three answers, too: Plackett and Luce's model does not care what else is ranked.
    #[test]
    fn a_pair_is_ordered_as_bradley_and_terry_say() {
        let sum = sum();
        let canonical = sum.substance();
        let (courteous, unended) = (format!("Gladly! {canonical}"), canonical.trim_end_matches('.'));
        let (n, gap) = (20_000_u64, 1.4); // an opener, and no end: gold 4.4 and 3
        let expected = 1.0 / (1.0 + (-gap / NOISE).exp());
        for answers in [vec![courteous.as_str(), unended], vec![unended, courteous.as_str(), canonical]] {
            let first = answers.iter().position(|answer| *answer == courteous).unwrap();
            let wins = (0..n)
                .map(|index| Labeler::new(8).rank(&sum, index, &answers))
                .filter(|places| places[first] < places[1 - first])
                .count();
            let frequency = wins as f64 / n as f64;
            let error = (expected * (1.0 - expected) / n as f64).sqrt();
            assert!((frequency - expected).abs() < 3.0 * error, "{frequency}, not {expected} ± {error}");
        }
    }

    #[test]
    fn two_labelers_agree_as_often_as_people_did() {
        let comparisons = Comparisons::new(9, WorldPart::Train);
        let (mut pairs, mut agreed) = (0, 0);
        for index in 0..4000 {
            let comparison = comparisons.comparison(index);
            let texts: Vec<&str> = comparison.completions.iter().map(String::as_str).collect();
            let other = Labeler::new(10).rank(&comparison.instruction, index, &texts);
            for i in 0..texts.len() {
                for j in 0..i {
                    pairs += 1;
                    let same = (comparison.ranking[i] < comparison.ranking[j]) == (other[i] < other[j]);
                    agreed += usize::from(same);
                }
            }
        }
        let agreement = agreed as f64 / f64::from(pairs);
        assert!((0.711..=0.741).contains(&agreement), "{agreement}");
    }
}
