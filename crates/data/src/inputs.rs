//! The input files of a path: the file itself, or those in a folder.

use crate::disk;
use crate::file_form::FileForm;
use crate::source::OnBadRecord;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A file that is read, as it was when it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// The file.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970, as far as the file system knows.
    pub modified_ns: u128,
}

/// The input files of a path.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// In the order of their names.
    pub(crate) files: Vec<InputFile>,
    /// Visible files of other kinds in a folder, and how many hidden ones.
    pub(crate) left_out: Vec<PathBuf>,
    pub(crate) hidden: usize,
    /// Entries of a folder that cannot be read, each with what is wrong with it.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
}

/// The files that `path` stands for: itself, or those below it that hold text by their name. Hidden ones are left out. An
/// entry of a folder that cannot be read, a link to nothing for instance, is listed or an error, as `on_bad` says.
///
/// # Errors
/// When there is none, or one cannot be read.
pub(crate) fn inputs(path: &Path, on_bad: OnBadRecord) -> Result<Inputs> {
    let metadata = path.metadata().with_context(|| format!("{} cannot be read", path.display()))?;
    if !metadata.is_dir() {
        refuse_stream(path)?;
        return Ok(Inputs { files: vec![input(path.to_owned())?], ..Inputs::default() });
    }
    let (mut found, mut left_out, mut hidden, mut unreadable) = (Vec::new(), Vec::new(), 0, Vec::new());
    let mut bad = |entry: PathBuf, what: String| {
        ensure!(on_bad == OnBadRecord::Skip, "{what}; use --on-bad-record skip to ignore the file");
        unreadable.push((entry, what));
        Ok(())
    };
    let mut folders = vec![path.to_owned()];
    let mut visited = HashSet::new(); // a link may lead back to a folder above it
    while let Some(folder) = folders.pop() {
        if !visited.insert(folder.canonicalize().unwrap_or_else(|_| folder.clone())) {
            continue;
        }
        let entries = match folder.read_dir() {
            Ok(entries) => entries,
            Err(e) if folder != path => {
                bad(folder.clone(), format!("folder {} cannot be read: {e}", folder.display()))?;
                continue;
            }
            Err(e) => return Err(e).with_context(|| format!("folder {} cannot be read", folder.display())),
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("folder {} cannot be read", folder.display()))?.path();
            if entry.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
                hidden += 1;
                continue;
            }
            if entry.is_dir() {
                folders.push(entry);
            } else if FileForm::of(&entry).named && !is_special(&entry) {
                match input(entry.clone()).and_then(|input| readable(&entry).map(|()| input)) {
                    Ok(input) => found.push(input),
                    Err(e) => bad(entry, format!("{e:#}"))?,
                }
            } else {
                left_out.push(entry);
            }
        }
    }
    ensure!(
        !found.is_empty(),
        "{} contains no .txt, .text, .md, .jsonl, .ndjson, .csv or .tsv file (optionally with .gz or .zst) and no \
         .parquet file{}",
        path.display(),
        named(&left_out).map_or(String::new(), |names| format!("; it contains {names}"))
    );
    found.sort_by(|a, b| a.path.cmp(&b.path));
    left_out.sort();
    Ok(Inputs { files: found, left_out, hidden, unreadable })
}

impl Inputs {
    /// A note about the files of `folder` that are not read, if there are any.
    pub(crate) fn notice(&self, folder: &Path) -> Option<String> {
        let names = named(&self.left_out)?;
        let are = if self.left_out.len() == 1 { " of another type is" } else { "s of other types are" };
        let hidden = if self.hidden > 0 { format!(" (and {} hidden)", self.hidden) } else { String::new() };
        let (folder, n) = (folder.display(), self.left_out.len());
        Some(format!("{folder}: {n} file{are} ignored: {names}{hidden}; to read one, pass its path"))
    }
}

/// The names of some files, the first few of them; nothing when there is none.
fn named(files: &[PathBuf]) -> Option<String> {
    const SHOWN: usize = 5;
    let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names: Vec<String> = files.iter().take(SHOWN).map(name).collect();
    let more = files.len() - names.len();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!files.is_empty()).then(|| names.join(", ") + &rest)
}

