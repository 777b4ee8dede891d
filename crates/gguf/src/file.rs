//! Reads a GGUF file. Nothing in it is believed before it is compared with the size of the file, so that a damaged or hostile
//! file is refused by what is wrong with it, before memory is taken for what it claims.

use crate::value::{BOOL, F32, GgufValue, I32, LIST, Metadata, TEXT, U32};
use crate::{ALIGNMENT, MAGIC, dtype};
use anyhow::{Context, Result, bail, ensure};
use bytemuck::{cast_slice, cast_slice_mut};
use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use candle_core::{Device, Tensor};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Most entries of the metadata; published files have up to 100.
const MOST_KEYS: u64 = 10_000;
/// Most tensors; the largest GPT-3 has 1,156.
const MOST_TENSORS: u64 = 100_000;
/// Longest name of a value or a tensor, in bytes.
const LONGEST_NAME: u64 = 1 << 12;
/// Longest text, in bytes: a whole `tokenizer.json`.
const LONGEST_TEXT: u64 = 256 << 20;
/// Longest list; the largest vocabularies have 262,144 tokens, and more merges.
const LONGEST_LIST: u64 = 1 << 22;
/// Most dimensions of a tensor.
const MOST_DIMENSIONS: u32 = 4;
/// Largest dimension.
const LARGEST_DIMENSION: u64 = 1 << 32;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTensor {
    /// Its name, for instance `blk.0.attn_qkv.weight`.
    pub name: String,
    /// Its shape; rows lie one after another, and the last size is the length of a row, a whole number of blocks.
    pub shape: Vec<usize>,
    /// The type of its blocks.
    pub dtype: GgmlDType,
    /// Its bytes in the file, which has them all; other tensors have other bytes.
    pub range: Range<u64>,
}

/// An open file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its tensors, in the order of the file's list.
    pub tensors: Vec<GgufTensor>,
}

/// Whether `path` is a GGUF file, by its first bytes or by its name.
pub fn is_gguf(path: &Path) -> bool {
    let begins = || -> Option<bool> {
        let mut magic = [0; MAGIC.len()];
        File::open(path).ok()?.read_exact(&mut magic).ok()?;
        Some(magic == MAGIC)
    };
    // Opening a FIFO would wait for its writer.
    path.is_file() && (path.extension().is_some_and(|ending| ending == "gguf") || begins() == Some(true))
}

impl GgufFile {
    /// Opens `path` and reads its metadata and the list of its tensors.
    ///
    /// # Errors
    /// When it cannot be read, is cut off or damaged, or has tensors of a type that cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, true)
    }

    /// The same without lists of texts in the metadata, which only tokenizers need.
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    pub fn open_without_tokens(path: &Path) -> Result<Self> {
        Self::open_with(path, false)
    }

    fn open_with(path: &Path, lists_texts: bool) -> Result<Self> {
        let read = || -> Result<Self> {
            let metadata = path.metadata()?;
            ensure!(metadata.is_file(), "it is not a regular file");
            let file = File::open(path)?;
            let mut header = GgufHeader { input: BufReader::new(&file), at: 0, length: metadata.len(), lists_texts };
            let (metadata, tensors) = header.read()?;
            Ok(Self { path: path.to_owned(), file, metadata, tensors })
        };
        read().with_context(|| format!("{} cannot be read as GGUF", path.display()))
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Whether the tensors `one` and `other` have the same type, shape and bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn are_equal(&self, one: &GgufTensor, other: &GgufTensor) -> Result<bool> {
        let like = (one.dtype, &one.shape) == (other.dtype, &other.shape);
        Ok(like && self.words(one)? == self.words(other)?)
    }

    /// Reads a tensor as f32, dequantized.
    ///
    /// # Errors
    /// When the file was truncated after it was opened, or memory on the device does not suffice.
    pub fn load(&self, tensor: &GgufTensor, device: &Device) -> Result<Tensor> {
        if tensor.dtype == GgmlDType::F32 {
            let shape = tensor.shape.as_slice();
            return Ok(self.read(tensor, |bytes| Tensor::from_slice(cast_slice::<_, f32>(bytes), shape, device))??);
        }
        let blocks =
            self.read(tensor, |bytes| qtensor_from_ggml(tensor.dtype, bytes, tensor.shape.clone(), &Device::Cpu))??;
        Ok(blocks.dequantize(&Device::Cpu)?.to_device(device)?)
    }

    fn read<R>(&self, tensor: &GgufTensor, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let words = self.words(tensor)?;
        Ok(f(&cast_slice(&words)[..(tensor.range.end - tensor.range.start) as usize]))
    }

    /// The bytes of a tensor, in memory that is aligned as its blocks need it; the last word may be longer than the tensor.
    fn words(&self, tensor: &GgufTensor) -> Result<Vec<u32>> {
        self.words_at(tensor, tensor.range.clone())
    }

    /// The bytes of some rows of a matrix, in memory that is aligned as its blocks need it; the last word may be longer.
    ///
    /// # Errors
    /// When the file was truncated after it was opened.
    ///
    /// # Panics
    /// When the matrix has fewer rows.
    pub fn rows(&self, tensor: &GgufTensor, rows: Range<usize>) -> Result<Vec<u32>> {
        assert!(rows.start <= rows.end && rows.end <= tensor.shape[0], "{} has fewer rows", tensor.name);
        let row = (tensor.range.end - tensor.range.start) / tensor.shape[0] as u64;
        let at = |row_number: usize| tensor.range.start + row_number as u64 * row;
        self.words_at(tensor, at(rows.start)..at(rows.end))
    }

    fn words_at(&self, tensor: &GgufTensor, range: Range<u64>) -> Result<Vec<u32>> {
        let n = (range.end - range.start) as usize;
        let mut words = vec![0u32; n.div_ceil(4)];
        let read = read_exact_at(&self.file, &mut cast_slice_mut(&mut words)[..n], range.start);
        read.with_context(|| format!("{} in {} cannot be read", tensor.name, self.path.display()))?;
        Ok(words)
    }
}

