//! Samples of text at each validation: what the model writes after a few fixed prompts, as `samples.jsonl` of its run.
//!
//! Sampling only reads the weights, and its draws have keys of their own: a run with samples has the same weights as one
//! without. A resumed run continues the file of its checkpoint, so no step is in it twice.

use anyhow::{Context, Result, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::text_table::{cut, width};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_model::Gpt;
use gptkit_model::generate::{GenerationOptions, LateEnds};
use gptkit_model::generate_batch::{BatchRequest, generate_batch};
use gptkit_model::sampler::Sampling;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Name of the file in the folder of a run and in each checkpoint.
pub const SAMPLES: &str = "samples.jsonl";

/// Samples of text during training; TOML section `[samples]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SamplesConfig {
    /// Prompts that the model continues at each validation; an empty list switches samples off. By default the beginning of
    /// the held-out text, and in SFT the first held-out question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Vec<String>>,
    /// Longest continuation, in tokens.
    #[serde(default = "max_new_tokens")]
    pub max_new_tokens: usize,
    /// Divides the logits; 0 takes the most likely token. By default 0.8 in pretraining, where the most likely tokens of a
    /// small model repeat themselves, and 0 in SFT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

fn max_new_tokens() -> usize {
    48
}

/// Most prompts of a run.
const MAX_PROMPTS: usize = 64;
/// Most tokens of a continuation.
const LONGEST: usize = 4096;

impl Default for SamplesConfig {
    fn default() -> Self {
        Self { prompts: None, max_new_tokens: max_new_tokens(), temperature: None }
    }
}

impl SamplesConfig {
    /// No samples.
    pub fn off() -> Self {
        Self { prompts: Some(Vec::new()), ..Self::default() }
    }

    /// The same with the temperature `default` where none is set.
    #[must_use]
    pub fn or_temperature(&self, default: f64) -> Self {
        Self { temperature: self.temperature.or(Some(default)), ..self.clone() }
    }

    /// Whether samples are written.
    pub fn is_on(&self) -> bool {
        self.prompts.as_ref().is_none_or(|prompts| !prompts.is_empty())
    }
}

impl Check for SamplesConfig {
    fn check(&self, problems: &mut Problems) {
        let n_prompts = self.prompts.as_ref().map_or(0, Vec::len);
        problems.require(n_prompts <= MAX_PROMPTS, "prompts", format!("has {n_prompts} prompts"), "use at most 64");
        let n = self.max_new_tokens;
        let hint = "use 1 to 4096, for instance 48; prompts = [] switches samples off";
        problems.require((1..=LONGEST).contains(&n), "max_new_tokens", format!("is {n}"), hint);
        let t = self.temperature.unwrap_or(0.0);
        problems.require(t.is_finite() && t >= 0.0, "temperature", "is negative or not finite", "use 0 or 0.8");
    }
}

/// A line of `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSample {
    /// Number of the step whose weights wrote it.
    pub step: u64,
    /// The prompt; in SFT, the question.
    pub prompt: String,
    /// The continuation, or the answer.
    pub text: String,
}

/// Columns of a sample in a line of progress.
const LINE: usize = 100;
/// Columns of the prompt among them.
const PROMPT_IN_LINE: usize = 40;

impl TextSample {
    /// The sample in one short line.
    pub fn line(&self) -> String {
        let prompt = shortened(&self.prompt, PROMPT_IN_LINE);
        let text = shortened(&self.text, LINE - width(&prompt));
        format!("sample at step {}: {prompt} → {text}", self.step)
    }
}

/// `text` without line breaks, cut to `most` columns.
fn shortened(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if width(&line) <= most { line } else { cut(&line, most - 1) + "…" }
}

/// A prompt of a [`TextSampler`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SamplePrompt {
    /// Its text, as the records have it.
    pub text: String,
    /// What the model reads.
    pub tokens: Vec<u32>,
}

/// Fewest characters of a prompt that is taken from the data.
const PROMPT_FROM_DATA: usize = 16;

