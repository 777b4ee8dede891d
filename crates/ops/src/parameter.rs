//! A weight of a model, with its gradient and the forms in which products read it.

use crate::cpu::element::Element;
use crate::device::products::{add_product, add_rows, product};
use crate::device::sums::add_column_sums;
use crate::gguf_blocks::Quantized;
use crate::matrix::Matrix;
use crate::panels::{Panels, StoredMatrix};
use crate::path::Precision;
use crate::product::accumulate;
use crate::scratch::ScratchBuffer;
use crate::slices::{add_to, free, rows_at_a_time, take, with_f32s, with_f32s_mut, zeros};
use crate::thin::{add_scaled, multiply_thin, transposed};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

/// A variable that training changes in place. Its gradient is added up here, over the parts of a batch: on the CPU
/// operations add to it where they are, elsewhere [`Parameter::collect`] takes it from candle.
#[derive(Debug)]
pub struct Parameter {
    weights: Var,
    gradient: Mutex<GradientSum>,
    /// How often the gradient was cleared.
    n_clears: AtomicU64,
    /// How often the weights were changed.
    n_changes: AtomicU64,
    /// As the right matrix of a product, until the weights change: as it is, and transposed.
    panels: [Mutex<CachedPanels>; 2],
    /// As products on another device read it, until the weights change.
    cast: Mutex<Option<CachedCast>>,
    /// The panels of a table whose weights were freed.
    rows: OnceLock<Arc<Panels>>,
    trained: RwLock<Trained>,
}

/// Bytes of a gradient that are kept from one update to the next: to free and clear so little costs more than it saves.
const KEPT: usize = 1 << 20;

thread_local! {
    /// Where weights and the product of adapters are added before they are packed.
    static SUM: RefCell<ScratchBuffer> = RefCell::default();
}

type CachedPanels = Option<CachedPanel>;

#[derive(Debug)]
struct CachedCast {
    /// [`Parameter::n_changes`] of what was cast.
    n_changes: u64,
    /// [`LowRank::version`] of it.
    version: [u64; 3],
    cast: Tensor,
}

#[derive(Debug)]
struct CachedPanel {
    precision: Precision,
    /// [`LowRank::version`] of what was packed.
    version: [u64; 3],
    panels: Arc<Panels>,
}

#[derive(Debug, Default)]
enum GradientSum {
    #[default]
    None,
    /// Nothing, in memory that is kept for the next one.
    Cleared(Vec<f32>),
    /// On the CPU, in the order of the weights.
    Numbers(Vec<f32>),
    /// On another device.
    Tensor(Tensor),
}

