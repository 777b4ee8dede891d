//! A model card: what a run trained, on what and how well, for the people who download its model. It names no folder of this
//! machine.

use crate::checkpoint::last_state;
use crate::model_used::ModelUsed;
use crate::request::RunRequest;
use anyhow::{Context, Result};
use gptkit_data::disk;
use gptkit_data::format::duration;
use gptkit_data::progress::grouped;
use gptkit_hub::cache::origin;
use gptkit_model::Kind;
use gptkit_model::load::{load_config, n_params};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// What a card says besides what is in the run's folder.
#[derive(Debug, Clone, Default)]
pub struct CardContext {
    /// Name of the repository.
    pub name: String,
    /// The license's identifier on the hub, if it is known.
    pub license: Option<String>,
    /// Results of an evaluation, in Markdown.
    pub evaluation: Option<String>,
}

/// The card of the model in `folder`.
///
/// # Errors
/// When the model cannot be read.
pub fn model_card(folder: &Path, context: &CardContext) -> Result<String> {
    let request = RunRequest::read(folder);
    let mut card = front_matter(request.as_ref(), context);
    let _ = write!(card, "# {}\n\n{}", context.name, model(folder, request.as_ref())?);
    card += &usage(folder, &context.name)?;
    if let Some(request) = &request {
        card += &training(folder, request)?;
    }
    if let Some(evaluation) = &context.evaluation {
        let below = evaluation.replace("\n#", "\n##");
        let _ = write!(card, "\n#{}\n", below.trim_end());
    }
    let weights = disk::fingerprint(folder, ".safetensors")?;
    let _ = write!(card, "\n## Provenance\n\n");
    if let Some(request) = &request {
        request.models.iter().for_each(|(role, used)| card += &provenance(role, used));
        for (path, hash) in &request.files {
            let _ = writeln!(card, "- records: `{}`, BLAKE3 `{hash}`", shown(path));
        }
    }
    let _ = writeln!(card, "- weights of this model: fingerprint `{weights}`");
    Ok(card)
}

/// The part that the hub reads.
fn front_matter(request: Option<&RunRequest>, context: &CardContext) -> String {
    let mut text = "---\nlibrary_name: transformers\n".to_owned();
    if let Some(license) = &context.license {
        let _ = writeln!(text, "license: {license}");
    }
    let is_scored = request.is_some_and(|request| matches!(request.command.as_str(), "train-rm" | "finetune"));
    text += if is_scored { "pipeline_tag: text-classification\n" } else { "pipeline_tag: text-generation\n" };
    let base = request.and_then(|request| request.models.get("init")?.hub.as_deref());
    if let Some((base, _)) = base.and_then(|base| base.split_once('@')) {
        let _ = writeln!(text, "base_model: {base}");
    }
    text + "tags:\n- gptkit\n---\n"
}

fn model(folder: &Path, request: Option<&RunRequest>) -> Result<String> {
    let config = load_config(folder)?;
    let made = request.map_or("A model", |request| match request.command.as_str() {
        "pretrain" => "A language model, pretrained on raw text (`gptkit pretrain`)",
        "finetune" => "A classifier, fine-tuned on labeled records (`gptkit finetune`)",
        "sft" => "A model for dialogues, fine-tuned on demonstrations (`gptkit sft`)",
        "train-rm" => "A reward model, trained on comparisons (`gptkit train-rm`)",
        "ppo" => "A model for dialogues, fine-tuned with PPO against a reward model (`gptkit ppo`)",
        "dpo" => "A model for dialogues, fine-tuned on comparisons with DPO (`gptkit dpo`)",
        _ => "A model",
    });
    let kind = match config.kind {
        Kind::Gpt1 => "GPT-1",
        Kind::Gpt2 => "GPT-2",
        Kind::Gpt3 => "GPT-3",
        Kind::Lstm => "LSTM",
        Kind::Bert => "masked language model",
    };
    let params = n_params(folder)?.unwrap_or_else(|| config.n_params());
    Ok(format!(
        "{made}.\n\n| architecture | parameters | layers | width | heads | context | vocabulary |\n| --- | --- | --- | --- | --- \
         | --- | --- |\n| {kind} | {} | {} | {} | {} | {} | {} |\n",
        grouped(params),
        config.n_layer,
        config.d_model,
        config.n_head,
        config.context,
        grouped(config.vocab_size as u64)
    ))
}

