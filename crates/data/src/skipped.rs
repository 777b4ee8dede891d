//! Records that are left out, and why.

use crate::progress::Progress;
use crate::source::OnBadRecord;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Records that were left out, by what was wrong with them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The first of them: file, line and what is wrong.
    pub first: Option<String>,
    /// Lines that are not UTF-8.
    pub invalid_utf8: u64,
    /// Documents, or answers, of nothing but white space.
    pub empty: u64,
    /// Records that are not what they should be.
    pub malformed: u64,
}

/// Under which of its counts a bad record is kept.
pub(crate) type SkippedCount = fn(&mut Skipped) -> &mut u64;

impl Skipped {
    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.invalid_utf8 + self.empty + self.malformed
    }

    /// Adds what was left out elsewhere.
    pub(crate) fn append(&mut self, other: Self) {
        self.first = self.first.take().or(other.first);
        self.invalid_utf8 += other.invalid_utf8;
        self.empty += other.empty;
        self.malformed += other.malformed;
    }

    /// Warns of the records that were left out, if there are any.
    pub fn warn(&self, progress: &dyn Progress) {
        if let (n @ 1.., Some(first)) = (self.total(), &self.first) {
            progress.warn(&format!("skipped {n} records; the first: {first}"));
        }
    }

    /// Leaves out the record at `place`, in which `what` is wrong.
    ///
    /// # Errors
    /// When bad records are not to be left out.
    pub(crate) fn leave_out(
        &mut self,
        on_bad: OnBadRecord,
        place: &dyn fmt::Display,
        what: &str,
        kind: SkippedCount,
    ) -> Result<()> {
        if on_bad == OnBadRecord::Fail {
            bail!("{place}: {what}; use --on-bad-record skip to skip such records");
        }
        *kind(self) += 1;
        self.first.get_or_insert_with(|| format!("{place}: {what}"));
        Ok(())
    }
}