impl Parameter {
    /// A parameter with these first values, f32.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(values: &Tensor) -> Result<Self> {
        Ok(Self::of(Var::from_tensor(values)?))
    }

    fn of(weights: Var) -> Self {
        Self {
            weights,
            gradient: Mutex::default(),
            n_clears: AtomicU64::new(0),
            n_changes: AtomicU64::new(0),
            panels: Default::default(),
            cast: Mutex::default(),
            rows: OnceLock::new(),
            trained: RwLock::default(),
        }
    }

    /// The variable. To be changed by [`crate::adamw()`] and [`Parameter::set`] only, which have products see the change.
    pub fn var(&self) -> &Var {
        &self.weights
    }

    /// Sets what backward passes compute a gradient for from now on.
    pub fn train(&self, trained: Trained) {
        *self.trained.write().unwrap_or_else(PoisonError::into_inner) = trained;
    }

    /// From now on, backward passes compute no gradient for it.
    pub fn freeze(&self) {
        self.train(Trained::Nothing);
    }

    /// Whether it does not change itself: backward passes compute no gradient for all of it.
    pub fn is_frozen(&self) -> bool {
        !matches!(*self.trained.read().unwrap_or_else(PoisonError::into_inner), Trained::Whole)
    }

    fn trained(&self) -> Trained {
        self.trained.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adapters whose product is to be added to the weights.
    pub(crate) fn adapters(&self) -> Option<LowRank> {
        match self.trained() {
            Trained::LowRank(adapters) if adapters.is_on() => Some(adapters),
            _ => None,
        }
    }

    /// Probability of dropout before the adapters, if there are any.
    pub fn adapter_dropout(&self) -> f32 {
        self.adapters().map_or(0.0, |adapters| adapters.dropout)
    }

    /// The weights as products read them: with the product of adapters added, of which gradients can be taken if `tracked`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn merged(&self, tracked: bool) -> Result<Tensor> {
        match self.adapters() {
            Some(adapters) => adapters.added_to(&self.tensor(false), tracked),
            None => Ok(self.tensor(tracked)),
        }
    }

    /// Writes the sum with the product of adapters into the weights, all of which can be trained from now on.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn merge(&self) -> Result<()> {
        if let Some(adapters) = self.adapters() {
            self.set(&adapters.added_to(&self.tensor(false), false)?)?;
        }
        self.train(Trained::Whole);
        Ok(())
    }

    /// Copies `weights`, of the same shape.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn set(&self, weights: &Tensor) -> Result<()> {
        if weights.dims() != self.weights.dims() {
            bail!("weights of shape {:?} cannot replace weights of shape {:?}", weights.dims(), self.weights.dims());
        }
        if !self.weights.device().is_cpu() {
            self.weights.set(weights)?;
            self.changed();
            return Ok(());
        }
        with_f32s(&weights.contiguous()?, |new| self.change(|old| old.copy_from_slice(new)))?
    }

    /// The weights, as part of candle's graph if `tracked`.
    pub fn tensor(&self, tracked: bool) -> Tensor {
        if tracked { self.weights.as_tensor().clone() } else { self.weights.as_detached_tensor() }
    }

    /// Runs `f` on the weights, on the CPU.
    pub(crate) fn read<R>(&self, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
        with_f32s(self.weights.as_tensor(), f)
    }

    /// Runs `f` on the weights, on the CPU, to be changed in place.
    pub(crate) fn change<R>(&self, f: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
        self.changed();
        self.free_panels();
        with_f32s_mut(self.weights.as_tensor(), f)
    }

    /// To be called after every change of the weights.
    pub(crate) fn changed(&self) {
        self.n_changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The weights as products on another device than the CPU read them: with those of adapters, of type `dtype`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(crate) fn cast(&self, dtype: DType) -> Result<Tensor> {
        if dtype == DType::F32 && self.adapters().is_none() {
            return Ok(self.tensor(false));
        }
        let rows = self.weights.dim(0)?;
        self.cast_with_rows(dtype, rows)?.narrow(0, 0, rows)
    }

    /// As [`Parameter::cast`], of a table `[V, D]`: in bf16 with rows of zeros up to a multiple of 64, so that products which
    /// have a column for each row are read and written at full speed.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(crate) fn cast_table(&self, dtype: DType) -> Result<Tensor> {
        if dtype == DType::F32 {
            return self.cast(dtype);
        }
        self.cast_with_rows(dtype, self.weights.dim(0)?.next_multiple_of(64))
    }

    /// The weights with those of adapters, of type `dtype`: at least `rows` rows, of which those that follow the weights are
    /// zeros.
    fn cast_with_rows(&self, dtype: DType, rows: usize) -> Result<Tensor> {
        let (n_changes, version) = (self.n_changes(), self.version());
        let mut cached = locked(&self.cast);
        if let Some(held) = &*cached
            && (held.n_changes, held.version, held.cast.dtype()) == (n_changes, version, dtype)
            && held.cast.dim(0)? >= rows
        {
            return Ok(held.cast.clone());
        }
        let cast = self.merged(false)?.to_dtype(dtype)?;
        let cast = match rows - cast.dim(0)? {
            0 => cast,
            missing => cast.pad_with_zeros(0, 0, missing)?,
        };
        *cached = Some(CachedCast { n_changes, version, cast: cast.clone() });
        Ok(cast)
    }

    /// How often the weights were changed.
    pub(crate) fn n_changes(&self) -> u64 {
        self.n_changes.load(Ordering::Relaxed)
    }

    /// The weights, `[in, out]`, with those of adapters, for products from the right; transposed, `[out, in]`, if asked for. Packed once for each
    /// change of the weights.
    pub(crate) fn panels(&self, precision: Precision, transposed: bool) -> Result<Arc<Panels>> {
        let version = self.version();
        let mut cached = locked(&self.panels[usize::from(transposed)]);
        if let Some(cached) = &*cached
            && (cached.precision, cached.version) == (precision, version)
        {
            return Ok(Arc::clone(&cached.panels));
        }
        let (rows, columns) = self.weights.dims2()?;
        let pack = |weights: &[f32]| {
            let matrix = Matrix::new(weights, rows, columns, columns);
            Panels::pack(if transposed { matrix.t() } else { matrix }, precision)
        };
        let panels = Arc::new(match self.adapters() {
            Some(adapters) => {
                // Taken out: rayon may have this thread do other work meanwhile.
                let mut scratch = SUM.take();
                let panels = self.read(|weights| {
                    let sum = scratch.numbers::<f32>(weights.len());
                    adapters.write_sum(weights, sum).map(|()| pack(sum))
                })?;
                SUM.set(scratch);
                panels?
            }
            None => self.read(pack)?,
        });
        *cached = Some(CachedPanel { precision, version, panels: Arc::clone(&panels) });
        Ok(panels)
    }

    /// Frees the packed weights, which the next product packs again.
    pub fn free_panels(&self) {
        for panels in &self.panels {
            *locked(panels) = None;
        }
    }

    /// A parameter on the CPU for a model that is only read: `values`, `[in, out]` or as a `table` `[out, in]`, as products of
    /// `precision` read them from the right, in a type of few bits if there is one, and in no other form. Anything else that
    /// reads or changes its weights is an error, but for rows of a table.
    ///
    /// # Errors
    /// When the number of inputs does not divide into blocks of the type.
    pub fn packed(values: &Tensor, precision: Precision, quantized: Option<Quantized>, table: bool) -> Result<Self> {
        let (rows, columns) = values.dims2()?;
        let pack = |weights: &[f32]| {
            let matrix = Matrix::new(weights, rows, columns, columns);
            let matrix = if table { matrix.t() } else { matrix };
            quantized.map_or_else(|| Ok(Panels::pack(matrix, precision)), |to| Panels::quantize(matrix, to))
        };
        Self::of_panels(with_f32s(values, pack)??, precision, table)
    }

    /// The same of the matrix `stored` of a GGUF file, whose rows are those of each of the `outputs`.
    ///
    /// # Errors
    /// When the number of inputs does not divide into blocks, rows cannot be read, or a number or a scale is NaN or infinite.
    pub fn packed_as_stored(
        stored: &StoredMatrix,
        (inputs, outputs): (usize, usize),
        precision: Precision,
        table: bool,
    ) -> Result<Self> {
        Self::of_panels(Panels::pack_stored(stored, (inputs, outputs), precision)?, precision, table)
    }

    fn of_panels(panels: Panels, precision: Precision, table: bool) -> Result<Self> {
        let (inputs, outputs) = (panels.depth, panels.columns);
        let shape = if table { (outputs, inputs) } else { (inputs, outputs) };
        // Zeros that nothing touches take no memory.
        let parameter = Self::of(Var::zeros(shape, DType::F32, &Device::Cpu)?);
        parameter.keep(Arc::new(panels), precision, table)?;
        Ok(parameter)
    }

    /// On the CPU, packs the weights, `[in, out]`, for products of `precision` from the right and frees them: from now on this
    /// is as [`Parameter::packed`].
    ///
    /// # Errors
    /// When they were freed before.
    pub fn keep_panels_only(&self, precision: Precision) -> Result<()> {
        if !self.weights.device().is_cpu() {
            return Ok(());
        }
        let panels = self.panels(precision, false)?;
        self.keep(panels, precision, false)
    }

    fn keep(&self, panels: Arc<Panels>, precision: Precision, table: bool) -> Result<()> {
        let cached = CachedPanel { precision, version: self.version(), panels: Arc::clone(&panels) };
        *locked(&self.panels[usize::from(table)]) = Some(cached);
        if table {
            self.rows.get_or_init(|| panels);
        }
        self.freeze();
        free(self.weights.as_tensor())
    }

    /// Writes rows `ids` of a table, `[V, D]`, on the CPU, to `out`, `[ids, D]`.
    ///
    /// # Errors
    /// When the weights were freed and are not packed as a table.
    pub(crate) fn write_rows(&self, ids: &[u32], out: &mut [f32]) -> Result<()> {
        let (_, d) = self.weights.dims2()?;
        let rows = out.par_chunks_mut(d.max(1)).zip(ids);
        if let Some(panels) = self.rows.get() {
            rows.for_each(|(out, &id)| panels.write_column(id as usize, out));
            return Ok(());
        }
        self.read(|table| rows.for_each(|(out, &id)| out.copy_from_slice(&table[id as usize * d..][..d])))
    }

    /// Changes when what products read changes without [`Parameter::change`].
    fn version(&self) -> [u64; 3] {
        match self.trained() {
            Trained::LowRank(adapters) => adapters.version(),
            _ => [0; 3],
        }
    }

    /// Has `f` write the gradient, or add to it where its second argument says so; not where nothing is trained. For weights
    /// that are trained as a whole or not at all: [`Parameter::add_product_gradient`] and [`Parameter::add_row_gradients`] are
    /// for the others.
    pub(crate) fn add_gradient(&self, f: impl FnOnce(&mut [f32], bool)) {
        if self.is_frozen() {
            return;
        }
        let mut gradient = locked(&self.gradient);
        *gradient = match std::mem::take(&mut *gradient) {
            GradientSum::Numbers(mut sums) => {
                f(&mut sums, true);
                GradientSum::Numbers(sums)
            }
            GradientSum::Cleared(mut sums) => {
                f(&mut sums, false);
                GradientSum::Numbers(sums)
            }
            GradientSum::None | GradientSum::Tensor(_) => {
                let mut sums = zeros(self.weights.elem_count());
                f(&mut sums, false);
                GradientSum::Numbers(sums)
            }
        };
    }

    /// Adds `xᵀ·dy` to the gradient of a matrix, `[in, out]`, or what follows from it for the part that is trained. `x`:
    /// `[N, in]`; `dy`: `[N, out]`.
    pub(crate) fn add_product_gradient<E: Element, G: Element>(
        &self,
        precision: Precision,
        x: Matrix<E>,
        dy: &[G],
    ) -> Result<()> {
        let (_, out) = self.weights.dims2()?;
        match self.trained() {
            Trained::LowRank(adapters) => adapters.add_gradients(precision, x.numbers(), dy),
            Trained::Rows(rows) => {
                let picked = rows.columns(x);
                let (n, width) = (x.rows, rows.ids.len());
                rows.values.add_product_gradient(precision, Matrix::new(&picked, n, width, width), dy)
            }
            Trained::Nothing => Ok(()),
            Trained::Whole => {
                let dy = Matrix::new(dy, x.rows, out, out);
                self.add_gradient(|sum, add| accumulate(precision, x.t(), dy, sum, add));
                Ok(())
            }
        }
    }

    /// Has `scatter` add rows to the gradient of a table: it is given the row for each of `ids`, and `u32::MAX` for those
    /// that are frozen.
    pub(crate) fn add_row_gradients(&self, ids: &[u32], scatter: impl FnOnce(&[u32], &mut [f32], bool)) {
        match self.trained() {
            Trained::Rows(rows) => rows.add_row_gradients(ids, scatter),
            _ => self.add_gradient(|sums, add| scatter(ids, sums, add)),
        }
    }

    /// As [`Parameter::add_product_gradient`], of tensors on any device: adds `xᵀ·dy`. `x`: `[N, in]`; `dy`: `[N, out]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn add_tensor_product(&self, x: &Tensor, dy: &Tensor) -> Result<()> {
        match self.trained() {
            Trained::Nothing => Ok(()),
            Trained::Rows(rows) => rows.accumulate(&product(&x.t()?, dy, DType::F32)?),
            Trained::LowRank(adapters) => adapters.accumulate(&product(&x.t()?, dy, DType::F32)?),
            Trained::Whole if self.weights.device().is_cpu() => self.accumulate(&product(&x.t()?, dy, DType::F32)?),
            Trained::Whole => self.change_gradient(|sum| add_product(sum, &x.t()?, dy)),
        }
    }

    /// Adds the sums of the columns of `dy`, `[N, out]`, on any device.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn add_tensor_columns(&self, dy: &Tensor) -> Result<()> {
        match self.trained() {
            Trained::Nothing | Trained::LowRank(_) => Ok(()),
            Trained::Whole if !self.weights.device().is_cpu() => self.change_gradient(|sum| add_column_sums(sum, dy)),
            Trained::Whole | Trained::Rows(_) => self.accumulate(&add_column_sums(None, dy)?),
        }
    }

    /// As [`Parameter::add_row_gradients`], of tensors on any device: adds row `n` of `dy`, `[N, D]` f32, to row `ids[n]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn add_tensor_rows(&self, ids: &Tensor, dy: &Tensor) -> Result<()> {
        let added = |sum: Option<Tensor>| add_rows(sum.map_or_else(|| self.weights.zeros_like(), Ok)?, ids, dy);
        match self.trained() {
            Trained::Nothing | Trained::LowRank(_) => Ok(()),
            Trained::Rows(rows) => rows.accumulate(&added(None)?),
            Trained::Whole if self.weights.device().is_cpu() => self.accumulate(&added(None)?),
            Trained::Whole => self.change_gradient(added),
        }
    }

    /// Replaces the gradient on another device than the CPU.
    fn change_gradient(&self, f: impl FnOnce(Option<Tensor>) -> Result<Tensor>) -> Result<()> {
        let mut gradient = locked(&self.gradient);
        let sum = match std::mem::take(&mut *gradient) {
            GradientSum::Tensor(sum) => Some(sum),
            _ => None,
        };
        *gradient = GradientSum::Tensor(f(sum)?);
        Ok(())
    }

    /// Adds the gradient that candle found, if it found one.
    ///
    /// # Errors
    /// When the sum cannot be made.
    pub fn collect(&self, store: &mut GradStore) -> Result<()> {
        match store.remove(&self.weights) {
            Some(more) => self.accumulate(&more),
            None => Ok(()),
        }
    }

    /// Adds `more` to the gradient. Adapters have their own from candle ([`Parameter::merged`]).
    ///
    /// # Errors
    /// When the sum cannot be made.
    pub fn accumulate(&self, more: &Tensor) -> Result<()> {
        match self.trained() {
            Trained::Whole => {}
            Trained::Rows(rows) => return rows.accumulate(more),
            Trained::Nothing | Trained::LowRank(_) => return Ok(()),
        }
        if self.weights.device().is_cpu() {
            return with_f32s(&more.contiguous()?, |more| {
                self.add_gradient(|sums, add| take(sums, more, add));
            });
        }
        self.change_gradient(|sum| sum.map_or_else(|| Ok(more.clone()), |sum| sum + more))
    }

    /// Runs `f` on the gradient on the CPU, or `g` on that of another device.
    pub(crate) fn with_gradient<R>(
        &self,
        f: impl FnOnce(&[f32]) -> Result<R>,
        g: impl FnOnce(&Tensor) -> Result<R>,
    ) -> Result<R> {
        match &*locked(&self.gradient) {
            GradientSum::Numbers(sums) => f(sums),
            GradientSum::Tensor(tensor) => g(tensor),
            _ => bail!("the parameter has no gradient"),
        }
    }

    /// The gradient so far.
    pub fn gradient(&self) -> Option<Tensor> {
        let copy = |sums: &[f32]| Tensor::from_slice(sums, self.weights.shape(), self.weights.device());
        self.with_gradient(copy, |tensor| Ok(tensor.clone())).ok()
    }

    /// Removes the gradient and returns it; returns zeros if there is no gradient.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn take_gradient(&self) -> Result<TakenGradient> {
        let taken = std::mem::take(&mut *locked(&self.gradient));
        Ok(TakenGradient(match taken {
            GradientSum::Numbers(sums) => GradientSum::Numbers(sums),
            // A copy, because candle may use one tensor as the gradient of several.
            GradientSum::Tensor(tensor) => GradientSum::Tensor(tensor.force_contiguous()?),
            _ if self.weights.device().is_cpu() => GradientSum::Numbers(zeros(self.weights.elem_count())),
            _ => GradientSum::Tensor(self.weights.zeros_like()?),
        }))
    }

    /// Puts `gradient` in the place of the gradient.
    pub fn set_gradient(&self, gradient: TakenGradient) {
        *locked(&self.gradient) = gradient.0;
    }

    /// Copies the gradient from weight number `from` on to `out`.
    ///
    /// # Errors
    /// If the parameter has no gradient.
    pub fn read_gradient(&self, from: usize, out: &mut [f32]) -> Result<()> {
        match &*locked(&self.gradient) {
            GradientSum::Numbers(sums) => out.copy_from_slice(&sums[from..from + out.len()]),
            GradientSum::Tensor(sums) => read_part(sums, from, out)?,
            _ => bail!("the parameter has no gradient"),
        }
        Ok(())
    }

    /// Adds `values` to the gradient from weight number `from` on, which [`Parameter::set_gradient`] has set where it is not on the
    /// CPU.
    ///
    /// # Errors
    /// If the parameter has no gradient.
    pub fn add_to_gradient(&self, from: usize, values: &[f32]) -> Result<()> {
        match &mut *locked(&self.gradient) {
            GradientSum::Numbers(sums) => take(&mut sums[from..from + values.len()], values, true),
            GradientSum::Tensor(sums) => {
                let more = Tensor::from_slice(values, values.len(), sums.device())?;
                add_part(sums, from, &more)?;
            }
            _ => bail!("the parameter has no gradient"),
        }
        Ok(())
    }

    /// The gradient of `n` weights from number `from` on, on their device.
    ///
    /// # Errors
    /// If the parameter has no gradient.
    pub fn gradient_part(&self, from: usize, n: usize) -> Result<Tensor> {
        let copy = |sums: &[f32]| Tensor::from_slice(&sums[from..from + n], n, &Device::Cpu);
        self.with_gradient(copy, |sums| sums.flatten_all()?.narrow(0, from, n))
    }

    /// As [`Parameter::add_to_gradient`], of numbers `[n]` on the device of the weights.
    ///
    /// # Errors
    /// If the parameter has no gradient.
    pub fn add_gradient_part(&self, from: usize, more: &Tensor) -> Result<()> {
        if self.weights.device().is_cpu() {
            return with_f32s(&more.contiguous()?, |more| self.add_to_gradient(from, more))?;
        }
        match &*locked(&self.gradient) {
            GradientSum::Tensor(sums) => add_part(sums, from, more),
            _ => bail!("the parameter has no gradient"),
        }
    }

    /// Copies weights from number `from` on to `out`.
    ///
    /// # Errors
    /// When they were freed.
    pub fn read_weights(&self, from: usize, out: &mut [f32]) -> Result<()> {
        if !self.weights.device().is_cpu() {
            return read_part(&self.weights, from, out);
        }
        self.read(|weights| out.copy_from_slice(&weights[from..from + out.len()]))
    }

    /// Puts `values` in the place of weights from number `from` on.
    ///
    /// # Errors
    /// When they were freed.
    pub fn write_weights(&self, from: usize, values: &[f32]) -> Result<()> {
        if !self.weights.device().is_cpu() {
            let values = Tensor::from_slice(values, values.len(), self.weights.device())?;
            return self.write_weights_part(from, &values);
        }
        self.change(|weights| weights[from..from + values.len()].copy_from_slice(values))
    }

    /// `n` weights from number `from` on, on their device.
    ///
    /// # Errors
    /// When they were freed.
    pub fn weights_part(&self, from: usize, n: usize) -> Result<Tensor> {
        if !self.weights.device().is_cpu() {
            return flat_view(&self.weights)?.narrow(0, from, n);
        }
        self.read(|weights| Tensor::from_slice(&weights[from..from + n], n, &Device::Cpu))?
    }

    /// As [`Parameter::write_weights`], of numbers `[n]` on the device of the weights.
    ///
    /// # Errors
    /// As [`Parameter::write_weights`].
    pub fn write_weights_part(&self, from: usize, values: &Tensor) -> Result<()> {
        if self.weights.device().is_cpu() {
            return with_f32s(&values.contiguous()?, |values| self.write_weights(from, values))?;
        }
        self.changed();
        flat_view(&self.weights)?.slice_set(&values.contiguous()?, 0, from)
    }

    /// How often the gradient was cleared: a forward pass that adds to it and its backward pass must see the same number.
    pub(crate) fn n_clears(&self) -> u64 {
        self.n_clears.load(Ordering::Relaxed)
    }

    /// Refuses the backward pass of a loss that added this table's gradient in its forward pass, at `n_clears`, where `dloss`
    /// scales the loss or the gradient was cleared since.
    ///
    /// # Errors
    /// In both cases.
    pub(crate) fn must_hold_gradient(&self, dloss: &Tensor, n_clears: u64) -> Result<()> {
        if dloss.to_scalar::<f32>()? != 1.0 {
            bail!(
                "the gradient of the embedding table was computed for the unscaled loss; pass the weight to the loss \
                 instead of scaling it later"
            );
        }
        if self.n_clears() != n_clears {
            bail!(
                "gradients were cleared between the loss and its backward pass; the gradient of the embedding table is \
                 lost"
            );
        }
        Ok(())
    }

    /// Sets the gradient to zero. Frees its memory until it is added to, unless it is little.
    pub fn clear_gradient(&self) {
        self.n_clears.fetch_add(1, Ordering::Relaxed);
        let mut gradient = locked(&self.gradient);
        *gradient = match std::mem::take(&mut *gradient) {
            GradientSum::Numbers(sums) | GradientSum::Cleared(sums) if size_of_val(&*sums) <= KEPT => {
                GradientSum::Cleared(sums)
            }
            _ => GradientSum::None,
        };
    }
}

