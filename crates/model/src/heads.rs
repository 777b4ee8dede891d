//! What reads a last hidden state besides the language model: the head that labels a text (Radford et al. 2018, eq. 3).
//!
//! A folder with one is of Hugging Face's classes for sequence classification: `score.weight` lies among the weights, and
//! `config.json` names the labels. It is a language model's folder all the same, for who does not ask for the head.

use crate::config::{Kind, ModelConfig};
use crate::folder::{read_json, write_json};
use crate::layout::last_norm_bias;
use crate::load::{load_config, load_extra};
use crate::params::Params;
use crate::pass::Pass;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_ops::{Dropout, Parameter, dropout};
use gptkit_rng::keyed::{Draw, Key, normals};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// Its name among the weights.
const NAME: &str = "score.weight";
/// Standard deviation of a label's first weights (Radford et al. 2018, §4.1).
const HEAD_STD: f64 = 0.02;
/// The place of its dropout, which no block of a model has.
const SITE: u32 = u32::MAX;

/// A linear head without a bias: a score for each label, or one number.
#[derive(Debug)]
pub struct ClassHead {
    /// `[n_out, D]`.
    weight: Arc<Parameter>,
}

impl ClassHead {
    /// A new head of `n_out` scores among `params`, with first values drawn from `seed`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn init(params: &mut Params, n_out: usize, d_model: usize, seed: u64) -> Result<Self> {
        Self::draw(params, (n_out, d_model), HEAD_STD, seed)
    }

    /// A new head of one score, a reward: N(0, 1/√(D + 1)), standard deviation (Ziegler et al. 2019, §2.1's code).
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn init_reward(params: &mut Params, d_model: usize, seed: u64) -> Result<Self> {
        Self::draw(params, (1, d_model), 1.0 / (d_model as f64 + 1.0).sqrt(), seed)
    }

    /// A new head of one score that is 0 at first: a value (Ziegler et al. 2019, the code).
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn init_value(params: &mut Params, d_model: usize) -> Result<Self> {
        Self::put(params, &Tensor::zeros((1, d_model), DType::F32, &Device::Cpu)?)
    }

    fn draw(params: &mut Params, (n_out, d_model): (usize, usize), std: f64, seed: u64) -> Result<Self> {
        let key = Key { seed, draw: Draw::Init { parameter: u32::MAX - 1 } };
        let values: Vec<f32> = normals(key, n_out * d_model).into_iter().map(|z| z * std as f32).collect();
        Self::put(params, &Tensor::from_vec(values, (n_out, d_model), &Device::Cpu)?)
    }

    /// The head that lies in `folder`, put among the `params` that were read from there.
    ///
    /// # Errors
    /// When there is none, or it does not fit the model.
    pub fn load(params: &mut Params, folder: &Path) -> Result<Self> {
        let d_model = load_config(folder)?.d_model;
        let weight = load_extra(folder, NAME)?.with_context(|| {
            format!("{} has no head ({NAME}); train one with `gptkit finetune` or `gptkit train-rm`", folder.display())
        })?;
        let sound = weight.dims2().is_ok_and(|(n, d)| n > 0 && d == d_model);
        ensure!(
            sound,
            "{NAME} in {} has shape {:?}, but the width of the model is {d_model}",
            folder.display(),
            weight.dims()
        );
        let finite = gptkit_ops::sum_of_squares(&weight)?.is_finite();
        ensure!(finite, "{NAME} in {} contains NaN or infinite values", folder.display());
        Self::put(params, &weight)
    }

    fn put(params: &mut Params, weight: &Tensor) -> Result<Self> {
        params.add(NAME, &weight.to_device(&params.device())?)?;
        Ok(Self { weight: Arc::clone(params.get(NAME)?) })
    }

    /// Scores that it gives.
    pub fn n_out(&self) -> usize {
        self.weight.var().dims().first().copied().unwrap_or(0)
    }

    /// `states`: `[N, D]`, for each of the batch's rows as many. Drops from them with probability `p` when `pass` trains, the
    /// same elements from all states of a row, as GPT-1's code has it for the choices of a record. Returns `[N, n_out]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, states: &Tensor, rows: usize, p: f64, pass: Pass) -> candle_core::Result<Tensor> {
        let (n, d) = states.dims2()?;
        match pass {
            Pass::Eval => states.matmul(&self.weight.tensor(false).t()?),
            Pass::Train { seed, first_row, .. } => {
                let at = Dropout { p: p as f32, seed, site: SITE, first_row };
                let mask = dropout(&Tensor::ones((rows, 1, d), DType::F32, states.device())?, at)?;
                let states = states.reshape((rows, n / rows.max(1), d))?.broadcast_mul(&mask)?.reshape((n, d))?;
                states.matmul(&self.weight.tensor(true).t()?)
            }
        }
    }
}

