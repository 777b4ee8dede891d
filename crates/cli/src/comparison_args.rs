//! Arguments of every command that learns from comparisons.

use crate::data_args::quoted;
use clap::Args;
use gptkit_data::source::OnBadRecord;

/// Settings, and short ways to write them
#[derive(Debug, Args)]
pub(crate) struct ComparisonArgs {
    /// Change one setting, for instance train.lr=1e-4 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Comparisons: JSONL, JSON, CSV or TSV (each may be .gz or .zst), Parquet, or `world` for the embedded ones; repeatable
    #[arg(long, value_name = "PATH")]
    data: Vec<String>,
    /// Comparisons to validate on [default: a share of the others' prompts]
    #[arg(long, value_name = "PATH")]
    val: Vec<String>,
    /// What to do with records that are no sound comparison
    #[arg(long, value_name = "fail|skip")]
    on_bad_record: Option<OnBadRecord>,
}

impl ComparisonArgs {
    /// As `--set` would say it.
    pub(crate) fn settings(&self) -> Vec<String> {
        let list = |paths: &[String]| paths.iter().map(|path| quoted(path)).collect::<Vec<_>>().join(", ");
        let mut set = self.set.clone();
        for (key, paths) in [("sources", &self.data), ("validation", &self.val)] {
            if !paths.is_empty() {
                set.push(format!("data.{key}=[{}]", list(paths)));
            }
        }
        set.extend(self.on_bad_record.map(|choice| format!("data.on_bad_record={}", serde_json::json!(choice))));
        set
    }
}
