//! Tensors of safetensors files.
//!
//! A tensor is read when it is asked for, by its place in the file. Mapping the file would save nothing, since tensors are
//! copied in any case, and would end the process when another one shortens the file meanwhile.

use anyhow::{Context, Result, bail, ensure};
use candle_core::safetensors::Load;
use candle_core::{Device, Error, Tensor};
use gptkit_data::disk;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes of the number before the header, which is the header's length.
const LENGTH: u64 = 8;
/// Bytes of the longest header that is read: that of 60,000 weights. The largest GPT-3 has 1,156.
const LONGEST_HEADER: u64 = 8 << 20;

/// Open files.
#[derive(Debug)]
pub struct TensorFiles {
    files: Vec<TensorFile>,
    tensors: HashMap<String, (usize, TensorInfo)>,
}

#[derive(Debug)]
struct TensorFile {
    path: PathBuf,
    file: Mutex<File>,
    /// Where the tensors begin.
    data: u64,
}

impl TensorFiles {
    /// Opens the files `paths` and reads their headers.
    ///
    /// # Errors
    /// When one cannot be read, its length and its header do not agree, or a tensor has other values in another file.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self> {
        let (mut files, mut tensors, mut twice) = (Vec::new(), HashMap::new(), Vec::new());
        for (i, path) in paths.iter().enumerate() {
            let path = path.as_ref();
            let mut file = disk::open(path)?;
            let (data, metadata) = header(&mut file).with_context(|| format!("{} is damaged", path.display()))?;
            for (name, info) in metadata.tensors() {
                if let Some(other) = tensors.insert(name.clone(), (i, info.clone())) {
                    twice.push((name, other));
                }
            }
            files.push(TensorFile { path: path.to_owned(), file: Mutex::new(file), data });
        }
        let opened = Self { files, tensors };
        for (name, other) in twice {
            let this = &opened.tensors[&name];
            if !opened.are_same(this, &other)? {
                let [a, b] = [&other, this].map(|(file, _)| opened.files[*file].path.display());
                bail!("{name} has different values in {a} and {b}");
            }
        }
        Ok(opened)
    }

    /// Type and shape of the tensor `name`.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|(_, info)| info)
    }

    /// Whether the tensors `one` and `other` have the same type, shape and values.
    ///
    /// # Errors
    /// When one is missing, or a file cannot be read.
    pub fn are_equal(&self, one: &str, other: &str) -> Result<bool> {
        let find = |name: &str| self.tensors.get(name).with_context(|| format!("there is no tensor {name}"));
        self.are_same(find(one)?, find(other)?)
    }

    fn are_same(&self, one: &(usize, TensorInfo), other: &(usize, TensorInfo)) -> Result<bool> {
        const PART: usize = 1 << 20;
        if (one.1.dtype, &one.1.shape) != (other.1.dtype, &other.1.shape) {
            return Ok(false);
        }
        let length = one.1.data_offsets.1 - one.1.data_offsets.0;
        for start in (0..length).step_by(PART) {
            let part = |(file, info): &(usize, TensorInfo)| -> Result<Vec<u8>> {
                let file = &self.files[*file];
                let mut bytes = vec![0; PART.min(length - start)];
                let read = file.read((info.data_offsets.0 + start) as u64, &mut bytes);
                read.with_context(|| format!("{} cannot be read", file.path.display()))?;
                Ok(bytes)
            };
            if part(one)? != part(other)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Name, type and shape of each tensor, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, (_, info))| (name.as_str(), info))
    }

    /// Reads the tensor `name`.
    ///
    /// # Errors
    /// When the tensor is missing, its data type is not supported, or the file was truncated after it was opened.
    pub fn load(&self, name: &str, device: &Device) -> candle_core::Result<Tensor> {
        let found = self.tensors.get(name);
        let (i, info) = found.ok_or_else(|| Error::CannotFindTensor { path: name.to_owned() }.bt())?;
        let file = &self.files[*i];
        let (start, end) = info.data_offsets;
        if info.dtype == Dtype::F32 && device.is_cpu() && end - start == 4 * info.shape.iter().product::<usize>() {
            let mut numbers = vec![0.0f32; (end - start) / 4];
            let bytes = bytemuck::cast_slice_mut(&mut numbers);
            file.read(start as u64, bytes).map_err(|e| Error::from(e).with_path(&file.path))?;
            return Tensor::from_vec(numbers, info.shape.as_slice(), device);
        }
        let mut bytes = vec![0; end - start];
        file.read(start as u64, &mut bytes).map_err(|e| Error::from(e).with_path(&file.path))?;
        TensorView::new(info.dtype, info.shape.clone(), &bytes)?.load(device)
    }
}

