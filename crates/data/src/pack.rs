//! Examples of different lengths → windows of one length, few tokens of them empty.

use crate::batch::{mix, permuted};
use anyhow::{Result, ensure};

/// Windows that are filled at a time: with more there is little less waste, and more to look through.
const OPEN: usize = 64;

/// A window that is being filled.
struct Window {
    /// Its place in the result.
    index: usize,
    /// Tokens it has room for.
    room: usize,
}

/// Packs examples of `lengths` tokens into windows of at most `context`: the examples are taken in an order that `seed`
/// and `epoch` draw, and each goes into the first window that has room for it. Gives the examples of each window.
///
/// # Errors
/// When an example is empty or longer than a window.
pub fn pack(lengths: &[usize], context: usize, seed: u64, epoch: u64) -> Result<Vec<Vec<usize>>> {
    let n = lengths.len() as u64;
    let key = mix(mix(seed, n), epoch);
    let mut windows: Vec<Vec<usize>> = Vec::new();
    let mut open: Vec<Window> = Vec::with_capacity(OPEN);
    for place in 0..n {
        let example = permuted(place, n, key) as usize;
        let length = lengths[example];
        ensure!(length > 0, "example {example} is empty");
        ensure!(length <= context, "example {example} has {length} tokens, and a window {context}");
        match open.iter_mut().position(|window| window.room >= length) {
            Some(at) => {
                windows[open[at].index].push(example);
                open[at].room -= length;
                if open[at].room == 0 {
                    open.remove(at);
                }
            }
            None => {
                if open.len() == OPEN {
                    close_fullest(&mut open);
                }
                if length < context {
                    open.push(Window { index: windows.len(), room: context - length });
                }
                windows.push(vec![example]);
            }
        }
    }
    Ok(windows)
}

fn close_fullest(open: &mut Vec<Window>) {
    let fullest = open.iter().enumerate().min_by_key(|(_, window)| window.room).map(|(at, _)| at);
    if let Some(at) = fullest {
        open.remove(at);
    }
}

/// Numbers of the examples of `lengths` in batches of like lengths, each of at most `most` tokens but for a longer example
/// alone.
pub fn like_lengths(lengths: &[usize], most: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| lengths[i]);
    let (mut batches, mut tokens) = (Vec::<Vec<usize>>::new(), 0);
    for i in order {
        tokens += lengths[i];
        match batches.last_mut() {
            Some(batch) if tokens <= most => batch.push(i),
            _ => {
                tokens = lengths[i];
                batches.push(vec![i]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_example_is_in_one_window_and_none_is_too_full(
            lengths in prop::collection::vec(1usize..=50, 0..400),
            seed in any::<u64>(),
            epoch in 0u64..3,
        ) {
            let windows = pack(&lengths, 50, seed, epoch).unwrap();
            let mut seen: Vec<usize> = windows.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for window in &windows {
                prop_assert!(!window.is_empty() && window.iter().map(|&i| lengths[i]).sum::<usize>() <= 50);
            }
            prop_assert_eq!(windows, pack(&lengths, 50, seed, epoch).unwrap());
        }
    }

    /// Lengths drawn evenly from 1 up to `longest`.
    fn drawn(n: u64, longest: u64) -> Vec<usize> {
        (0..n).map(|i| (mix(5, i) % longest + 1) as usize).collect()
    }

    #[test]
    fn little_is_wasted_on_mixed_lengths() {
        for (longest, most) in [(64, 1.005), (300, 1.01), (1024, 1.06)] {
            let lengths = drawn(20_000, longest);
            let windows = pack(&lengths, 1024, 1, 0).unwrap().len();
            let fewest = lengths.iter().sum::<usize>().div_ceil(1024);
            assert!(windows as f64 <= fewest as f64 * most, "up to {longest}: {windows} windows, at best {fewest}");
        }
    }

    #[test]
    fn examples_that_fill_a_window_lie_alone() {
        assert_eq!(pack(&[4, 4, 4], 4, 1, 0).unwrap().len(), 3);
        assert_eq!(pack(&[], 4, 1, 0).unwrap(), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let lengths = drawn(100, 50);
        let of = |seed, epoch| pack(&lengths, 100, seed, epoch).unwrap();
        assert_ne!(of(1, 0), of(1, 1));
        assert_ne!(of(1, 0), of(2, 0));
    }

    #[test]
    fn an_example_that_fits_no_window_is_named() {
        assert_eq!(pack(&[3, 9], 8, 1, 0).unwrap_err().to_string(), "example 1 has 9 tokens, and a window 8");
        assert_eq!(pack(&[0], 8, 1, 0).unwrap_err().to_string(), "example 0 is empty");
    }

    #[test]
    fn batches_of_like_lengths_hold_each_example_once() {
        assert_eq!(like_lengths(&[5, 1, 9, 2, 4], 8), [vec![1, 3, 4], vec![0], vec![2]]);
        assert!(like_lengths(&[], 8).is_empty());
    }
}