/// A gradient that was taken from its parameter.
#[derive(Debug)]
pub struct TakenGradient(GradientSum);

impl TakenGradient {
    /// Adds `more`, taken from the same parameter.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn add(&mut self, more: &Self) -> Result<()> {
        match (&mut self.0, &more.0) {
            (GradientSum::Numbers(sums), GradientSum::Numbers(more)) => add_to(more, sums),
            (GradientSum::Tensor(sums), GradientSum::Tensor(more)) => *sums = (&*sums + more)?,
            _ => bail!("gradients on different devices cannot be added"),
        }
        Ok(())
    }
}

/// All elements of `tensor`, which must be contiguous, as one row in the same memory.
///
/// # Errors
/// When they are not.
pub(crate) fn flat_view(tensor: &Tensor) -> Result<Tensor> {
    if !tensor.is_contiguous() {
        bail!("a tensor of layout {:?} does not lie in one piece", tensor.layout());
    }
    tensor.flatten_all()
}

/// Copies elements of `tensor` from number `from` on to `out`.
fn read_part(tensor: &Tensor, from: usize, out: &mut [f32]) -> Result<()> {
    let part = tensor.flatten_all()?.narrow(0, from, out.len())?.to_vec1::<f32>()?;
    out.copy_from_slice(&part);
    Ok(())
}

