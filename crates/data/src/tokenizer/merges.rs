//! Byte-pair merges learned from word counts (Sennrich et al. 2016, algorithm 1). The result is that of the tokenizers
//! library's trainer, which takes four times as long; ties go to the pair with the lower ids.

use super::structure::byte_characters;
use ahash::AHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Ids of two neighboring tokens.
type TokenPair = (u32, u32);

/// A vocabulary: its tokens in byte characters, by id, and the merges in the order in which they were learned.
pub(super) struct LearnedMerges {
    pub(super) tokens: Vec<String>,
    pub(super) merges: Vec<TokenPair>,
}

/// Learns merges from words and their counts until there are `vocab_size` tokens, or no pairs are left.
pub(super) fn learn(counts: AHashMap<Box<str>, u64>, vocab_size: usize) -> LearnedMerges {
    let mut tokens: Vec<String> = byte_characters().iter().map(char::to_string).collect();
    tokens.sort_unstable();
    let mut ids: AHashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let byte_ids = byte_characters().map(|c| ids[c.encode_utf8(&mut [0; 4]) as &str]);

    let mut counts: Vec<(Box<str>, u64)> = counts.into_iter().collect();
    counts.sort_unstable(); // the same memory accesses, and so the same time, on each run
    let mut words: Vec<CountedWord> = counts
        .into_iter()
        .map(|(word, count)| CountedWord {
            tokens: word.bytes().map(|byte| byte_ids[usize::from(byte)]).collect(),
            count: count as i64,
        })
        .collect();

    let mut pairs = PairCounts::default();
    for (index, word) in words.iter().enumerate() {
        word.tokens.windows(2).for_each(|pair| pairs.add((pair[0], pair[1]), word.count, index as u32));
    }
    pairs.enqueue();

    let mut merges = Vec::new();
    while tokens.len() < vocab_size
        && let Some((pair, places)) = pairs.most_frequent()
    {
        // Different merges may give the same token: "a" + "bc" and "ab" + "c".
        let token = format!("{}{}", tokens[pair.0 as usize], tokens[pair.1 as usize]);
        let new = *ids.entry(token).or_insert_with_key(|token| {
            tokens.push(token.clone());
            tokens.len() as u32 - 1
        });
        merges.push(pair);
        for index in places {
            words[index as usize].merge(pair, new, index, &mut pairs);
        }
        pairs.enqueue();
    }
    LearnedMerges { tokens, merges }
}

struct CountedWord {
    tokens: Vec<u32>,
    /// How often the word occurs.
    count: i64,
}

impl CountedWord {
    /// Replaces each occurrence of `pair`, from the left, by the token `new`, and counts the pairs that vanish and appear.
    fn merge(&mut self, pair: TokenPair, new: u32, index: u32, pairs: &mut PairCounts) {
        let old = std::mem::take(&mut self.tokens);
        let mut kept = Vec::with_capacity(old.len());
        let mut at = 0;
        while at < old.len() {
            if old[at] != pair.0 || old.get(at + 1) != Some(&pair.1) {
                kept.push(old[at]);
                at += 1;
                continue;
            }
            if let Some(&before) = kept.last() {
                pairs.remove((before, pair.0), self.count);
                pairs.add((before, new), self.count, index);
            }
            if let Some(&after) = old.get(at + 2) {
                pairs.remove((pair.1, after), self.count);
                pairs.add((new, after), self.count, index);
            }
            kept.push(new);
            at += 2;
        }
        self.tokens = kept;
    }
}

/// How often pairs occur, and a queue of them in which the most frequent is first.
#[derive(Default)]
struct PairCounts {
    counts: AHashMap<TokenPair, i64>,
    /// Words with pairs that were added since the last call of [`PairCounts::enqueue`].
    added: AHashMap<TokenPair, Vec<u32>>,
    queue: BinaryHeap<(i64, Reverse<TokenPair>, Vec<u32>)>,
}

impl PairCounts {
    fn add(&mut self, pair: TokenPair, count: i64, word: u32) {
        *self.counts.entry(pair).or_default() += count;
        let words = self.added.entry(pair).or_default();
        if words.last() != Some(&word) {
            words.push(word);
        }
    }

    fn remove(&mut self, pair: TokenPair, count: i64) {
        *self.counts.entry(pair).or_default() -= count;
    }

    /// Queues the pairs that were added, which may stand in the queue already for other words.
    fn enqueue(&mut self) {
        for (pair, words) in self.added.drain() {
            let count = self.counts[&pair];
            if count > 0 {
                self.queue.push((count, Reverse(pair), words));
            }
        }
    }

    /// Takes the most frequent pair out of the queue, with words that have it.
    fn most_frequent(&mut self) -> Option<(TokenPair, Vec<u32>)> {
        loop {
            let (count, Reverse(pair), words) = self.queue.pop()?;
            let now = self.counts[&pair];
            if count == now {
                return (count > 0).then_some((pair, words));
            }
            self.queue.push((now, Reverse(pair), words));
        }
    }
}
