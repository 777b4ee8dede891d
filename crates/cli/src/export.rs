//! `gptkit export`

use crate::data_args::shell;
use crate::ui::{Ui, Usage, unusable};
use anyhow::{Context, Result, ensure};
use candle_core::Device;
use clap::{Args, ValueEnum};
use gptkit_data::disk;
use gptkit_data::format::measured_bytes;
use gptkit_data::tokenizer::Tokenizer;
use gptkit_gguf::{WeightFormat, dtype};
use gptkit_model::gguf_export::{ExportOptions, ExportedModel, export, exported_config};
use gptkit_model::likelihood::{LikelihoodQuestion, answer};
use gptkit_model::load::{ModelFolder, load_config};
use gptkit_model::modelfile::{FIRST_LINE, modelfile};
use gptkit_model::{Gpt, ModelConfig};
use gptkit_ops::Precision;
use std::path::{Path, PathBuf};

/// Most tokens of the text on which --as-dense measures the loss.
const MOST_TOKENS: usize = 100_000;

/// Write a model as a GGUF file for llama.cpp and Ollama
///
/// Supports GPT-2 models and the policies of sft, ppo and dpo trained from one. Adapters are merged into their base model. A
/// Modelfile for Ollama is written to the same folder.
#[derive(Debug, Args)]
pub(crate) struct ModelExportCommand {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// File format
    #[arg(long, value_enum)]
    format: FileFormat,
    /// Data type of the weights: f32, f16, bf16, q8_0 or q4_k_m
    #[arg(long, value_name = "KIND", default_value = "f32")]
    quantize: WeightFormat,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Keep only the first N positions
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Export a GPT-3 with dense attention in all layers, which changes its output; requires --data
    #[arg(long, requires = "data")]
    as_dense: bool,
    /// Held-out text on which --as-dense measures the loss of both versions
    #[arg(long, value_name = "FILE", requires = "as_dense")]
    data: Option<PathBuf>,
}

/// File formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    /// The format of llama.cpp
    Gguf,
}

impl ModelExportCommand {
    pub(crate) fn run(self, ui: &Ui) -> Result<()> {
        let FileFormat::Gguf = self.format;
        let name =
            self.model.canonicalize().ok().and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        let options = ExportOptions {
            format: self.quantize,
            context: self.context,
            as_dense: self.as_dense,
            name: name.unwrap_or_else(|| "gptkit".to_owned()),
        };
        if let Some(data) = &self.data {
            let [banded, dense, n] = losses(&self.model, &options, data).map_err(unusable)?;
            ui.say(&format!(
                "loss on {n} tokens of {}: {banded:.4} nats per token as trained, {dense:.4} with dense attention",
                data.display()
            ));
        }
        let exported = export(&self.model, &self.out, &options).map_err(unusable)?;
        self.report(&exported, ui);
        self.write_modelfile(&exported, ui)?;
        ui.next(&format!("gptkit sample --model {}", shell(&self.out)));
        Ok(())
    }

    fn report(&self, exported: &ExportedModel, ui: &Ui) {
        let ExportedModel { config, n_tensors, positions, replaced, bytes } = exported;
        ui.say(&format!(
            "exported {} to {}: {n_tensors} tensors as {}, {}",
            self.model.display(),
            self.out.display(),
            self.quantize,
            measured_bytes(*bytes as f64)
        ));
        for one in replaced {
            let (n, verbs) = (one.n, if one.n == 1 { ["tensor has", "it is"] } else { ["tensors have", "they are"] });
            ui.say(&format!(
                "{n} {} rows of {} weights, which {} cannot store; {} {}",
                verbs[0],
                one.columns,
                dtype::name(one.wanted),
                verbs[1],
                dtype::name(one.written)
            ));
        }
        if *positions > config.context {
            ui.say(&format!(
                "the context of {} was padded to {positions} positions, because llama.cpp uses multiples of 256; set its \
                 context size to {} for text of the quality that the model was trained for",
                config.context, config.context
            ));
        }
    }

    fn write_modelfile(&self, exported: &ExportedModel, ui: &Ui) -> Result<()> {
        let path = self.out.with_file_name("Modelfile");
        if path.exists() && !disk::read_description(&path).is_ok_and(|text| text.starts_with(FIRST_LINE)) {
            ui.say(&format!("{} was not written by gptkit and stays as it is", path.display()));
            return Ok(());
        }
        let name = self.out.file_name().context("--out names no file")?.to_string_lossy();
        let text = modelfile(&name, &Tokenizer::load(&self.model)?, exported.config.context)?;
        disk::write(&path, text.as_bytes())?;
        ui.say(&format!("wrote {} for Ollama", path.display()));
        Ok(())
    }
}

/// The losses of the model in `folder` on the text in `data`, in nats per token, as it was trained and as it is exported; and
/// the number of tokens.
fn losses(folder: &Path, options: &ExportOptions, data: &Path) -> Result<[f64; 3]> {
    let exported = exported_config(folder, &load_config(folder)?, options)?;
    let ModelFolder { config, params, tokenizer, .. } = ModelFolder::load(folder, &Device::Cpu)?;
    if config.band.is_none() {
        let what = format!("--as-dense: {} has dense attention in all layers", folder.display());
        return Err(Usage::new(what).hint("remove --as-dense and --data").into());
    }
    let mut tokens = tokenizer.encode_document(&disk::read_named(data)?)?;
    tokens.truncate(MOST_TOKENS);
    ensure!(tokens.len() > 1, "{} has fewer than two tokens", data.display());
    let window =
        |tokens: &[u32]| LikelihoodQuestion { context: vec![tokens[0]], continuations: vec![tokens[1..].to_vec()] };
    let windows = tokens.chunks(exported.context + 1).filter(|tokens| tokens.len() > 1);
    let questions: Vec<LikelihoodQuestion> = windows.map(window).collect();
    let n = questions.iter().map(|question| question.continuations[0].len()).sum::<usize>() as f64;
    let loss = |config: &ModelConfig| -> Result<f64> {
        let gpt = Gpt::new(config, &params, Precision::F32)?;
        let found = answer(&gpt, &questions, false)?.found;
        Ok(-found.iter().flatten().map(|one| one.log_prob).sum::<f64>() / n)
    };
    // Positions are cut when the file is written; windows are no longer than what is left.
    Ok([loss(&config)?, loss(&ModelConfig { context: config.context, ..exported })?, n])
}
