//! The settings that every trainer has, as flags of their own.

use crate::ui::Usage;
use clap::Args;

/// Flags for common settings of `[train]`
#[derive(Debug, Args)]
pub(crate) struct TrainingFlags {
    /// Learning rate: short for --set train.lr
    #[arg(long, value_name = "LR", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Examples in each update: short for --set train.batch_size
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    batch_size: Option<usize>,
    /// Train for this many passes over the data: short for --set train.length="N epochs"
    #[arg(long, value_name = "N", conflicts_with = "steps", allow_negative_numbers = true)]
    epochs: Option<f64>,
    /// Train for this many updates: short for --set train.length="N steps"
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    steps: Option<u64>,
}

impl TrainingFlags {
    /// The flags as settings in the form of `--set`; `set` are the settings of `--set`.
    ///
    /// # Errors
    /// When `set` has one of them.
    pub(crate) fn settings(&self, set: &[String]) -> Result<Vec<String>, Usage> {
        let key = |setting: &str| setting.split('=').next().unwrap_or_default().trim().to_owned();
        let own = self.own();
        if let Some(one) = own.iter().find(|own| set.iter().any(|set| key(set) == key(own))) {
            let what = format!("{} is set twice: by --set and by a flag", key(one));
            return Err(Usage::new(what).hint("remove one of them"));
        }
        Ok(own)
    }

    fn own(&self) -> Vec<String> {
        let lr = self.lr.map(|lr| format!("train.lr={lr:?}"));
        let batch_size = self.batch_size.map(|n| format!("train.batch_size={n}"));
        let epochs = self.epochs.map(|n| format!("train.length=\"{n} epochs\""));
        let steps = self.steps.map(|n| format!("train.length=\"{n} steps\""));
        [lr, batch_size, epochs, steps].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_and_set_do_not_give_one_key() {
        let flags = TrainingFlags { lr: Some(1e-3), batch_size: None, epochs: None, steps: Some(20) };
        let set = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
        let settings = flags.settings(&set(&["train.min_lr=1e-4"])).unwrap();
        assert_eq!(settings, ["train.lr=0.001", "train.length=\"20 steps\""]);
        let error = flags.settings(&set(&["seed=1", "train.length = 3 epochs"])).unwrap_err();
        assert!(error.to_string().starts_with("train.length is set twice"), "{error}");
    }
}
