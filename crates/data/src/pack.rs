//! Examples of different lengths → windows of one length, few tokens of them empty.

use anyhow::{Result, ensure};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Divides examples of `lengths` tokens among few windows of at most `context` tokens, each about as full as the others, so
/// that windows as long as the fullest hold little padding: the longest example first, each into the emptiest window.
/// Returns the examples of each window.
///
/// # Errors
/// When an example is empty or longer than `context`.
pub fn balance(lengths: &[usize], context: usize) -> Result<Vec<Vec<usize>>> {
    for (example, &length) in lengths.iter().enumerate() {
        ensure!(length > 0, "example {example} is empty");
        ensure!(length <= context, "example {example} has {length} tokens, more than a window of {context}");
    }
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&example| Reverse(lengths[example]));
    let mut windows = vec![Vec::new(); lengths.iter().sum::<usize>().div_ceil(context.max(1))];
    // The emptiest first, and of equally empty ones the first.
    let mut filled: BinaryHeap<Reverse<(usize, usize)>> =
        (0..windows.len()).map(|window| Reverse((0, window))).collect();
    for example in order {
        let fits = filled.peek().is_some_and(|Reverse((tokens, _))| tokens + lengths[example] <= context);
        let (tokens, window) = match if fits { filled.pop() } else { None } {
            Some(Reverse(emptiest)) => emptiest,
            None => {
                windows.push(Vec::new());
                (0, windows.len() - 1)
            }
        };
        windows[window].push(example);
        filled.push(Reverse((tokens + lengths[example], window)));
    }
    Ok(windows)
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
    use gptkit_rng::order::hash;
    use proptest::prelude::*;

    fn fullest(windows: &[Vec<usize>], lengths: &[usize]) -> usize {
        windows.iter().map(|window| window.iter().map(|&i| lengths[i]).sum()).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn every_example_is_in_one_window_and_none_is_too_full(lengths in prop::collection::vec(1usize..=50, 0..400)) {
            let windows = balance(&lengths, 50).unwrap();
            let mut seen: Vec<usize> = windows.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert!(windows.iter().all(|window| !window.is_empty()) && fullest(&windows, &lengths) <= 50);
        }
    }

    /// A batch of 32 examples whose lengths are drawn evenly from 1 up to `longest`.
    #[test]
    fn batches_have_little_padding() {
        for (longest, most) in [(64, 1.03), (300, 1.03), (700, 1.35)] {
            let (mut held, mut tokens) = (0, 0);
            for batch in 0..50 {
                let lengths: Vec<usize> = (0..32).map(|i| (hash(batch, i) % longest + 1) as usize).collect();
                let windows = balance(&lengths, 1024).unwrap();
                held += windows.len() * fullest(&windows, &lengths);
                tokens += lengths.iter().sum::<usize>();
            }
            assert!(held as f64 <= most * tokens as f64, "up to {longest}: {held} for {tokens} tokens");
        }
    }

    #[test]
    fn examples_that_fill_a_window_lie_alone() {
        assert_eq!(balance(&[4, 4, 4], 4).unwrap().len(), 3);
        assert_eq!(balance(&[3, 3, 3], 4).unwrap(), [[0], [1], [2]]);
        assert_eq!(balance(&[], 4).unwrap(), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn an_example_that_fits_no_window_is_named() {
        assert_eq!(balance(&[3, 9], 8).unwrap_err().to_string(), "example 1 has 9 tokens, more than a window of 8");
        assert_eq!(balance(&[0], 8).unwrap_err().to_string(), "example 0 is empty");
    }

    #[test]
    fn batches_of_like_lengths_hold_each_example_once() {
        assert_eq!(like_lengths(&[5, 1, 9, 2, 4], 8), [vec![1, 3, 4], vec![0], vec![2]]);
        assert!(like_lengths(&[], 8).is_empty());
    }
}
