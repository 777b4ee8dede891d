//! Two configurations, key by key.

use std::collections::BTreeMap;
use std::fmt;
use toml::{Table, Value};

/// A key whose value is not the same in two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Sections and key, separated by dots.
    pub key: String,
    /// Its value in the first, as TOML; none where the key is missing.
    pub before: Option<String>,
    /// Its value in the second.
    pub now: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
        write!(f, "{} was {} and is now {}", self.key, value(&self.before), value(&self.now))
    }
}

/// The keys that differ between two configurations in TOML, in alphabetical order.
///
/// # Errors
/// When one of them is not TOML.
pub fn differences(before: &str, now: &str) -> Result<Vec<Difference>, toml::de::Error> {
    let (before, now) = (leaves(before)?, leaves(now)?);
    let keys = before.keys().chain(now.keys().filter(|key| !before.contains_key(*key)));
    let mut differences: Vec<Difference> = keys
        .filter(|key| match (before.get(*key), now.get(*key)) {
            (Some(before), Some(now)) => !same(before, now),
            _ => true,
        })
        .map(|key| Difference {
            key: key.clone(),
            before: before.get(key).map(Value::to_string),
            now: now.get(key).map(Value::to_string),
        })
        .collect();
    differences.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(differences)
}

/// Every value that is no table, by the path of its key.
fn leaves(text: &str) -> Result<BTreeMap<String, Value>, toml::de::Error> {
    let mut leaves = BTreeMap::new();
    let mut left = vec![(String::new(), toml::from_str::<Table>(text)?)];
    while let Some((prefix, table)) = left.pop() {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            match value {
                Value::Table(inner) => left.push((key + ".", inner)),
                value => drop(leaves.insert(key, value)),
            }
        }
    }
    Ok(leaves)
}

/// Whether two values mean the same: `1` is `1.0`.
fn same(a: &Value, b: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    };
    a == b || matches!((number(a), number(b)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_by_value_and_named_with_their_section() {
        let before = "seed = 1\n[train]\nlr = 3e-3\nclip = 1.0\nlength = \"60 steps\"\n";
        let now = "seed = 1\n[train]\nlr = 0.003\nclip = 1\nlength = \"80 steps\"\npatience = 3\n";
        let found: Vec<String> = differences(before, now).unwrap().iter().map(Difference::to_string).collect();
        assert_eq!(
            found,
            ["train.length was \"60 steps\" and is now \"80 steps\"", "train.patience was not set and is now 3"]
        );
        assert!(differences(before, "seed = ").is_err());
        assert!(differences(before, before).unwrap().is_empty());
    }
}
