//! Kinds of labeled tasks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What is predicted from a text, or from two: the kinds that GPT-1 was fine-tuned on (Radford et al. 2018, §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// The class of a text.
    Classification,
    /// Whether a hypothesis follows from a premise, as a class of the pair.
    Entailment,
    /// Whether two texts say the same, as a class of the pair; their order does not matter.
    Similarity,
    /// Which of several continuations of a context is right.
    MultipleChoice,
    /// A number for a text, or for a pair whose order does not matter.
    Regression,
}

impl TaskKind {
    /// All kinds.
    pub const ALL: [TaskKind; 5] = [
        TaskKind::Classification,
        TaskKind::Entailment,
        TaskKind::Similarity,
        TaskKind::MultipleChoice,
        TaskKind::Regression,
    ];
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TaskKind::Classification => "classification",
            TaskKind::Entailment => "entailment",
            TaskKind::Similarity => "similarity",
            TaskKind::MultipleChoice => "multiple-choice",
            TaskKind::Regression => "regression",
        })
    }
}

impl FromStr for TaskKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|task| task.to_string() == text).ok_or_else(|| {
            let names: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("must be one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_as_it_is_printed() {
        for task in TaskKind::ALL {
            assert_eq!(task.to_string().parse(), Ok(task));
            assert_eq!(serde_json::to_value(task).unwrap(), task.to_string());
        }
        assert!("choice".parse::<TaskKind>().unwrap_err().contains("multiple-choice"));
    }
}