impl SamplePrompt {
    /// A text that a language model continues; an empty one begins a document.
    ///
    /// # Errors
    /// When `tokenizer` has no token for a character, or none that begins a document.
    pub fn of_text(text: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let mut tokens = tokenizer.encode_prompt(text)?;
        if tokens.is_empty() {
            tokens.extend(tokenizer.bos().or_else(|| tokenizer.document_end()));
        }
        ensure!(!tokens.is_empty(), "an empty prompt needs a token that begins a text, and this tokenizer has none");
        Ok(Self { text: text.to_owned(), tokens })
    }

    /// The beginning of a `window` of the data, some words of its first document; none where it has no text.
    ///
    /// # Errors
    /// When `tokenizer` cannot decode it.
    pub fn from_window(window: &[u32], tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let is_text = |&&id: &&u32| !tokenizer.is_special(id);
        let document: Vec<u32> = window.iter().skip_while(|id| !is_text(id)).take_while(is_text).copied().collect();
        // Half a window at most, so that something is left to write.
        for n in 1..=document.len().min(window.len() / 2) {
            let text = tokenizer.decode(&document[..n])?;
            if text.chars().count() >= PROMPT_FROM_DATA || n == document.len().min(window.len() / 2) {
                return Ok(Some(Self { text, tokens: document[..n].to_vec() }));
            }
        }
        Ok(None)
    }
}

/// Writes the samples of a run.
pub struct TextSampler {
    prompts: Vec<SamplePrompt>,
    tokenizer: Arc<Tokenizer>,
    ends: Vec<u32>,
    options: GenerationOptions,
}

impl TextSampler {
    /// Continues `prompts` as `config` says, up to one of the tokens `ends`; draws are those of `seed` at every step.
    pub fn new(
        config: &SamplesConfig,
        prompts: Vec<SamplePrompt>,
        tokenizer: Arc<Tokenizer>,
        ends: Vec<u32>,
        seed: u64,
    ) -> Self {
        let sampling = Sampling { temperature: config.temperature.unwrap_or(0.0) as f32, seed, ..Sampling::default() };
        let max_new_tokens = config.max_new_tokens;
        let options = GenerationOptions { n_samples: 1, max_new_tokens, stop: Vec::new(), log_probs: None, sampling };
        Self { prompts, tokenizer, ends, options }
    }

