//! Draws as a function of a seed, what they are for, and a number.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Nothing to save: the same three make the same draws.
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    /// Draws for `purpose` (at most 24 bytes), number `index`.
    pub(crate) fn new(seed: u64, purpose: &str, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..8 + purpose.len()].copy_from_slice(purpose.as_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(index);
        Self(rng)
    }

    /// From 0 to `n` - 1.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_purpose_and_number_each_change_the_draws() {
        let draws = |seed, purpose, index| {
            let mut dice = Dice::new(seed, purpose, index);
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
        let mut dice = Dice::new(1, "test", 0);
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