impl ClassHead {
    /// Has a head of one score give `gain`·score + `bias` from now on. It has no bias of its own, as in Hugging Face's
    /// classes, so that the last layer norm of `params`, those of a model of shape `config`, takes the bias along the
    /// head's direction.
    ///
    /// # Errors
    /// When the head is not of one score, or all zeros.
    pub fn rescale(&self, params: &Params, config: &ModelConfig, gain: f64, bias: f64) -> Result<()> {
        let weights: Vec<f64> = self.weight.var().squeeze(0)?.to_dtype(DType::F64)?.to_vec1()?; // [D]
        let weights: Vec<f64> = weights.into_iter().map(|w| w * gain).collect();
        let square: f64 = weights.iter().map(|w| w * w).sum();
        ensure!(square > 0.0 && square.is_finite(), "a head with only zeros cannot be rescaled");
        let norm = params.get(&last_norm_bias(config))?;
        let shifts = weights.iter().map(|w| (bias * w / square) as f32);
        let shifts = Tensor::from_iter(shifts, norm.var().device())?;
        norm.set(&(norm.var().as_tensor() + shifts)?)?;
        let weights = Tensor::from_iter(weights.iter().map(|&w| w as f32), norm.var().device())?.unsqueeze(0)?;
        Ok(self.weight.set(&weights)?)
    }
}

/// What `config.json` says of a head.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadDescription {
    /// Names of its scores, in order.
    pub labels: Vec<String>,
    /// Whether the score is the answer itself, rather than one of several to be compared.
    pub is_number: bool,
    /// What it was trained for.
    pub task: String,
    /// What batches are padded with elsewhere, where it is not the tokenizer's own token for that: the last other token is
    /// read.
    pub pad: Option<u32>,
    /// What gptkit wants to know of it besides.
    pub more: Value,
}

impl HeadDescription {
    /// What `config.json` calls the task of a reward.
    pub const REWARD: &str = "reward";

    /// Reads it from a folder whose head rewards texts: one that gptkit made, or another's with a class for sequence
    /// classification and one label.
    ///
    /// # Errors
    /// When `config.json` cannot be read.
    pub fn load_reward(folder: &Path) -> Result<Option<Self>> {
        if gptkit_gguf::is_gguf(folder) {
            return Ok(None);
        }
        if let Ok(description) = Self::load(folder) {
            return Ok((description.task == Self::REWARD).then_some(description));
        }
        let json = read_json(&folder.join("config.json"))?;
        let class = json["architectures"][0].as_str().unwrap_or_default();
        let n_labels = json["id2label"].as_object().map(Map::len).or(json["num_labels"].as_u64().map(|n| n as usize));
        if !class.ends_with("ForSequenceClassification") || n_labels != Some(1) {
            return Ok(None);
        }
        let pad = json["pad_token_id"].as_u64().map(|pad| pad as u32);
        let task = Self::REWARD.to_owned();
        Ok(Some(Self { labels: vec![task.clone()], is_number: true, task, pad, more: Value::Null }))
    }

