//! Where rewards are 0: set once a model is trained, from completions that are kept with the run.

use crate::group::{Group, GroupEncoder};
use crate::groups::Groups;
use crate::model::RewardModel;
use anyhow::{Context, Result, ensure};
use gptkit_config::{Check, Problems};
use gptkit_data::examples::{Examples, ExamplesWriter};
use gptkit_data::progress::{Progress, Unit};
use gptkit_data::record::BadRecord;
use gptkit_data::source::{OnBadRecord, SourceLocation};
use gptkit_data::sources::{Reading, read_dialogues_of};
use gptkit_model::generate::{Finish, GenerationOptions, LateEnds};
use gptkit_model::generate_batch::{BatchRequest, generate_batch};
use gptkit_model::sampler::Sampling;
use gptkit_model::{Gpt, Params};
use gptkit_stats::Moments;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// How rewards are normalized; TOML section `[normalization]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NormalizationConfig {
    /// The recipe: instructgpt, lm-human-preferences or none.
    pub recipe: Recipe,
    /// Files of dialogues, or `world:N`, whose last answers get mean reward 0 by the recipe instructgpt; the best completion
    /// of each training prompt when there are none.
    pub references: Vec<String>,
    /// Number of completions used, at most.
    pub samples: usize,
}

impl Default for NormalizationConfig {
    fn default() -> Self {
        Self { recipe: Recipe::Instructgpt, references: Vec::new(), samples: 256 }
    }
}

/// How rewards are normalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// A bias gives the reference completions mean reward 0 (Ouyang et al. 2022, §3.5).
    Instructgpt,
    /// A gain and a bias give the answers of the initial model mean reward 0 and variance 1 (Ziegler et al. 2019, §2.1).
    LmHumanPreferences,
    /// No normalization.
    None,
}

impl Check for NormalizationConfig {
    fn check(&self, problems: &mut Problems) {
        problems.require(self.samples >= 2, "samples", "must be at least 2", "use 256");
        for (i, source) in self.references.iter().enumerate() {
            let missing = match SourceLocation::of_records(source) {
                Err(what) => Some(what),
                Ok(SourceLocation::Path(path)) if !path.exists() => Some("does not exist".to_owned()),
                Ok(_) => None,
            };
            if let Some(what) = missing {
                problems.add(&format!("references.{i}"), what, "use a file of dialogues (.jsonl …), or world:256");
            }
        }
    }
}

/// File below a run with the completions that set where rewards are 0.
pub(crate) const REFERENCES: &str = "references.examples";

/// Longest answer that a policy is asked for when the data has none to go by, in tokens.
const LEAST_ROOM: usize = 8;

