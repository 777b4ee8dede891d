//! The next windows, from (seed, row) alone.
//!
//! The training part is taken as a circle of tokens and cut into windows of `T`, each read with the token after it, so
//! that each token is predicted once an epoch (but for less than one window left over). Where the circle is cut first,
//! and in which order its windows come, is drawn anew each epoch by keyed functions in constant memory.

use crate::shard::{Corpus, MixtureShare, ShardTokens};
use anyhow::{Result, ensure};
use gptkit_rng::order::{hash, permuted};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// A target whose prediction does not count.
pub const IGNORE: u32 = u32::MAX;

/// Windows as the model and the loss see them; every field is `[B, T]`, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// B.
    pub rows: usize,
    /// T.
    pub context: usize,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The token that follows each, or [`IGNORE`].
    pub targets: Vec<u32>,
    /// Where in its window each sequence begins, a list a window: one that is packed has several.
    pub starts: Vec<Vec<u32>>,
}

impl Batch {
    /// Windows of `context` tokens that are one sequence each.
    pub fn windows(context: usize, tokens: Vec<u32>, targets: Vec<u32>) -> Self {
        let rows = tokens.len() / context;
        Self { rows, context, tokens, targets, starts: vec![vec![0]; rows] }
    }

    fn of(rows: impl Iterator<Item = Vec<u32>>, context: usize) -> Self {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for row in rows {
            tokens.extend(&row[..context]);
            targets.extend(&row[1..]);
        }
        Self::windows(context, tokens, targets)
    }
}

/// Training windows in the order they are seen: row `n` of the run is a pure function of the seed and `n`.
#[derive(Debug)]
pub struct Windows {
    corpus: Arc<Corpus>,
    context: usize,
    seed: u64,
    /// Windows of each part in a block of [`BLOCK`] rows, in proportion to the weights.
    shares: Vec<u64>,
}

/// Rows over which a mixture's proportions are kept exactly.
const BLOCK: u64 = 1000;

impl Windows {
    /// Windows of `context` tokens.
    ///
    /// # Errors
    /// When a part of the corpus has not enough tokens for one.
    pub fn new(corpus: Arc<Corpus>, context: usize, seed: u64) -> Result<Self> {
        for part in &corpus.train {
            ensure!(
                part.tokens.len() > context as u64,
                "the training part has {} tokens, but one window needs {}: use more text, or set model.context = {}",
                part.tokens.len(),
                context + 1,
                part.tokens.len().saturating_sub(1).max(1)
            );
        }
        let weights: Vec<f64> = corpus.train.iter().map(|part| part.weight).collect();
        Ok(Self { shares: shares(&weights), corpus, context, seed })
    }

    /// Sources whose share of the windows is not the one that their weight asks for: the name, the share asked for, and the
    /// share that they get.
    pub fn rounded_shares(&self) -> Vec<(String, f64, f64)> {
        let total: f64 = self.corpus.train.iter().map(|part| part.weight).sum();
        let parts = self.corpus.train.iter().zip(&self.shares);
        let shares = parts.map(|(part, &rows)| (part.name.clone(), part.weight / total, rows as f64 / BLOCK as f64));
        shares.filter(|(_, asked, _)| *asked < 1.0 / BLOCK as f64).collect()
    }

    /// Rows `first .. first + rows` of the run.
    pub fn batch(&self, first: u64, rows: usize) -> Batch {
        Batch::of((first..first + rows as u64).map(|row| self.row(row)), self.context)
    }

    /// Rows after which every token of the training part has been predicted once, were there no weights.
    pub fn rows_per_epoch(&self) -> u64 {
        self.corpus.train.iter().map(|part| self.n_windows(&part.tokens)).sum()
    }

    fn n_windows(&self, tokens: &ShardTokens) -> u64 {
        tokens.len() / self.context as u64
    }

    /// Row `row`: `T + 1` tokens.
    fn row(&self, row: u64) -> Vec<u32> {
        let (part, index) = self.part(row);
        let tokens = &self.corpus.train[part].tokens;
        let n = self.n_windows(tokens);
        let (epoch, index) = (index / n, index % n);
        let key = hash(hash(self.seed, part as u64), epoch);
        let phase = hash(key, u64::MAX) % tokens.len();
        let mut window = Vec::with_capacity(self.context + 1);
        let start = phase + permuted(index, n, key) * self.context as u64;
        tokens.read(start, self.context + 1, &mut window);
        window
    }

    /// The part that row `row` comes from, and which of that part's rows it is.
    fn part(&self, row: u64) -> (usize, u64) {
        if self.shares.len() == 1 {
            return (0, row);
        }
        let (block, slot) = (row / BLOCK, row % BLOCK);
        let mut place = permuted(slot, BLOCK, hash(hash(self.seed, u64::MAX), block));
        for (part, &share) in self.shares.iter().enumerate() {
            if place < share {
                return (part, block * share + place);
            }
            place -= share;
        }
        unreachable!("the shares add up to a block")
    }
}