impl TensorFile {
    /// Fills `bytes` with what stands `start` bytes after the header.
    fn read(&self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.data + start))?;
        file.read_exact(bytes)
    }
}

/// Where the tensors of `file` begin, and what its header says of them.
fn header(file: &mut File) -> Result<(u64, Metadata)> {
    let length = file.metadata()?.len();
    let mut n = [0; LENGTH as usize];
    file.read_exact(&mut n).context("it is empty or cut off")?;
    let n = u64::from_le_bytes(n);
    ensure!(n <= LONGEST_HEADER, "its header is {n} bytes long; the maximum is {LONGEST_HEADER}");
    ensure!(LENGTH + n <= length, "the file ends within its header");
    let mut header = vec![0; n as usize];
    file.read_exact(&mut header).context("the file ends within its header")?;
    let metadata: Metadata = serde_json::from_slice(&header).context("its header is not valid for safetensors")?;
    let (data, expected) = (LENGTH + n, LENGTH + n + metadata.data_len() as u64);
    ensure!(length == expected, "the file has {length} bytes, but its header describes {expected}");
    Ok((data, metadata))
}

/// Weights are real numbers; whole ones are another thing, such as quantized weights whose scale lies elsewhere.
pub(crate) fn must_be_real(name: &str, dtype: Dtype) -> Result<()> {
    let is_real = matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64);
    ensure!(is_real, "{name} has the data type {dtype:?}; supported: F16, BF16, F32 and F64");
    Ok(())
}

/// # Errors
/// When a value is NaN or infinite.
pub(crate) fn must_be_finite(name: &str, tensor: &Tensor) -> candle_core::Result<()> {
    if !gptkit_ops::sum_of_squares(tensor)?.is_finite() {
        candle_core::bail!("{name} contains NaN or infinite values");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::save_tensors;

    fn saved(folder: &Path, name: &str, tensors: &[(&str, &[f32])]) -> PathBuf {
        let path = folder.join(name);
        let made = tensors.iter().map(|&(name, values)| (name, Tensor::new(values, &Device::Cpu).unwrap()));
        let made: Vec<(&str, Tensor)> = made.collect();
        save_tensors(&path, made.iter().map(|(name, tensor)| (*name, tensor))).unwrap();
        path
    }

    #[test]
    fn a_tensor_has_one_value_in_all_files() {
        let folder = tempfile::tempdir().unwrap();
        let one = saved(folder.path(), "one", &[("a", &[1.0, 2.0]), ("b", &[3.0])]);
        let same = saved(folder.path(), "same", &[("b", &[3.0]), ("c", &[1.0, 2.0])]);
        let files = TensorFiles::open(&[&one, &same]).unwrap();
        let values = |name| files.load(name, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!((values("a"), values("b"), files.tensors().count()), (vec![1.0, 2.0], vec![3.0], 3));
        assert!(files.load("d", &Device::Cpu).is_err());
        assert!(files.are_equal("a", "c").unwrap() && !files.are_equal("a", "b").unwrap());
        for other in [&[4.0][..], &[3.0, 3.0]] {
            let other = saved(folder.path(), "other", &[("b", other)]);
            let error = TensorFiles::open(&[&one, &other]).unwrap_err().to_string();
            assert!(error.contains("b has different values in") && error.contains("other"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path(), "weights", &[("a", &[1.0, 2.0])]);
        let bytes = std::fs::read(&path).unwrap();
        let longer = [&bytes[..], &[0]].concat();
        let cut = (0..bytes.len()).map(|n| &bytes[..n]);
        for bytes in cut.chain([&longer[..], &[255; 64], &(1u64 << 60).to_le_bytes()]) {
            disk::write(&path, bytes).unwrap();
            let said = format!("{:#}", TensorFiles::open(&[&path]).unwrap_err());
            assert!(said.contains("weights is damaged"), "{said}");
        }
    }

    #[test]
    fn a_file_that_is_shortened_after_it_was_opened_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path(), "weights", &[("a", &[1.0, 2.0])]);
        let files = TensorFiles::open(&[&path]).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        let said = files.load("a", &Device::Cpu).unwrap_err().to_string();
        assert!(said.contains("weights"), "{said}");
    }
}
