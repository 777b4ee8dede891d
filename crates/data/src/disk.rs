//! The only writer: a file or folder that it writes is whole or absent, whatever happens meanwhile.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// What `metadata` describes, in words: `a FIFO`, for instance.
pub(crate) fn kind_of(metadata: &fs::Metadata) -> &'static str {
    let kind = metadata.file_type();
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let special = [
            (kind.is_fifo(), "a FIFO"),
            (kind.is_socket(), "a socket"),
            (kind.is_char_device(), "a character device"),
            (kind.is_block_device(), "a block device"),
        ];
        if let Some((_, name)) = special.into_iter().find(|(is, _)| *is) {
            return name;
        }
    }
    if kind.is_dir() { "a folder" } else { "a regular file" }
}

/// Opens a regular file for reading. Anything else is refused by its name before it is opened: opening a FIFO waits for a
/// writer, and a device may have no end.
///
/// # Errors
/// When there is no such file, it is not a regular file, or it cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    let open = || -> Result<File> {
        let metadata = path.metadata()?;
        ensure!(metadata.is_file(), "it is {}, not a regular file", kind_of(&metadata));
        Ok(File::open(path)?)
    };
    open().with_context(|| format!("{} cannot be read", path.display()))
}

/// Opens a regular file, which may be new, for writing at its end.
///
/// # Errors
/// When it is not a regular file or cannot be opened.
pub fn append(path: &Path) -> Result<File> {
    let open = || -> Result<File> {
        if let Ok(metadata) = path.metadata() {
            ensure!(metadata.is_file(), "it is {}, not a regular file", kind_of(&metadata));
        }
        Ok(File::options().create(true).append(true).open(path)?)
    };
    open().with_context(|| format!("{} cannot be written", path.display()))
}

/// Reads a small text file that describes something: JSON or TOML.
///
/// # Errors
/// When it is not a regular file, cannot be read, is no text, or is larger than any description, before memory is taken
/// for it.
pub fn read_description(path: &Path) -> Result<String> {
    text_of(path, open(path)?, 256 << 20)
}

/// Reads a small text file that a person names. It may be a stream, such as `/dev/stdin` or what a shell puts in the place
/// of `<(command)`.
///
/// # Errors
/// As [`read_description`], and when it is a FIFO that may have no writer.
pub fn read_named(path: &Path) -> Result<String> {
    let stream = path.starts_with("/dev") || path.starts_with("/proc");
    match path.metadata() {
        Ok(metadata) if stream && !metadata.is_dir() => {
            let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
            text_of(path, file, 16 << 20)
        }
        _ => read_description(path),
    }
}

fn text_of(path: &Path, file: impl Read, largest: u64) -> Result<String> {
    let read = || -> Result<String> {
        let mut bytes = Vec::new();
        let n = file.take(largest + 1).read_to_end(&mut bytes)? as u64;
        ensure!(n <= largest, "it is larger than {} MB", largest >> 20);
        let text = String::from_utf8(bytes).context("it is not UTF-8")?;
        Ok(text)
    };
    read().with_context(|| format!("{} cannot be read", path.display()))
}

/// Where the output `path` is written: at the end of a symbolic link, so that the link stays.
///
/// # Errors
/// When it is a link that leads nowhere.
fn destination(path: &Path) -> Result<PathBuf> {
    if !path.is_symlink() {
        return Ok(path.to_owned());
    }
    path.canonicalize().with_context(|| {
        let to = fs::read_link(path).unwrap_or_default();
        format!("{} is a symbolic link to {}, which cannot be used", path.display(), to.display())
    })
}