    /// Adds it to the description of the model in `folder`, whose tokens are `tokenizer`'s. The model and the tokenizer name the
    /// same token for padding: transformers pads by one and looks for the padding by the other.
    ///
    /// # Errors
    /// When that cannot be read or written.
    pub fn save(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
        let path = folder.join("config.json");
        let mut json = read_json(&path)?;
        let class = match load_config(folder)?.kind {
            Kind::Gpt1 => "OpenAIGPTForSequenceClassification",
            Kind::Gpt2 | Kind::Gpt3 => "GPT2ForSequenceClassification",
            Kind::Bert => "GptkitBertForSequenceClassification",
            Kind::Lstm => "GptkitLstmForSequenceClassification",
        };
        let numbered = self.labels.iter().enumerate();
        let id2label: Map<String, Value> = numbered.clone().map(|(i, label)| (i.to_string(), json!(label))).collect();
        let label2id: Map<String, Value> = numbered.map(|(i, label)| (label.clone(), json!(i))).collect();
        json["architectures"] = json!([class]);
        json["id2label"] = Value::Object(id2label);
        json["label2id"] = Value::Object(label2id);
        json["problem_type"] = json!(if self.is_number { "regression" } else { "single_label_classification" });
        let of_tokens = folder.join("tokenizer_config.json");
        let mut tokens = read_json(&of_tokens)?;
        let own = tokens["pad_token"].as_str().and_then(|token| tokenizer.token_id(token));
        let end = json["eos_token_id"].as_u64().map(|end| end as u32);
        let pad = self.pad.or(own).or(end);
        json["pad_token_id"] = json!(pad);
        tokens["pad_token"] = json!(pad.and_then(|pad| tokenizer.token_name(pad)));
        write_json(&of_tokens, &tokens)?;
        let generation = folder.join("generation_config.json");
        if generation.exists() {
            let mut settings = read_json(&generation)?;
            settings["pad_token_id"] = json!(pad);
            write_json(&generation, &settings)?;
        }
        json["finetuning_task"] = json!(self.task);
        json["gptkit"] = self.more.clone();
        write_json(&path, &json)
    }

