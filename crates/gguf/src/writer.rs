//! Writes a GGUF file of version 3, one tensor after another: the sizes of all are known before the first is there.

use crate::value::{Metadata, write_text};
use crate::{ALIGNMENT, MAGIC, dtype};
use anyhow::{Context, Result, ensure};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};
use std::io::Write;

const VERSION: u32 = 3;
/// Values that are quantized at a time.
const AT_A_TIME: usize = 1 << 20;

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Its shape, the length of a row last.
    pub shape: Vec<usize>,
    /// The type of its blocks.
    pub dtype: GgmlDType,
}

impl TensorPlan {
    /// Its bytes.
    ///
    /// # Errors
    /// When its rows are not whole blocks.
    pub fn n_bytes(&self) -> Result<u64> {
        let n = self.shape.iter().map(|&size| size as u64).product();
        let columns = self.shape.last().copied().unwrap_or(0) as u64;
        dtype::n_bytes(self.dtype, n, columns)
            .with_context(|| format!("{} cannot be written as {}", self.name, dtype::name(self.dtype)))
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct GgufWriter<W> {
    out: W,
    /// Tensors that are still to come, the next one last.
    waiting: Vec<TensorPlan>,
}

impl<W: Write> GgufWriter<W> {
    /// Writes all that stands before the tensors, which follow in the order of `tensors`.
    ///
    /// # Errors
    /// When it cannot be written, or a tensor cannot have the type that it is to have.
    pub fn begin(out: W, metadata: &Metadata, tensors: Vec<TensorPlan>) -> Result<Self> {
        let mut out = Counted { out, n: 0 };
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(tensors.len() as u64).to_le_bytes())?;
        out.write_all(&(metadata.iter().len() as u64).to_le_bytes())?;
        for (key, value) in metadata.iter() {
            write_text(&mut out, key)?;
            value.write(&mut out).with_context(|| format!("{key} cannot be written"))?;
        }
        let mut start = 0u64;
        for tensor in &tensors {
            write_text(&mut out, &tensor.name)?;
            out.write_all(&(tensor.shape.len() as u32).to_le_bytes())?;
            for &size in tensor.shape.iter().rev() {
                out.write_all(&(size as u64).to_le_bytes())?;
            }
            let number = dtype::number(tensor.dtype).with_context(|| format!("{} has no such type", tensor.name))?;
            out.write_all(&number.to_le_bytes())?;
            out.write_all(&start.to_le_bytes())?;
            start = (start + tensor.n_bytes()?).next_multiple_of(ALIGNMENT);
        }
        out.fill()?;
        Ok(Self { out: out.out, waiting: tensors.into_iter().rev().collect() })
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    /// When it cannot be written, or has another shape than it was to have.
    pub fn write(&mut self, tensor: &Tensor) -> Result<()> {
        let plan = self.waiting.pop().context("there are more tensors than were announced")?;
        ensure!(tensor.dims() == plan.shape, "{} has the shape {:?}", plan.name, tensor.dims());
        let mut out = Counted { out: &mut self.out, n: 0 };
        let rows = tensor.dim(0)?;
        // A vector is one row.
        let step = if tensor.rank() == 1 { rows } else { (AT_A_TIME / (tensor.elem_count() / rows)).clamp(1, rows) };
        for start in (0..rows).step_by(step) {
            let part = tensor.narrow(0, start, step.min(rows - start))?;
            let bytes = blocks(&part, plan.dtype).with_context(|| format!("{} cannot be written", plan.name))?;
            out.write_all(&bytes)?;
        }
        ensure!(out.n == plan.n_bytes()?, "{} has {} bytes", plan.name, out.n);
        out.fill()
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When a tensor is missing, or the last bytes cannot be written.
    pub fn finish(mut self) -> Result<()> {
        ensure!(self.waiting.is_empty(), "{} tensors are missing", self.waiting.len());
        Ok(self.out.flush()?)
    }
}

/// The blocks of `tensor`, whose rows are whole blocks.
fn blocks(tensor: &Tensor, dtype: GgmlDType) -> Result<Vec<u8>> {
    // The library quantizes all that lies in memory, not only the part that `tensor` shows.
    let tensor = tensor.to_dtype(DType::F32)?.force_contiguous()?;
    let blocks = QTensor::quantize(&tensor, dtype)?;
    if dtype == GgmlDType::F16 {
        let largest = tensor.abs()?.max_all()?.to_scalar::<f32>()?;
        ensure!(largest < 65_520.0, "it has the value {largest}, which is too large for F16; use bf16");
    }
    Ok(blocks.data()?.into_owned())
}

/// A writer that counts its bytes.
struct Counted<W> {
    out: W,
    n: u64,
}

impl<W: Write> Counted<W> {
    /// Writes zeros up to where the next tensor may begin.
    fn fill(&mut self) -> Result<()> {
        let n = self.n.next_multiple_of(ALIGNMENT) - self.n;
        Ok(self.write_all(&[0; ALIGNMENT as usize][..n as usize])?)
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.n += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
