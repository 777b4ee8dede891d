//! Who judges answers, and checks of models and prompts: shared by the commands that compare.

use crate::device::ComputeArgs;
use crate::env;
use crate::ui::{Ui, Usage, unusable};
use anyhow::Result;
use gptkit_data::source::SourceLocation;
use gptkit_data::synthetic::{SimulatedLabeler, SyntheticInstructions};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_feedback::choices::Judge;
use gptkit_model::HeadDescription;
use gptkit_model::load::{may_be_model, weights_fingerprint};
use gptkit_preferences::compare::AutomaticJudge;
use gptkit_reward::model::Scorer;
use std::path::{Path, PathBuf};

/// The value of `--judge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JudgeChoice {
    /// A person at the terminal.
    Human,
    /// The hidden score of the embedded world.
    Gold,
    /// The world's simulated labeler with this seed.
    Labeler(u64),
    /// The reward model in this folder.
    Rewards(PathBuf),
}

impl JudgeChoice {
    /// Any of them, by name.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Self::one_of(&["human", "gold", "labeler"], text)
    }

    /// Any but a person.
    pub(crate) fn parse_automatic(text: &str) -> Result<Self> {
        if text == "human" {
            let what = "--judge human: `gptkit win-rates` needs an automatic judge";
            let hint = "use gold, labeler or a reward model; `gptkit compare --a DIR --b DIR` collects human judgments";
            return Err(Usage::new(what).hint(hint).into());
        }
        Self::one_of(&["gold", "labeler"], text)
    }

    fn one_of(names: &[&str], text: &str) -> Result<Self> {
        let seed = text.strip_prefix("labeler:").map(str::parse);
        match (text, seed) {
            ("human", _) => Ok(Self::Human),
            ("gold", _) => Ok(Self::Gold),
            ("labeler", _) => Ok(Self::Labeler(1)),
            (_, Some(Ok(seed))) => Ok(Self::Labeler(seed)),
            (_, Some(Err(_))) => {
                Err(Usage::new(format!("--judge {text}: the seed must be a whole number, for example labeler:2"))
                    .into())
            }
            _ if Path::new(text).is_dir() => Ok(Self::Rewards(Path::new(text).components().collect())),
            _ => {
                let near = gptkit_config::nearest(text, names.iter().copied());
                let hint = near.map_or_else(
                    || "train a reward model with `gptkit train-rm` and pass its folder".to_owned(),
                    |near| format!("did you mean {near}?"),
                );
                let (last, others) = names.split_last().unwrap_or((&"", &[]));
                let what = format!(
                    "--judge {text}: no such folder; the judge must be {}, {last} or the folder of a reward model",
                    others.join(", ")
                );
                Err(Usage::new(what).hint(hint).into())
            }
        }
    }

    /// Refuses `prompts` that this judge cannot score.
    pub(crate) fn check_prompts(&self, prompts: &str) -> Result<()> {
        let name = match self {
            Self::Gold => "gold".to_owned(),
            Self::Labeler(1) => "labeler".to_owned(),
            Self::Labeler(seed) => format!("labeler:{seed}"),
            Self::Human | Self::Rewards(_) => return Ok(()),
        };
        if SourceLocation::is_world(prompts) {
            return Ok(());
        }
        let what =
            format!("--judge {name} can only score prompts of the built-in world, but the prompts are from {prompts}");
        Err(Usage::new(what).hint("use --prompts world, or another judge").into())
    }

    /// The reward model, where one judges.
    pub(crate) fn scorer(&self, compute: &ComputeArgs) -> Result<Option<Scorer>> {
        let Self::Rewards(folder) = self else { return Ok(None) };
        let (files, gpt) = compute.load(folder)?;
        Ok(Some(Scorer::new(folder, files, gpt).map_err(unusable)?))
    }

    /// The automatic judge: the reward model that [`JudgeChoice::scorer`] loaded, or the scores of the `world` that the prompts
    /// are from. None for a person.
    pub(crate) fn machine<'a>(
        &self,
        scorer: Option<&'a Scorer>,
        world: Option<SyntheticInstructions>,
    ) -> Option<AutomaticJudge<'a>> {
        match (self, world) {
            (Self::Rewards(_), _) => scorer.map(AutomaticJudge::Rewards),
            (Self::Gold, Some(world)) => Some(AutomaticJudge::Gold(world)),
            (Self::Labeler(seed), Some(world)) => Some(AutomaticJudge::Labeler(SimulatedLabeler::new(*seed), world)),
            _ => None,
        }
    }

    /// The name of the judge's scores.
    pub(crate) fn score_name(&self) -> &'static str {
        if *self == Self::Gold { "gold" } else { "reward" }
    }

    /// The judge as collections name it; `who` is the person's name.
    pub(crate) fn judge(&self, who: Option<&str>) -> Result<Judge> {
        let (judge, who) = match self {
            Self::Human => {
                let who = who.map(str::to_owned).or_else(env::user).filter(|who| !who.trim().is_empty());
                ("human".to_owned(), who.unwrap_or_else(|| "somebody".to_owned()))
            }
            Self::Gold => ("gold".to_owned(), "world".to_owned()),
            Self::Labeler(seed) => ("labeler".to_owned(), seed.to_string()),
            Self::Rewards(folder) => {
                let weights = weights_fingerprint(folder)?;
                (folder.display().to_string(), weights.chars().take(12).collect())
            }
        };
        Ok(Judge { judge, who })
    }
}

/// Refuses a model folder that does not exist, and says how a model without a chat template reads prompts. `name` is the
/// option that names it.
pub(crate) fn check_model(name: &str, model: &Path, ui: &Ui) -> Result<()> {
    if !may_be_model(model) {
        let hint = "name a run of `gptkit sft` or another model folder";
        return Err(Usage::new(format!("--{name} {}: no such folder", model.display())).hint(hint).into());
    }
    if HeadDescription::load(model).is_err() && Tokenizer::load(model)?.chat_template().is_none() {
        ui.say(&format!(
            "{} has no chat template, so it was not trained for dialogue; it continues a plain-text transcript of User \
             and Assistant",
            model.display()
        ));
    }
    Ok(())
}

/// Refuses prompts that do not exist.
pub(crate) fn check_prompts_exist(prompts: &str) -> Result<()> {
    match SourceLocation::of_records(prompts) {
        Ok(SourceLocation::World { .. }) => Ok(()),
        Ok(SourceLocation::Path(path)) if path.is_file() => Ok(()),
        Ok(SourceLocation::Stdin(_)) => Err(Usage::new("--prompts -: stdin is not supported here; name a file").into()),
        Ok(SourceLocation::Path(path)) => {
            let hint = "name a text file with one prompt per line (.txt), a file of records (.jsonl …), or world";
            Err(Usage::new(format!("--prompts {}: no such file", path.display())).hint(hint).into())
        }
        Err(what) => Err(Usage::new(format!("--prompts {prompts}: {what}")).hint("write world:300").into()),
    }
}
