//! Prompt → continuations, in a batch that finished rows leave.

use crate::cache::Cache;
use crate::gpt::Gpt;
use crate::sampler::{Sampling, choose, log_probs};
use anyhow::{Result, ensure};
use candle_core::Tensor;
use data::tokenizer::{Decoder, Tokenizer};
use serde::Serialize;

/// What to write, and when to stop.
#[derive(Debug, Clone)]
pub struct Request {
    /// Tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// Continuations, written in one batch.
    pub n_samples: usize,
    /// Longest continuation, in tokens.
    pub max_new_tokens: usize,
    /// A continuation ends before the first of these in its text.
    pub stop: Vec<String>,
    /// Keep the log-probability of each token, and of this many of the likeliest at its place.
    pub log_probs: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended the text.
    EndOfText,
    /// A stop string came.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
}

/// A token and how likely the model itself found it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogProb {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub token: String,
    /// ln of its probability.
    pub log_prob: f32,
    /// The likeliest tokens at its place, likeliest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TokenLogProb>,
}

/// One continuation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Completion {
    /// What the tokens say, up to a stop string.
    pub text: String,
    /// Tokens chosen; an end-of-text token is not among them.
    pub tokens: Vec<u32>,
    /// One for each token, when asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log_probs: Vec<TokenLogProb>,
    /// Why it ended.
    pub finish: Finish,
}

/// Continues `request.prompt`. `on_text` is given each row's number and its new text, in whole characters, as soon as no
/// stop string can begin in it.
///
/// Past the context the window slides: when the cache is full, the last half of the context is read again.
///
/// # Errors
/// When the prompt is empty or has a token that the model has not, the model's numbers are damaged, or `on_text` fails.
pub fn generate(
    model: &Gpt,
    tokenizer: &Tokenizer,
    end_of_text: &[u32],
    request: &Request,
    mut on_text: impl FnMut(usize, &str) -> Result<()>,
) -> Result<Vec<Completion>> {
    let vocab_size = model.config().vocab_size;
    ensure!(!request.prompt.is_empty(), "nothing to continue: the prompt has no token");
    if let Some(token) = request.prompt.iter().find(|&&t| t as usize >= vocab_size) {
        anyhow::bail!("the prompt's token {token} is not below the vocabulary of {vocab_size}");
    }
    let mut rows: Vec<Row> = (0..request.n_samples).map(|_| Row::new(tokenizer, &request.prompt)).collect();
    let mut active: Vec<usize> = (0..rows.len()).collect();
    let mut window = Window::new(model);
    for position in 0..request.max_new_tokens {
        if active.is_empty() {
            break;
        }
        let tokens: Vec<&[u32]> = active.iter().map(|&r| rows[r].tokens.as_slice()).collect();
        let logits = window.next_logits(&tokens)?; // [rows][V]
        for (logits, &r) in logits.iter().zip(&active) {
            let row = &mut rows[r];
            let token = choose(logits, &row.tokens, &request.sampling, r as u32, position as u64);
            ensure!(
                logits[token as usize].is_finite(),
                "the model's output is not a number; its weights are damaged, or its training diverged"
            );
            if end_of_text.contains(&token) {
                row.finish = Some(Finish::EndOfText);
                continue;
            }
            if let Some(top) = request.log_probs {
                row.log_probs.push(token_log_prob(logits, token, top, tokenizer));
            }
            row.push(token, &request.stop);
            on_text(r, row.fresh_text(&request.stop))?;
        }
        let left: Vec<u32> = (0..active.len() as u32).filter(|&i| rows[active[i as usize]].finish.is_none()).collect();
        if left.len() < active.len() {
            window.keep(&left)?;
            active = left.iter().map(|&i| active[i as usize]).collect();
        }
    }
    for (r, row) in rows.iter_mut().enumerate() {
        let rest = row.end();
        on_text(r, &rest)?;
    }
    Ok(rows.into_iter().map(|row| row.completion(request.prompt.len())).collect())
}

fn token_log_prob(logits: &[f32], token: u32, top: usize, tokenizer: &Tokenizer) -> TokenLogProb {
    let all = log_probs(logits);
    let one = |id: u32, top| TokenLogProb { id, token: tokenizer.token_text(id), log_prob: all[id as usize], top };
    let mut order: Vec<u32> = (0..all.len() as u32).collect();
    order.sort_by(|&a, &b| all[b as usize].total_cmp(&all[a as usize]));
    one(token, order.into_iter().take(top).map(|id| one(id, Vec::new())).collect())
}

/// The model's view of the rows that are being written: their last tokens, and the cache of all but the newest.
struct Window<'a> {
    model: &'a Gpt,
    cache: Cache,
}

