//! Arguments of every command that learns from records. They are short ways to write settings, so that one check serves all.

use crate::data_args::quoted;
use crate::training_flags::TrainingFlags;
use crate::ui::Usage;
use clap::Args;
use gptkit_data::source::OnBadRecord;

/// Settings and the flags for common ones. The help of each command describes its records.
#[derive(Debug, Args)]
pub(crate) struct StageArgs {
    /// Change one setting, for instance train.lr=1e-4 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Records to learn from
    #[arg(long, value_name = "PATH")]
    data: Vec<String>,
    /// Records to validate on
    #[arg(long, value_name = "PATH")]
    val: Vec<String>,
    /// What to do with invalid records
    #[arg(long, value_name = "fail|skip")]
    on_bad_record: Option<OnBadRecord>,
    #[command(flatten)]
    training: TrainingFlags,
}

impl StageArgs {
    /// The flags as settings in the form of `--set`; `records` is the section of the records.
    ///
    /// # Errors
    /// When one setting is given twice.
    pub(crate) fn settings(&self, records: &str) -> Result<Vec<String>, Usage> {
        let mut set = self.set.clone();
        set.extend(list(&format!("{records}.sources"), &self.data));
        set.extend(list(&format!("{records}.validation"), &self.val));
        set.extend(self.on_bad_record.map(|choice| format!("{records}.on_bad_record={}", serde_json::json!(choice))));
        set.extend(self.training.settings(&self.set)?);
        Ok(set)
    }
}

/// The setting of `key` to a list of `texts`; none without texts.
pub(crate) fn list(key: &str, texts: &[String]) -> Option<String> {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    (!texts.is_empty()).then(|| format!("{key}=[{}]", quoted.join(", ")))
}
