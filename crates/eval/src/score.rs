//! Instances → results of a model, as records: one line of JSON per instance.

use crate::answers::{exact_match, f1, same_number};
use crate::bleu::BleuCounts;
use crate::instance::{Instance, TargetAnswer};
use crate::rouge::{RougeScore, rouge_l, rouge_n};
use crate::shots::{PromptTokens, Prompter};
use crate::stop_words::is_stop_word;
use crate::task::{ChoiceConfig, GenerationConfig, Metric, Normalization};
use anyhow::{Context, Result};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::Gpt;
use gptkit_model::generate::{Completion, GenerationOptions, LateEnds};
use gptkit_model::generate_batch::{BatchRequest, generate_batch};
use gptkit_model::likelihood::{LikelihoodQuestion, answer};
use gptkit_model::sampler::Sampling;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

/// Answers that are written at once.
const ROWS: usize = 32;
/// Tokens in which a last word is written, at least; as many as the longest right one has.
pub(crate) const WORD_TOKENS: usize = 6;
/// First tokens that are tried until a word is no stop word.
const CANDIDATES: usize = 10;

/// A model to evaluate.
#[derive(Debug, Clone, Copy)]
pub struct EvalModel<'a> {
    /// It.
    pub gpt: &'a Gpt,
    /// Its tokens.
    pub tokenizer: &'a Tokenizer,
    /// Those that end a text.
    pub end_of_text: &'a [u32],
}

impl EvalModel<'_> {
    /// What stands before a text: the token that begins one, else the token that ends one.
    pub fn start(&self) -> Option<u32> {
        start_of(self.tokenizer).or(self.end_of_text.first().copied())
    }
}

/// The token that begins a text, else the one that ends a text, as far as a tokenizer knows it.
pub(crate) fn start_of(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.bos().or(tokenizer.end_of_text()).or(tokenizer.document_end())
}

/// An instance that is to be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptedInstance {
    /// Its number among those of the task.
    pub n: u64,
    /// The instance.
    pub instance: Instance,
    /// As the model reads it.
    pub prompted: PromptTokens,
}

impl PromptedInstance {
    /// What every line begins with.
    fn line(&self) -> Map<String, Value> {
        let PromptTokens { text, shots, cut, .. } = &self.prompted;
        let line = json!({ "n": self.n, "place": self.instance.place, "shots": shots, "cut": cut, "prompt": text });
        if let Value::Object(line) = line { line } else { Map::new() }
    }
}

/// Tokens that a model read, and those that it would have read with every answer by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Read.
    pub n_read: u64,
    /// Without sharing.
    pub n_alone: u64,
}

impl TokenCounts {
    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { n_read: self.n_read + other.n_read, n_alone: self.n_alone + other.n_alone }
    }
}

/// Of each instance the likeliest of its choices, in every normalization.
///
/// # Errors
/// As [`answer`].
pub(crate) fn choices(
    model: &EvalModel,
    prompter: &Prompter,
    config: &ChoiceConfig,
    all: &[PromptedInstance],
) -> Result<(Vec<Map<String, Value>>, TokenCounts)> {
    let mut questions = Vec::new();
    // An answer that its context is cut for is a question of its own.
    let own: Vec<Range<usize>> = all
        .iter()
        .map(|one| {
            let first = questions.len();
            questions.extend(one.prompted.questions.iter().cloned());
            first..questions.len()
        })
        .collect();
    let neutral = match config.neutral.is_empty() {
        true => Vec::new(),
        false => neutral_questions(prompter, &config.neutral, all, &mut questions)?,
    };
    let answers = answer(model.gpt, &questions, false)?;
    let log_probs = |range: &Range<usize>| -> Vec<f64> {
        answers.found[range.clone()].iter().flatten().map(|found| found.log_prob).collect()
    };
    let lines = all.iter().enumerate().map(|(i, one)| {
        let TargetAnswer::Choice { answers: texts, right } = &one.instance.asked else { return one.line() };
        choice_line(one, config, (texts, *right), &log_probs(&own[i]), neutral.get(i).map(log_probs))
    });
    Ok((lines.collect(), TokenCounts { n_read: answers.n_read, n_alone: answers.n_alone }))
}

/// Adds the answers of all instances after the neutral context to `questions`. Returns the range of each instance's, which
/// instances with the same answers share: where answers are labels, many have.
fn neutral_questions(
    prompter: &Prompter,
    neutral: &str,
    all: &[PromptedInstance],
    questions: &mut Vec<LikelihoodQuestion>,
) -> Result<Vec<Range<usize>>> {
    let (mut known, mut ranges) = (HashMap::<Vec<Vec<u32>>, Range<usize>>::new(), Vec::with_capacity(all.len()));
    for one in all {
        let question = prompter.question(neutral, &one.instance.asked)?;
        let range = match known.get(&question.continuations) {
            Some(range) => range.clone(),
            None => {
                let (answers, first) = (question.continuations.clone(), questions.len());
                questions.extend(prompter.cut(question, &one.instance.place)?.1);
                known.insert(answers, first..questions.len());
                first..questions.len()
            }
        };
        ranges.push(range);
    }
    Ok(ranges)
}

