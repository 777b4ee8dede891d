//! The only writer: a file or folder that it writes is whole or absent, whatever happens meanwhile.

use crate::unfinished::{Unfinished, remove};
use anyhow::{Context, Result, bail, ensure};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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

/// Reads the whole of a regular file.
///
/// # Errors
/// As [`open`], or when reading fails, with the file's name.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(bytes)
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

/// Bytes that no description is larger than.
const LARGEST_DESCRIPTION: u64 = 256 << 20;

/// Reads a small text file that describes something: JSON or TOML.
///
/// # Errors
/// When it is not a regular file, cannot be read, is no text, or is larger than any description, before memory is taken
/// for it.
pub fn read_description(path: &Path) -> Result<String> {
    text_in(path, bytes_of(path, open(path)?, LARGEST_DESCRIPTION)?)
}

/// Reads a small text file that a person names. It may be a stream, such as `/dev/stdin` or what a shell puts in the place
/// of `<(command)`.
///
/// # Errors
/// As [`read_description`], and when it is a FIFO that may have no writer.
pub fn read_named(path: &Path) -> Result<String> {
    text_in(path, read_named_bytes(path)?)
}

/// The same for bytes of any kind.
///
/// # Errors
/// As [`read_named`], text or not.
pub fn read_named_bytes(path: &Path) -> Result<Vec<u8>> {
    let stream = path.starts_with("/dev") || path.starts_with("/proc");
    match path.metadata() {
        Ok(metadata) if stream && !metadata.is_dir() => {
            let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
            bytes_of(path, file, 16 << 20)
        }
        _ => bytes_of(path, open(path)?, LARGEST_DESCRIPTION),
    }
}

fn bytes_of(path: &Path, file: impl Read, largest: u64) -> Result<Vec<u8>> {
    let read = || -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let n = file.take(largest + 1).read_to_end(&mut bytes)? as u64;
        ensure!(n <= largest, "it is larger than {} MB", largest >> 20);
        Ok(bytes)
    };
    read().with_context(|| format!("{} cannot be read", path.display()))
}

fn text_in(path: &Path, bytes: Vec<u8>) -> Result<String> {
    let text = String::from_utf8(bytes).context("it is not UTF-8");
    text.with_context(|| format!("{} cannot be read", path.display()))
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
        format!("{} is a symbolic link to {}, which cannot be opened", path.display(), to.display())
    })
}