    /// Reads it from `folder`.
    ///
    /// # Errors
    /// When `config.json` names no labels or no task.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        ensure!(folder.is_dir(), "{} is not a folder; use a folder from `gptkit finetune`", folder.display());
        let json = read_json(&path)?;
        let (Some(names), Some(task)) = (json["id2label"].as_object(), json["finetuning_task"].as_str()) else {
            bail!(
                "{} has no labels (id2label) or no task (finetuning_task); train a classifier with `gptkit finetune`",
                path.display()
            );
        };
        let name = |i: usize| names.get(&i.to_string()).and_then(Value::as_str).map(str::to_owned);
        let labels: Option<Vec<String>> = (0..names.len()).map(name).collect();
        Ok(Self {
            labels: labels.with_context(|| format!("the ids of id2label in {} are not 0, 1, 2, …", path.display()))?,
            is_number: json["problem_type"] == "regression",
            task: task.to_owned(),
            pad: json["pad_token_id"].as_u64().map(|pad| pad as u32),
            more: json["gptkit"].clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
    use crate::folder::save_weights;
    use crate::load::load_model;
    use gptkit_ops::check::{assert_close, draw};

    fn folder(kind: Kind) -> (tempfile::TempDir, Params) {
        let folder = tempfile::tempdir().unwrap();
        let (config, params) = (tiny(kind), Params::init(&tiny(kind), 1, &Device::Cpu).unwrap());
        write_json(&folder.path().join("config.json"), &crate::hf_config::config_json(&config)).unwrap();
        (folder, params)
    }

    #[test]
    fn a_head_and_its_description_come_back_and_the_model_beside_them() {
        for (kind, class) in
            [(Kind::Gpt1, "OpenAIGPTForSequenceClassification"), (Kind::Gpt3, "GPT2ForSequenceClassification")]
        {
            let (folder, mut params) = folder(kind);
            let head = ClassHead::init(&mut params, 3, 8, 1).unwrap();
            save_weights(folder.path(), &params).unwrap();
            let description = HeadDescription {
                labels: ["b", "a", "0"].map(str::to_owned).to_vec(),
                is_number: false,
                task: "entailment".to_owned(),
                pad: Some(2),
                more: json!({ "columns": 2 }),
            };
            let tokenizer = Tokenizer::of_characters(&('a'..='p').collect()).unwrap();
            tokenizer.save(folder.path()).unwrap();
            description.save(folder.path(), &tokenizer).unwrap();
            assert_eq!(HeadDescription::load(folder.path()).unwrap(), description);
            assert_eq!(read_json(&folder.path().join("tokenizer_config.json")).unwrap()["pad_token"], json!("c"));
            assert_eq!(read_json(&folder.path().join("config.json")).unwrap()["architectures"], json!([class]));

            let (config, mut again) = load_model(folder.path(), &Device::Cpu).unwrap();
            assert_eq!((config, again.iter().count()), (tiny(kind), params.iter().count() - 1));
            let loaded = ClassHead::load(&mut again, folder.path()).unwrap();
            let score = |head: &ClassHead| head.forward(&draw(5, &[4, 8]), 2, 0.5, Pass::Eval).unwrap();
            assert_close("scores", &score(&loaded), &score(&head), 0.0);
            assert_eq!(loaded.n_out(), 3);
        }
    }

    #[test]
    fn rescaled_scores_are_scaled_and_shifted_in_every_generation() {
        for kind in [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3] {
            let config = tiny(kind);
            let mut params = Params::init(&config, 1, &Device::Cpu).unwrap();
            let head = ClassHead::init_reward(&mut params, 8, 1).unwrap();
            let gpt = crate::Gpt::new(&config, &params, gptkit_ops::Precision::F32).unwrap();
            let ids: Vec<u32> = (0..10).collect();
            let score = || {
                let input = crate::Input::ragged([&ids[..]], &Device::Cpu).unwrap();
                let hidden = gpt.hidden(&input, Pass::Eval).unwrap().squeeze(0).unwrap();
                head.forward(&hidden, 1, 0.0, Pass::Eval).unwrap()
            };
            let before = score();
            head.rescale(&params, &config, 0.5, -3.0).unwrap();
            assert_close(&format!("{kind:?}"), &score(), &((before * 0.5).unwrap() - 3.0).unwrap(), 1e-5);
        }
    }

    #[test]
    fn a_folder_without_a_head_says_how_to_make_one() {
        let (folder, mut params) = folder(Kind::Gpt2);
        save_weights(folder.path(), &params).unwrap();
        let said = [
            ClassHead::load(&mut params, folder.path()).unwrap_err().to_string(),
            HeadDescription::load(folder.path()).unwrap_err().to_string(),
        ];
        assert!(said.iter().all(|said| said.contains("`gptkit finetune`")), "{said:?}");
    }

    #[test]
    fn a_row_is_dropped_from_alike_however_the_batch_is_divided() {
        let (_folder, mut params) = folder(Kind::Gpt2);
        let head = ClassHead::init(&mut params, 2, 8, 1).unwrap();
        let states = draw(5, &[6, 8]); // two to each of three rows
        let score = |row: usize, rows: usize| {
            let pass = Pass::Train { seed: 1, first_row: 40 + row as u64, recompute: false };
            head.forward(&states.narrow(0, 2 * row, 2 * rows).unwrap(), rows, 0.5, pass).unwrap()
        };
        assert_close("row 2", &score(2, 1), &score(0, 3).narrow(0, 4, 2).unwrap(), 1e-6);
    }

    #[test]
    fn all_states_of_a_row_have_one_mask() {
        let (_folder, mut params) = folder(Kind::Gpt2);
        let head = ClassHead::init(&mut params, 2, 8, 1).unwrap();
        let state = draw(5, &[1, 8]).repeat((6, 1)).unwrap(); // three alike to each of two rows
        let pass = Pass::Train { seed: 1, first_row: 0, recompute: false };
        let scores = head.forward(&state, 2, 0.5, pass).unwrap();
        let of = |at: usize| scores.narrow(0, at, 1).unwrap();
        for (choice, first) in [(1, 0), (2, 0), (4, 3), (5, 3)] {
            assert_close("choices of a record", &of(choice), &of(first), 0.0);
        }
        assert!((of(0) - of(3)).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-4);
    }
}