impl<'a> Window<'a> {
    fn new(model: &'a Gpt) -> Self {
        Self { model, cache: model.cache() }
    }

    /// Logits of the token after each of `rows`, which have one length and differ from the last call's by one token.
    fn next_logits(&mut self, rows: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let (len, context) = (rows[0].len(), self.model.config().context);
        let fresh = if !self.cache.is_empty() && self.cache.len() < context {
            1
        } else {
            let first = self.cache.is_empty() && len <= context;
            self.cache = self.model.cache();
            if first { len } else { (context / 2).max(1) }
        };
        let ids: Vec<u32> = if self.cache.is_empty() && fresh > 1 && rows.windows(2).all(|w| w[0] == w[1]) {
            return self.shared_prompt(&rows[0][len - fresh..], rows.len());
        } else {
            rows.iter().flat_map(|row| &row[len - fresh..]).copied().collect()
        };
        let ids = Tensor::from_vec(ids, (rows.len(), fresh), self.model.device())?;
        Ok(self.model.next_logits(&ids, &mut self.cache)?.to_vec2()?)
    }

    /// Reads the prompt that all `n` rows share once.
    fn shared_prompt(&mut self, prompt: &[u32], n: usize) -> Result<Vec<Vec<f32>>> {
        let ids = Tensor::new(prompt, self.model.device())?.unsqueeze(0)?;
        let logits = self.model.next_logits(&ids, &mut self.cache)?.to_vec2()?;
        self.keep(&vec![0; n])?;
        Ok(vec![logits.into_iter().next().unwrap_or_default(); n])
    }

    fn keep(&mut self, rows: &[u32]) -> Result<()> {
        if !rows.is_empty() {
            self.cache.keep(rows, self.model.device())?;
        }
        Ok(())
    }
}

/// One continuation while it is written.
struct Row<'a> {
    /// Prompt and continuation.
    tokens: Vec<u32>,
    decoder: Decoder<'a>,
    /// The continuation's text so far, whole characters.
    text: String,
    /// Bytes of it handed out.
    shown: usize,
    log_probs: Vec<TokenLogProb>,
    finish: Option<Finish>,
}

impl<'a> Row<'a> {
    fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        Self {
            tokens: prompt.to_vec(),
            decoder: tokenizer.decoder(prompt),
            text: String::new(),
            shown: 0,
            log_probs: Vec::new(),
            finish: None,
        }
    }

    fn push(&mut self, token: u32, stop: &[String]) {
        self.tokens.push(token);
        if let Some(text) = self.decoder.push(token) {
            self.text.push_str(&text);
        }
        // A match that began in text already shown was ruled out when it was shown.
        let found = stop.iter().filter(|s| !s.is_empty()).filter_map(|s| self.text[self.shown..].find(s.as_str()));
        if let Some(at) = found.min() {
            self.text.truncate(self.shown + at);
            self.finish = Some(Finish::Stop);
        }
    }

    /// Text not handed out yet that cannot be the beginning of a stop string.
    fn fresh_text(&mut self, stop: &[String]) -> &str {
        let held = if self.finish.is_some() { 0 } else { held_back(&self.text[self.shown..], stop) };
        let (from, to) = (self.shown, self.text.len() - held);
        self.shown = to;
        &self.text[from..to]
    }

    /// What is left at the end, incomplete characters and held-back text.
    fn end(&mut self) -> String {
        if self.finish != Some(Finish::Stop) {
            self.text.push_str(&self.decoder.flush());
        }
        let rest = self.text[self.shown..].to_owned();
        self.shown = self.text.len();
        rest
    }

    fn completion(mut self, prompt: usize) -> Completion {
        Completion {
            text: self.text,
            tokens: self.tokens.split_off(prompt),
            log_probs: self.log_probs,
            finish: self.finish.unwrap_or(Finish::Length),
        }
    }
}

/// Bytes at the end of `text` that could begin one of `stop`.
fn held_back(text: &str, stop: &[String]) -> usize {
    let begins = |s: &String| (1..s.len()).rev().find(|&n| s.is_char_boundary(n) && text.ends_with(&s[..n]));
    stop.iter().filter_map(begins).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_may_begin_a_stop_string_is_held_back() {
        let stop = ["\nUser:".to_owned(), "éa".to_owned()];
        assert_eq!(held_back("hello", &stop), 0);
        assert_eq!(held_back("hello\n", &stop), 1);
        assert_eq!(held_back("hello\nUse", &stop), 4);
        assert_eq!(held_back("hello é", &stop), 2);
        assert_eq!(held_back("hello\nUse ", &stop), 0);
    }
}
