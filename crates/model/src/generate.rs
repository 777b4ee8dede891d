//! Prompt → continuations, in a batch that finished rows leave.

pub use crate::continuation::{Completion, Finish, GenerationOptions, LateEnds, TokenLogProb};
use crate::continuation::{Continuation, DecodingOptions};
use crate::gpt::Gpt;
use crate::input::Input;
use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_ops::{Cache, with_score_rows};
use rayon::prelude::*;
use std::ops::ControlFlow;

/// A prompt, and how its continuations are written, in one batch.
#[derive(Debug, Clone)]
pub struct GenerationRequest {
    /// Tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// How continuations are written.
    pub options: GenerationOptions,
}

/// Keys and values of the tokens that a model has read: the common beginning of the next prompt is not read again.
#[derive(Debug)]
pub struct PromptCache {
    /// The tokens that `cache` holds, of one sequence.
    tokens: Vec<u32>,
    cache: Cache,
}

impl PromptCache {
    /// Empty, for `model` alone.
    pub fn new(model: &Gpt) -> Self {
        Self { tokens: Vec::new(), cache: model.cache() }
    }

    /// Tokens that need not be read again if the next prompt begins with them.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Takes out the part that `prompt` begins with, but for its last token: somebody has to say what comes after it.
    fn take(&mut self, prompt: &[u32], model: &Gpt) -> Cache {
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let mut cache = std::mem::replace(&mut self.cache, model.cache());
        cache.truncate(common.min(prompt.len().saturating_sub(1)));
        self.tokens.clear();
        cache
    }
}

/// Continues `request.prompt`. `on_text` is given each row's number and its new text, in whole characters, as soon as no
/// stop string can begin in it; it is called for each token, and ends the writing of all rows by [`ControlFlow::Break`].
///
/// Past the context the window slides: when the cache is full, the last half of the context is read again.
///
/// # Errors
/// When the prompt is empty or has a token that the model has not, the model's numbers are damaged, or `on_text` fails.
pub fn generate(
    model: &Gpt,
    tokenizer: &Tokenizer,
    end_of_text: &[u32],
    request: &GenerationRequest,
    on_text: impl FnMut(usize, &str) -> Result<ControlFlow<()>>,
) -> Result<Vec<Completion>> {
    generate_from(&mut PromptCache::new(model), model, tokenizer, end_of_text, request, on_text)
}

/// As [`generate`], but reads only the tokens of the prompt that `past` does not hold, and leaves there what it has read,
/// for a prompt that continues it. With several samples, or after an error, it leaves nothing.
///
/// # Errors
/// As [`generate`].
pub fn generate_from(
    past: &mut PromptCache,
    model: &Gpt,
    tokenizer: &Tokenizer,
    end_of_text: &[u32],
    request: &GenerationRequest,
    mut on_text: impl FnMut(usize, &str) -> Result<ControlFlow<()>>,
) -> Result<Vec<Completion>> {
    check(&request.prompt, model)?;
    let options = &request.options;
    let decoding = DecodingOptions { tokenizer, end_of_text, late_ends: &LateEnds::default(), options };
    let mut rows: Vec<Continuation> =
        (0..options.n_samples).map(|n| Continuation::new(tokenizer, options, &request.prompt, (0, n))).collect();
    let mut active: Vec<usize> = (0..rows.len()).collect();
    let mut window = GenerationWindow::new(model, past.take(&request.prompt, model));
    if rows.len() > 1 && window.held() > 0 {
        window.cache.keep(&vec![0; rows.len()])?;
    }
    'writing: for _ in 0..options.max_new_tokens {
        if active.is_empty() {
            break;
        }
        let tokens: Vec<&[u32]> = active.iter().map(|&r| rows[r].tokens()).collect();
        let next = with_score_rows(&window.next_logits(&tokens)?, |logits| {
            let next = logits.par_iter().zip(&active).map(|(logits, &r)| rows[r].next_token(logits, &decoding));
            next.collect::<Result<Vec<_>>>()
        })??;
        for (next, &r) in next.into_iter().zip(&active) {
            let row = &mut rows[r];
            row.push_next(next, &decoding)?;
            if row.finish() == Some(Finish::EndOfText) {
                continue;
            }
            if on_text(r, row.fresh_text())?.is_break() {
                active.iter().for_each(|&r| rows[r].interrupt());
                break 'writing;
            }
        }
        let left: Vec<u32> =
            (0..active.len() as u32).filter(|&i| rows[active[i as usize]].finish().is_none()).collect();
        if left.len() < active.len() {
            if !left.is_empty() {
                window.cache.keep(&left)?; // of the last, what was read may be of use to the next prompt
            }
            active = left.iter().map(|&i| active[i as usize]).collect();
        }
    }
    for (r, row) in rows.iter_mut().enumerate() {
        let rest = row.end()?;
        let _ = on_text(r, &rest)?; // it is the end
    }
    if let [row] = rows.as_slice() {
        *past = window.past(row.tokens());
    }
    rows.into_iter().map(Continuation::completion).collect()
}

/// Whether `model` can read `prompt`.
///
/// # Errors
/// When `prompt` is empty or has a token that `model` has not.
pub(crate) fn check(prompt: &[u32], model: &Gpt) -> Result<()> {
    let vocab_size = model.config().vocab_size;
    ensure!(!prompt.is_empty(), "the prompt is empty: it has no tokens");
    if let Some(token) = prompt.iter().find(|&&t| t as usize >= vocab_size) {
        bail!("token {token} of the prompt is outside the vocabulary of {vocab_size}");
    }
    Ok(())
}

