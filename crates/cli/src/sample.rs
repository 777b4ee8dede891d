//! `gptkit sample`

use crate::data_args::shell;
use crate::device::ComputeArgs;
use crate::sampling_args::SamplingArgs;
use crate::stdin;
use crate::ui::{Ui, Usage, unusable};
use anyhow::{Context, Result};
use candle_core::Device;
use clap::Args;
use gptkit_data::prompt::text_of;
use gptkit_data::template::Template;
use gptkit_model::generate::{Completion, GenerationOptions, GenerationRequest, generate};
use gptkit_model::load::ModelFolder;
use gptkit_model::sampler::Sampling;
use gptkit_model::{Dtype, Gpt};
use gptkit_reward::best_of::BestOf;
use gptkit_reward::model::Scorer;
use serde_json::json;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Generate text
#[derive(Debug, Args)]
pub(crate) struct SampleCommand {
    /// Model folder: a run, or any GPT-2 or OpenAI-GPT model in Hugging Face format
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text to continue [default: stdin unless it is a terminal; nothing begins a new text]
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// File with the text to continue; a line break at its end and a byte-order mark are removed
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Maximum length of a continuation, in tokens
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_new_tokens: usize,
    /// Number of continuations, generated in one batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    num_samples: u16,
    /// Sample N answers to the prompt, which a chat model reads as the user's message, and print the one with the highest
    /// reward
    #[arg(long, value_name = "N", requires = "reward", conflicts_with_all = ["num_samples", "log_probs"],
        value_parser = clap::value_parser!(u16).range(1..))]
    best_of: Option<u16>,
    /// Reward model for --best-of: a run of `train-rm`
    #[arg(long, value_name = "DIR", requires = "best_of")]
    reward: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print one JSON object per sample: prompt, text, tokens, and why it ended
    #[arg(long)]
    json: bool,
    /// Print the text unchanged; by default, control characters are printed as escapes such as \x1b
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// With --json: print the log-probability of each token, and of the K most likely tokens at its position
    #[arg(long, value_name = "K", requires = "json")]
    log_probs: Option<usize>,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl SampleCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let sampling = self.sampling.checked()?;
        let prompt = self.prompt()?;
        if let (Some(n), Some(reward)) = (self.best_of, &self.reward) {
            return self.print_best(usize::from(n), reward, &prompt, sampling, ui);
        }
        let (folder, model) = self.compute.load_text_model(&self.model)?;
        let request = GenerationRequest {
            prompt: prompt_tokens(&folder, &prompt)?,
            options: GenerationOptions {
                n_samples: usize::from(self.num_samples),
                max_new_tokens: self.max_new_tokens,
                stop: self.sampling.stop.clone(),
                log_probs: self.log_probs,
                sampling,
            },
        };
        folder.tokenizer.warn_of_losses("the prompt", ui);
        if !prompt.is_empty() && Template::of(&folder.tokenizer).is_ok_and(|template| template.is_some()) {
            let model = shell(&self.model);
            ui.say(&format!(
                "{model} is a chat model, but the prompt is continued as plain text (use gptkit chat \
                             --model {model} to get an answer)"
            ));
        }
        let context = folder.config.context;
        if request.prompt.len() > context {
            ui.say(&format!(
                "warning: the prompt has {} tokens, but the context of the model is {context}; only the last {} are \
                 used",
                request.prompt.len(),
                (context / 2).max(1)
            ));
        }
        let begun = Instant::now();
        let completions = if self.json {
            let completions = write(&model, &folder, &request, |_, _| Ok(ControlFlow::Continue(())))?;
            for completion in &completions {
                ui.json(&(object(&prompt, &request.prompt, completion)?.to_string() + "\n"))?;
            }
            completions
        } else {
            print(&model, &folder, &request, &prompt, self.raw, ui)?
        };
        let n: usize = completions.iter().map(|c| c.tokens.len()).sum();
        let seconds = begun.elapsed().as_secs_f64();
        ui.say(&format!("{n} tokens in {seconds:.1} s · {:.0} tok/s", n as f64 / seconds));
        Ok(())
    }

    /// Prints the answer of highest reward among `n`; with --json all of them, best first.
    fn print_best(&self, n: usize, reward: &Path, prompt: &str, sampling: Sampling, ui: &Ui) -> Result<()> {
        let (folder, gpt) = self.compute.load_text_model(&self.model)?;
        let model = self.model.display();
        let template = Template::required(&folder.tokenizer, &self.model)?;
        let (files, rewarder) = self.compute.load(reward)?;
        let scorer = Scorer::new(reward, files, rewarder).map_err(unusable)?;
        if !scorer.reads_as(&folder.tokenizer, &template) {
            let what =
                format!("--reward {}: its tokenizer or chat template differs from that of {model}", reward.display());
            return Err(Usage::new(what).hint(format!("train a reward model with --init {model}")).into());
        }
        if prompt.trim().is_empty() {
            return Err(Usage::new("--best-of requires a prompt").into());
        }
        ui.say(&format!(
            "{model} reads the prompt as the user's message and answers it (without --best-of, it continues the prompt as \
             plain text)"
        ));
        let begun = Instant::now();
        let best_of = BestOf {
            folder: &folder,
            gpt: &gpt,
            template: &template,
            scorer: &scorer,
            n,
            max_new_tokens: self.max_new_tokens,
            stop: self.sampling.stop.clone(),
            sampling,
        };
        let ranked = best_of.rank(prompt)?;
        if self.json {
            for (completion, reward) in &ranked.completions {
                let mut object = object(prompt, &ranked.prompt, completion)?;
                object["reward"] = json!(reward);
                ui.json(&(object.to_string() + "\n"))?;
            }
        } else if let Some((best, _)) = ranked.completions.first() {
            ui.text(&(best.text.clone() + "\n"), self.raw)?;
        }
        let n_tokens: usize = ranked.completions.iter().map(|(completion, _)| completion.tokens.len()).sum();
        let reward = |one: Option<&(Completion, f32)>| one.map_or(f32::NAN, |(_, reward)| *reward);
        ui.say(&format!(
            "best of {}: reward {:.3}; mean {:.3}, worst {:.3} · {n_tokens} tokens in {:.1} s",
            ranked.completions.len(),
            reward(ranked.completions.first()),
            ranked.mean_reward(),
            reward(ranked.completions.last()),
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn prompt(&self) -> Result<String> {
        if let Some(text) = &self.prompt {
            return Ok(text.clone());
        }
        if let Some(path) = &self.prompt_file {
            let text = text_of(&gptkit_data::disk::read_named_bytes(path).map_err(unusable)?);
            return text.with_context(|| format!("{} cannot be read", path.display())).map_err(unusable);
        }
        match std::io::stdin().is_terminal() {
            true => Ok(String::new()),
            false => text_of(&stdin::bytes()?).context("stdin cannot be read as text"),
        }
    }
}

/// The tokens of the prompt. An empty prompt becomes the beginning-of-text token of the model folder or its tokenizer,
/// or else the end-of-text token, which separates documents.
fn prompt_tokens(folder: &ModelFolder, prompt: &str) -> Result<Vec<u32>> {
    let tokens = folder.tokenizer.encode_prompt(prompt)?;
    if !tokens.is_empty() {
        return Ok(tokens);
    }
    let named = folder.tokenizer.generation().get("bos_token_id").and_then(serde_json::Value::as_u64);
    let start = named.and_then(|id| u32::try_from(id).ok()).or(folder.tokenizer.bos());
    let start = start.filter(|&id| (id as usize) < folder.config.vocab_size).or(folder.end_of_text.first().copied());
    let start = start.ok_or_else(|| Usage::new("this model has no beginning-of-text token; pass a --prompt"))?;
    Ok(vec![start])
}

fn write(
    model: &Gpt,
    folder: &ModelFolder,
    request: &GenerationRequest,
    on_text: impl FnMut(usize, &str) -> Result<ControlFlow<()>>,
) -> Result<Vec<Completion>> {
    generate(model, &folder.tokenizer, &folder.end_of_text, request, on_text)
}

/// Prints the first sample as it is written, the others when they are done.
fn print(
    model: &Gpt,
    folder: &ModelFolder,
    request: &GenerationRequest,
    prompt: &str,
    raw: bool,
    ui: &Ui,
) -> Result<Vec<Completion>> {
    ui.text(prompt, raw)?;
    let completions = write(model, folder, request, |row, text| {
        if row == 0 {
            ui.text(text, raw)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    ui.result("\n")?;
    for (i, completion) in completions.iter().enumerate().skip(1) {
        ui.text(&format!("--- {} of {}\n{prompt}{}\n", i + 1, completions.len(), completion.text), raw)?;
    }
    Ok(completions)
}

/// A sample as JSON.
fn object(prompt: &str, prompt_tokens: &[u32], completion: &Completion) -> Result<serde_json::Value> {
    let mut object = json!({ "prompt": prompt, "prompt_tokens": prompt_tokens });
    if let (Some(object), serde_json::Value::Object(rest)) = (object.as_object_mut(), serde_json::to_value(completion)?)
    {
        object.extend(rest);
    }
    Ok(object)
}

/// A new text from a model just trained.
pub(crate) fn print_sample(folder: &Path, device: &Device, ui: &Ui) -> Result<()> {
    let folder = ModelFolder::load(folder, device)?;
    // A tokenizer without an end-of-text token begins with a line break.
    let prompt = prompt_tokens(&folder, "").or_else(|_| prompt_tokens(&folder, "\n"));
    let Ok(prompt) = prompt else { return Ok(()) };
    let request = GenerationRequest {
        prompt,
        options: GenerationOptions {
            n_samples: 1,
            max_new_tokens: 200,
            stop: Vec::new(),
            log_probs: None,
            sampling: Sampling { temperature: 0.8, ..Sampling::default() },
        },
    };
    let model = Gpt::new(&folder.config, &folder.params, Dtype::Auto.precision())?;
    print(&model, &folder, &request, "", false, ui).map(|_| ())
}
