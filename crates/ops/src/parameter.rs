//! A weight of a model, with its gradient and the forms in which products read it.

use crate::adapter::{LowRank, Trained};
use crate::cpu::element::Element;
use crate::matrix::Matrix;
use crate::panels::{Panels, Quantized};
use crate::path::Precision;
use crate::product::accumulate;
use crate::scratch::ScratchBuffer;
use crate::slices::{with_f32s, with_f32s_mut};
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

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
    trained: RwLock<Trained>,
}

thread_local! {
    /// Where weights and the product of adapters are added before they are packed.
    static SUM: RefCell<ScratchBuffer> = RefCell::default();
}

type CachedPanels = Option<CachedPanel>;

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
        Ok(Self {
            weights: Var::from_tensor(values)?,
            gradient: Mutex::default(),
            n_clears: AtomicU64::new(0),
            n_changes: AtomicU64::new(0),
            panels: Default::default(),
            trained: RwLock::default(),
        })
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
        !matches!(self.trained(), Trained::Whole)
    }

    fn trained(&self) -> Trained {
        self.trained.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adapters whose product is to be added to the weights.
    fn adapters(&self) -> Option<LowRank> {
        match self.trained() {
            Trained::LowRank(adapters) if adapters.is_on() => Some(adapters),
            _ => None,
        }
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
            bail!("weights of shape {:?} in the place of {:?}", weights.dims(), self.weights.dims());
        }
        if !self.weights.device().is_cpu() {
            return self.weights.set(weights);
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
        self.n_changes.fetch_add(1, Ordering::Relaxed);
        for panels in &self.panels {
            *locked(panels) = None;
        }
        with_f32s_mut(self.weights.as_tensor(), f)
    }

    /// How often the weights were changed on the CPU.
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

    /// Changes when what products read changes without [`Parameter::change`].
    fn version(&self) -> [u64; 3] {
        match self.trained() {
            Trained::LowRank(adapters) => adapters.version(),
            _ => [0; 3],
        }
    }

    /// Has products read the weights, `[in, out]` or as a `table` `[out, in]`, in blocks of few bits until the weights
    /// change.
    ///
    /// # Errors
    /// When the number of inputs does not divide into blocks.
    pub fn quantize(&self, to: Quantized, table: bool, precision: Precision) -> Result<()> {
        let weights = self.merged(false)?;
        let (rows, columns) = weights.dims2()?;
        let inputs = if table { columns } else { rows };
        if !inputs.is_multiple_of(to.block()) {
            bail!("a width of {inputs} does not divide into blocks of {} numbers", to.block());
        }
        let panels = Arc::new(Panels::quantize(&if table { weights } else { weights.t()? }, to)?);
        *locked(&self.panels[usize::from(table)]) = Some(CachedPanel { precision, version: self.version(), panels });
        Ok(())
    }

    /// Has `f` write the gradient, or add to it where its second argument says so; not where nothing is trained. For weights
    /// that are trained as a whole or not at all: [`Parameter::add_product_gradient`] and [`Parameter::add_row_gradients`] are
    /// for the others.
    pub(crate) fn add_gradient(&self, f: impl FnOnce(&mut [f32], bool)) {
        if self.is_frozen() {
            return;
        }
        let mut gradient = locked(&self.gradient);
        match &mut *gradient {
            GradientSum::Numbers(sums) => f(sums, true),
            other => {
                let mut sums = vec![0.0; self.weights.elem_count()];
                f(&mut sums, false);
                *other = GradientSum::Numbers(sums);
            }
        }
    }

    /// Adds `xᵀ·dy` to the gradient of a matrix, `[in, out]`, or what follows from it for the part that is trained. `x`:
    /// `[N, in]`; `dy`: `[N, out]`.
    pub(crate) fn add_product_gradient<E: Element, G: Element>(
        &self,
        precision: Precision,
        x: &[E],
        dy: &[G],
    ) -> Result<()> {
        let (width, out) = self.weights.dims2()?;
        match self.trained() {
            Trained::LowRank(adapters) => adapters.add_gradients(precision, x, dy),
            Trained::Rows(rows) => rows.add_product_gradient(precision, x, dy),
            Trained::Nothing => Ok(()),
            Trained::Whole => {
                let n = x.len() / width;
                let (x, dy) = (Matrix::new(x, n, width, width), Matrix::new(dy, n, out, out));
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
                self.add_gradient(|sums, add| {
                    sums.iter_mut().zip(more).for_each(|(sum, x)| *sum = if add { *sum + x } else { *x });
                });
            });
        }
        let mut gradient = locked(&self.gradient);
        *gradient = match std::mem::take(&mut *gradient) {
            GradientSum::Tensor(sum) => GradientSum::Tensor((sum + more)?),
            _ => GradientSum::Tensor(more.clone()),
        };
        Ok(())
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
            _ => bail!("no gradient reaches it"),
        }
    }

    /// The gradient so far.
    pub fn gradient(&self) -> Option<Tensor> {
        let copy = |sums: &[f32]| Tensor::from_slice(sums, self.weights.shape(), self.weights.device());
        self.with_gradient(copy, |tensor| Ok(tensor.clone())).ok()
    }

    /// How often the gradient was cleared: a forward pass that adds to it and its backward pass must see the same number.
    pub(crate) fn n_clears(&self) -> u64 {
        self.n_clears.load(Ordering::Relaxed)
    }

    /// Sets the gradient to zero and frees its memory until it is added to.
    pub fn clear_gradient(&self) {
        self.n_clears.fetch_add(1, Ordering::Relaxed);
        *locked(&self.gradient) = GradientSum::None;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, draw};

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
}
