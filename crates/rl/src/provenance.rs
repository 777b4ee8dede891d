//! What a model was made from, round by round; it lies in the model's folder.

use anyhow::{Context, Result};
use gptkit_data::disk;
use gptkit_train::model_used::ModelUsed;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "provenance.json";

/// One round of comparisons, reward model and PPO (Ouyang et al. 2022, §3.1: steps 2 and 3 can be iterated).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Its number, from 1.
    pub round: u32,
    /// The policy that it began with, which is its reference.
    pub policy: ModelUsed,
    /// The reward model.
    pub reward: ModelUsed,
    /// What the reward model learned from, by its run's configuration.
    pub comparisons: Vec<String>,
    /// The prompts.
    pub prompts: Vec<String>,
}

/// All rounds that a model has been through, first to last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// In order.
    pub rounds: Vec<Round>,
}

impl Provenance {
    /// That of the model in `folder`; empty when it has been through none.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        serde_json::from_str(&disk::read_description(&path)?).with_context(|| format!("{} is damaged", path.display()))
    }

    /// With a further round from the policy in `init` and the reward model in `reward` on `prompts`.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn with_round(init: &Path, reward: &Path, prompts: &[String]) -> Result<Self> {
        let mut all = Self::load(init)?;
        all.rounds.push(Round {
            round: all.rounds.len() as u32 + 1,
            policy: ModelUsed::of(init)?,
            reward: ModelUsed::of(reward)?,
            comparisons: sources_of(reward),
            prompts: prompts.to_vec(),
        });
        Ok(all)
    }

    /// Writes it into `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        disk::write_json(&folder.join(FILE), self)
    }
}

/// The `data.sources` of the run in `folder`, as far as it says.
fn sources_of(folder: &Path) -> Vec<String> {
    let text = disk::read_description(&folder.join("config.toml")).unwrap_or_default();
    let config = gptkit_config::load::<gptkit_reward::RewardConfig>("config.toml", &text, &[]);
    config.map(|config| config.data.sources).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_counted_and_carried_on() {
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::json!({
            "model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 8, "vocab_size": 8,
        });
        // A file of weights that has none, and tells itself apart.
        let weights = |name: &str| {
            let header = serde_json::json!({ "__metadata__": { "name": name } }).to_string();
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
        };
        let at = |name: &str| {
            let path = folder.path().join(name);
            disk::create_dir(&path).unwrap();
            disk::write(&path.join("config.json"), config.to_string().as_bytes()).unwrap();
            disk::write(&path.join("model.safetensors"), &weights(name)).unwrap();
            path
        };
        let (sft, first, second, rm) = (at("sft"), at("first"), at("second"), at("rm"));
        let one = Provenance::with_round(&sft, &rm, &["world".to_owned()]).unwrap();
        one.save(&first).unwrap();
        let two = Provenance::with_round(&first, &rm, &[]).unwrap();
        two.save(&second).unwrap();
        let rounds = Provenance::load(&second).unwrap().rounds;
        assert_eq!(rounds.iter().map(|round| round.round).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(rounds[0].policy.folder, sft);
        assert_eq!(rounds[1].policy.folder, first);
        rounds[1].reward.check("reward model").unwrap();
        disk::write(&rm.join("model.safetensors"), &weights("other")).unwrap();
        assert!(
            rounds[1]
                .reward
                .check("reward model")
                .unwrap_err()
                .to_string()
                .contains("have changed since the run started")
        );
        std::fs::remove_dir_all(&rm).unwrap();
        assert!(rounds[1].reward.check("reward model").unwrap_err().to_string().contains("is missing"));
    }
}
