//! The bytes of a file, for reading anywhere in it.
//!
//! A small file is read into memory. A large one is mapped; when another process shortens it meanwhile, the system sends
//! SIGBUS to whoever reads past the new end, and the process then ends with the file's name rather than with a core dump.

use crate::disk;
use anyhow::{Context, Result};
use memmap2::Mmap;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

/// Bytes up to which a file is read into memory.
const IN_MEMORY: u64 = 16 << 20;

/// The bytes of a file.
#[derive(Debug)]
pub(crate) enum Mapped {
    InMemory(Vec<u8>),
    Map { map: Mmap, _watched: watch::Watched },
}

impl Mapped {
    /// Opens `path`, which must be a regular file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::open_up_to(path, IN_MEMORY)
    }

    fn open_up_to(path: &Path, in_memory: u64) -> Result<Self> {
        let file = disk::open(path)?;
        let context = || format!("{} cannot be read", path.display());
        let length = file.metadata().with_context(context)?.len();
        if length <= in_memory {
            let mut bytes = Vec::with_capacity(length as usize);
            file.take(in_memory).read_to_end(&mut bytes).with_context(context)?;
            return Ok(Self::InMemory(bytes));
        }
        // SAFETY: gptkit publishes such files whole and never changes them in place; when another process shortens one,
        // reading past its end raises SIGBUS, which `watch` handles.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("{} cannot be mapped", path.display()))?;
        let watched = watch::Watched::new(&map, path);
        Ok(Self::Map { map, _watched: watched })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::InMemory(bytes) => bytes,
            Self::Map { map, .. } => map,
        }
    }
}

/// What happens at SIGBUS.
#[cfg(unix)]
mod watch {
    use std::path::Path;
    use std::ptr::null_mut;
    use std::sync::Once;
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    /// Maps that can be told apart; of further ones the message has no name.
    const MAPS: usize = 256;

    /// A map's addresses and the message about its file. A signal handler may neither lock nor allocate, so that all of it
    /// is made beforehand, and messages are kept for as long as the process lives.
    struct Slot {
        start: AtomicUsize,
        end: AtomicUsize,
        message: AtomicPtr<Vec<u8>>,
    }

    static SLOTS: [Slot; MAPS] =
        [const { Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), message: AtomicPtr::new(null_mut()) } };
            MAPS];

    /// Says which file a SIGBUS comes from, for as long as it lives.
    #[derive(Debug)]
    pub(crate) struct Watched(Option<usize>);

    impl Watched {
        pub(super) fn new(map: &[u8], path: &Path) -> Self {
            static HANDLER: Once = Once::new();
            HANDLER.call_once(handle);
            let start = map.as_ptr() as usize;
            // A start that is set takes the slot.
            let free = |slot: &Slot| slot.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            let taken = SLOTS.iter().position(free);
            if let Some(i) = taken {
                let shown = path.to_string_lossy();
                let name = crate::printable::printable_line(&shown);
                let words = format!("error: {name} was truncated by another process while it was being read\n");
                SLOTS[i].message.store(Box::leak(Box::new(words.as_bytes().to_vec())), Ordering::Release);
                SLOTS[i].end.store(start + map.len(), Ordering::Release);
            }
            Self(taken)
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            if let Some(i) = self.0 {
                SLOTS[i].end.store(0, Ordering::Release);
                SLOTS[i].start.store(0, Ordering::Release);
            }
        }
    }

    fn handle() {
        // SAFETY: the structure is plain numbers, and the handler does what a signal handler may: it reads atomics, writes
        // and exits.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, null_mut());
        }
    }

    extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system passes a valid structure, and of this signal it has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        let mut words: &[u8] = b"error: a file was truncated by another process while it was being read\n";
        for slot in &SLOTS {
            let (start, end) = (slot.start.load(Ordering::Acquire), slot.end.load(Ordering::Acquire));
            let message = slot.message.load(Ordering::Acquire);
            if (start..end).contains(&address) && !message.is_null() {
                // SAFETY: messages are leaked, so that they live for as long as the process.
                words = unsafe { &*message };
            }
        }
        // SAFETY: both calls may be made in a signal handler.
        unsafe {
            libc::write(libc::STDERR_FILENO, words.as_ptr().cast(), words.len());
            libc::_exit(1);
        }
    }
}

#[cfg(not(unix))]
mod watch {
    /// Elsewhere a mapped file cannot be shortened.
    #[derive(Debug)]
    pub(crate) struct Watched;

    impl Watched {
        pub(super) fn new(_: &[u8], _: &std::path::Path) -> Self {
            Self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_in_memory_and_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for bytes in [&b""[..], b"x", &[7; 10_000]] {
            disk::write(&path, bytes).unwrap();
            assert_eq!(&*Mapped::open(&path).unwrap(), bytes);
            if !bytes.is_empty() {
                assert_eq!(&*Mapped::open_up_to(&path, 0).unwrap(), bytes);
            }
        }
    }

    /// The file that the child process of the next test reads.
    #[cfg(unix)]
    const SHORTENED: &str = "GPTKIT_TEST_SHORTENED";

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_shortened_while_it_is_read_ends_the_process_with_its_name() {
        if let Some(path) = std::env::var_os(SHORTENED) {
            let path = Path::new(&path);
            let map = Mapped::open_up_to(path, 0).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_len(10).unwrap();
            let sum: u64 = map.iter().map(|&byte| u64::from(byte)).sum();
            panic!("{sum} was read");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.bin");
        disk::write(&path, &[7; 100_000]).unwrap();
        let test = "mapped::tests::a_file_that_is_shortened_while_it_is_read_ends_the_process_with_its_name";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(SHORTENED, &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr).into_owned();
        assert_eq!(child.status.code(), Some(1), "{said}");
        assert!(said.contains("tokens.bin was truncated by another process while it was being read"), "{said}");
    }
}