/// The line of an instance: its answers with their log-probabilities, `sums`, and which is chosen by each normalization.
fn choice_line(
    one: &PromptedInstance,
    config: &ChoiceConfig,
    (texts, right): (&[String], usize),
    sums: &[f64],
    unconditional: Option<Vec<f64>>,
) -> Map<String, Value> {
    let tokens: Vec<usize> = one.prompted.answers().map(<[u32]>::len).collect();
    let bytes: Vec<usize> = texts.iter().map(|text| text.trim().len()).collect();
    let characters: Vec<usize> = texts.iter().map(|text| text.trim().chars().count()).collect();
    let chosen = config.normalizations().map(|by| {
        let score = |c: usize| match by {
            Normalization::Sum => sums[c],
            Normalization::PerToken => sums[c] / tokens[c] as f64,
            Normalization::PerByte => sums[c] / bytes[c] as f64,
            Normalization::PerCharacter => sums[c] / characters[c] as f64,
            Normalization::Unconditional => sums[c] - unconditional.as_ref().map_or(0.0, |found| found[c]),
        };
        (by.to_string(), json!(likeliest((0..texts.len()).map(score))))
    });
    let chosen: Map<String, Value> = chosen.collect();
    let mut line = one.line();
    line.extend([
        ("answers".to_owned(), json!(texts)),
        ("log_probs".to_owned(), json!(sums)),
        ("unconditional".to_owned(), json!(unconditional)),
        ("tokens".to_owned(), json!(tokens)),
        ("bytes".to_owned(), json!(bytes)),
        ("characters".to_owned(), json!(characters)),
        ("right".to_owned(), json!(right)),
        ("chosen".to_owned(), Value::Object(chosen)),
    ]);
    line
}

/// The place of the greatest, the first of equals.
fn likeliest(scores: impl Iterator<Item = f64>) -> usize {
    let best = scores
        .enumerate()
        .fold((0, f64::NEG_INFINITY), |best, (i, score)| if score > best.1 { (i, score) } else { best });
    best.0
}

/// Of each instance what the model writes, and what it is worth.
///
/// # Errors
/// As [`generate_batch`].
pub(crate) fn generations(
    model: &EvalModel,
    config: &GenerationConfig,
    seed: u64,
    all: &[PromptedInstance],
) -> Result<(Vec<Map<String, Value>>, TokenCounts)> {
    let sampling = match config.top_k {
        1 => greedy(),
        k => Sampling { top_k: Some(k), seed, ..Sampling::default() },
    };
    let prompts: Vec<Vec<u32>> = all.iter().map(|one| one.prompted.context.clone()).collect();
    let (written, work) =
        write(model, prompts, all.first().map_or(0, |one| one.n), config.max_new_tokens, &config.stop, None, sampling)?;
    let lines = all.iter().zip(&written).map(|(one, completion)| {
        let TargetAnswer::Free { accept, .. } = &one.instance.asked else { return one.line() };
        let written = without_special(completion, config, model.tokenizer);
        let said = config.answer_of(&written);
        let mut line = one.line();
        line.extend([
            ("written".to_owned(), json!(written)),
            ("said".to_owned(), json!(said)),
            ("accept".to_owned(), json!(accept)),
        ]);
        for metric in &config.metrics {
            line.extend(metric.of(&said, accept));
        }
        line
    });
    Ok((lines.collect(), work))
}

/// What was written, without special tokens, up to a stop string.
fn without_special(completion: &Completion, config: &GenerationConfig, tokenizer: &Tokenizer) -> String {
    let plain: Vec<u32> = completion.tokens.iter().copied().filter(|&id| !tokenizer.is_special(id)).collect();
    if plain.len() == completion.tokens.len() {
        return completion.text.clone();
    }
    let mut text = tokenizer.decode(&plain).unwrap_or_default();
    let stop = config.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
    text.truncate(stop.unwrap_or(text.len()));
    text
}

impl GenerationConfig {
    /// The answer in what was written.
    pub(crate) fn answer_of(&self, text: &str) -> String {
        let answer = self.wanted_of(text);
        match self.sentences {
            Some(n) => first_sentences(&answer, n).to_owned(),
            None => answer,
        }
    }

