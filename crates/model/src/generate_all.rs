//! Many prompts → continuations, in a batch whose places never stay empty: where a row has its end, the next one begins
//! (Yu et al. 2022, Orca, §3.1). No padding: each row is as long as it is.

use crate::generate::{Completion, How, Row, check};
use crate::gpt::{Gpt, Input};
use crate::sampler::Sampling;
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use data::tokenizer::Tokenizer;
use ops::Cache;
use std::ops::ControlFlow;

/// What to write after each of many prompts, and when to stop.
#[derive(Debug, Clone)]
pub struct Requests {
    /// Tokens to continue; at least one each.
    pub prompts: Vec<Vec<u32>>,
    /// Number of the first prompt, on which its draws depend, as those of the next do on the next number.
    pub first_prompt: u32,
    /// Continuations of each.
    pub n_samples: usize,
    /// Longest continuation, in tokens; it ends where the context does, too.
    pub max_new_tokens: usize,
    /// Continuations that are written at once; what they say does not depend on it.
    pub most_rows: usize,
    /// A continuation ends before the first of these in its text.
    pub stop: Vec<String>,
    /// Keep the log-probability of each token, and of this many of the likeliest at its place.
    pub log_probs: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// Continues all prompts of `requests`. `on_done` is given each continuation as soon as it has its end, with the place of
/// its prompt in the list and its number among those of the prompt; it ends the writing of the others by
/// [`ControlFlow::Break`].
///
/// Prompt number 0 is continued as [`crate::generate::generate`] would, but that no window slides: prompt and continuation
/// together are at most as long as the context.
///
/// # Errors
/// When a prompt is empty, over the context or has a token that the model has not, the model's numbers are damaged, or
/// `on_done` fails.
pub fn generate_all(
    model: &Gpt,
    tokenizer: &Tokenizer,
    end_of_text: &[u32],
    requests: &Requests,
    mut on_done: impl FnMut(usize, usize, Completion) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let Requests { prompts, first_prompt, n_samples, stop, log_probs, sampling, .. } = requests;
    let context = model.config().context;
    ensure!(requests.most_rows > 0, "no continuation can be written in 0 rows");
    for (n, prompt) in prompts.iter().enumerate() {
        check(prompt, model).with_context(|| format!("prompt {n} cannot be continued"))?;
        ensure!(prompt.len() <= context, "prompt {n} has {} tokens, over the context of {context}", prompt.len());
    }
    let how = How { tokenizer, end_of_text, stop, log_probs: *log_probs, sampling };
    let full = |row: &Row| row.n_new() >= requests.max_new_tokens || row.tokens.len() >= context;
    // The last token chosen is the one that `cache` does not hold.
    let (mut rows, mut cache) = (Vec::<Numbered>::new(), model.cache());
    let (mut next, all) = (0, prompts.len() * n_samples);
    let mut read = Read { first: 0, logits: Vec::new(), cache: model.cache() };
    loop {
        while next < all && rows.len() < requests.most_rows {
            let free = requests.most_rows - rows.len();
            if next / n_samples >= read.end() {
                read = Read::new(model, prompts, next / n_samples, free.div_ceil(*n_samples))?;
            }
            let mut begun = Vec::new();
            let end = all.min(next + free).min(read.end() * n_samples);
            for number in next..end {
                let (prompt, sample) = (number / n_samples, number % n_samples);
                let mut row = Row::new(&how, &prompts[prompt], (*first_prompt as usize + prompt, sample));
                if !full(&row) {
                    row.go_on(&read.logits[prompt - read.first], &how)?;
                }
                if row.finish.is_none() && !full(&row) {
                    begun.push((prompt - read.first) as u32);
                    rows.push(Numbered { prompt, sample, row });
                } else if on_done(prompt, sample, row.completion())?.is_break() {
                    return Ok(());
                }
            }
            next = end;
            cache.append(&read.cache, &begun)?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        let newest: Vec<u32> = rows.iter().filter_map(|Numbered { row, .. }| row.tokens.last().copied()).collect();
        let newest = Input::windows(&Tensor::from_vec(newest, (rows.len(), 1), model.device())?)?;
        let logits: Vec<Vec<f32>> = model.next_logits(&newest, &mut cache)?.to_vec2()?;
        let n_rows = rows.len();
        let (mut left, mut going) = (Vec::with_capacity(n_rows), Vec::with_capacity(n_rows));
        for (n, (mut one, logits)) in rows.into_iter().zip(logits).enumerate() {
            one.row.go_on(&logits, &how)?;
            if one.row.finish.is_none() && !full(&one.row) {
                left.push(n as u32);
                going.push(one);
            } else if on_done(one.prompt, one.sample, one.row.completion())?.is_break() {
                return Ok(());
            }
        }
        if left.len() < n_rows {
            cache.keep(&left)?;
        }
        rows = going;
    }
}

/// A continuation while it is written: sample number `sample` of the prompt at place `prompt`.
struct Numbered<'a> {
    prompt: usize,
    sample: usize,
    row: Row<'a>,
}

/// Prompts that have been read, whose samples can begin.
struct Read {
    /// Place of the first.
    first: usize,
    /// Of the token after each, `[V]`.
    logits: Vec<Vec<f32>>,
    cache: Cache,
}

impl Read {
    /// Reads at most `most` of `prompts`, from place `first` on, of at most a context of tokens together.
    fn new(model: &Gpt, prompts: &[Vec<u32>], first: usize, most: usize) -> Result<Self> {
        let mut tokens = 0;
        let fits = |prompt: &&Vec<u32>| {
            tokens += prompt.len();
            tokens <= model.config().context
        };
        let taken: Vec<&[u32]> = prompts[first..].iter().take(most).take_while(fits).map(Vec::as_slice).collect();
        let mut cache = model.cache();
        let logits = model.next_logits(&Input::ragged(taken, model.device())?, &mut cache)?.to_vec2()?;
        Ok(Self { first, logits, cache })
    }

    /// The place after the last.
    fn end(&self) -> usize {
        self.first + self.logits.len()
    }
}