/// Fills `bytes` with what stands at `at`, whatever other threads read meanwhile.
#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Fills `bytes` with what stands at `at`, whatever other threads read meanwhile.
#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, bytes, at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[n..];
        at += n as u64;
    }
    Ok(())
}

/// What stands before the tensors.
struct GgufHeader<R> {
    input: R,
    /// Bytes read.
    at: u64,
    /// Bytes of the file.
    length: u64,
    /// Whether lists of texts are kept.
    lists_texts: bool,
}

impl<R: Read> GgufHeader<R> {
    fn read(&mut self) -> Result<(Metadata, Vec<GgufTensor>)> {
        let magic: [u8; 4] = self.array("the magic number")?;
        ensure!(magic == MAGIC, "it does not begin with GGUF, but with the bytes {magic:02x?}");
        let version = self.u32("the version")?;
        ensure!(version.swap_bytes() > 3 || version == 0, "it is big-endian, which is not supported");
        ensure!(matches!(version, 2 | 3), "its version is {version}; supported: 2 and 3");
        let n_tensors = self.u64("the number of tensors")?;
        let n_keys = self.u64("the number of metadata entries")?;
        // A name without letters, a type and a byte; a name, the number of dimensions, one of them, type and place.
        self.must_hold("metadata entries", n_keys, MOST_KEYS, 13)?;
        self.must_hold("tensors", n_tensors, MOST_TENSORS, 32)?;
        let metadata = self.metadata(n_keys)?;
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        for number in 0..n_tensors {
            let tensor = self.tensor(number)?;
            ensure!(names.insert(tensor.name.clone()), "it has two tensors called {}", tensor.name);
            tensors.push(tensor);
        }
        self.place(&metadata, &mut tensors)?;
        Ok((metadata, tensors))
    }

