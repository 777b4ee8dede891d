//! Lists of u32 of any lengths, one an example, in a file.
//!
//! Little-endian: [`MAGIC`]; the numbers of all examples; where each example ends, counted in numbers, as u64; how many
//! examples there are, as u64; the blake3 hash of all before it.

use crate::disk;
use crate::mapped::Mapped;
use anyhow::{Context, Result, anyhow, bail, ensure};
use gptkit_rng::order::shuffled;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"gptkitE1";
const HASH: usize = 32;
/// The fewest bytes a file has: no examples.
const FEWEST: usize = MAGIC.len() + 8 + HASH;

/// Writes a file of examples, one after the other.
pub struct ExamplesWriter {
    /// Its name in messages.
    path: PathBuf,
    file: BufWriter<File>,
    /// Ends of the examples, aside until all numbers are written.
    ends: BufWriter<File>,
    hasher: blake3::Hasher,
    n: u64,
    end: u64,
}

impl ExamplesWriter {
    /// Writes the examples that `fill` pushes to `path`, which is whole afterwards or as it was.
    ///
    /// # Errors
    /// Those of `fill`, and when the file cannot be written.
    pub fn write<T>(path: &Path, fill: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let mut result = None;
        let written = disk::write_with(path, |aside| {
            #[expect(clippy::disallowed_methods, reason = "the name is one aside")]
            let file = BufWriter::new(File::create(aside)?);
            let folder = aside.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let ends = BufWriter::new(tempfile::tempfile_in(folder)?);
            let mut writer = Self { path: path.to_owned(), file, ends, hasher: blake3::Hasher::new(), n: 0, end: 0 };
            writer.put(MAGIC)?;
            let filled = result.insert(fill(&mut writer));
            ensure!(filled.is_ok(), "the examples could not be written");
            writer.finish()
        });
        match result {
            Some(Err(e)) => Err(e), // in its own words: it is not the file's fault
            Some(Ok(result)) => written.map(|()| result),
            None => Err(written.err().unwrap_or_else(|| anyhow!("nothing was written"))),
        }
    }

    /// Adds an example.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, numbers: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.put(&bytes)?;
        self.n += 1;
        self.end += numbers.len() as u64;
        let written = self.ends.write_all(&self.end.to_le_bytes());
        written.with_context(|| format!("{} cannot be written", self.path.display()))
    }

    /// Examples so far.
    pub fn len(&self) -> usize {
        self.n as usize
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).with_context(|| format!("{} cannot be written", self.path.display()))
    }

    fn finish(mut self) -> Result<()> {
        self.ends.flush()?;
        self.ends.rewind()?;
        let mut bytes = vec![0; 1 << 16];
        loop {
            let read = self.ends.get_mut().read(&mut bytes)?;
            if read == 0 {
                break;
            }
            self.put(&bytes[..read])?;
        }
        self.put(&self.n.to_le_bytes())?;
        self.file.write_all(self.hasher.finalize().as_bytes())?;
        Ok(self.file.flush()?)
    }
}

/// Examples of a file, read where they lie.
#[derive(Debug)]
pub struct Examples {
    map: Mapped,
    n: usize,
    /// Byte at which the ends of the examples begin.
    ends: usize,
}

impl Examples {
    /// Opens `path`, and reads it once to see that it is whole.
    ///
    /// # Errors
    /// When it cannot be read, is no file of examples, or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(Mapped::open(path)?)
            .with_context(|| format!("{} cannot be read as a file of examples", path.display()))
    }

    fn of(map: Mapped) -> Result<Self> {
        ensure!(map.starts_with(MAGIC) && map.len() >= FEWEST, "it has another format or is cut off; create it again");
        let (hashed, hash) = map.split_at(map.len() - HASH);
        ensure!(blake3::hash(hashed).as_bytes() == hash, "it is damaged; create it again");
        let (listed, n) = hashed.split_at(hashed.len() - 8);
        let n = u64::from_le_bytes(n.try_into()?);
        let bytes = n.checked_mul(8).filter(|&bytes| bytes <= (listed.len() - MAGIC.len()) as u64);
        let Some(bytes) = bytes else { bail!("it is too short for {n} examples") };
        let (n, ends) = (n as usize, listed.len() - bytes as usize);
        let examples = Self { n, ends, map };
        let mut before = 0;
        for i in 0..n {
            let end = examples.end(i);
            ensure!(end >= before, "example {i} ends before it begins");
            before = end;
        }
        ensure!(before.checked_mul(4) == Some(ends - MAGIC.len()), "the lengths of its examples do not match its size");
        Ok(examples)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Numbers of example `i`.
    ///
    /// # Panics
    /// When there is no such example.
    pub fn length(&self, i: usize) -> usize {
        self.end(i) - self.start(i)
    }

    /// Example `i`.
    ///
    /// # Panics
    /// When there is no such example.
    pub fn get(&self, i: usize) -> Vec<u32> {
        let at = |number: usize| MAGIC.len() + 4 * number;
        let (numbers, _) = self.map[at(self.start(i))..at(self.end(i))].as_chunks();
        numbers.iter().map(|&n| u32::from_le_bytes(n)).collect()
    }

    /// The same for files of the same examples in the same order.
    pub fn fingerprint(&self) -> String {
        let hash = &self.map[self.map.len() - HASH..];
        hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.end(i - 1) }
    }

    fn end(&self, i: usize) -> usize {
        assert!(i < self.n, "example {i} of {}", self.n);
        let (ends, _) = self.map[self.ends..self.ends + 8 * self.n].as_chunks();
        u64::from_le_bytes(ends[i]) as usize
    }
}

