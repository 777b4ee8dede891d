//! Keys and values of earlier conversations, so that a prompt that begins like one of them is read from there on.

use anyhow::Result;
use gptkit_ops::Cache;

/// Sequences that the model has read, least recently used first, of a bounded size.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    held: Vec<HeldPrefix>,
}

#[derive(Debug)]
struct HeldPrefix {
    /// The tokens that `cache` holds, of one sequence.
    tokens: Vec<u32>,
    cache: Cache,
    bytes: usize,
}

/// Shorter beginnings are read again: that costs less than to copy them.
const SHORTEST: usize = 8;

impl Prefixes {
    /// Bytes of all that is held.
    pub(crate) fn bytes(&self) -> usize {
        self.held.iter().map(|one| one.bytes).sum()
    }

    /// Keeps a sequence, `tokens` and their `cache` of so many `bytes`. What it begins with needs no place of its own.
    pub(crate) fn keep(&mut self, tokens: Vec<u32>, cache: Cache, bytes: usize) {
        if tokens.len() >= SHORTEST {
            self.held.retain(|one| !tokens.starts_with(&one.tokens));
            self.held.push(HeldPrefix { tokens, cache, bytes });
        }
    }

    /// Forgets the least recently used sequences until at most `bytes` are held.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        while !self.held.is_empty() && self.bytes() > bytes {
            self.held.remove(0);
        }
    }

    /// Tokens of the longest beginning of `prompt` that is held, but for its last token: somebody has to say what comes
    /// after it. 0 where reading it again costs less.
    pub(crate) fn usable(&self, prompt: &[u32]) -> usize {
        self.held.iter().map(|one| usable(&one.tokens, prompt)).max().unwrap_or(0)
    }

    /// The keys and values of the beginning that [`Prefixes::usable`] found, if it found any. A sequence that `prompt`
    /// continues is taken out; of another one, the common part is copied.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(crate) fn take(&mut self, prompt: &[u32]) -> Result<Option<Cache>> {
        let all = self.held.iter().enumerate().map(|(i, one)| (usable(&one.tokens, prompt), i));
        let Some((usable, i)) = all.max().filter(|(usable, _)| *usable > 0) else { return Ok(None) };
        let mut one = self.held.remove(i);
        let mut cache = if usable + 1 >= one.tokens.len() {
            one.cache
        } else {
            let copy = one.cache.copies(&[0])?;
            self.held.push(one); // it was used last
            copy
        };
        cache.truncate(usable);
        Ok(Some(cache))
    }
}

/// Tokens with which `held` and `prompt` both begin, but for the last of `prompt`; 0 where they are too few to be of use.
pub(crate) fn usable(held: &[u32], prompt: &[u32]) -> usize {
    let common = held.iter().zip(prompt).take_while(|(a, b)| a == b).count();
    Some(common.min(prompt.len() - 1)).filter(|&common| common >= SHORTEST).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gptkit_model::{Gpt, Input, Kind, ModelConfig, Params};
    use gptkit_ops::Precision;

    fn model() -> Gpt {
        let config: ModelConfig = serde_json::from_value(serde_json::json!({
            "kind": Kind::Gpt2, "n_layer": 1, "n_head": 1, "d_model": 8, "context": 64, "vocab_size": 40,
        }))
        .unwrap();
        Gpt::new(&config, &Params::init(&config, 1, &Device::Cpu).unwrap(), Precision::F32).unwrap()
    }

    fn read(model: &Gpt, tokens: &[u32], cache: &mut Cache) -> Vec<f32> {
        let input = Input::ragged([tokens], &Device::Cpu).unwrap();
        model.next_logits(&input, cache).unwrap().to_vec2().unwrap().remove(0)
    }

    fn held(prefixes: &Prefixes) -> Vec<usize> {
        prefixes.held.iter().map(|one| one.tokens.len()).collect()
    }

    #[test]
    fn a_prompt_is_read_from_where_an_earlier_one_differs() {
        let model = model();
        let mut prefixes = Prefixes::default();
        let keep = |prefixes: &mut Prefixes, tokens: &[u32]| {
            let mut cache = model.cache();
            read(&model, tokens, &mut cache);
            prefixes.keep(tokens.to_vec(), cache, 100 * tokens.len());
        };
        let (first, second): (Vec<u32>, Vec<u32>) = ((0..12).collect(), (0..10).chain(20..25).collect());
        keep(&mut prefixes, &first);
        keep(&mut prefixes, &second);
        keep(&mut prefixes, &[7; 7]);
        assert_eq!((held(&prefixes), prefixes.bytes()), (vec![12, 15], 2700), "the third is too short");
        for (prompt, usable, left) in [
            ((0..9).chain([30]).collect::<Vec<u32>>(), 9, vec![12, 15]),
            ((0..4).collect(), 0, vec![12, 15]),
            ((0..12).chain([30, 31]).collect(), 12, vec![15]),
            ((0..10).chain(20..25).collect(), 14, vec![]),
        ] {
            assert_eq!(prefixes.usable(&prompt), usable, "{prompt:?}");
            let mut cache = prefixes.take(&prompt).unwrap().unwrap_or_else(|| model.cache());
            assert_eq!((cache.lens(), held(&prefixes)), (&[usable][usize::from(usable == 0)..], left), "{prompt:?}");
            assert_eq!(read(&model, &prompt[usable..], &mut cache), read(&model, &prompt, &mut model.cache()));
        }
    }

    #[test]
    fn the_least_recently_used_are_forgotten() {
        let mut prefixes = Prefixes::default();
        let model = model();
        for first in [0, 1, 2] {
            prefixes.keep((first..first + 10).collect(), model.cache(), 100);
        }
        prefixes.keep((0..12).collect(), model.cache(), 120);
        assert_eq!(held(&prefixes), [10, 10, 12], "the first is the beginning of the last");
        prefixes.shrink_to(225);
        assert_eq!(held(&prefixes), [10, 12]);
        prefixes.shrink_to(0);
        assert!(held(&prefixes).is_empty());
    }
}