/// The model's view of the rows that are being written: their last tokens, and the cache of all but the newest.
struct GenerationWindow<'a> {
    model: &'a Gpt,
    cache: Cache,
    /// Tokens of each row that have been read, of which the cache holds the last.
    read: usize,
}

impl<'a> GenerationWindow<'a> {
    /// A view of rows whose first tokens `cache` holds.
    fn new(model: &'a Gpt, cache: Cache) -> Self {
        let mut window = Self { model, cache, read: 0 };
        window.read = window.held();
        window
    }

    /// Tokens that the cache holds of each row.
    fn held(&self) -> usize {
        self.cache.lens().first().copied().unwrap_or(0)
    }

    /// Logits of the token after each of `rows`, `[rows, V]`; they have one length and begin with those of the last call.
    fn next_logits(&mut self, rows: &[&[u32]]) -> Result<Tensor> {
        let (len, context) = (rows[0].len(), self.model.config().context);
        let mut fresh = len - self.read;
        if self.held() + fresh > context {
            self.cache = self.model.cache();
            fresh = (context / 2).max(1);
        }
        self.read = len;
        if self.held() == 0 && fresh > 1 && rows.windows(2).all(|w| w[0] == w[1]) {
            return self.shared_prompt(&rows[0][len - fresh..], rows.len());
        }
        let ids: Vec<u32> = rows.iter().flat_map(|row| &row[len - fresh..]).copied().collect();
        let ids = Tensor::from_vec(ids, (rows.len(), fresh), self.model.device())?;
        Ok(self.model.next_logits(&Input::windows(&ids)?, &mut self.cache)?)
    }

    /// What is held after one row, `tokens`, was written.
    fn past(self, tokens: &[u32]) -> PromptCache {
        PromptCache { tokens: tokens[self.read - self.held()..self.read].to_vec(), cache: self.cache }
    }

    /// Reads the prompt that all `n` rows share once.
    fn shared_prompt(&mut self, prompt: &[u32], n: usize) -> Result<Tensor> {
        let input = Input::ragged([prompt], self.model.device())?;
        let logits = self.model.next_logits(&input, &mut self.cache)?;
        self.cache.keep(&vec![0; n])?;
        Ok(logits.repeat((n, 1))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
    use crate::sampler::Sampling;
    use crate::{Kind, ModelConfig, Params};
    use candle_core::Device;
    use gptkit_ops::Precision;

    /// A model that knows nothing of the letters from a to p.
    fn model(kind: Kind) -> (Gpt, Tokenizer) {
        let config = ModelConfig { context: 24, ..tiny(kind) };
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        (Gpt::new(&config, &params, Precision::F32).unwrap(), Tokenizer::of_characters(&('a'..='p').collect()).unwrap())
    }

    fn request(prompt: &[u32], n_samples: usize, max_new_tokens: usize) -> GenerationRequest {
        let sampling = Sampling::default();
        let options = GenerationOptions { n_samples, max_new_tokens, stop: Vec::new(), log_probs: None, sampling };
        GenerationRequest { prompt: prompt.to_vec(), options }
    }

    fn keep_on(_: usize, _: &str) -> Result<ControlFlow<()>> {
        Ok(ControlFlow::Continue(()))
    }

    #[test]
    fn a_kept_past_changes_nothing_but_what_is_read() {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3] {
            let (model, tokenizer) = model(kind);
            let mut past = PromptCache::new(&model);
            let first = tokenizer.encode("abcab").unwrap();
            let mut go_on = |prompt: &[u32], n_samples, held: usize| {
                let request = request(prompt, n_samples, 4);
                let fresh = generate(&model, &tokenizer, &[], &request, keep_on).unwrap();
                let from = generate_from(&mut past, &model, &tokenizer, &[], &request, keep_on).unwrap();
                assert_eq!(from, fresh, "{kind:?} after {prompt:?}");
                assert_eq!(past.tokens().len(), held, "{kind:?} after {prompt:?}");
                [prompt, &from[0].tokens].concat()
            };
            let said = go_on(&first, 1, 8);
            let longer = [&said[..], &[1, 2]].concat();
            go_on(&longer, 1, 14);
            go_on(&longer, 1, 14); // all but the last token of the prompt is there
            let parted = [&longer[..7], &[9, 9]].concat();
            go_on(&parted, 1, 12);
            go_on(&parted, 3, 0);
            go_on(&[3], 1, 4);
            go_on(&[3, 4], 2, 0);
            let too_long: Vec<u32> = (0..30).map(|i| i % 16).collect();
            go_on(&too_long, 1, 15); // half of the context, and what came after it but for the last
            go_on(&too_long[18..], 1, 15);
        }
    }

    #[test]
    fn who_gets_the_text_may_end_it() {
        let (model, tokenizer) = model(Kind::Gpt2);
        let request = request(&[0], 2, 20);
        let mut tokens = 0;
        let ended = generate(&model, &tokenizer, &[], &request, |_, _| {
            tokens += 1;
            Ok(if tokens < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        let whole = generate(&model, &tokenizer, &[], &request, keep_on).unwrap();
        for ((ended, whole), n) in ended.unwrap().iter().zip(&whole).zip([3, 2]) {
            assert_eq!((ended.finish, whole.finish), (Finish::Interrupted, Finish::Length));
            assert_eq!(ended.tokens, whole.tokens[..n]);
            assert_eq!(ended.text, whole.text[..n]);
        }
    }
}