/// Whole rows of a block for each weight, by largest remainder, at least one each.
fn shares(weights: &[f64]) -> Vec<u64> {
    let total: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|w| w / total * BLOCK as f64).collect();
    let mut shares: Vec<u64> = exact.iter().map(|&x| (x.floor() as u64).max(1)).collect();
    while shares.iter().sum::<u64>() != BLOCK {
        let short = shares.iter().sum::<u64>() < BLOCK;
        let off = |i: usize| exact[i] - shares[i] as f64;
        let by_need = |&a: &usize, &b: &usize| off(a).total_cmp(&off(b));
        let candidates = (0..shares.len()).filter(|&i| short || shares[i] > 1);
        let chosen = if short { candidates.max_by(by_need) } else { candidates.min_by(by_need) };
        match chosen {
            Some(i) if short => shares[i] += 1,
            Some(i) => shares[i] -= 1,
            None => break, // more than a block of sources: each has one row
        }
    }
    shares
}

/// Reads batches ahead on a separate thread.
pub struct Prefetch<B> {
    receive: Receiver<B>,
    thread: Option<JoinHandle<()>>,
}

/// Batches held ready.
const AHEAD: usize = 4;

impl<B: Send + 'static> Prefetch<B> {
    /// The batches of `plan`, each a first row and a count of rows, from which `make` makes it.
    pub fn new(
        mut make: impl FnMut(u64, usize) -> B + Send + 'static,
        plan: impl Iterator<Item = (u64, usize)> + Send + 'static,
    ) -> Self {
        let (send, receive) = sync_channel(AHEAD);
        let thread = std::thread::spawn(move || {
            for (first, rows) in plan {
                if send.send(make(first, rows)).is_err() {
                    return; // training ended before the plan
                }
            }
        });
        Self { receive, thread: Some(thread) }
    }
}

impl<B> Iterator for Prefetch<B> {
    type Item = B;

    fn next(&mut self) -> Option<B> {
        let batch = self.receive.recv().ok();
        // The end of the plan, or of a thread that failed: that is no end of training.
        if batch.is_none()
            && let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
        {
            std::panic::resume_unwind(panic);
        }
        batch
    }
}

/// Windows of the validation part of a source.
#[derive(Debug)]
pub struct HeldOut {
    /// Path of the source.
    pub name: String,
    /// Its share in the mixture, relative to the others'.
    pub weight: f64,
    /// Its windows.
    pub batches: Vec<Batch>,
}