/// # Errors
/// When the file `path` cannot be opened.
fn readable(path: &Path) -> Result<()> {
    File::open(path).map(drop).with_context(|| format!("{} cannot be read", path.display()))
}

/// Whether `path` is neither a file nor a folder: a FIFO, a socket or a device, which cannot be read as often as text is.
fn is_special(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// # Errors
/// When `path` is a FIFO or such: text is read more than once.
pub(crate) fn refuse_stream(path: &Path) -> Result<()> {
    ensure!(
        !is_special(path),
        "{} is {}; use a regular file or a folder, or pass the data on stdin: --data - (text), --data -.jsonl (records)",
        path.display(),
        path.metadata().map_or("missing", |metadata| disk::kind_of(&metadata))
    );
    Ok(())
}

fn input(path: PathBuf) -> Result<InputFile> {
    ensure!(path.to_str().is_some(), "the file name {} is not valid UTF-8; rename the file", path.display());
    let metadata = path.metadata().with_context(|| format!("{} cannot be read", path.display()))?;
    let modified = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    Ok(InputFile { path, size: metadata.len(), modified_ns: modified.map_or(0, |d| d.as_nanos()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_text_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("b")).unwrap();
        for name in ["z.txt", "b/a.jsonl.gz", ".hidden.txt", "image.png", "a.md.zst"] {
            crate::disk::write(&path.join(name), b"x").unwrap();
        }
        let found = inputs(path, OnBadRecord::Fail).unwrap();
        assert_eq!((&*found.left_out, found.hidden), (&[path.join("image.png")][..], 1));
        let said = found.notice(path).unwrap();
        assert!(
            said.ends_with(": 1 file of another type is ignored: image.png (and 1 hidden); to read one, pass its path")
        );
        let names: Vec<PathBuf> = found.files.into_iter().map(|i| i.path).collect();
        assert_eq!(names, ["a.md.zst", "b/a.jsonl.gz", "z.txt"].map(|n| path.join(n)));
    }

    #[test]
    fn a_folder_without_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(inputs(folder.path(), OnBadRecord::Skip).unwrap_err().to_string().contains("contains no .txt"));
        assert!(
            inputs(&folder.path().join("none"), OnBadRecord::Skip)
                .unwrap_err()
                .to_string()
                .contains("none cannot be read")
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_in_a_folder_is_refused_or_listed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        crate::disk::write(&path.join("a.txt"), b"x").unwrap();
        std::os::unix::fs::symlink("nowhere", path.join("b.txt")).unwrap();
        let said = format!("{:#}", inputs(path, OnBadRecord::Fail).unwrap_err());
        assert!(said.contains("b.txt cannot be read") && said.contains("--on-bad-record skip"), "{said}");
        let found = inputs(path, OnBadRecord::Skip).unwrap();
        assert_eq!((found.files.len(), found.unreadable.len()), (1, 1));
        assert_eq!(found.unreadable[0].0, path.join("b.txt"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_left_out_of_a_folder_and_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let fifo = path.join("a.txt");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(path.join("b.txt")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path.join("c.txt")).unwrap();
        crate::disk::write(&path.join("d.txt"), b"x").unwrap();
        let found = inputs(path, OnBadRecord::Fail).unwrap();
        assert_eq!((found.files.len(), found.left_out.len()), (1, 3));
        for (name, kind) in [("a.txt", "a FIFO"), ("b.txt", "a socket"), ("c.txt", "a character device")] {
            let said = format!("{:#}", inputs(&path.join(name), OnBadRecord::Fail).unwrap_err());
            assert!(said.contains(&format!("{name} is {kind}")) && said.contains("--data -"), "{said}");
            assert!(crate::open::open(&path.join(name), &|_| ()).is_err(), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_not_utf_8_is_refused_before_anything_is_read() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes(b"a\xff.txt");
        crate::disk::write(&folder.path().join(name), b"x").unwrap();
        let said = inputs(folder.path(), OnBadRecord::Fail).unwrap_err().to_string();
        assert!(said.contains("a\u{fffd}.txt is not valid UTF-8"), "{said}");
    }
}
