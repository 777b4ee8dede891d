//! One continuation of a prompt while it is written: logits → token → text.

use crate::sampler::{ChosenToken, Normalizer, Sampling, TokenPosition, choose};
use anyhow::{Result, ensure};
use gptkit_data::decoder::Decoder;
use gptkit_data::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

/// How continuations of a prompt are written.
#[derive(Debug, Clone)]
pub struct GenerationOptions {
    /// Continuations of each prompt.
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

/// Tokens that end a continuation from some length on, and are tokens like any other before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LateEnds {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Tokens of a continuation before which they do not end it.
    pub after: usize,
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended the text.
    EndOfText,
    /// A stop string came.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
    /// Who was given the text asked for the end.
    Interrupted,
}

/// A token and how likely the model itself found it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogProb {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub token: String,
    /// ln of its probability.
    pub log_prob: f32,
    /// The likeliest tokens at its place, likeliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TokenLogProb>,
}

/// One continuation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Text of the tokens, up to a stop string.
    pub text: String,
    /// Tokens chosen; an end-of-text token is not among them.
    pub tokens: Vec<u32>,
    /// One for each token, when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_probs: Vec<TokenLogProb>,
    /// The end-of-text token that ended it, when log-probabilities were asked for.
    #[serde(skip)]
    pub end: Option<TokenLogProb>,
    /// Why it ended.
    pub finish: Finish,
}

/// What decoding has in common for all rows.
#[derive(Debug, Clone, Copy)]
pub struct DecodingOptions<'a> {
    /// The tokenizer of the model.
    pub tokenizer: &'a Tokenizer,
    /// Tokens that end a continuation at once.
    pub end_of_text: &'a [u32],
    /// Tokens that end it, but not at once.
    pub late_ends: &'a LateEnds,
    /// How continuations are written.
    pub options: &'a GenerationOptions,
}

/// A token that was chosen for a continuation.
#[derive(Debug)]
pub(crate) struct NextToken {
    token: u32,
    log_prob: Option<TokenLogProb>,
}

/// One continuation while it is written.
pub struct Continuation<'a> {
    /// Prompt and continuation.
    tokens: Vec<u32>,
    /// Position of the next token.
    place: TokenPosition,
    decoder: Decoder<'a>,
    /// The continuation's text so far, whole characters.
    text: String,
    /// Bytes of it handed out.
    shown: usize,
    log_probs: Vec<TokenLogProb>,
    end_token: Option<TokenLogProb>,
    finish: Option<Finish>,
    stop: Vec<String>,
}

impl<'a> Continuation<'a> {
    /// Continuation number `sample` of prompt number `number`.
    pub fn new(
        tokenizer: &'a Tokenizer,
        options: &GenerationOptions,
        prompt: &[u32],
        (number, sample): (usize, usize),
    ) -> Self {
        Self {
            tokens: prompt.to_vec(),
            place: TokenPosition { prompt: number as u32, sample: sample as u32, position: 0 },
            decoder: tokenizer.decoder(prompt),
            text: String::new(),
            shown: 0,
            log_probs: Vec::new(),
            end_token: None,
            finish: None,
            stop: options.stop.clone(),
        }
    }

    /// Prompt and continuation, so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The log-probability of each token so far, when asked for.
    pub fn log_probs(&self) -> &[TokenLogProb] {
        &self.log_probs
    }

    /// Why it ended, if it has ended.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Tokens written so far.
    pub fn n_new(&self) -> usize {
        self.place.position as usize
    }

    /// Adds a token chosen by its `logits`, `[V]`, or ends.
    ///
    /// # Errors
    /// When the model's numbers are damaged.
    pub fn push_token(&mut self, logits: &[f32], decoding: &DecodingOptions) -> Result<()> {
        let next = self.next_token(logits, decoding)?;
        self.push_next(next, decoding)
    }