    /// What follows the last mark, where there is one.
    pub(crate) fn wanted_of(&self, text: &str) -> String {
        let after = match self.after.as_str() {
            "" => text,
            mark => text.rsplit_once(mark).map_or("", |(_, after)| after),
        };
        after.trim().to_owned()
    }
}

/// Up to the end of sentence number `n`: a full stop, question or exclamation mark that white space follows.
fn first_sentences(text: &str, n: usize) -> &str {
    let ends = text.char_indices().filter(|&(at, c)| {
        let after = text[at + c.len_utf8()..].chars().next();
        matches!(c, '.' | '!' | '?') && after.is_none_or(char::is_whitespace)
    });
    ends.map(|(at, c)| at + c.len_utf8()).nth(n - 1).map_or(text, |end| &text[..end])
}

impl Metric {
    /// Scores of an answer, by name.
    fn of(self, said: &str, accept: &[String]) -> Vec<(String, Value)> {
        match self {
            Self::Exact => vec![("exact match".to_owned(), json!(accept.iter().any(|right| right == said)))],
            Self::Number => vec![("exact match (number)".to_owned(), json!(same_number(said, accept)))],
            Self::ExactMatch => vec![("exact match (normalized)".to_owned(), json!(exact_match(said, accept)))],
            Self::F1 => vec![("F1".to_owned(), json!(f1(said, accept)))],
            Self::Rouge => {
                let best =
                    |of: &dyn Fn(&str) -> RougeScore| accept.iter().map(|right| of(right).f1).fold(0.0, f64::max);
                vec![
                    ("ROUGE-1".to_owned(), json!(best(&|right| rouge_n(1, said, right)))),
                    ("ROUGE-2".to_owned(), json!(best(&|right| rouge_n(2, said, right)))),
                    ("ROUGE-L".to_owned(), json!(best(&|right| rouge_l(said, right)))),
                ]
            }
            Self::Bleu => vec![("BLEU".to_owned(), json!(BleuCounts::new(said, accept)))],
        }
    }
}

/// Of each instance how likely the last word is, whether the model writes it, and whether it is the likeliest of those that
/// are no stop words (Radford et al. 2019, §3.3).
///
/// # Errors
/// As [`answer`] and [`generate_batch`].
pub(crate) fn words(model: &EvalModel, all: &[PromptedInstance]) -> Result<(Vec<Map<String, Value>>, TokenCounts)> {
    let questions: Vec<LikelihoodQuestion> = all.iter().flat_map(|one| one.prompted.questions.clone()).collect();
    let answers = answer(model.gpt, &questions, true)?;
    let longest = questions.iter().map(|question| question.continuations[0].len()).max().unwrap_or(0);
    let prompts = all.iter().map(|one| one.prompted.context.clone()).collect();
    let LastWords { said, filtered, work } = last_words(model, prompts, longest.max(WORD_TOKENS))?;
    let mut lines = Vec::with_capacity(all.len());
    for (i, one) in all.iter().enumerate() {
        let TargetAnswer::Word(target) = &one.instance.asked else { continue };
        let (found, mut line) = (answers.found[i][0], one.line());
        line.extend([
            ("target".to_owned(), json!(target.trim())),
            ("log_prob".to_owned(), json!(found.log_prob)),
            ("tokens".to_owned(), json!(questions[i].continuations[0].len())),
            ("greedy".to_owned(), json!(found.greedy)),
            ("said".to_owned(), json!(said[i])),
            ("said_filtered".to_owned(), json!(filtered[i])),
            ("filtered_is_right".to_owned(), json!(filtered[i] == word(target))),
        ]);
        lines.push(line);
    }
    Ok((lines, work.and(TokenCounts { n_read: answers.n_read, n_alone: answers.n_alone })))
}

/// Continuations of prompts whose last word is measured.
struct LastWords {
    /// The word after each prompt.
    said: Vec<String>,
    /// The first that is no stop word.
    filtered: Vec<String>,
    work: TokenCounts,
}

