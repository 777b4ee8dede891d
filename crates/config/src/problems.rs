//! All problems of a configuration, collected before they are reported.

use std::fmt;

/// One thing that is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the setting, for instance `model.d_model`.
    pub key: String,
    /// What is wrong, with the value.
    pub what: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// The problems of one configuration, in the order they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    found: Vec<Problem>,
    section: Vec<String>,
}

/// A configuration that can check itself.
pub trait Check {
    /// Adds everything that is wrong with `self` to `problems`, with keys relative to it.
    fn check(&self, problems: &mut Problems);
}

impl Problems {
    /// Adds one problem with `key` of the section being checked.
    pub fn add(&mut self, key: &str, what: impl Into<String>, hint: impl Into<String>) {
        let mut path = self.section.clone();
        if !key.is_empty() {
            path.push(key.to_owned());
        }
        self.found.push(Problem { key: path.join("."), what: what.into(), hint: hint.into() });
    }

    /// Adds a problem unless `holds`.
    pub fn require(&mut self, holds: bool, key: &str, what: impl Into<String>, hint: impl Into<String>) {
        if !holds {
            self.add(key, what, hint);
        }
    }

    /// Adds a problem when `value` is above `most`: nothing is allocated for sizes that no machine has room for.
    pub fn at_most(&mut self, value: usize, most: usize, key: &str) {
        self.require(value <= most, key, "is too large", format!("use at most {most}"));
    }

    /// Checks the section `key`.
    pub fn section(&mut self, key: &str, section: &impl Check) {
        self.section.push(key.to_owned());
        section.check(self);
        self.section.pop();
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The problems, first found first.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.found.iter()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.what)?;
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}