    /// The next token by its `logits`, `[V]`, which [`Continuation::push_next`] adds.
    ///
    /// # Errors
    /// When the model's numbers are damaged.
    pub(crate) fn next_token(&self, logits: &[f32], decoding: &DecodingOptions) -> Result<NextToken> {
        let chosen = choose(logits, &self.tokens, &decoding.options.sampling, self.place);
        ensure!(
            logits[chosen.token as usize].is_finite(),
            "the model's output is NaN or infinite; its weights are damaged or its training diverged"
        );
        let log_prob = decoding.options.log_probs.map(|top| of_chosen(logits, &chosen, top, decoding.tokenizer));
        Ok(NextToken { token: chosen.token, log_prob })
    }

    /// Adds a token, or ends.
    ///
    /// # Errors
    /// When it cannot be decoded.
    pub(crate) fn push_next(&mut self, next: NextToken, decoding: &DecodingOptions) -> Result<()> {
        let NextToken { token, log_prob } = next;
        let LateEnds { tokens, after } = decoding.late_ends;
        if decoding.end_of_text.contains(&token) || self.n_new() >= *after && tokens.contains(&token) {
            (self.end_token, self.finish) = (log_prob, Some(Finish::EndOfText));
            return Ok(());
        }
        self.log_probs.extend(log_prob);
        self.place.position += 1;
        self.tokens.push(token);
        let text = self.decoder.push(token)?;
        self.push_text(&text);
        Ok(())
    }

    /// Adds text, up to a stop string.
    fn push_text(&mut self, text: &str) {
        self.text.push_str(text);
        let stop = self.stop.iter().filter(|s| !s.is_empty());
        // A match that began in text already shown was ruled out when it was shown.
        let found = stop.filter_map(|s| self.text[self.shown..].find(s.as_str()));
        if let Some(at) = found.min() {
            self.text.truncate(self.shown + at);
            self.finish = Some(Finish::Stop);
        }
    }

    /// Text not handed out yet that cannot be the beginning of a stop string.
    pub fn fresh_text(&mut self) -> &str {
        let held = if self.finish.is_some() { 0 } else { held_back(&self.text[self.shown..], &self.stop) };
        let (from, to) = (self.shown, self.text.len() - held);
        self.shown = to;
        &self.text[from..to]
    }

    /// Ends it where it is, unless it has its end.
    pub fn interrupt(&mut self) {
        self.finish.get_or_insert(Finish::Interrupted);
    }

    /// Returns the rest of the text: incomplete characters, and text that was held back.
    ///
    /// # Errors
    /// When it cannot be decoded.
    pub fn end(&mut self) -> Result<String> {
        if !matches!(self.finish, Some(Finish::Stop | Finish::Interrupted)) {
            let text = self.decoder.flush()?;
            self.push_text(&text);
        }
        let rest = self.text[self.shown..].to_owned();
        self.shown = self.text.len();
        Ok(rest)
    }

    /// What was written.
    ///
    /// # Errors
    /// When the text that was held back cannot be decoded.
    pub fn completion(mut self) -> Result<Completion> {
        self.end()?;
        let prompt = self.tokens.len() - self.n_new();
        Ok(Completion {
            text: self.text,
            tokens: self.tokens.split_off(prompt),
            log_probs: self.log_probs,
            end: self.end_token,
            finish: self.finish.unwrap_or(Finish::Length),
        })
    }
}

/// The log-probability of `token` by its `logits`, `[V]`, with those of the `top` likeliest tokens.
pub fn token_log_prob(logits: &[f32], token: u32, top: usize, tokenizer: &Tokenizer) -> TokenLogProb {
    of_chosen(logits, &ChosenToken { token, normalizer: None }, top, tokenizer)
}

fn of_chosen(logits: &[f32], chosen: &ChosenToken, top: usize, tokenizer: &Tokenizer) -> TokenLogProb {
    let normalizer = chosen.normalizer.unwrap_or_else(|| Normalizer::of(logits));
    let log_prob = |id: u32| normalizer.log_prob(logits[id as usize]);
    let one = |id: u32, top| TokenLogProb { id, token: tokenizer.token_text(id), log_prob: log_prob(id), top };
    if top == 0 {
        return one(chosen.token, Vec::new());
    }
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| log_prob(b).total_cmp(&log_prob(a)));
    one(chosen.token, order.into_iter().take(top).map(|id| one(id, Vec::new())).collect())
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
