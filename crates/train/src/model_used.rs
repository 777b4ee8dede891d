//! A model folder that a run depends on, and the weights that it had.

use anyhow::{Result, ensure};
use gptkit_model::load::{may_be_model, stored_fingerprint};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A model folder and the weights that it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsed {
    /// Absolute path of the folder.
    pub folder: PathBuf,
    /// Fingerprint of its weights.
    pub weights: String,
    /// Repository and commit on the hub that it was downloaded from, as `NAME@COMMIT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
}

impl ModelUsed {
    /// The model in `folder` as it is now.
    ///
    /// # Errors
    /// When its weights cannot be read.
    pub fn of(folder: &Path) -> Result<Self> {
        let folder = std::path::absolute(folder)?;
        let weights = stored_fingerprint(&folder)?;
        let hub = gptkit_hub::cache::origin(&folder);
        Ok(Self { folder, weights, hub })
    }

    /// Whether the folder still has the same weights.
    ///
    /// # Errors
    /// When its weights cannot be read.
    pub fn is_unchanged(&self) -> Result<bool> {
        Ok(stored_fingerprint(&self.folder)? == self.weights)
    }

    /// Checks that the folder is there with the same weights; `role` names the model in messages.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self, role: &str) -> Result<()> {
        let folder = self.folder.display();
        ensure!(may_be_model(&self.folder), "the {role} of this run, {folder}, is missing; restore it to resume");
        ensure!(
            self.is_unchanged()?,
            "the weights of the {role} of this run, {folder}, have changed since the run started; restore them, or \
             start a new run"
        );
        Ok(())
    }
}