/// Makes `folder` and those above it.
///
/// # Errors
/// When it cannot be made, with its name.
pub fn create_dir(folder: &Path) -> Result<()> {
    fs::create_dir_all(destination(folder)?).with_context(|| format!("folder {} cannot be made", folder.display()))
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
    if let Ok(metadata) = path.metadata() {
        let kind = kind_of(&metadata);
        ensure!(metadata.is_file(), "{} cannot be written: it is {kind}, not a regular file", path.display());
    }
    let path = &destination(path)?;
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

/// Lets `fill` write a folder under a name aside, then gives it the name `path`, in place of an older one.
///
/// # Errors
/// When `fill` fails or the folder cannot be renamed; `path` is then as it was, and what was written is gone.
pub fn folder_with<T>(path: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let path = &destination(path)?;
    let aside = aside(path);
    let made = fresh_dir(&aside).and_then(|()| fill(&aside)).and_then(|made| {
        publish(&aside, path)?;
        Ok(made)
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&aside); // the error that matters is the first
    }
    made
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
fn publish(made: &Path, path: &Path) -> Result<()> {
    let rename = || -> Result<()> {
        for entry in fs::read_dir(made)? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(made)?.sync_all()?;
        let old = with_ending(path, OLD);
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

/// Name of the list that [`seal`] writes.
const SEAL: &str = "manifest.json";

/// A file as it was when its folder was sealed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sealed {
    bytes: u64,
    blake3: String,
}

/// Writes the size and checksum of every file of `folder` beside them, so that [`check_seal`] can tell damage.
///
/// # Errors
/// When a file cannot be read or the list written.
pub fn seal(folder: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, sealed(&path)?);
    }
    write(&folder.join(SEAL), (serde_json::to_string_pretty(&files)? + "\n").as_bytes())
}

/// Whether every file of `folder` is as it was when the folder was sealed.
///
/// # Errors
/// Says which file is missing or another, or that there is no seal.
pub fn check_seal(folder: &Path) -> Result<()> {
    let path = folder.join(SEAL);
    let text = read_description(&path)?;
    let files: BTreeMap<String, Sealed> =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    for (name, before) in files {
        let path = folder.join(name);
        ensure!(sealed(&path)? == before, "{} is damaged", path.display());
    }
    Ok(())
}

/// The same for the same contents of the files of `folder` whose names end in `ending`, wherever it lies.
///
/// # Errors
/// When one cannot be read.
pub fn fingerprint(folder: &Path, ending: &str) -> Result<String> {
    let read = || -> std::io::Result<BTreeMap<String, PathBuf>> {
        let named = |entry: fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), entry.path());
        fs::read_dir(folder)?.map(|entry| entry.map(named)).collect()
    };
    let files = read().with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut hasher = blake3::Hasher::new();
    for (name, path) in files.into_iter().filter(|(name, _)| name.ends_with(ending)) {
        hasher.update(format!("{name}\n{}\n", sealed(&path)?.blake3).as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn sealed(path: &Path) -> Result<Sealed> {
    let mut file = open(path)?;
    let mut read = || -> std::io::Result<Sealed> {
        let mut hasher = blake3::Hasher::new();
        let bytes = std::io::copy(&mut file, &mut hasher)?;
        Ok(Sealed { bytes, blake3: hasher.finalize().to_hex().to_string() })
    };
    read().with_context(|| format!("{} cannot be read", path.display()))
}

/// Endings of names that are not yet, or no more, what they stand for.
const ASIDE: &str = ".gptkit-tmp";
const OLD: &str = ".gptkit-old";

/// The name under which `path` is written until it is whole.
fn aside(path: &Path) -> PathBuf {
    with_ending(path, ASIDE)
}

/// Removes from `folder` the unfinished folders that killed processes left.
///
/// # Errors
/// When one cannot be removed.
pub fn clear_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.to_string_lossy();
        if path.is_dir() && (name.ends_with(ASIDE) || name.ends_with(OLD)) {
            fs::remove_dir_all(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

/// Locks `folder` for as long as the result lives, however the process ends; nothing when another process holds it.
///
/// # Errors
/// When the file `lock` cannot be made there.
pub fn lock(folder: &Path) -> Result<Option<File>> {
    let path = folder.join("lock");
    let file = append(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("{} cannot be locked", path.display())),
    }
}

/// Whether another process holds the lock of `folder`.
pub fn is_locked(folder: &Path) -> bool {
    // Shared, so that those who only look do not keep each other, or the next writer, out for long.
    open(&folder.join("lock")).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
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

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_refused_at_once_for_reading_and_for_writing() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("config.json");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        std::fs::rename(&fifo, folder.path().join("lock")).unwrap();
        std::fs::hard_link(folder.path().join("lock"), &fifo).unwrap();
        let said = |result: Result<()>| format!("{:#}", result.unwrap_err());
        for result in [
            open(&fifo).map(drop),
            append(&fifo).map(drop),
            read_description(&fifo).map(drop),
            read_named(&fifo).map(drop),
            write(&fifo, b""),
            lock(folder.path()).map(drop),
            seal(folder.path()),
        ] {
            let said = said(result);
            assert!(said.contains("it is a FIFO, not a regular file"), "{said}");
        }
        assert!(!is_locked(folder.path()));
        assert!(said(write(Path::new("/dev/null"), b"")).contains("it is a character device"));
        assert!(Path::new("/dev/null").metadata().is_ok_and(|metadata| !metadata.is_file()));
        assert!(said(write(folder.path(), b"")).contains("it is a folder"));
        assert!(said(read_named(Path::new("/dev/zero")).map(drop)).contains("/dev/zero cannot be read: it is larger"));
        assert_eq!(read_named(Path::new("/dev/null")).unwrap(), "");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_as_an_output_stays_a_link() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(&at("file"), b"old").unwrap();
        create_dir(&at("dir")).unwrap();
        symlink(at("file"), at("to-file")).unwrap();
        symlink(at("dir"), at("to-dir")).unwrap();
        symlink(at("nothing"), at("to-nothing")).unwrap();
        write(&at("to-file"), b"new").unwrap();
        folder_with(&at("to-dir"), |made| write(&made.join("f"), b"x")).unwrap();
        create_dir(&at("to-dir")).unwrap();
        assert!(at("to-file").is_symlink() && at("to-dir").is_symlink());
        assert_eq!((fs::read(at("file")).unwrap(), fs::read(at("dir/f")).unwrap()), (b"new".to_vec(), b"x".to_vec()));
        for result in
            [write(&at("to-nothing"), b""), folder_with(&at("to-nothing"), |_| Ok(())), create_dir(&at("to-nothing"))]
        {
            let said = format!("{:#}", result.unwrap_err());
            assert!(said.contains("to-nothing is a symbolic link to"), "{said}");
        }
    }

    #[test]
    fn a_published_folder_takes_the_place_of_the_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shards");
        for text in ["one", "two"] {
            folder_with(&path, |made| write(&made.join("f"), text.as_bytes())).unwrap();
            assert_eq!(fs::read(path.join("f")).unwrap(), text.as_bytes());
        }
        let failed: Result<()> = folder_with(&path, |made| {
            write(&made.join("f"), b"three")?;
            anyhow::bail!("the disk is full")
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(path.join("f")).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_seal_tells_any_change_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        write(&path, b"0123456789").unwrap();
        assert!(check_seal(folder.path()).is_err(), "nothing was sealed");
        seal(folder.path()).unwrap();
        check_seal(folder.path()).unwrap();
        for other in [&b"0123456780"[..], b"012345678", b""] {
            write(&path, other).unwrap();
            assert!(check_seal(folder.path()).unwrap_err().to_string().contains("weights is damaged"));
        }
        fs::remove_file(&path).unwrap();
        assert!(check_seal(folder.path()).unwrap_err().to_string().contains("weights cannot be read"));
    }

    #[test]
    fn a_lock_is_held_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        assert!(held.is_some());
        assert!(lock(folder.path()).unwrap().is_none() && is_locked(folder.path()));
        drop(held);
        assert!(!is_locked(folder.path()));
        assert!(lock(folder.path()).unwrap().is_some());
    }

    #[test]
    fn leftovers_go_and_all_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["step-1", "step-2.gptkit-tmp", "step-1.gptkit-old"] {
            create_dir(&folder.path().join(name)).unwrap();
        }
        clear_leftovers(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(folder.path().join("step-1").exists());
    }
}
