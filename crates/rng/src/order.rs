//! Shuffling without a list: the place of an example in the order of its epoch is computed.

/// Which of `n` examples row `row` of a run is: each once an epoch, in an order drawn anew each time.
pub fn shuffled(row: u64, n: u64, seed: u64) -> u64 {
    permuted(row % n, n, hash(hash(seed, 0), row / n))
}

/// What examples are put in order for; draws for different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Minibatches of the policy's updates within a PPO iteration.
    PolicyMinibatches,
    /// Minibatches of the value network's warm-up before the first policy update.
    ValueWarmup,
}

impl Order {
    /// The seed of this purpose in a run with `seed`.
    pub fn seed(self, seed: u64) -> u64 {
        seed ^ match self {
            Self::PolicyMinibatches => 0x5bd1_e995,
            Self::ValueWarmup => 0x27d4_eb2f,
        }
    }
}

/// Place of `index` in an order of `0 .. n` that `key` draws: a Feistel network over the next power of four, walked until
/// it falls below `n` (Black & Rogaway 2002). A bijection whatever the round function.
pub fn permuted(index: u64, n: u64, key: u64) -> u64 {
    let half = (64 - n.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut x = index;
    loop {
        let (mut left, mut right) = (x >> half, x & mask);
        for round in 0..6 {
            (left, right) = (right, left ^ (hash(key ^ round, right) & mask));
        }
        x = (left << half) | right;
        if x < n {
            return x;
        }
    }
}

/// A keyed hash of `x`: two rounds of SplitMix64's finalizer (Steele et al. 2014).
pub fn hash(key: u64, x: u64) -> u64 {
    let finalize = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    finalize(finalize(key.wrapping_add(0x9E37_79B9_7F4A_7C15)).wrapping_add(x).wrapping_add(0x9E37_79B9_7F4A_7C15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_order_holds_each_index_once(n in 1u64..700, key: u64) {
            let mut order: Vec<u64> = (0..n).map(|i| permuted(i, n, key)).collect();
            order.sort_unstable();
            prop_assert!(order.into_iter().eq(0..n));
        }

        #[test]
        fn an_epoch_has_each_example_once_and_the_next_in_another_order(n in 20u64..200, seed: u64) {
            let epoch = |e: u64| (e * n..(e + 1) * n).map(|row| shuffled(row, n, seed)).collect::<Vec<_>>();
            let mut first = epoch(0);
            prop_assert_ne!(&first, &epoch(1));
            first.sort_unstable();
            prop_assert!(first.into_iter().eq(0..n));
        }
    }
}