/// Adds `more`, `[n]`, to elements of `sums` from number `from` on.
fn add_part(sums: &Tensor, from: usize, more: &Tensor) -> Result<()> {
    let sums = flat_view(sums)?;
    let sum = (sums.narrow(0, from, more.elem_count())? + more)?;
    sums.slice_set(&sum, 0, from)
}

/// What backward passes compute a gradient for.
#[derive(Debug, Clone, Default)]
pub enum Trained {
    /// All of the weight.
    #[default]
    Whole,
    /// None of it.
    Nothing,
    /// `A` and `B` of a matrix that itself is frozen (Hu et al. 2021).
    LowRank(LowRank),
    /// Some rows of a table.
    Rows(TrainedRows),
}

/// Adapters of a matrix `W`, `[in, out]`, whose place is taken by `W + scale·(B·A)ᵀ`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[r, in]`.
    pub a: Arc<Parameter>,
    /// `[out, r]`.
    pub b: Arc<Parameter>,
    /// α/r.
    pub scale: f64,
    /// Probability in training with which `A` does not see an element of its input.
    pub dropout: f32,
    /// Whether products read the sum; if not, they read `W` alone.
    pub is_on: Arc<AtomicBool>,
}

impl LowRank {
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Changes whenever the sum does.
    pub(crate) fn version(&self) -> [u64; 3] {
        [self.a.n_changes(), self.b.n_changes(), u64::from(self.is_on())]
    }