/// Makes `folder` and those above it.
///
/// # Errors
/// When it cannot be made, with its name.
pub fn create_dir(folder: &Path) -> Result<()> {
    fs::create_dir_all(destination(folder)?).with_context(|| format!("folder {} cannot be created", folder.display()))
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

/// Writes `value` to `path` as indented JSON with a line break at its end, as [`write()`] does.
///
/// # Errors
/// As [`write()`], and when it cannot be written as JSON.
pub fn write_json(path: &Path, value: &(impl Serialize + ?Sized)) -> Result<()> {
    write(path, (serde_json::to_string_pretty(value)? + "\n").as_bytes())
}

/// Lets `fill` write a file under a name aside, then gives it the name `path`.
///
/// # Errors
/// When another process is writing `path`, `fill` fails or the file cannot be renamed; `path` is then as it was.
pub fn write_with(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if let Ok(metadata) = path.metadata() {
        let kind = kind_of(&metadata);
        ensure!(metadata.is_file(), "{} cannot be written: it is {kind}, not a regular file", path.display());
    }
    let write = || -> Result<()> {
        let path = &destination(path)?;
        let scratch = Scratch::beside(path)?;
        let aside = scratch.path().join(path.file_name().context("it has no file name")?);
        fill(&aside)?;
        give_default_mode(&aside, &scratch)?;
        File::open(&aside)?.sync_all()?;
        fs::rename(&aside, path)?;
        sync_folder_of(path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// Gives a file the mode that the umask asks for: libraries that write through a temporary file leave 0600.
#[cfg(unix)]
fn give_default_mode(file: &Path, scratch: &Scratch) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(scratch.path())?.permissions().mode() & 0o666;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(mode))?)
}

#[cfg(not(unix))]
fn give_default_mode(_: &Path, _: &Scratch) -> Result<()> {
    Ok(())
}

/// Gives the file `part`, which is complete, the name `path` in the same folder.
///
/// # Errors
/// When it cannot be renamed.
pub fn publish_file(part: &Path, path: &Path) -> Result<()> {
    let publish = || -> Result<()> {
        File::open(part)?.sync_all()?;
        fs::rename(part, path)?;
        sync_folder_of(path)
    };
    publish().with_context(|| format!("{} cannot be moved to its final name", part.display()))
}

/// Makes `path` a link to `target`, which leads to the file `file`; a copy of that where there are no links. What was there
/// before is replaced.
///
/// # Errors
/// When it cannot be made.
pub fn link(target: &Path, file: &Path, path: &Path) -> Result<()> {
    let link = || -> Result<()> {
        remove(path)?;
        if symlink(target, path).is_err() {
            fs::copy(file, path)?;
        }
        Ok(())
    };
    link().with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Bytes that are free on the disk of `folder`, where the system says so.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Bytes that are free on the disk of `folder`, where the system says so.
#[cfg(not(unix))]
pub fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Lets `fill` write a folder under a name aside, then gives it the name `path`, in place of an older one.
///
/// # Errors
/// When another process is writing `path`, `fill` fails or the folder cannot be renamed; `path` is then as it was, and what
/// was written is gone.
pub fn folder_with<T>(path: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let path = &destination(path)?;
    let scratch = Scratch::beside(path).with_context(|| format!("{} cannot be written", path.display()))?;
    let made = fill(scratch.path())?;
    scratch.publish(path)?;
    Ok(made)
}

/// A folder in which something is made that is not yet what it stands for. It is locked as long as this lives, and removed
/// when this is dropped or a signal ends the process. What a killed process left is removed by the next one that writes to
/// the same place.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    /// Holds the lock on the folder itself.
    _lock: File,
    published: bool,
    _unfinished: Unfinished,
}

impl Scratch {
    /// Creates a scratch folder next to `path`.
    ///
    /// # Errors
    /// When another process is writing `path`, or the folder cannot be made.
    pub fn beside(path: &Path) -> Result<Self> {
        let parent = parent(path);
        sweep_once(parent);
        let folder = aside(path);
        // A process that sweeps may remove it between the two calls: then it is made again.
        for _ in 0..100 {
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    ensure!(is_abandoned(&folder), "another process is writing {}", path.display());
                    remove(&folder)?;
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            let Ok(lock) = File::open(&folder) else { continue };
            // A file system without locks has no way to tell; the one writer is then taken on trust.
            let held = !matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
            if held && is_at(&lock, &folder) {
                let _unfinished = Unfinished::new(&folder);
                return Ok(Self { folder, _lock: lock, published: false, _unfinished });
            }
        }
        bail!("another process is writing {}", path.display())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Gives it the name `path`, in place of an older folder.
    fn publish(mut self, path: &Path) -> Result<()> {
        let mut rename = || -> Result<()> {
            for entry in fs::read_dir(&self.folder)? {
                File::open(entry?.path())?.sync_all()?;
            }
            File::open(&self.folder)?.sync_all()?;
            let replaced = replace(&self.folder, path)?;
            self.published = true;
            sync_folder_of(path)?;
            replaced.iter().try_for_each(|old| remove(old))
        };
        rename().with_context(|| format!("{} cannot be moved to its final name", path.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.published {
            let _ = remove(&self.folder); // nobody was promised it
        }
    }
}

/// Gives the folder `made` the name `path`; says where the older folder is now, if there was one. The two are exchanged in
/// one step where the system can do that; elsewhere the older folder comes back when the second of two steps fails, or
/// when the next process [sweeps](sweep).
fn replace(made: &Path, path: &Path) -> Result<Option<PathBuf>> {
    if !path.exists() {
        fs::rename(made, path)?;
        return Ok(None);
    }
    if exchange(made, path).is_ok() {
        return Ok(Some(made.to_owned()));
    }
    let old = with_ending(path, OLD);
    remove(&old)?;
    fs::rename(path, &old)?;
    if let Err(e) = fs::rename(made, path) {
        fs::rename(&old, path)?;
        return Err(e.into());
    }
    Ok(Some(old))
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(made: &Path, path: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, made, CWD, path, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// A new folder that this process alone writes to. When this is dropped before [`Claim::keep`], or a signal ends the
/// process, the folder is gone again with all that is in it, unless it was there before.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    lock: Option<File>,
    /// Whether this process made the folder.
    made: bool,
    /// Whether it made the one above, too.
    parent_made: bool,
    unfinished: Option<Unfinished>,
}

impl Claim {
    /// Claims `folder`, unless another process holds it or it holds a file that `may_hold` does not name.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn new(folder: &Path, may_hold: &dyn Fn(&str) -> bool) -> Result<Option<Self>> {
        let parent_made = !parent(folder).exists();
        create_dir(parent(folder)).with_context(|| format!("{} cannot be created", folder.display()))?;
        sweep_once(parent(folder));
        let made = match fs::create_dir(folder) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
            Err(e) => return Err(e).with_context(|| format!("folder {} cannot be created", folder.display())),
        };
        let unfinished = made.then(|| Unfinished::new(folder));
        let mut claim = Self { folder: folder.to_owned(), lock: None, made, parent_made, unfinished };
        if !made {
            sweep(folder); // leftovers of a process that was killed while it wrote its first file
            if !claim.holds_only(may_hold)? {
                return Ok(None);
            }
        }
        claim.lock = lock(folder)?;
        // Between the two looks another process may have begun and ended there.
        if claim.lock.is_none() || !claim.holds_only(may_hold)? {
            (claim.made, claim.unfinished) = (false, None); // it is another's
            return Ok(None);
        }
        Ok(Some(claim))
    }

    /// Whether nothing is in it but a lock and what `may_hold` names.
    fn holds_only(&self, may_hold: &dyn Fn(&str) -> bool) -> Result<bool> {
        let read = || -> std::io::Result<bool> {
            for entry in fs::read_dir(&self.folder)? {
                let name = entry?.file_name();
                if name != LOCK && !name.to_str().is_some_and(may_hold) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        read().with_context(|| format!("{} cannot be read", self.folder.display()))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// From now on the folder stays. Returns its lock.
    ///
    /// # Errors
    /// When the folder is no longer locked.
    pub fn keep(mut self) -> Result<File> {
        self.made = false;
        self.unfinished = None;
        self.lock.take().context("the folder is not locked")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What matters is the error that ends the command.
        if self.made {
            let _ = remove(&self.folder);
            if self.parent_made {
                let _ = fs::remove_dir(parent(&self.folder)); // if nobody else has put something there
            }
        } else if self.lock.is_some() && self.holds_only(&|_| false).unwrap_or(false) {
            let _ = fs::remove_file(self.folder.join(LOCK));
        }
    }
}

/// Name of the list that [`seal`] writes.
const SEAL: &str = "checksums.json";

/// A file as it was when its folder was sealed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SealedFile {
    bytes: u64,
    blake3: String,
}

/// Writes the size and checksum of every file of `folder` to a file in it, so that [`check_seal`] can detect damage.
///
/// # Errors
/// When a file cannot be read or the list written.
pub fn seal(folder: &Path) -> Result<()> {
    seal_files(folder, &|_| true)
}

/// The same for those files whose names `chosen` accepts.
///
/// # Errors
/// As [`seal`].
pub fn seal_files(folder: &Path, chosen: &dyn Fn(&str) -> bool) -> Result<()> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != SEAL && !path.is_dir() && chosen(&name) {
            files.insert(name, sealed(&path)?);
        }
    }
    write_json(&folder.join(SEAL), &files)
}

/// Removes the list that [`seal`] wrote: files of `folder` are about to change.
///
/// # Errors
/// When it cannot be removed.
pub fn unseal(folder: &Path) -> Result<()> {
    let path = folder.join(SEAL);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Whether every file of `folder` is as it was when the folder was sealed.
///
/// # Errors
/// Says which file is missing or another, or that there is no seal.
pub fn check_seal(folder: &Path) -> Result<()> {
    let path = folder.join(SEAL);
    let text = read_description(&path)?;
    let files: BTreeMap<String, SealedFile> =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    for (name, before) in files {
        let path = folder.join(name);
        ensure!(sealed(&path)? == before, "{} is damaged", path.display());
    }
    Ok(())
}

/// Checks that those files of `folder` that `chosen` accepts are as they were when the folder was sealed, if it is. A JSON
/// file of another length that can be parsed was edited on purpose and is accepted: damage cuts a file short, which leaves no
/// JSON, or changes bytes within its length.
///
/// # Errors
/// Says which file is missing or was changed, and how to use the folder all the same.
pub fn check_files(folder: &Path, chosen: &dyn Fn(&str) -> bool) -> Result<()> {
    let path = folder.join(SEAL);
    if !path.is_file() {
        return Ok(());
    }
    let files: BTreeMap<String, SealedFile> = serde_json::from_str(&read_description(&path)?)
        .with_context(|| format!("{} is damaged; delete it to skip the checksum test", path.display()))?;
    for (name, before) in files.into_iter().filter(|(name, _)| chosen(name)) {
        let file = folder.join(&name);
        let now = if file.exists() { Some(sealed(&file)?) } else { None };
        let is_edited = |now: &SealedFile| {
            let parses = || read_description(&file).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(&text).is_ok());
            name.ends_with(".json") && now.bytes != before.bytes && parses()
        };
        ensure!(
            now.is_some_and(|now| now == before || is_edited(&now)),
            "{} is damaged or was edited after gptkit wrote it\n  hint: if you edited it on purpose, delete {}",
            file.display(),
            path.display()
        );
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

fn sealed(path: &Path) -> Result<SealedFile> {
    let mut file = open(path)?;
    let mut read = || -> std::io::Result<SealedFile> {
        let mut hasher = blake3::Hasher::new();
        // Larger pieces than this are hashed by all cores together.
        let mut buffer = vec![0; (file.metadata()?.len() as usize).clamp(1, 16 << 20)];
        let mut bytes = 0;
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                match file.read(&mut buffer[filled..])? {
                    0 => break,
                    n => filled += n,
                }
            }
            hasher.update_rayon(&buffer[..filled]);
            bytes += filled as u64;
            if filled < buffer.len() {
                return Ok(SealedFile { bytes, blake3: hasher.finalize().to_hex().to_string() });
            }
        }
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

/// Removes `folder`. A process that is killed meanwhile leaves a part under a name aside, which the next one [sweeps](sweep).
///
/// # Errors
/// When it cannot be removed, with its name.
pub fn remove_folder(folder: &Path) -> Result<()> {
    let away = || -> Result<()> {
        let aside = aside(folder);
        remove(&aside)?;
        fs::rename(folder, &aside)?;
        remove(&aside)
    };
    away().with_context(|| format!("{} cannot be removed", folder.display()))
}

/// Removes from `folder` what killed processes left unfinished, and gives a folder its name back whose replacement never
/// came. What a living process holds stays; so does what cannot be removed.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.ends_with(ASIDE) && is_abandoned(&path) {
            let _ = remove(&path);
        } else if let Some(original) = name.strip_suffix(OLD) {
            let original = folder.join(original);
            let _ = if original.exists() { remove(&path) } else { fs::rename(&path, original).map_err(Into::into) };
        }
    }
}

/// [Sweeps](sweep) each folder the first time that this process writes to it.
fn sweep_once(folder: &Path) {
    static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let Ok(folder) = std::path::absolute(folder) else { return };
    if SWEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.clone()) {
        sweep(&folder);
    }
}

/// Whether no living process holds the unfinished file or folder `path`.
fn is_abandoned(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return !path.exists() };
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Whether the open folder `file` is the one that is at `path`, not one that was removed from there.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, there) = (file.metadata().map(identity), fs::metadata(path).map(identity));
    matches!((open, there), (Ok(open), Ok(there)) if open == there)
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Name of the file that [`lock`] locks.
pub const LOCK: &str = "lock";