/// Puts the completions that `config` asks for in [`REFERENCES`] below `folder`: prompt and completion each. `policy` is
/// the model that the run starts from, with the tokens that end its answers.
///
/// # Errors
/// When a file cannot be read, no reference fits the window, or the policy's numbers are damaged.
pub(crate) fn keep_references(
    (config, seed): (&NormalizationConfig, u64),
    encoder: &GroupEncoder,
    policy: (&Gpt, &[u32]),
    train: &Groups,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let NormalizationConfig { recipe, references, samples } = config;
    ExamplesWriter::write(&folder.join(REFERENCES), |file| match recipe {
        Recipe::None => Ok(()),
        Recipe::LmHumanPreferences => sample((*samples, seed), encoder, policy, train, file, progress),
        Recipe::Instructgpt if references.is_empty() => {
            for group in train.records.all(1, *samples).iter().flatten() {
                let best = group.places.iter().position(|&place| place == 1).unwrap_or(0);
                file.push(&group.sequences[best])?;
            }
            Ok(())
        }
        Recipe::Instructgpt => {
            for source in references {
                read_dialogues_of(&Reading::training(source)?, OnBadRecord::Fail, progress, &mut |messages| {
                    if file.len() == *samples {
                        return Ok(ControlFlow::Continue(()));
                    }
                    let (said, prompt) = messages.split_last().context("a dialogue has no messages")?;
                    let fitted = encoder.group(prompt, &[vec![said.clone()]]);
                    let fitted = fitted.map_err(|e| BadRecord::new(format!("{e:#}")))?;
                    if let Some(fitted) = fitted {
                        file.push(&fitted.sequences[0])?;
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
            }
            ensure!(!file.is_empty(), "no reference completion fits into the context of {} tokens", encoder.context);
            Ok(())
        }
    })
}

/// What the policy answers to prompts to learn, sampled at temperature 1.
fn sample(
    (samples, seed): (usize, u64),
    encoder: &GroupEncoder,
    (gpt, ends): (&Gpt, &[u32]),
    train: &Groups,
    file: &mut ExamplesWriter,
    progress: &dyn Progress,
) -> Result<()> {
    let groups = train.records.all(1, samples).concat();
    let longest = groups.iter().flat_map(|group: &Group| (0..group.len()).map(|i| group.length(i))).max();
    let longest = longest.unwrap_or(0).max(LEAST_ROOM);
    let prompts: Vec<Vec<u32>> = groups.iter().map(|group| group.sequences[0][..group.prompt].to_vec()).collect();
    let task = progress.task("sampling the policy", Some(prompts.len() as u64), Unit::Items);
    let requests = BatchRequest {
        prompts,
        first_prompt: 0,
        late_ends: LateEnds::default(),
        max_rows: 32,
        options: GenerationOptions {
            n_samples: 1,
            max_new_tokens: longest,
            stop: Vec::new(),
            log_probs: None,
            sampling: Sampling { seed, ..Sampling::default() },
        },
    };
    let end = encoder.template.end_token(&encoder.tokenizer)?;
    let mut sampled: Vec<Option<Vec<u32>>> = vec![None; requests.prompts.len()];
    generate_batch(gpt, &encoder.tokenizer, ends, &requests, |prompt, _, completion| {
        let mut tokens = [requests.prompts[prompt].as_slice(), &completion.tokens].concat();
        // An answer that has its end is read there; one that has none, or a window without room for it, at its last token.
        if completion.finish == Finish::EndOfText && tokens.len() < encoder.context {
            tokens.extend(end);
        }
        sampled[prompt] = Some(tokens);
        task.advance(1);
        Ok(ControlFlow::Continue(()))
    })?;
    sampled.iter().flatten().try_for_each(|tokens| file.push(tokens))
}

/// Sets where the rewards of `model`, of the weights `params`, are 0, from the references below `folder`, and says what was
/// found; nothing when none is asked for. Of what is normalized already it changes nothing.
///
/// # Errors
/// When the references cannot be read, or have all the same reward.
pub(crate) fn normalize(recipe: Recipe, model: &RewardModel, params: &Params, folder: &Path) -> Result<Option<String>> {
    if recipe == Recipe::None {
        return Ok(None);
    }
    let examples = Examples::open(&folder.join(REFERENCES))?;
    let references: Vec<Vec<u32>> = (0..examples.len()).map(|i| examples.get(i)).collect();
    let rewards = model.rewards(&references)?;
    let Moments { mean, std } = Moments::of(rewards.iter().map(|&reward| f64::from(reward)));
    let config = model.gpt.config();
    let n = references.len();
    Ok(Some(match recipe {
        Recipe::LmHumanPreferences => {
            ensure!(std > 0.0, "all {n} samples of the policy have the reward {mean}, so rewards cannot be normalized");
            model.head.rescale(params, config, 1.0 / std, -mean / std)?;
            format!(
                "before normalization, the rewards of {n} samples of the policy had mean {mean:.3} and standard \
                 deviation {std:.3}; now 0 and 1"
            )
        }
        _ => {
            model.head.rescale(params, config, 1.0, -mean)?;
            format!("before normalization, the rewards of {n} reference completions had mean {mean:.3}; now 0")
        }
    }))
}