    /// The sum, for `weights`, `[in, out]`. Gradients of `A` and `B` can be taken of it if `tracked`.
    pub(crate) fn added_to(&self, weights: &Tensor, tracked: bool) -> Result<Tensor> {
        if !tracked && weights.device().is_cpu() {
            // The same bits as in panels.
            let mut sum = vec![0.0; weights.elem_count()];
            with_f32s(weights, |weights| self.write_sum(weights, &mut sum))??;
            return Tensor::from_vec(sum, weights.shape(), weights.device());
        }
        let product = self.a.tensor(tracked).t()?.matmul(&self.b.tensor(tracked).t()?)?;
        weights + (product * self.scale)?
    }

    /// `x`: `[N, in]`. Returns `scale·x·Aᵀ·Bᵀ`, `[N, out]`.
    pub(crate) fn product(&self, x: &Tensor, tracked: bool) -> Result<Tensor> {
        x.matmul(&self.a.tensor(tracked).t()?)?.matmul(&self.b.tensor(tracked).t()?)? * self.scale
    }

    /// Adds the gradients of `A` and `B` that follow from that of the sum, `[in, out]` f32.
    fn accumulate(&self, dsum: &Tensor) -> Result<()> {
        let dsum = (dsum * self.scale)?;
        self.a.accumulate(&dsum.matmul(&self.b.tensor(false))?.t()?.contiguous()?)?;
        self.b.accumulate(&self.a.tensor(false).matmul(&dsum)?.t()?.contiguous()?)
    }