    /// What `model` writes after step number `step`. A continuation ends where the context does; of a longer prompt, the model
    /// reads the last half of a context.
    ///
    /// # Errors
    /// When a prompt does not fit the model, or its outputs are not finite.
    pub fn write(&self, model: &Gpt, step: u64) -> Result<Vec<TextSample>> {
        let context = model.config().context;
        let tokens = |prompt: &SamplePrompt| match prompt.tokens.len() < context {
            true => prompt.tokens.clone(),
            false => prompt.tokens[prompt.tokens.len() - (context / 2).max(1)..].to_vec(),
        };
        let request = BatchRequest {
            prompts: self.prompts.iter().map(tokens).collect(),
            first_prompt: 0,
            late_ends: LateEnds::default(),
            max_rows: MAX_PROMPTS,
            options: self.options.clone(),
        };
        let mut texts = vec![String::new(); self.prompts.len()];
        generate_batch(model, &self.tokenizer, &self.ends, &request, |prompt, _, completion| {
            texts[prompt] = completion.text;
            Ok(ControlFlow::Continue(()))
        })
        .with_context(|| format!("no sample at step {step}"))?;
        let sample = |(prompt, text): (&SamplePrompt, String)| TextSample { step, prompt: prompt.text.clone(), text };
        Ok(self.prompts.iter().zip(texts).map(sample).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gptkit_model::{ModelConfig, Params};
    use gptkit_ops::Precision;

    fn tokenizer() -> Tokenizer {
        Tokenizer::of_characters(&(' '..='~').chain(['\n']).collect()).unwrap()
    }

    fn model(tokenizer: &Tokenizer) -> Gpt {
        let shape = serde_json::json!({
            "kind": "gpt2", "n_layer": 1, "n_head": 2, "d_model": 16, "context": 24, "vocab_size": tokenizer.vocab_size(),
        });
        let shape: ModelConfig = serde_json::from_value(shape).unwrap();
        let params = Params::init(&shape, 1, &Device::Cpu).unwrap();
        Gpt::reader(&shape, &params, Precision::F32).unwrap()
    }

    #[test]
    fn samples_depend_on_weights_and_seed_alone() {
        let tokenizer = tokenizer();
        let model = model(&tokenizer);
        let prompts: Vec<SamplePrompt> =
            ["Once", &"a long prompt ".repeat(4)].map(|text| SamplePrompt::of_text(text, &tokenizer).unwrap()).to_vec();
        let write = |config: &SamplesConfig, seed: u64, step: u64| {
            let sampler = TextSampler::new(config, prompts.clone(), Arc::new(self::tokenizer()), Vec::new(), seed);
            sampler.write(&model, step).unwrap()
        };
        let greedy = SamplesConfig { max_new_tokens: 9, ..SamplesConfig::default() };
        let first = write(&greedy, 1, 10);
        assert_eq!((first.len(), first[0].step, first[0].prompt.as_str()), (2, 10, "Once"));
        assert!(first.iter().all(|sample| sample.text.chars().count() == 9), "{first:?}");
        let texts = |samples: Vec<TextSample>| samples.into_iter().map(|sample| sample.text).collect::<Vec<_>>();
        assert_eq!(texts(write(&greedy, 2, 20)), texts(first), "the most likely tokens need no draws");
        let drawn = SamplesConfig { temperature: Some(1.0), ..greedy };
        assert_eq!(texts(write(&drawn, 1, 10)), texts(write(&drawn, 1, 20)), "the same draws at every step");
        assert_ne!(texts(write(&drawn, 1, 10)), texts(write(&drawn, 2, 10)));
    }

    #[test]
    fn a_prompt_from_the_data_is_the_beginning_of_its_first_document() {
        let tokenizer = tokenizer();
        let end = tokenizer.document_end();
        let mut window = tokenizer.encode("Once there was a gentle bear named Mia.").unwrap();
        let prompt = SamplePrompt::from_window(&window, &tokenizer).unwrap().unwrap();
        assert_eq!((prompt.text.as_str(), prompt.tokens.len()), ("Once there was a", 16));
        if let Some(end) = end {
            window.splice(0..0, [end]);
            window.insert(7, end);
            let prompt = SamplePrompt::from_window(&window, &tokenizer).unwrap().unwrap();
            assert_eq!(prompt.text, "Once t", "up to the end of the document");
            assert_eq!(SamplePrompt::from_window(&[end, end], &tokenizer).unwrap(), None);
        }
        assert_eq!(SamplePrompt::from_window(&[], &tokenizer).unwrap(), None);
    }

    #[test]
    fn a_sample_is_one_short_line() {
        let sample =
            |prompt: &str, text: &str| TextSample { step: 250, prompt: prompt.to_owned(), text: text.to_owned() };
        assert_eq!(
            sample("What is\n3 plus 4?", " 3 plus 4\nis 7.").line(),
            "sample at step 250: What is 3 plus 4? → 3 plus 4 is 7."
        );
        let line = sample(&"é".repeat(900), &"\tab".repeat(900)).line();
        assert!(line.chars().count() < 130 && line.ends_with('…') && line.contains("é… → ab ab"), "{line}");
        assert_eq!(sample("", "").line(), "sample at step 250:  → ");
    }

    #[test]
    fn settings_that_cannot_be_obeyed_are_refused() {
        let problems = |text: &str| {
            let config: SamplesConfig = serde_json::from_str(text).unwrap();
            let mut problems = Problems::default();
            config.check(&mut problems);
            !problems.is_empty()
        };
        assert!(!problems("{}") && !problems(r#"{"prompts": []}"#));
        for wrong in [r#"{"max_new_tokens": 0}"#, r#"{"max_new_tokens": 5000}"#, r#"{"temperature": -1}"#] {
            assert!(problems(wrong), "{wrong}");
        }
        assert!(SamplesConfig::default().is_on() && !SamplesConfig::off().is_on());
    }
}
