//! Draws in sequence from ChaCha8, a documented generator that gives the same draws on every machine and in every version.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A sequence of draws. The constructor says what they are for; the same arguments give the same draws.
#[derive(Debug)]
pub struct Dice {
    rng: ChaCha8Rng,
    /// Bits of the generator that [`Dice::below`] reads for one number, which must not change: 32 or 64.
    bits: u32,
}

/// What the procedural corpus draws, besides its stories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CorpusDraw {
    /// Prompts with answers that can be graded.
    Instructions,
    /// Labeled records of the task with this number.
    Tasks {
        /// From 0 to 4.
        task: u8,
    },
    /// Ranked answers, training part.
    Comparisons,
    /// Ranked answers, held-out part.
    HeldOutComparisons,
    /// The noise of a simulated labeler, whose seed takes the place of the corpus's.
    Labeler,
    /// Documents of examples in the context.
    PatternDocuments,
    /// The table of a pattern's rule.
    PatternTable,
    /// Records of a pattern, training part.
    PatternRecords,
    /// Records of a pattern, held-out part.
    HeldOutPatternRecords,
}

impl CorpusDraw {
    /// The byte that stands for this purpose in the key. Tasks 1 to 3 share theirs with comparisons and labelers, which
    /// draw other things from the same sequence; the corpus would change with another assignment.
    fn code(self) -> u8 {
        match self {
            Self::Instructions => 1,
            Self::Tasks { task } => 2 + task,
            Self::Comparisons => 3,
            Self::Labeler => 4,
            Self::HeldOutComparisons => 5,
            Self::PatternDocuments => 16,
            Self::PatternTable => 17,
            Self::PatternRecords => 18,
            Self::HeldOutPatternRecords => 19,
        }
    }
}

impl Dice {
    /// Draws of story number `index` of the procedural corpus with `seed`.
    pub fn for_story(seed: u64, index: u64) -> Self {
        Self::keyed(seed, &[], index, 32)
    }

    /// Draws of record number `index` of the procedural corpus with `seed`.
    pub fn for_corpus(seed: u64, purpose: CorpusDraw, index: u64) -> Self {
        Self::keyed(seed, &[purpose.code()], index, 32)
    }

    /// Draws of an evaluation for `purpose` (at most 24 bytes), number `index`.
    pub fn for_evaluation(seed: u64, purpose: &str, index: u64) -> Self {
        Self::keyed(seed, purpose.as_bytes(), index, 64)
    }

    /// Draws that resample the measurements of a fit.
    pub fn for_resampling(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), bits: 32 }
    }

    fn keyed(seed: u64, purpose: &[u8], index: u64, bits: u32) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..8 + purpose.len()].copy_from_slice(purpose);
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(index);
        Self { rng, bits }
    }

    /// A sequence of its own, for a story within a story.
    pub fn fork(&mut self) -> Self {
        let seed = u64::from(self.rng.next_u32()) << 32 | u64::from(self.rng.next_u32());
        Self::for_story(seed, 0)
    }

    /// A number from 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        match self.bits {
            32 => ((u64::from(self.rng.next_u32()) * n as u64) >> 32) as usize,
            _ => ((u128::from(self.rng.next_u64()) * n as u128) >> 64) as usize,
        }
    }

    /// A number between 0 and 1, excluding both: the middle of one of 2³² equal steps.
    pub fn unit(&mut self) -> f64 {
        (f64::from(self.rng.next_u32()) + 0.5) / 4_294_967_296.0
    }

    /// True in `percent` of 100 draws.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `from`, each as likely.
    ///
    /// # Panics
    /// When `from` is empty.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Puts `list` in an order drawn from all orders (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }

    /// A draw from the standard normal distribution (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.unit().ln()).sqrt(), std::f64::consts::TAU * self.unit());
        radius * angle.cos()
    }

    /// A draw from the χ² distribution with `freedom` degrees of freedom.
    pub fn chi_squared(&mut self, freedom: usize) -> f64 {
        (0..freedom).map(|_| self.normal().powi(2)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_purpose_and_number_each_change_the_draws() {
        let draws = |seed, purpose, index| {
            let mut dice = Dice::for_evaluation(seed, purpose, index);
            [(); 4].map(|()| dice.below(usize::MAX))
        };
        let one = draws(1, "a", 1);
        assert_eq!(one, draws(1, "a", 1));
        for other in [draws(2, "a", 1), draws(1, "b", 1), draws(1, "a", 2)] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn every_number_and_every_order_is_as_likely() {
        for mut dice in [Dice::for_evaluation(1, "test", 0), Dice::for_story(1, 0)] {
            let (mut numbers, mut orders) = ([0; 6], [0; 6]);
            for _ in 0..6000 {
                numbers[dice.below(6)] += 1;
                let mut list = [0, 1, 2];
                dice.shuffle(&mut list);
                orders[list[0] * 2 + usize::from(list[1] > list[2])] += 1;
            }
            let likely = |n: &i32| (880..=1120).contains(n); // 4 standard errors
            assert!(numbers.iter().all(likely) && orders.iter().all(likely), "{numbers:?} {orders:?}");
        }
    }
}