    /// Writes the sum for `weights`, `[in, out]`, to `sum`.
    pub(crate) fn write_sum(&self, weights: &[f32], sum: &mut [f32]) -> Result<()> {
        let ((rank, width), (out, _)) = (self.a.var().dims2()?, self.b.var().dims2()?);
        let mut b = self.b.read(|b| transposed(b, rank))?;
        b.iter_mut().for_each(|number| *number *= self.scale as f32);
        self.a.read(|a| {
            let rows =
                sum.par_chunks_mut(out).zip(weights.par_chunks(out)).enumerate().with_min_len(rows_at_a_time(out));
            rows.for_each(|(row, (sum, weights))| {
                sum.copy_from_slice(weights);
                for (r, b) in b.chunks_exact(out).enumerate() {
                    add_scaled(a[r * width + row], b, sum);
                }
            });
        })
    }

    /// Adds the gradients of `A` and `B`. `x`: input of the product, `[N, in]`; `dy`: gradient of its output, `[N, out]`. The
    /// gradient of the whole matrix, `xᵀ·dy`, is never made.
    pub(crate) fn add_gradients<E: Element, G: Element>(&self, precision: Precision, x: &[E], dy: &[G]) -> Result<()> {
        let ((rank, width), (out, _), scale) = (self.a.var().dims2()?, self.b.var().dims2()?, self.scale as f32);
        let n = x.len() / width;
        let b = self.b.read(|b| transposed(b, rank))?; // [r, out]
        let reduced = self.a.read(|a| multiply_thin(x, a, width, scale))?; // scale·x·Aᵀ, [N, r]
        let dreduced = multiply_thin(dy, &b, out, scale); // scale·dy·B, [N, r]
        self.a.add_product_gradient(precision, Matrix::new(&dreduced, n, rank, rank), x)?;
        self.b.add_gradient(|sum, add| {
            let mut gradient = vec![0.0; rank * out]; // of Bᵀ: so that the few rows are those of the left matrix
            let reduced = Matrix::new(&reduced, n, rank, rank).t();
            accumulate(precision, reduced, Matrix::new(dy, n, out, out), &mut gradient, false);
            take(sum, &transposed(&gradient, out), add);
        });
        Ok(())
    }
}

/// Rows of a table that are trained; the others are frozen.
#[derive(Debug, Clone)]
pub struct TrainedRows {
    ids: Arc<[u32]>,
    /// Row of each id in `values`.
    places: Arc<HashMap<u32, u32>>,
    /// `[ids, D]`.
    values: Arc<Parameter>,
}

impl TrainedRows {
    /// `values`: the rows `ids` of the table, `[ids, D]`.
    pub fn new(ids: &[u32], values: Arc<Parameter>) -> Self {
        let places = ids.iter().copied().zip(0..).collect();
        Self { ids: ids.into(), places: Arc::new(places), values }
    }

