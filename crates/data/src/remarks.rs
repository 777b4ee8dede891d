//! Notes about files that were read: each note once, with its first file and the number of others.

use crate::progress::{Progress, grouped};
use std::path::Path;

/// Bytes of value zero, which text does not have.
pub(crate) const NULS: &str = "NUL bytes, which are unusual in text (is the encoding wrong, or is the file not text?)";
/// Halves of surrogate pairs in JSON.
pub(crate) const HALVES: &str = "number of records with half of a surrogate pair, which is replaced by U+FFFD";

/// Remarks on files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Remarks(Vec<Remark>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Remark {
    what: &'static str,
    /// The first file that it is true of, the latest, and how many they are.
    first: String,
    latest: String,
    files: u64,
    /// How often it is true; 0 where it is true of a whole file.
    n: u64,
}

impl Remarks {
    /// Remarks `what` on `file`, where it is true `n` times, or of the file as a whole when that is 0.
    pub(crate) fn add(&mut self, what: &'static str, file: &Path, n: u64) {
        let name = file.display().to_string();
        match self.0.iter_mut().find(|remark| remark.what == what) {
            Some(remark) => {
                remark.files += u64::from(remark.latest != name);
                remark.latest = name;
                remark.n += n;
            }
            None => self.0.push(Remark { what, first: name.clone(), latest: name, files: 1, n }),
        }
    }

    /// Adds those of `other`.
    pub(crate) fn append(&mut self, other: Self) {
        for remark in other.0 {
            self.add(remark.what, Path::new(&remark.first), remark.n);
        }
    }

    /// A line for each.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|Remark { what, first, files, n, .. }| {
            let more = match files {
                1 => String::new(),
                files => format!(" and {} more", grouped(files - 1)),
            };
            let count = if *n > 0 { format!(": {}", grouped(*n)) } else { String::new() };
            format!("{first}{more}: {what}{count}")
        })
    }

    /// Warns of all.
    pub(crate) fn warn(&self, progress: &dyn Progress) {
        self.lines().for_each(|line| progress.warn(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_is_made_once_with_the_number_of_files() {
        let mut remarks = Remarks::default();
        for (file, n) in [("a.txt", 2), ("a.txt", 1), ("b.txt", 4)] {
            remarks.add("zeros", Path::new(file), n);
        }
        remarks.add("is odd", Path::new("c.txt"), 0);
        assert_eq!(remarks.lines().collect::<Vec<_>>(), ["a.txt and 1 more: zeros: 7", "c.txt: is odd"]);
    }
}
