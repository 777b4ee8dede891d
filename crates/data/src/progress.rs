//! What long work reports to. The command line implements it, so that no library prints.

use serde::{Deserialize, Serialize};

/// What a task counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Bytes read.
    Bytes,
    /// Tokens produced.
    Tokens,
    /// Things of any other kind: documents, steps, windows.
    Items,
}

/// Where a stage says what it does.
pub trait Progress: Send + Sync {
    /// A line that stays on the screen.
    fn note(&self, line: &str);
    /// Prints a warning; the work continues.
    fn warn(&self, line: &str);
    /// Begins long work of `total` units, if it is known how many; it ends when the task is dropped.
    fn task(&self, label: &str, total: Option<u64>, unit: Unit) -> Box<dyn ProgressTask>;
}

/// One piece of long work.
pub trait ProgressTask: Send + Sync {
    /// `n` units were done by an earlier process: they count as done, not in the rate.
    fn resume_at(&self, n: u64);
    /// `n` more units are done.
    fn advance(&self, n: u64);
    /// Figures to show next to the count, for instance `loss 2.31`.
    fn show(&self, figures: &str);
}

/// Reports to nobody: for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn task(&self, _: &str, _: Option<u64>, _: Unit) -> Box<dyn ProgressTask> {
        Box::new(Self)
    }
}

impl ProgressTask for Silent {
    fn resume_at(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn show(&self, _: &str) {}
}

/// A count in words that are easy to read: 1234567 → 1,234,567.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A count with its noun, which has an s at its end unless the count is 1.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
