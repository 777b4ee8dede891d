//! Who gives feedback, and what they may do.

use gptkit_stats::Share;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The rights of a person; each role has all rights of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessRole {
    /// Chat and rate answers.
    User,
    /// Also rank answers and write demonstrations.
    Labeler,
    /// Also make tasks, see all figures, exclude people and export.
    Admin,
}

impl AccessRole {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Labeler => "labeler",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for AccessRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AccessRole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::User, Self::Labeler, Self::Admin];
        all.into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| format!("{text:?} is not a role; the roles are user, labeler and admin"))
    }
}

/// A person as the store knows them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PersonFigures {
    /// Name.
    pub name: String,
    /// AccessRole at the last visit.
    pub role: AccessRole,
    /// Rankings that count.
    pub rankings: u64,
    /// Ratings that count.
    pub ratings: u64,
    /// Demonstrations that count.
    pub demonstrations: u64,
    /// How often they put the known best answer of a task first.
    pub known_best: Option<Share>,
    /// Whether the person agreed that their data is used for training.
    pub consent: bool,
    /// Whether their records are left out of exports.
    pub excluded: bool,
}