/// The same windows every time: at most `max_rows`, divided among the sources by their weights and evenly spread over the
/// validation part of each, in batches of `rows`. A source whose part has not one window is left out.
pub fn validation(corpus: &Corpus, context: usize, rows: usize, max_rows: usize) -> Vec<HeldOut> {
    let n_windows = |part: &MixtureShare| part.tokens.len().saturating_sub(1) / context as u64;
    let parts: Vec<&MixtureShare> = corpus.val.iter().filter(|part| n_windows(part) > 0).collect();
    let total: f64 = parts.iter().map(|part| part.weight).sum();
    let held = |part: &&MixtureShare| {
        let n = n_windows(part);
        let share = (max_rows as f64 * part.weight / total).round() as u64;
        let taken = n.min(share.max(1));
        let window = |i: u64| {
            let mut window = Vec::with_capacity(context + 1);
            part.tokens.read(i * n / taken * context as u64, context + 1, &mut window);
            window
        };
        let firsts: Vec<u64> = (0..taken).collect();
        let batches = firsts.chunks(rows).map(|chunk| Batch::of(chunk.iter().map(|&i| window(i)), context)).collect();
        HeldOut { name: part.name.clone(), weight: part.weight, batches }
    };
    parts.iter().map(held).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::corpus;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn windows(parts: &[(u32, Option<f64>)], context: usize, seed: u64) -> Windows {
        Windows::new(Arc::new(corpus(parts, 0)), context, seed).unwrap()
    }

    proptest! {
        #[test]
        fn an_epoch_predicts_each_token_once_but_for_a_rest(n in 9u32..300, context in 1usize..9, seed: u64) {
            let windows = windows(&[(n, None)], context, seed);
            let rows = windows.rows_per_epoch();
            for epoch in 0..2 {
                let batch = windows.batch(epoch * rows, rows as usize);
                let mut seen = batch.targets.clone();
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), batch.targets.len());
                prop_assert!(n as usize - seen.len() < context);
            }
        }

        #[test]
        fn a_batch_is_its_rows_one_by_one(first in 0u64..5000, rows in 1usize..6, seed: u64) {
            let windows = windows(&[(100, Some(1.0)), (50, Some(2.5))], 7, seed);
            let whole = windows.batch(first, rows);
            let single: Vec<u32> = (0..rows as u64).flat_map(|i| windows.batch(first + i, 1).tokens).collect();
            prop_assert_eq!(whole.tokens, single);
        }
    }

    #[test]
    fn targets_follow_their_tokens() {
        let batch = windows(&[(100, None)], 8, 3).batch(0, 12);
        assert_eq!((batch.rows, batch.tokens.len()), (12, 96));
        assert!(batch.tokens.iter().zip(&batch.targets).all(|(a, b)| (a + 1) % 100 == *b));
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let epoch = |seed, n: u64| {
            let windows = windows(&[(1000, None)], 10, seed);
            let rows = windows.rows_per_epoch();
            windows.batch(n * rows, rows as usize).tokens
        };
        assert_eq!(epoch(1, 0), epoch(1, 0));
        assert_ne!(epoch(1, 0), epoch(1, 1));
        assert_ne!(epoch(1, 0), epoch(2, 0));
    }

    #[test]
    fn a_mixture_keeps_its_proportions_whatever_the_sizes() {
        let windows = windows(&[(2000, Some(0.6)), (30, Some(0.3)), (500, Some(0.1))], 10, 5);
        let mut counts = HashMap::new();
        for row in 0..3000 {
            *counts.entry(windows.part(row).0).or_insert(0) += 1;
        }
        assert_eq!(counts, HashMap::from([(0, 1800), (1, 900), (2, 300)]));
        // Each part's rows are numbered without a gap, so that its epochs are whole.
        let mut rows: Vec<u64> = (0..3000).map(|r| windows.part(r)).filter(|p| p.0 == 1).map(|p| p.1).collect();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..900));
    }

    #[test]
    fn shares_fill_a_block_exactly() {
        assert_eq!(shares(&[1.0]), [1000]);
        assert_eq!(shares(&[1.0, 1.0, 1.0]).iter().sum::<u64>(), 1000);
        assert_eq!(shares(&[60.0, 22.0, 8.0, 8.0, 3.0]), [594, 218, 79, 79, 30]);
        assert_eq!(shares(&[1e-9, 1.0]), [1, 999]);
    }

    #[test]
    fn too_little_text_is_refused_with_numbers() {
        let error = Windows::new(Arc::new(corpus(&[(8, None)], 0)), 8, 1).unwrap_err().to_string();
        assert!(error.contains("8 tokens") && error.contains("model.context = 7"), "{error}");
    }

    #[test]
    fn reading_ahead_changes_nothing() {
        let windows = Arc::new(windows(&[(100, None)], 8, 3));
        let plan = [(0, 2), (2, 3), (5, 1)];
        let made = Arc::clone(&windows);
        let make = move |first, rows| made.batch(first, rows);
        let ahead: Vec<Batch> = Prefetch::new(make, plan.into_iter()).collect();
        assert_eq!(ahead, plan.map(|(first, rows)| windows.batch(first, rows)));
    }

    /// The validation windows of a corpus with one source.
    fn of_one(corpus: &Corpus, context: usize, rows: usize, max_rows: usize) -> Vec<Batch> {
        validation(corpus, context, rows, max_rows).into_iter().flat_map(|held| held.batches).collect()
    }

    #[test]
    fn validation_windows_are_spread_over_the_part_and_never_change() {
        let corpus = corpus(&[(100, None)], 81);
        let batches = of_one(&corpus, 8, 3, 5);
        assert_eq!(batches.iter().map(|b| b.rows).collect::<Vec<_>>(), [3, 2]);
        let firsts: Vec<u32> = batches.iter().flat_map(|b| b.tokens.chunks(8).map(|w| w[0])).collect();
        assert_eq!(firsts, [0, 16, 32, 48, 64]);
        assert_eq!(of_one(&corpus, 8, 3, 1000).iter().map(|b| b.rows).sum::<usize>(), 10);
        assert!(of_one(&corpus, 81, 3, 5).is_empty());
    }

    #[test]
    fn validation_windows_are_divided_by_the_mixtures_weights() {
        // Parts of 900, 90 and 3 tokens: by their sizes the second would have a tenth of the first's windows.
        let parts = corpus(&[(900, Some(0.4)), (90, Some(0.5)), (3, Some(0.1))], 0).train;
        let rows = |max_rows: usize| {
            let held = validation(&Corpus { train: Vec::new(), val: parts.clone() }, 8, 4, max_rows);
            held.iter()
                .map(|held| (held.weight, held.batches.iter().map(|b| b.rows).sum::<usize>()))
                .collect::<Vec<_>>()
        };
        assert_eq!(rows(18), [(0.4, 8), (0.5, 10)]);
        assert_eq!(rows(180), [(0.4, 80), (0.5, 11)], "the second has no more");
        assert_eq!(rows(1), [(0.4, 1), (0.5, 1)]);
    }
}
