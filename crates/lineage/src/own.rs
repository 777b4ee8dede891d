//! The user's own data, which replaces that of the built-in world.

use anyhow::{Context, Result, ensure};
use gptkit_data::dialogue::opening_key;
use gptkit_data::disk;
use gptkit_data::progress::Progress;
use gptkit_data::prompt::prompts;
use gptkit_data::rows::read_rows;
use gptkit_data::source::OnBadRecord;
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Files of the user's own; what is not named comes from the embedded world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnData {
    /// Raw text: a file or a folder.
    pub text: Option<PathBuf>,
    /// Instructions with answers: a file of records.
    pub instructions: Option<PathBuf>,
    /// Comparisons: a file of records.
    pub comparisons: Option<PathBuf>,
    /// What becomes of records and documents that cannot be used.
    pub on_bad_record: OnBadRecord,
}

/// Of so many records one is held out.
const HELD_OUT: u64 = 10;

impl OwnData {
    /// Each with its name, where there is one.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        [("text", &self.text), ("instructions", &self.instructions), ("comparisons", &self.comparisons)]
            .into_iter()
            .filter_map(|(name, path)| Some((name, path.as_deref()?)))
    }

    /// Divides the instructions, if they are the user's, into those to learn from and those held out, below `folder`, unless
    /// that is done.
    ///
    /// # Errors
    /// When they cannot be read, or are too few.
    pub fn divide(&self, folder: &Path, progress: &dyn Progress) -> Result<()> {
        let Some(file) = &self.instructions else { return Ok(()) };
        let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
        let changed = modified(file).with_context(|| format!("{} cannot be read", file.display()))?;
        if parts(folder).iter().all(|part| modified(part).is_ok_and(|made| made > changed)) {
            return Ok(());
        }
        disk::create_dir(folder)?;
        divide(file, folder, self.on_bad_record, progress)
    }
}

/// Where [`divide`] leaves its two parts: to learn from, and held out.
pub(crate) fn parts(folder: &Path) -> [PathBuf; 2] {
    ["instructions.jsonl", "held-out.jsonl"].map(|name| folder.join(name))
}

/// Divides the records of `file` into two files below `folder`, one of ten held out by the prompt that it opens with, so that
/// all records of a prompt are on one side.
///
/// # Errors
/// When it cannot be read, or has too few records.
fn divide(file: &Path, folder: &Path, on_bad: OnBadRecord, progress: &dyn Progress) -> Result<()> {
    let [learn, held_out] = parts(folder);
    let mut n = [0, 0];
    disk::write_with(&learn, |learn| {
        disk::write_with(&held_out, |held_out| {
            let open = |path: &Path| OpenOptions::new().create(true).write(true).truncate(true).open(path);
            let mut files = [BufWriter::new(open(learn)?), BufWriter::new(open(held_out)?)];
            let skipped = read_rows(file, on_bad, progress, &mut |row| {
                let prompts = prompts(&row)?;
                let key = prompts.first().map_or(0, |prompt| opening_key(prompt));
                let side = usize::from(key.is_multiple_of(HELD_OUT));
                n[side] += 1;
                let line = Value::Object(row.fields).to_string();
                let written = writeln!(files[side], "{line}");
                written.with_context(|| format!("{} cannot be written", folder.display()))?;
                Ok(ControlFlow::Continue(()))
            })?;
            files.iter_mut().try_for_each(BufWriter::flush)?;
            if skipped.total() > 0 {
                progress.note(&format!("{}: {} records are skipped", file.display(), skipped.total()));
            }
            Ok(())
        })
    })?;
    ensure!(n[1] > 0, "{} has {} records, which is too few to hold any out", file.display(), n[0]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gptkit_data::progress::Silent;
    use std::fs;

    #[test]
    fn one_of_ten_is_held_out_and_none_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.jsonl");
        let lines: Vec<String> = (0..500).map(|i| format!(r#"{{"prompt":"{i}","completion":"yes"}}"#)).collect();
        disk::write(&file, lines.join("\n").as_bytes()).unwrap();
        divide(&file, folder.path(), OnBadRecord::Fail, &Silent).unwrap();
        let [learn, held_out] = parts(folder.path()).map(|path| fs::read_to_string(path).unwrap());
        let n = held_out.lines().count();
        assert!((20..90).contains(&n), "{n} are held out");
        let mut both: Vec<&str> = learn.lines().chain(held_out.lines()).collect();
        let mut all: Vec<&str> = lines.iter().map(String::as_str).collect();
        both.sort_unstable();
        all.sort_unstable();
        assert_eq!(both, all);
    }

    #[test]
    fn what_is_held_out_is_not_learned_from_however_often_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.jsonl");
        let lines: Vec<String> =
            (0..8000).map(|i| format!(r#"{{"prompt":"{}","completion":"{i}"}}"#, i % 4000)).collect();
        disk::write(&file, lines.join("\n").as_bytes()).unwrap();
        divide(&file, folder.path(), OnBadRecord::Fail, &Silent).unwrap();
        let [learn, held_out] = parts(folder.path()).map(|path| fs::read_to_string(path).unwrap());
        let prompt = |line: &str| line.split_once(',').unwrap().0.to_owned();
        let learned: std::collections::BTreeSet<String> = learn.lines().map(prompt).collect();
        assert!(held_out.lines().count() > 600 && held_out.lines().all(|line| !learned.contains(&prompt(line))));
    }
}
