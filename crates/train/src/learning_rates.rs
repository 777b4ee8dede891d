//! Learning rates for models that were trained before, by their size. `docs/pretrain.md#learning-rates` has the table.

/// What a trained model learns next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// More text.
    Pretraining,
    /// Labels.
    Classification,
    /// Demonstrations.
    Demonstrations,
    /// Comparisons, as a reward model.
    Comparisons,
    /// Comparisons, as a policy (DPO).
    Preferences,
    /// Rewards (PPO).
    Rewards,
}

/// Parameters up to which a model counts as small: the presets of these commands are tuned for such models.
pub const SMALL: u64 = 6_000_000;

/// How much higher the learning rate of LoRA adapters is. Hu et al. 2021 (table 11) train adapters of GPT-2 medium with
/// 2e-4, where the table below has 2.6e-5 for all weights.
const LORA_FACTOR: f64 = 10.0;

/// The highest learning rate of adapters: that of our preset.
const HIGHEST_OF_LORA: f64 = 5e-3;

impl Purpose {
    /// Parameters and AdamW's highest learning rate. The first row is that of our presets.
    const fn table(self) -> &'static [(f64, f64)] {
        match self {
            // A tenth of the rates of Brown et al. 2020, table 2.1: what pretraining ends with.
            Self::Pretraining => {
                &[(6e6, 3e-4), (125e6, 6e-5), (350e6, 3e-5), (1.3e9, 2e-5), (13e9, 1e-5), (175e9, 6e-6)]
            }
            // Radford et al. 2018, §4.1; Devlin et al. 2019, appendix A.3.
            Self::Classification => &[(6e6, 1e-3), (117e6, 6.25e-5), (340e6, 2e-5)],
            // Radford et al. 2018, §4.1; Ouyang et al. 2022, appendix C.1.
            Self::Demonstrations => {
                &[(6e6, 2e-3), (117e6, 6.25e-5), (1.3e9, 9.65e-6), (6e9, 9.65e-6), (175e9, 5.03e-6)]
            }
            // Ziegler et al. 2019, §2.2; Ouyang et al. 2022, appendix C.2.
            Self::Comparisons => &[(6e6, 3e-4), (774e6, 2.5e-5), (6e9, 9e-6)],
            // Rafailov et al. 2023, appendix B.
            Self::Preferences => &[(6e6, 1e-4), (2.8e9, 1e-6)],
            // Ziegler et al. 2019, §2.2; Ouyang et al. 2022, appendix C.4.
            Self::Rewards => &[(6e6, 2e-4), (774e6, 1e-5), (1.3e9, 9e-6)],
        }
    }

    /// AdamW's highest learning rate for a model of `n_params` parameters: straight lines between the rows of the table, on
    /// logarithmic axes, and level beyond them. Two digits.
    pub fn learning_rate(self, n_params: u64) -> f64 {
        let (table, n) = (self.table(), (n_params as f64).max(1.0));
        let after = table.iter().position(|(size, _)| *size >= n).unwrap_or(table.len());
        let (Some(before), Some(after)) = (after.checked_sub(1).and_then(|i| table.get(i)), table.get(after)) else {
            return if after == 0 { table[0].1 } else { table[table.len() - 1].1 };
        };
        if after.0 == n {
            return after.1;
        }
        let part = (n / before.0).ln() / (after.0 / before.0).ln();
        two_digits(before.1 * (after.1 / before.1).powf(part))
    }

    /// The same for LoRA adapters of such a model.
    pub fn learning_rate_of_lora(self, n_params: u64) -> f64 {
        two_digits((LORA_FACTOR * self.learning_rate(n_params)).min(HIGHEST_OF_LORA))
    }
}

/// `x`, which is positive, rounded to two significant digits.
pub fn two_digits(x: f64) -> f64 {
    format!("{x:.1e}").parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_rates_are_met_and_others_lie_between() {
        assert_eq!(Purpose::Demonstrations.learning_rate(1_300_000_000), 9.65e-6);
        assert_eq!(Purpose::Demonstrations.learning_rate(4_000_000_000), 9.7e-6);
        assert_eq!(Purpose::Demonstrations.learning_rate(1), 2e-3);
        assert_eq!(Purpose::Demonstrations.learning_rate(u64::MAX), 5.03e-6);
        let of_gpt2 = Purpose::Demonstrations.learning_rate(124_439_808);
        assert!((5e-5..6.25e-5).contains(&of_gpt2), "{of_gpt2}");
        let of_medium = Purpose::Demonstrations.learning_rate_of_lora(354_823_168);
        assert!((2e-4..3e-4).contains(&of_medium), "{of_medium}");
        assert_eq!(Purpose::Demonstrations.learning_rate_of_lora(7_000_000), 5e-3);
    }

    #[test]
    fn larger_models_never_learn_faster() {
        use Purpose::*;
        for purpose in [Pretraining, Classification, Demonstrations, Comparisons, Preferences, Rewards] {
            let table = purpose.table();
            assert!(table.is_sorted_by(|a, b| a.0 < b.0 && a.1 >= b.1), "{purpose:?}");
        }
    }
}