    /// Writes the values into the rows of `table`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn write_to(&self, table: &Parameter) -> Result<()> {
        let (n, d) = self.values.var().dims2()?;
        if table.var().device().is_cpu() {
            return self.values.read(|values| {
                table.change(|table| {
                    for (&id, values) in self.ids.iter().zip(values.chunks_exact(d)) {
                        table[id as usize * d..][..d].copy_from_slice(values);
                    }
                })
            })?;
        }
        let at = Tensor::new(&*self.ids, table.var().device())?.unsqueeze(1)?.broadcast_as((n, d))?.contiguous()?;
        table.set(&table.tensor(false).scatter(&at, &self.values.tensor(false), 0)?)
    }

    /// The columns of these rows in `x`, `[N, V]`.
    fn columns<E: Element>(&self, x: Matrix<E>) -> Vec<E> {
        let rows = (0..x.rows).map(|row| x.row_part(row, 0..x.columns));
        rows.flat_map(|row| self.ids.iter().map(|&id| row[id as usize])).collect()
    }

    /// Has `scatter` add rows to the gradient: it is given the row in `values` of each of `ids`, and `u32::MAX` for those that
    /// are frozen.
    pub(crate) fn add_row_gradients(&self, ids: &[u32], scatter: impl FnOnce(&[u32], &mut [f32], bool)) {
        let places: Vec<u32> = ids.iter().map(|id| self.places.get(id).copied().unwrap_or(u32::MAX)).collect();
        self.values.add_gradient(|sum, add| scatter(&places, sum, add));
    }

    /// Adds these rows of `gradient`, that of the table, `[V, D]`.
    pub(crate) fn accumulate(&self, gradient: &Tensor) -> Result<()> {
        self.values.accumulate(&gradient.index_select(&Tensor::new(&*self.ids, gradient.device())?, 0)?)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, draw};
    use crate::linear::Linear;

    /// Products of a model that is only read have the same bits, and what reads the weights says that they are gone.
    #[test]
    fn weights_that_were_packed_and_freed_are_multiplied_as_before() {
        for precision in [Precision::F32, Precision::Bf16] {
            let parameter = |seed, shape: &[usize]| Arc::new(Parameter::new(&draw(seed, shape)).unwrap());
            let linear = Linear { weight: parameter(1, &[40, 70]), bias: parameter(2, &[70]) };
            let x: Vec<f32> = draw(3, &[5, 40]).flatten_all().unwrap().to_vec1().unwrap();
            let product = || {
                let mut y = vec![0.0; 5 * 70];
                linear.write(precision, &x, &mut y).map(|()| y)
            };
            let before = product().unwrap();
            linear.weight.keep_panels_only(precision).unwrap();
            assert_eq!(product().unwrap(), before, "{precision:?}");
            assert_eq!(linear.weight.var().dims(), [40, 70]);
            let error = linear.weight.read(|weights| weights.len()).unwrap_err().to_string();
            assert!(error.contains("were freed"), "{error}");
            assert!(linear.weight.set(&draw(1, &[40, 70])).unwrap_err().to_string().contains("were freed"));
        }
    }

    /// In slices, as numbers and as a tensor, which stands for one on another device.
    #[test]
    fn gradients_are_taken_added_and_read_in_slices() {
        let more: Vec<f32> = (0..4).map(|i| i as f32).collect();
        let read = |parameter: &Parameter| {
            let mut numbers = [0.0; 6];
            parameter.read_gradient(0, &mut numbers).map(|()| numbers.to_vec())
        };
        for sum in [GradientSum::Numbers(vec![1.0; 6]), GradientSum::Tensor(draw(2, &[3, 2]).t().unwrap())] {
            let parameter = Parameter::new(&draw(1, &[2, 3])).unwrap();
            assert!(read(&parameter).unwrap_err().to_string().contains("no gradient"));
            parameter.set_gradient(TakenGradient(sum));
            let before = read(&parameter).unwrap();
            let taken = parameter.take_gradient().unwrap();
            parameter.set_gradient(parameter.take_gradient().unwrap());
            assert_eq!(read(&parameter).unwrap(), [0.0; 6]);
            parameter.set_gradient(taken);
            parameter.add_to_gradient(1, &more).unwrap();
            let after = read(&parameter).unwrap();
            assert_eq!(numbers(&parameter.gradient_part(2, 3).unwrap()), after[2..5]);
            assert!((0..6).all(|i| after[i] == before[i] + if (1..5).contains(&i) { more[i - 1] } else { 0.0 }));
            let mut taken = parameter.take_gradient().unwrap();
            parameter.set_gradient(TakenGradient(match &taken.0 {
                GradientSum::Tensor(tensor) => GradientSum::Tensor(tensor.clone()),
                _ => GradientSum::Numbers(after.clone()),
            }));
            taken.add(&parameter.take_gradient().unwrap()).unwrap();
            parameter.set_gradient(taken);
            let twice: Vec<f32> = after.iter().map(|x| 2.0 * x).collect();
            assert_eq!(read(&parameter).unwrap(), twice);
            parameter.add_gradient_part(4, &Tensor::new(&[1.0f32, 2.0], &Device::Cpu).unwrap()).unwrap();
            assert_eq!(read(&parameter).unwrap()[4..], [twice[4] + 1.0, twice[5] + 2.0]);
            parameter.clear_gradient();
            assert!(read(&parameter).is_err() && parameter.gradient_part(0, 1).is_err());
            parameter.write_weights_part(1, &Tensor::new(&[7.0f32, 8.0], &Device::Cpu).unwrap()).unwrap();
            assert_eq!(numbers(&parameter.weights_part(1, 2).unwrap()), [7.0, 8.0]);
        }
        let tensor = draw(3, &[2, 3]);
        flat_view(&tensor).unwrap().slice_set(&Tensor::from_vec(more, 4, &Device::Cpu).unwrap(), 0, 2).unwrap();
        let mut part = [0.0; 4];
        read_part(&tensor, 2, &mut part).unwrap();
        assert_eq!(part, [0.0, 1.0, 2.0, 3.0]);
        assert!(flat_view(&tensor.t().unwrap()).is_err());
    }

    #[test]
    fn gradients_are_added_up_until_they_are_cleared() {
        let parameter = Parameter::new(&draw(1, &[2, 3])).unwrap();
        assert!(parameter.gradient().is_none());
        let add = |x: f32| {
            parameter.add_gradient(|sums, add| sums.iter_mut().for_each(|s| *s = if add { *s + x } else { x }));
        };
        let all = |x: f32| Tensor::full(x, (2, 3), &candle_core::Device::Cpu).unwrap();
        add(1.0);
        add(2.0);
        assert_close("sum", &parameter.gradient().unwrap(), &all(3.0), 0.0);
        parameter.clear_gradient();
        assert!(parameter.gradient().is_none());
        add(4.0);
        assert_close("sum", &parameter.gradient().unwrap(), &all(4.0), 0.0);
    }

    #[test]
    fn candles_gradients_are_taken() {
        let parameter = Parameter::new(&draw(1, &[2, 3])).unwrap();
        for _ in 0..2 {
            let mut store = (parameter.tensor(true) * 3.0).unwrap().sum_all().unwrap().backward().unwrap();
            parameter.collect(&mut store).unwrap();
        }
        let expected = Tensor::full(6f32, (2, 3), &candle_core::Device::Cpu).unwrap();
        assert_close("sum", &parameter.gradient().unwrap(), &expected, 0.0);
    }

    #[test]
    fn packed_weights_follow_their_changes() {
        let parameter = Parameter::new(&draw(1, &[2, 3])).unwrap();
        let first = parameter.panels(Precision::F32, false).unwrap();
        assert!(Arc::ptr_eq(&first, &parameter.panels(Precision::F32, false).unwrap()));
        parameter.change(|weights| weights.fill(7.0)).unwrap();
        let second = parameter.panels(Precision::F32, false).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        let mut sums = [0.0; 3];
        let (ones, copy) = ([1.0f32, 1.0], |_, _, sums: &mut [f32], out: &mut [f32]| out.copy_from_slice(sums));
        crate::product::multiply(Matrix::new(&ones, 1, 2, 2), &second, &mut sums[..], copy);
        assert_eq!(sums, [14.0; 3]);
    }

    fn parameter(seed: u64, shape: &[usize]) -> Arc<Parameter> {
        Arc::new(Parameter::new(&draw(seed, shape)).unwrap())
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_product_with_adapters_agrees_with_candles_operations_forward_and_backward() {
        let (n, width, out, rank) = (70, 45, 130, 3);
        let linear = Linear { weight: parameter(1, &[width, out]), bias: parameter(2, &[out]) };
        let adapters = LowRank {
            a: parameter(3, &[rank, width]),
            b: parameter(4, &[out, rank]),
            scale: 1.5,
            dropout: 0.0,
            is_on: Arc::new(AtomicBool::new(true)),
        };
        let (x, dy) = (Var::from_tensor(&draw(5, &[n, width])).unwrap(), draw(6, &[n, out]));
        let write = || {
            let mut y = vec![0.0; n * out];
            linear.write(Precision::F32, &numbers(&x), &mut y).unwrap();
            Tensor::from_vec(y, (n, out), &Device::Cpu).unwrap()
        };
        let unadapted = write();
        linear.weight.train(Trained::LowRank(adapters.clone()));
        let y = linear.plain(&x, true).unwrap();
        assert_close("y", &write(), &y, 1e-4);
        let grads = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
        linear.add_weight_gradients(Precision::F32, &numbers(&x), &numbers(&dy)).unwrap();
        for (name, part) in [("a", &adapters.a), ("b", &adapters.b)] {
            assert_close(name, &part.gradient().unwrap(), grads.get(part.var()).unwrap(), 1e-3);
        }
        assert!(linear.weight.gradient().is_none() && grads.get(linear.weight.var()).is_none());
        // Products see changes of the adapters, and that they are switched off.
        adapters.a.set(&draw(7, &[rank, width])).unwrap();
        assert_close("y", &write(), &linear.plain(&x, false).unwrap(), 1e-4);
        adapters.is_on.store(false, Ordering::Relaxed);
        assert_close("y", &write(), &unadapted, 0.0);
        adapters.is_on.store(true, Ordering::Relaxed);
        let adapted = write();
        linear.weight.merge().unwrap();
        assert!(!linear.weight.is_frozen());
        assert_close("y", &write(), &adapted, 0.0);
    }

    /// `x·W + b + scale·dropped(x)·Aᵀ·Bᵀ`, as in PEFT.
    #[test]
    fn dropout_acts_on_the_input_of_adapters_alone() {
        use crate::dropout::{Dropout, dropout};
        let (windows, n, width, out, rank) = (3, 12, 10, 7, 2);
        let linear = Linear { weight: parameter(1, &[width, out]), bias: parameter(2, &[out]) };
        let adapters = LowRank {
            a: parameter(3, &[rank, width]),
            b: parameter(4, &[out, rank]),
            scale: 1.5,
            dropout: 0.4,
            is_on: Arc::new(AtomicBool::new(true)),
        };
        let x = draw(5, &[n, width]);
        let alone = linear.plain(&x, false).unwrap();
        linear.weight.train(Trained::LowRank(adapters.clone()));
        let at = Dropout { p: linear.weight.adapter_dropout(), seed: 7, site: 1, first_row: 2 };
        let dropped = dropout(&x.reshape((windows, (), width)).unwrap(), at).unwrap().reshape((n, width)).unwrap();
        let expected = (alone + adapters.product(&dropped, false).unwrap()).unwrap();
        let y = linear.plain_dropping(&x, windows, false, Some(at)).unwrap();
        assert_close("y", &y, &expected, 1e-5);
    }

    #[test]
    fn trained_rows_have_their_part_of_the_tables_gradient() {
        let (n, v, d) = (9, 20, 5);
        let (whole, table, values) = (parameter(1, &[v, d]), parameter(1, &[v, d]), parameter(2, &[2, d]));
        let ids = [17, 3];
        table.train(Trained::Rows(TrainedRows::new(&ids, Arc::clone(&values))));
        let (x, dy) = (numbers(&draw(3, &[n, v])), numbers(&draw(4, &[n, d])));
        for parameter in [&whole, &table] {
            parameter.add_product_gradient(Precision::F32, Matrix::new(&x, n, v, v), &dy).unwrap();
            parameter.add_row_gradients(&[3, 0, 3], |rows, sums, add| {
                assert!(add);
                for &row in rows {
                    if let Some(sum) = sums.get_mut(row as usize * d) {
                        *sum += 1.0;
                    }
                }
            });
        }
        let expected = |gradient: &Tensor| gradient.index_select(&Tensor::new(&ids, &Device::Cpu).unwrap(), 0).unwrap();
        let whole = whole.gradient().unwrap();
        assert_close("rows", &values.gradient().unwrap(), &expected(&whole), 1e-5);
        values.clear_gradient();
        table.accumulate(&whole).unwrap();
        assert_close("rows", &values.gradient().unwrap(), &expected(&whole), 0.0);
        assert!(table.gradient().is_none());
    }
}
