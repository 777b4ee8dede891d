//! The only writer: a file or folder that it writes is whole or absent, whatever happens meanwhile.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Makes `folder` and those above it.
///
/// # Errors
/// When it cannot be made, with its name.
pub fn create_dir(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("folder {} cannot be made", folder.display()))
}

/// Writes `bytes` to `path`; a crash at any point leaves what was there before.
///
/// # Errors
/// When it cannot be written, with its name.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |aside| {
        #[expect(clippy::disallowed_methods, reason = "this is the one place where a file is made, under a name aside")]
        let mut file = File::create(aside)?;
        Ok(file.write_all(bytes)?)
    })
}

/// Lets `fill` write a file under a name aside, then gives it the name `path`.
///
/// # Errors
/// When `fill` fails or the file cannot be renamed; `path` is then as it was.
pub fn write_with(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let aside = aside(path);
    let written = fill(&aside).and_then(|()| {
        File::open(&aside)?.sync_all()?;
        fs::rename(&aside, path)?;
        sync_folder_of(path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&aside); // the error that matters is the first
    }
    written.with_context(|| format!("{} cannot be written", path.display()))
}

/// Makes `folder` anew and empty: what a killed write left behind was promised to nobody.
///
/// # Errors
/// When it cannot be made, with its name.
pub fn fresh_dir(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
    }
    create_dir(folder)
}

/// Gives the finished folder `made` the name `path`, in place of an older one.
///
/// # Errors
/// When it cannot be renamed, with its name.
pub fn publish(made: &Path, path: &Path) -> Result<()> {
    let rename = || -> Result<()> {
        for entry in fs::read_dir(made)? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(made)?.sync_all()?;
        let old = with_ending(path, ".gptkit-old");
        if path.exists() {
            fresh_dir(&old)?;
            fs::rename(path, &old)?;
        }
        fs::rename(made, path)?;
        sync_folder_of(path)?;
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        Ok(())
    };
    rename().with_context(|| format!("{} cannot be put in place", path.display()))
}

/// The name under which `path` is written until it is whole.
pub fn aside(path: &Path) -> PathBuf {
    with_ending(path, ".gptkit-tmp")
}

/// A name that nobody else gives.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// A rename is on disk once the folder is.
fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(File::open(folder)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write(&path, b"old").unwrap();
        let failed = write_with(&path, |aside| {
            fs::copy(&path, aside)?;
            anyhow::bail!("the disk is full")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("a.json cannot be written: the disk is full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_published_folder_takes_the_place_of_the_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shards");
        for text in ["one", "two"] {
            let made = aside(&path);
            fresh_dir(&made).unwrap();
            write(&made.join("f"), text.as_bytes()).unwrap();
            publish(&made, &path).unwrap();
            assert_eq!(fs::read(path.join("f")).unwrap(), text.as_bytes());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