/// The decoded examples of a file, in an order that a seed draws anew for each epoch.
#[derive(Debug)]
pub struct Records<T> {
    examples: Examples,
    decode: fn(&[u32]) -> Option<T>,
    seed: u64,
}

impl<T> Records<T> {
    /// Opens the file `path`, and has `look` see each record.
    ///
    /// # Errors
    /// As [`Examples::open`], and when an example stands for nothing.
    pub fn open(path: &Path, seed: u64, decode: fn(&[u32]) -> Option<T>, mut look: impl FnMut(T)) -> Result<Self> {
        let examples = Examples::open(path)?;
        for i in 0..examples.len() {
            let record = decode(&examples.get(i));
            look(record.with_context(|| format!("example {i} in {} is damaged", path.display()))?);
        }
        Ok(Self { examples, decode, seed })
    }

    /// How many.
    pub fn len(&self) -> u64 {
        self.examples.len() as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The same for files of the same examples.
    pub fn fingerprint(&self) -> String {
        self.examples.fingerprint()
    }

    /// Rows `first .. first + rows` of a run.
    pub fn batch(&self, first: u64, rows: usize) -> Vec<T> {
        (first..first + rows as u64).map(|row| self.get(shuffled(row, self.len(), self.seed))).collect()
    }

    /// At most `most` of them, evenly spread, in batches of `rows`.
    pub fn all(&self, rows: usize, most: usize) -> Vec<Vec<T>> {
        let taken = self.len().min(most as u64);
        let numbers: Vec<u64> = (0..taken).map(|i| i * self.len() / taken.max(1)).collect();
        numbers.chunks(rows.max(1)).map(|chunk| chunk.iter().map(|&i| self.get(i)).collect()).collect()
    }

    /// Record number `i` of the file.
    pub fn get(&self, i: u64) -> T {
        match (self.decode)(&self.examples.get(i as usize)) {
            Some(record) => record,
            None => unreachable!("all examples were read when the file was opened"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(examples: &[Vec<u32>]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train");
        let n = ExamplesWriter::write(&path, |writer| {
            examples.iter().try_for_each(|example| writer.push(example))?;
            Ok(writer.len())
        });
        assert_eq!(n.unwrap(), examples.len());
        (folder, path)
    }

    fn back(examples: &Examples) -> Vec<Vec<u32>> {
        (0..examples.len()).map(|i| examples.get(i)).collect()
    }

    proptest! {
        #[test]
        fn examples_come_back(all in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..9), 0..20)) {
            let (_folder, path) = written(&all);
            let examples = Examples::open(&path).unwrap();
            prop_assert_eq!(&back(&examples), &all);
            prop_assert_eq!(examples.is_empty(), all.is_empty());
            let lengths: Vec<usize> = (0..all.len()).map(|i| examples.length(i)).collect();
            prop_assert_eq!(lengths, all.iter().map(Vec::len).collect::<Vec<_>>());
        }

        #[test]
        fn a_changed_byte_is_noticed(at in 0usize..100, bit in 0u32..8) {
            let (_folder, path) = written(&[vec![1, 2, 3], vec![], vec![u32::MAX]]);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            disk::write(&path, &bytes).unwrap();
            prop_assert!(Examples::open(&path).is_err());
        }

        #[test]
        fn bytes_under_a_right_hash_are_examples_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60), n in 0u64..6) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("crafted");
            let mut all = [MAGIC.as_slice(), &bytes, &n.to_le_bytes()].concat();
            all.extend(blake3::hash(&all).as_bytes());
            disk::write(&path, &all).unwrap();
            if let Ok(examples) = Examples::open(&path) {
                let numbers: usize = back(&examples).iter().map(Vec::len).sum();
                prop_assert_eq!(4 * numbers + 8 * n as usize, bytes.len());
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_with_its_name() {
        let (_folder, path) = written(&[vec![1, 2, 3], vec![4]]);
        let bytes = std::fs::read(&path).unwrap();
        for n in 0..bytes.len() {
            disk::write(&path, &bytes[..n]).unwrap();
            let message = format!("{:#}", Examples::open(&path).unwrap_err());
            assert!(message.contains("train"), "{n} bytes: {message}");
        }
    }

    #[test]
    fn counts_that_lie_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crafted");
        for (ends, n) in
            [(vec![], u64::MAX), (vec![], 1 << 61), (vec![2, 1], 2), (vec![u64::MAX], 1), (vec![1 << 62], 1)]
        {
            let ends: Vec<u8> = ends.iter().flat_map(|end: &u64| end.to_le_bytes()).collect();
            let mut all = [MAGIC.as_slice(), &[0; 8], &ends, &n.to_le_bytes()].concat();
            all.extend(blake3::hash(&all).as_bytes());
            disk::write(&path, &all).unwrap();
            assert!(Examples::open(&path).is_err(), "{ends:?} {n}");
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let (folder, path) = written(&[vec![7]]);
        let failed: Result<()> = ExamplesWriter::write(&path, |writer| {
            writer.push(&[1])?;
            bail!("the text ended")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("the text ended"));
        assert_eq!(back(&Examples::open(&path).unwrap()), [[7]]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_fingerprint_tells_the_same_numbers_in_other_examples_apart() {
        let print = |all: &[Vec<u32>]| Examples::open(&written(all).1).unwrap().fingerprint();
        assert_eq!(print(&[vec![1], vec![2]]), print(&[vec![1], vec![2]]));
        assert_ne!(print(&[vec![1], vec![2]]), print(&[vec![1, 2], vec![]]));
        assert_eq!(print(&[]).len(), 16);
    }
}