fn usage(folder: &Path, name: &str) -> Result<String> {
    let mut text = format!("\n## Use\n\n```sh\ngptkit sample --model hf:{name}\n```\n");
    if matches!(load_config(folder)?.kind, Kind::Gpt1 | Kind::Gpt2) {
        let _ = write!(
            text,
            "\n```python\nfrom transformers import pipeline\npipeline(\"text-generation\", \"{name}\")\n```\n"
        );
    }
    Ok(text)
}

/// Data, settings and the best validation.
fn training(folder: &Path, request: &RunRequest) -> Result<String> {
    let config = without_folders(&request.config);
    let toml = gptkit_config::resolved(&config).context("the configuration cannot be written")?;
    let mut text = "\n## Training\n\n".to_owned();
    if let Some(state) = last_state(folder) {
        let _ = write!(text, "{} steps in {}", grouped(state.step), duration(state.elapsed_s));
        if !state.finished {
            let _ = write!(text, " of {} that were planned", grouped(state.n_steps));
        }
        if let Some(best) = state.best_validation() {
            let _ = write!(text, "; best {} on the validation set: {:.4}", best.criterion, best.value);
        }
        text += ".\n\n";
    }
    let _ = write!(text, "The data is under `sources` in the configuration:\n\n```toml\n{}\n```\n", toml.trim_end());
    Ok(text)
}

fn provenance(role: &str, used: &ModelUsed) -> String {
    let from = used.hub.as_ref().map_or_else(|| format!("`{}`", shown(&used.folder)), |hub| format!("`hf:{hub}`"));
    format!("- `--{role}`: {from}, weights with fingerprint `{}`\n", used.weights)
}

/// The name on the hub of what came from there; of other paths the last part.
fn shown(path: &Path) -> String {
    let last = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    origin(path).map_or_else(last, |name| format!("hf:{name}"))
}

/// A configuration whose absolute paths are [`shown`] and whose unset values are left out, as TOML has none.
fn without_folders(value: &Value) -> Value {
    match value {
        Value::String(text) if Path::new(text).is_absolute() => Value::from(shown(Path::new(text))),
        Value::Array(values) => values.iter().map(without_folders).collect(),
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_folders(value))).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cards_name_no_folder_of_the_machine() {
        let commit = "0".repeat(40);
        let config = json!({
            "a": null,
            "data": { "sources": ["/home/me/secret/t.jsonl", format!("/c/datasets--o--d/snapshots/{commit}/x.txt"), "b.txt"] },
        });
        assert_eq!(
            without_folders(&config),
            json!({ "data": { "sources": ["t.jsonl", format!("hf:o/d@{commit}/x.txt"), "b.txt"] } })
        );
        let hub = Some(format!("o/m@{commit}"));
        let used = |hub| ModelUsed { folder: "/home/me/run".into(), weights: "w".to_owned(), hub };
        assert_eq!(provenance("init", &used(None)), "- `--init`: `run`, weights with fingerprint `w`\n");
        assert!(provenance("init", &used(hub.clone())).contains(&format!("`hf:o/m@{commit}`")));
        let request = RunRequest {
            models: [("init".to_owned(), used(hub))].into(),
            ..RunRequest::new("train-rm", &json!({}), &[]).unwrap()
        };
        let context = CardContext { license: Some("mit".to_owned()), ..CardContext::default() };
        let front = front_matter(Some(&request), &context);
        assert!(front.contains("license: mit\npipeline_tag: text-classification\nbase_model: o/m\n"), "{front}");
    }
}