/// The word that the model goes on with after each prompt, in at most `n_tokens`, and the first that is no stop word, by how
/// likely its first token is; each is written greedily from there. What begins a word, a token says by a space before it or,
/// GPT-1's, a sign after it; of other tokenizers the first word is left as it is.
fn last_words(model: &EvalModel, prompts: Vec<Vec<u32>>, n_tokens: usize) -> Result<LastWords> {
    let (first, mut work) = write(model, prompts.clone(), 0, n_tokens, &[], Some(CANDIDATES), greedy())?;
    let said: Vec<String> = first.iter().map(|completion| word(&completion.text).to_owned()).collect();
    let is_one = |word: &str| !word.is_empty() && !is_stop_word(word);
    let mut filtered: Vec<Option<String>> = said.iter().map(|word| is_one(word).then(|| word.clone())).collect();
    for candidate in 1..CANDIDATES {
        let mut begun = Vec::new();
        for (i, prompt) in prompts.iter().enumerate().filter(|(i, _)| filtered[*i].is_none()) {
            let top = first[i].log_probs.first().and_then(|token| token.top.get(candidate));
            let Some((top, text)) = top.and_then(|top| Some((top, beginning(&top.token)?))) else { continue };
            if prompt.len() < model.gpt.config().context {
                begun.push((i, text, [prompt, &[top.id][..]].concat()));
            }
        }
        let texts = begun.iter().map(|(_, _, tokens)| tokens.clone()).collect();
        let (rest, more) = write(model, texts, 0, n_tokens - 1, &[], None, greedy())?;
        work = work.and(more);
        for ((i, text, _), completion) in begun.iter().zip(rest) {
            let text = text.clone() + &completion.text;
            let word = word(&text);
            filtered[*i] = is_one(word).then(|| word.to_owned());
        }
    }
    let filtered = filtered.into_iter().zip(&said).map(|(filtered, said)| filtered.unwrap_or_else(|| said.clone()));
    Ok(LastWords { filtered: filtered.collect(), said, work })
}

/// The text of a token that begins a word.
fn beginning(token: &str) -> Option<String> {
    let (text, rest) = match (token.strip_prefix(' '), token.strip_suffix("</w>")) {
        (Some(rest), _) => (token.to_owned(), rest),
        (None, Some(rest)) => (format!("{rest} "), rest),
        (None, None) => return None,
    };
    (!rest.is_empty() && word(rest) == rest).then_some(text)
}

/// The word that `text` begins with, after white space and an opening quote; may be empty.
fn word(text: &str) -> &str {
    let text = text.trim_start().trim_start_matches(['"', '“', '‘', '`', '\'']);
    let end = text.find(|c: char| !(c.is_alphabetic() || matches!(c, '\'' | '’' | '-'))).unwrap_or(text.len());
    text[..end].trim_end_matches(['\'', '’', '-'])
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

/// What the model writes after each prompt.
fn write(
    model: &EvalModel,
    prompts: Vec<Vec<u32>>,
    first_prompt: u64,
    max_new_tokens: usize,
    stop: &[String],
    log_probs: Option<usize>,
    sampling: Sampling,
) -> Result<(Vec<Completion>, TokenCounts)> {
    let mut n_read: usize = prompts.iter().map(Vec::len).sum();
    let mut written: Vec<Option<Completion>> = vec![None; prompts.len()];
    let requests = BatchRequest {
        prompts,
        first_prompt: first_prompt as u32,
        late_ends: LateEnds::default(),
        max_rows: ROWS,
        options: GenerationOptions { n_samples: 1, max_new_tokens, stop: stop.to_vec(), log_probs, sampling },
    };
    generate_batch(model.gpt, model.tokenizer, model.end_of_text, &requests, |prompt, _, completion| {
        n_read += completion.tokens.len();
        written[prompt] = Some(completion);
        Ok(ControlFlow::Continue(()))
    })?;
    let written = written.into_iter().collect::<Option<_>>().context("an answer was not generated")?;
    Ok((written, TokenCounts { n_read: n_read as u64, n_alone: n_read as u64 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_sentences_end_where_they_do() {
        assert_eq!(word(" don't! x"), "don't");
        assert_eq!((word(" \"He"), word("...")), ("He", ""));
        assert_eq!(beginning(" sea"), Some(" sea".to_owned()));
        assert_eq!(beginning("sea</w>"), Some("sea ".to_owned()));
        assert_eq!([beginning("sea"), beginning(" 7"), beginning(" ")], [None, None, None]);
        assert_eq!(word(" well-known-"), "well-known");
        assert_eq!(first_sentences("One. Two 2.5! Three? Four.", 3), "One. Two 2.5! Three?");
        assert_eq!(first_sentences("One", 3), "One");
        assert_eq!(likeliest([1.0, 3.0, 3.0, f64::NEG_INFINITY].into_iter()), 1);
    }

    #[test]
    fn an_answer_is_what_follows_the_last_mark() {
        let text = "accept = \"a\"\nmetrics = [\"exact-match\"]\nmax_new_tokens = 9\nafter = \"####\"\n";
        let config: GenerationConfig = toml_of(text);
        assert_eq!(config.answer_of("2 + 2 #### 5 no #### 4\n"), "4");
        assert_eq!(config.answer_of("4"), "", "what does not say so is no answer");
    }

    fn toml_of(generation: &str) -> GenerationConfig {
        let text = format!("scoring = \"generation\"\nprompt = \"p\"\nanswer = \"a\"\n[generation]\n{generation}");
        gptkit_config::load::<crate::task::TaskConfig>("a.toml", &text, &[]).unwrap().generation.unwrap()
    }
}