    fn metadata(&mut self, n_keys: u64) -> Result<Metadata> {
        let mut metadata = Metadata::default();
        let mut names = HashSet::new();
        for number in 0..n_keys {
            let key = self.text(LONGEST_NAME).with_context(|| format!("in the name of metadata entry {number}"))?;
            ensure!(names.insert(key.clone()), "it has two metadata entries called {key}");
            let kind = self.u32(&key)?;
            let value = self.value(&key, kind).with_context(|| format!("in the metadata entry {key}"))?;
            metadata.add(&key, value);
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<GgufValue> {
        Ok(match kind {
            0 => GgufValue::Integer(self.array::<1>(key)?[0].into()),
            1 => GgufValue::Integer(i8::from_le_bytes(self.array(key)?).into()),
            2 => GgufValue::Integer(u16::from_le_bytes(self.array(key)?).into()),
            3 => GgufValue::Integer(i16::from_le_bytes(self.array(key)?).into()),
            U32 => GgufValue::Integer(self.u32(key)?.into()),
            I32 => GgufValue::Integer(i32::from_le_bytes(self.array(key)?).into()),
            F32 => GgufValue::Float(f32::from_le_bytes(self.array(key)?).into()),
            BOOL => GgufValue::Bool(self.array::<1>(key)?[0] != 0),
            TEXT => GgufValue::Text(self.text(LONGEST_TEXT)?),
            LIST => self.list(key)?,
            10 => GgufValue::Integer(i64::try_from(self.u64(key)?).context("it is out of range")?),
            11 => GgufValue::Integer(i64::from_le_bytes(self.array(key)?)),
            12 => GgufValue::Float(f64::from_le_bytes(self.array(key)?)),
            _ => bail!("its type {kind} is unknown"),
        })
    }

    fn list(&mut self, key: &str) -> Result<GgufValue> {
        let kind = self.u32(key)?;
        let n = self.u64(key)?;
        let least = match kind {
            0 | 1 | BOOL => 1,
            2 | 3 => 2,
            U32 | I32 | F32 => 4,
            TEXT | 10..=12 => 8,
            LIST => bail!("it is a list of lists, which is not supported"),
            _ => bail!("its type, a list of type {kind}, is unknown"),
        };
        self.must_hold("items", n, LONGEST_LIST, least)?;
        match kind {
            TEXT if !self.lists_texts => {
                for _ in 0..n {
                    let length = self.u64(key)?;
                    self.skip(length, key)?;
                }
                Ok(GgufValue::OtherList)
            }
            TEXT => Ok(GgufValue::Texts((0..n).map(|_| self.text(LONGEST_TEXT)).collect::<Result<_>>()?)),
            I32 | U32 => {
                let integer = |_| Ok(i32::from_le_bytes(self.array(key)?));
                Ok(GgufValue::Integers((0..n).map(integer).collect::<Result<_>>()?))
            }
            _ => {
                self.skip(n * least, key)?;
                Ok(GgufValue::OtherList)
            }
        }
    }

    /// The entry of a tensor, whose range has only its beginning, from where tensors begin on, and its length.
    fn tensor(&mut self, number: u64) -> Result<GgufTensor> {
        let name = self.text(LONGEST_NAME).with_context(|| format!("in the name of tensor {number}"))?;
        let n_dimensions = self.u32(&name)?;
        ensure!(
            (1..=MOST_DIMENSIONS).contains(&n_dimensions),
            "tensor {name} has {n_dimensions} dimensions; supported: 1 to {MOST_DIMENSIONS}"
        );
        let mut shape = Vec::new();
        for _ in 0..n_dimensions {
            shape.push(self.u64(&name)?);
        }
        let dtype = self.u32(&name)?;
        let start = self.u64(&name)?;
        let sound = shape.iter().all(|size| (1..=LARGEST_DIMENSION).contains(size));
        let n = shape.iter().try_fold(1u64, |n, &size| n.checked_mul(size)).filter(|_| sound);
        let n = n.with_context(|| format!("tensor {name} has the shape {shape:?}, which is out of range"))?;
        let Some(dtype) = dtype::of_number(dtype) else {
            bail!("tensor {name} has the data type {dtype}, which is not supported; supported: {}", dtype::names());
        };
        let columns = shape[0]; // the file has the length of a row first
        let bytes = dtype::n_bytes(dtype, n, columns).with_context(|| {
            let (block, dtype) = (dtype.block_size(), dtype::name(dtype));
            format!("tensor {name} has rows of {columns} values, which are not whole blocks of {block} ({dtype})")
        })?;
        let end = start.checked_add(bytes).with_context(|| format!("tensor {name} lies beyond the file's end"))?;
        let shape = shape.iter().rev().map(|&size| size as usize).collect();
        Ok(GgufTensor { name, shape, dtype, range: start..end })
    }

    /// Gives tensors their places in the file, and checks these.
    fn place(&self, metadata: &Metadata, tensors: &mut [GgufTensor]) -> Result<()> {
        let alignment = metadata.size("general.alignment")?.map_or(ALIGNMENT, |n| n as u64);
        let sound = alignment.is_power_of_two() && (8..=1 << 20).contains(&alignment);
        ensure!(sound, "general.alignment is {alignment}; it must be a power of two from 8 to 1048576");
        let data = self.at.next_multiple_of(alignment);
        for tensor in &mut *tensors {
            let Range { start, end } = tensor.range.clone();
            ensure!(start.is_multiple_of(alignment), "tensor {} is not aligned to {alignment} bytes", tensor.name);
            let end = data.checked_add(end).filter(|&end| end <= self.length).with_context(|| {
                let length = self.length;
                format!("the file ends within tensor {}: it has {length} bytes; was it downloaded whole?", tensor.name)
            })?;
            tensor.range = data + start..end;
        }
        let mut ordered: Vec<&GgufTensor> = tensors.iter().collect();
        ordered.sort_by_key(|tensor| tensor.range.start);
        for pair in ordered.windows(2) {
            let [one, other] = [pair[0], pair[1]];
            ensure!(one.range.end <= other.range.start, "the tensors {} and {} overlap", one.name, other.name);
        }
        Ok(())
    }

    /// # Errors
    /// When `n` things of at least `least` bytes are too many, or more than the rest of the file can hold.
    fn must_hold(&self, what: &str, n: u64, most: u64, least: u64) -> Result<()> {
        ensure!(n <= most, "it claims to have {n} {what}; the maximum is {most}");
        let rest = self.length - self.at;
        ensure!(n * least <= rest, "it claims to have {n} {what}, but only {rest} bytes are left");
        Ok(())
    }

    fn must_last(&self, n: u64, what: &str) -> Result<()> {
        ensure!(n <= self.length - self.at, "the file ends within {what}");
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.must_last(N as u64, what)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, longest: u64) -> Result<String> {
        let n = self.u64("the length of a text")?;
        ensure!(n <= longest, "a text is {n} bytes long; the maximum is {longest}");
        self.must_last(n, "a text")?;
        let mut bytes = vec![0; n as usize];
        self.input.read_exact(&mut bytes)?;
        self.at += n;
        String::from_utf8(bytes).context("a text is not UTF-8")
    }

    fn skip(&mut self, n: u64, what: &str) -> Result<()> {
        self.must_last(n, what)?;
        std::io::copy(&mut self.input.by_ref().take(n), &mut std::io::sink())?;
        self.at += n;
        Ok(())
    }
}
