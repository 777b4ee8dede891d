//! Prompt → continuations, in a batch that finished rows leave.

use crate::gpt::Gpt;
use crate::input::Input;
use crate::sampler::{ChosenToken, Normalizer, Sampling, TokenPosition, choose};
use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use gptkit_data::decoder::Decoder;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_ops::Cache;
use serde::Serialize;
use std::ops::ControlFlow;

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

/// A prompt, and how its continuations are written, in one batch.
#[derive(Debug, Clone)]
pub struct GenerationRequest {
    /// Tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// How continuations are written.
    pub options: GenerationOptions,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
    /// The end-of-text token that ended it, when log-probabilities were asked for.
    #[serde(skip)]
    pub end: Option<TokenLogProb>,
    /// Why it ended.
    pub finish: Finish,
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
        (0..options.n_samples).map(|n| Continuation::new(&decoding, &request.prompt, (0, n))).collect();
    let mut active: Vec<usize> = (0..rows.len()).collect();
    let mut window = GenerationWindow::new(model, past.take(&request.prompt, model));
    if rows.len() > 1 && window.held() > 0 {
        window.cache.keep(&vec![0; rows.len()])?;
    }
    'writing: for _ in 0..options.max_new_tokens {
        if active.is_empty() {
            break;
        }
        let tokens: Vec<&[u32]> = active.iter().map(|&r| rows[r].tokens.as_slice()).collect();
        let logits = window.next_logits(&tokens)?; // [rows][V]
        for (logits, &r) in logits.iter().zip(&active) {
            let row = &mut rows[r];
            row.push_token(logits, &decoding)?;
            if row.finish == Some(Finish::EndOfText) {
                continue;
            }
            if on_text(r, row.fresh_text())?.is_break() {
                active.iter().for_each(|&r| rows[r].interrupt());
                break 'writing;
            }
        }
        let left: Vec<u32> = (0..active.len() as u32).filter(|&i| rows[active[i as usize]].finish.is_none()).collect();
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
        *past = window.past(&row.tokens);
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

fn token_log_prob(logits: &[f32], chosen: &ChosenToken, top: usize, tokenizer: &Tokenizer) -> TokenLogProb {
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

    /// Logits of the token after each of `rows`, which have one length and begin with those of the last call.
    fn next_logits(&mut self, rows: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
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
        Ok(self.model.next_logits(&Input::windows(&ids)?, &mut self.cache)?.to_vec2()?)
    }

    /// What is held after one row, `tokens`, was written.
    fn past(self, tokens: &[u32]) -> PromptCache {
        PromptCache { tokens: tokens[self.read - self.held()..self.read].to_vec(), cache: self.cache }
    }

    /// Reads the prompt that all `n` rows share once.
    fn shared_prompt(&mut self, prompt: &[u32], n: usize) -> Result<Vec<Vec<f32>>> {
        let input = Input::ragged([prompt], self.model.device())?;
        let logits = self.model.next_logits(&input, &mut self.cache)?.to_vec2()?;
        self.cache.keep(&vec![0; n])?;
        Ok(vec![logits.into_iter().next().unwrap_or_default(); n])
    }
}

/// What decoding has in common for all rows.
pub(crate) struct DecodingOptions<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) end_of_text: &'a [u32],
    pub(crate) late_ends: &'a LateEnds,
    pub(crate) options: &'a GenerationOptions,
}

/// One continuation while it is written.
pub(crate) struct Continuation<'a> {
    /// Prompt and continuation.
    pub(crate) tokens: Vec<u32>,
    /// Position of the next token.
    place: TokenPosition,
    decoder: Decoder<'a>,
    /// The continuation's text so far, whole characters.
    text: String,
    /// Bytes of it handed out.
    shown: usize,
    log_probs: Vec<TokenLogProb>,
    end_token: Option<TokenLogProb>,
    pub(crate) finish: Option<Finish>,
    stop: Vec<String>,
}

impl<'a> Continuation<'a> {
    /// Continuation number `sample` of prompt number `number`.
    pub(crate) fn new(decoding: &DecodingOptions<'a>, prompt: &[u32], (number, sample): (usize, usize)) -> Self {
        Self {
            tokens: prompt.to_vec(),
            place: TokenPosition { prompt: number as u32, sample: sample as u32, position: 0 },
            decoder: decoding.tokenizer.decoder(prompt),
            text: String::new(),
            shown: 0,
            log_probs: Vec::new(),
            end_token: None,
            finish: None,
            stop: decoding.options.stop.clone(),
        }
    }

    /// Tokens written so far.
    pub(crate) fn n_new(&self) -> usize {
        self.place.position as usize
    }

    /// Adds a token chosen by its `logits`, `[V]`, or ends.
    ///
    /// # Errors
    /// When the model's numbers are damaged.
    pub(crate) fn push_token(&mut self, logits: &[f32], decoding: &DecodingOptions) -> Result<()> {
        let chosen = choose(logits, &self.tokens, &decoding.options.sampling, self.place);
        let token = chosen.token;
        ensure!(
            logits[token as usize].is_finite(),
            "the model's output is NaN or infinite; its weights are damaged or its training diverged"
        );
        let log_prob = decoding.options.log_probs.map(|top| token_log_prob(logits, &chosen, top, decoding.tokenizer));
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
    fn fresh_text(&mut self) -> &str {
        let held = if self.finish.is_some() { 0 } else { held_back(&self.text[self.shown..], &self.stop) };
        let (from, to) = (self.shown, self.text.len() - held);
        self.shown = to;
        &self.text[from..to]
    }

    /// Ends it where it is, unless it has its end.
    fn interrupt(&mut self) {
        self.finish.get_or_insert(Finish::Interrupted);
    }

    /// What is left at the end, incomplete characters and held-back text.
    fn end(&mut self) -> Result<String> {
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
    pub(crate) fn completion(mut self) -> Result<Completion> {
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

/// Bytes at the end of `text` that could begin one of `stop`.
fn held_back(text: &str, stop: &[String]) -> usize {
    let begins = |s: &String| (1..s.len()).rev().find(|&n| s.is_char_boundary(n) && text.ends_with(&s[..n]));
    stop.iter().filter_map(begins).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
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
