//! Which instances a model may have seen: n-grams of words that they share with the text it was trained on (Brown et al.
//! 2020, appendix C).

use anyhow::{Context, Result};
use gptkit_data::progress::{Progress, Unit};
use gptkit_data::shard::{Corpus, Manifest, ShardTokens};
use gptkit_data::tokenizer::Tokenizer;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::path::Path;

/// Words that must be the same in a row.
pub const LONGEST: usize = 13;
/// An instance of fewer words than [`LONGEST`] is looked for as a whole; one of fewer than these is not judged.
pub const SHORTEST: usize = 8;
/// Tokens that are decoded together.
const TOGETHER: usize = 1 << 16;

/// What instances say, to be looked for; `I` is what tells one from another.
#[derive(Debug)]
pub struct OverlapIndex<I> {
    /// Of each n-gram, by its length and hash, the instances that hold it.
    of: HashMap<(usize, u64), Vec<I>>,
    lengths: Vec<usize>,
    /// Instances that are too short to be judged.
    pub too_short: u64,
}

impl<I> Default for OverlapIndex<I> {
    fn default() -> Self {
        Self { of: HashMap::new(), lengths: Vec::new(), too_short: 0 }
    }
}

impl<I: Copy + Eq + Hash> OverlapIndex<I> {
    /// Adds instance `n`, of this text.
    pub fn add(&mut self, n: I, text: &str) {
        let words: Vec<u64> = words(text).map(|word| hash(&word)).collect();
        let length = words.len().min(LONGEST);
        if length < SHORTEST {
            self.too_short += 1;
            return;
        }
        if !self.lengths.contains(&length) {
            self.lengths.push(length);
        }
        for gram in words.windows(length) {
            let held = self.of.entry((length, combined(gram.iter()))).or_default();
            if held.last() != Some(&n) {
                held.push(n);
            }
        }
    }

    /// The instances that share an n-gram with the training part of the prepared text in `folder`.
    ///
    /// # Errors
    /// When the folder holds none.
    pub fn found_in(&self, folder: &Path, progress: &dyn Progress) -> Result<HashSet<I>> {
        let manifest = Manifest::read(folder).with_context(|| {
            format!("{} was not written by `gptkit prepare` (the text of a run is below shards/)", folder.display())
        })?;
        let corpus = Corpus::open(folder, &manifest)?;
        let tokenizer = Tokenizer::load(folder)?;
        let task = progress.task("overlap with the training text", Some(corpus.train_tokens()), Unit::Tokens);
        let mut found = HashSet::new();
        for part in &corpus.train {
            let mut looker = OverlapScan { wanted: self, last: VecDeque::new(), found: &mut found };
            self.look(&part.tokens, &tokenizer, &mut looker, &mut |n| task.advance(n))?;
        }
        Ok(found)
    }

    fn look(
        &self,
        tokens: &ShardTokens,
        tokenizer: &Tokenizer,
        looker: &mut OverlapScan<I>,
        read: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let (mut at, mut bytes, mut some) = (0, Vec::new(), Vec::new());
        let end = tokenizer.document_end();
        while at < tokens.len() {
            let n = (tokens.len() - at).min(TOGETHER as u64);
            some.clear();
            tokens.read(at, n as usize, &mut some);
            at += n;
            for (i, document) in some.split(|&token| Some(token) == end).enumerate() {
                if i > 0 {
                    // What stands across the end of a document is no text.
                    looker.text(&String::from_utf8_lossy(&bytes));
                    bytes.clear();
                    looker.last.clear();
                }
                bytes.extend(tokenizer.decode_bytes(document)?);
            }
            // The last word may go on.
            let whole = bytes.iter().rposition(u8::is_ascii_whitespace).map_or(0, |space| space + 1);
            looker.text(&String::from_utf8_lossy(&bytes[..whole]));
            bytes.drain(..whole);
            read(n);
        }
        looker.text(&String::from_utf8_lossy(&bytes));
        Ok(())
    }
}

struct OverlapScan<'a, I> {
    wanted: &'a OverlapIndex<I>,
    /// The last words, newest last.
    last: VecDeque<u64>,
    found: &'a mut HashSet<I>,
}

impl<I: Copy + Eq + Hash> OverlapScan<'_, I> {
    fn text(&mut self, text: &str) {
        for word in words(text) {
            if self.last.len() == LONGEST {
                self.last.pop_front();
            }
            self.last.push_back(hash(&word));
            for &length in self.wanted.lengths.iter().filter(|&&length| length <= self.last.len()) {
                let gram = combined(self.last.range(self.last.len() - length..));
                self.found.extend(self.wanted.of.get(&(length, gram)).into_iter().flatten());
            }
        }
    }
}

/// Words without case and punctuation.
fn words(text: &str) -> impl Iterator<Item = String> {
    let plain =
        |word: &str| word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    text.split_whitespace().map(plain).filter(|word| !word.is_empty())
}

/// FNV-1a.
fn hash(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn combined<'a>(words: impl Iterator<Item = &'a u64>) -> u64 {
    words.fold(0, |all: u64, word| (all.rotate_left(7) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_data::prepare::prepare;
    use gptkit_data::progress::Silent;
    use gptkit_data::source::{DataConfig, SourceConfig};
    use gptkit_data::tokenizer::TokenizerConfig;

    #[test]
    fn instances_that_the_training_text_holds_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let seen = "The quick brown fox jumps over the lazy dog, and then it runs away from the farm at night.";
        let short = "Eight words that are found as a whole";
        let filler =
            |n: usize| (0..n).map(|i| format!("word{} of many.", i * 7919 % 10_007)).collect::<Vec<_>>().join(" ");
        // So long that the text is decoded in several parts.
        let text =
            format!("{} {} {} {}", filler(40_000), seen.to_uppercase(), filler(40_000), short.replace(' ', " - "));
        let path = folder.path().join("a.txt");
        gptkit_data::disk::write(&path, text.as_bytes()).unwrap();
        let config = DataConfig {
            sources: vec![SourceConfig { path: path.display().to_string(), weight: None }],
            val_fraction: 0.0,
            shards: folder.path().join("shards"),
            ..DataConfig::default()
        };
        let tokenizer: TokenizerConfig = gptkit_config::load("a.toml", "train = \"char\"", &[]).unwrap();
        let prepared = prepare(&config, &tokenizer, None, &Silent).unwrap();
        let mut wanted = OverlapIndex::default();
        let twelve = seen.split(' ').take(12).chain(["nowhere"]).collect::<Vec<_>>().join(" ");
        let thirteen = seen.split(' ').skip(1).take(13).chain(["nowhere"]).collect::<Vec<_>>().join(" ");
        for (n, text) in
            [&*twelve, &thirteen, short, "these words are none of those that stand anywhere there", "too short"]
                .iter()
                .enumerate()
        {
            wanted.add(n as u64, text);
        }
        assert_eq!(wanted.too_short, 1);
        assert_eq!(wanted.found_in(&prepared.folder, &Silent).unwrap(), HashSet::from([1, 2]));
        let error = wanted.found_in(folder.path(), &Silent).unwrap_err().to_string();
        assert!(error.contains("was not written by `gptkit prepare`"), "{error}");
    }
}