/// Locks `folder` for as long as the result lives, however the process ends; nothing when another process holds it.
///
/// # Errors
/// When the file `lock` cannot be made there.
pub fn lock(folder: &Path) -> Result<Option<File>> {
    let path = folder.join(LOCK);
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
    open(&folder.join(LOCK)).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The BLAKE3 hash of a file.
///
/// # Errors
/// When it cannot be read.
pub fn file_hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(open(path)?).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// A name that nobody else gives.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// A rename is on disk once the folder is.
fn sync_folder_of(path: &Path) -> Result<()> {
    Ok(File::open(parent(path))?.sync_all()?)
}

/// The folder that `path` lies in.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
    fn leftovers_of_the_dead_go_and_all_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["step-1", "step-2.gptkit-tmp", "step-1.gptkit-old", "step-0.gptkit-old", "a.tmp"] {
            create_dir(&at(name)).unwrap();
        }
        File::options().create(true).append(true).open(at("old-version.json.gptkit-tmp")).unwrap();
        let alive = Scratch::beside(&at("alive")).unwrap();
        sweep(folder.path());
        let mut left: Vec<String> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        // A folder whose replacement never came has its name again.
        assert_eq!(left, ["a.tmp", "alive.gptkit-tmp", "step-0", "step-1"]);
        drop(alive);
        assert!(!at("alive.gptkit-tmp").exists());
    }

    #[test]
    fn one_writes_a_path_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let held = Scratch::beside(&path).unwrap();
        let message = format!("{:#}", write(&path, b"x").unwrap_err());
        assert!(message.contains("another process is writing"), "{message}");
        drop(held);
        write(&path, b"x").unwrap();
    }

    #[test]
    #[cfg(unix)]
    fn files_have_the_mode_that_the_umask_asks_for() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (plain, private) = (folder.path().join("plain"), folder.path().join("private"));
        write(&plain, b"x").unwrap();
        write_with(&private, |aside| {
            let file = tempfile::NamedTempFile::new_in(parent(aside))?;
            Ok(file.persist(aside).map(|_| ())?)
        })
        .unwrap();
        assert_eq!(mode(&private), mode(&plain));
    }

    #[test]
    fn a_replacement_without_an_exchange_brings_the_older_folder_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shards");
        create_dir(&path).unwrap();
        write(&path.join("f"), b"one").unwrap();
        assert!(replace(&folder.path().join("nothing"), &path).is_err());
        assert_eq!(fs::read(path.join("f")).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_claimed_folder_goes_unless_it_is_kept_or_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let (path, none) = (folder.path().join("runs/a-1"), |_: &str| false);
        let claim = Claim::new(&path, &none).unwrap().unwrap();
        write(&path.join("config.toml"), b"x").unwrap();
        assert!(Claim::new(&path, &none).unwrap().is_none(), "it is claimed");
        assert!(Claim::new(&path, &|name| name == "config.toml").unwrap().is_none(), "it is locked");
        drop(claim);
        assert!(!path.exists());
        let claim = Claim::new(&path, &none).unwrap().unwrap();
        write(&path.join("config.toml"), b"x").unwrap();
        drop(claim.keep().unwrap());
        assert!(path.exists() && Claim::new(&path, &none).unwrap().is_none());
        create_dir(&path.join("run.json.gptkit-tmp")).unwrap();
        drop(Claim::new(&path, &|name| name == "config.toml").unwrap().unwrap());
        assert!(path.join("config.toml").exists(), "it was there before");
    }

    #[test]
    fn files_are_checked_where_there_are_checksums() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        write(&weights, b"0123").unwrap();
        let all = |_: &str| true;
        check_files(folder.path(), &all).unwrap();
        seal(folder.path()).unwrap();
        check_files(folder.path(), &all).unwrap();
        write(&weights, b"0124").unwrap();
        let message = check_files(folder.path(), &all).unwrap_err().to_string();
        assert!(message.contains("damaged or was edited") && message.contains("checksums.json"), "{message}");
        check_files(folder.path(), &|name| name != "model.safetensors").unwrap();
        let config = folder.path().join("config.json");
        write(&weights, b"0123").unwrap();
        write(&config, b"{\"n_layer\": 2}").unwrap();
        seal(folder.path()).unwrap();
        for damaged in ["{\"n_layer\": 3}", "{\"n_lay", ""] {
            write(&config, damaged.as_bytes()).unwrap();
            assert!(check_files(folder.path(), &all).is_err(), "{damaged}");
        }
        write(&config, b"{\"n_layer\": 2, \"edited\": true}").unwrap();
        check_files(folder.path(), &all).unwrap();
        write(&folder.path().join(SEAL), b"{").unwrap();
        let message = format!("{:#}", check_files(folder.path(), &all).unwrap_err());
        assert!(message.contains("delete it to skip the checksum test"), "{message}");
        unseal(folder.path()).unwrap();
        check_files(folder.path(), &all).unwrap();
    }
}
