//! From the last hidden state to the loss: the product with the table of tokens and the cross-entropy in one operation,
//! so that the scores of a batch never exist at once.

use crate::cpu::element::{Element, bf16};
use crate::cpu::{among_the_threads, vectorized};
use crate::cross_entropy::{IGNORE, counted};
use crate::device;
use crate::exp::exp;
use crate::matrix::Matrix;
use crate::panels::Panels;
use crate::parameter::Parameter;
use crate::path::Precision;
use crate::product::{multiply, multiply_deep};
use crate::scratch::ScratchBuffer;
use crate::slices::{f32s, map_and_sum, max, replace, sum, u32s, with_f32s};
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Scores of every token: `hidden`, `[N, D]`, times the transpose of `table`, `[V, D]`. Returns `[N, V]`, which is part of
/// a graph if that is `tracked`.
///
/// # Errors
/// When the shapes do not fit.
pub fn logits(hidden: &Tensor, table: &Parameter, precision: Precision, tracked: bool) -> Result<Tensor> {
    if !hidden.device().is_cpu() && !tracked {
        return device::losses::scores(hidden, table, precision);
    }
    if tracked {
        return hidden.matmul(&table.tensor(tracked).t()?);
    }
    let ((n, d), (v, _)) = (hidden.dims2()?, table.var().dims2()?);
    let panels = table.panels(precision, true)?;
    let mut scores = vec![0.0; n * v];
    with_f32s(&hidden.contiguous()?, |hidden| write_scores(Matrix::new(hidden, n, d, d), &panels, &mut scores))?;
    Tensor::from_vec(scores, (n, v), hidden.device())
}

/// Runs `f` on the rows of `scores`, `[N, V]`, which are copied only from another device than the CPU.
///
/// # Errors
/// When `scores` has another shape or type.
pub fn with_score_rows<R>(scores: &Tensor, f: impl FnOnce(&[&[f32]]) -> R) -> Result<R> {
    let (_, v) = scores.dims2()?;
    let scores = scores.to_device(&Device::Cpu)?.contiguous()?;
    with_f32s(&scores, |scores| f(&scores.chunks_exact(v.max(1)).collect::<Vec<_>>()))
}

/// Scores of every token: `hidden`, `[N, D]`, times `panels`, `[D, V]`, to `scores`, `[N, V]`.
pub(crate) fn write_scores(hidden: Matrix<f32>, panels: &Panels, scores: &mut [f32]) {
    multiply(hidden, panels, scores, |_, _, sums, scores| scores.copy_from_slice(sums));
}

/// `weight` times the mean of −log softmax(hidden·tableᵀ)\[target\], in nats, over the targets that are not [`IGNORE`]; 0
/// when none counts. `hidden`: `[N, D]`; `table`: `[V, D]`; `targets`: `[N]`, u32. Returns a scalar.
///
/// With `learn`, its gradient can be taken, as it is and once. On the CPU the table's is added as soon as the loss is
/// there: that is when the scores are.
///
/// # Errors
/// When the shapes do not fit or a target is not below `V`.
pub fn language_model_loss(
    hidden: &Tensor,
    table: &Arc<Parameter>,
    targets: &Tensor,
    precision: Precision,
    weight: f64,
    learn: bool,
) -> Result<Tensor> {
    if !hidden.device().is_cpu() {
        return device::losses::language_model_loss(hidden, table, targets, precision, weight, learn);
    }
    let (n, _) = hidden.dims2()?;
    if targets.dims() != [n] {
        bail!("the loss has {n} rows but targets of shape {:?}", targets.dims());
    }
    let n_clears = table.n_clears();
    let op =
        LanguageModelLoss { table: Arc::clone(table), precision, weight, learn, n_clears, dhidden: Mutex::default() };
    let (hidden, targets) = (hidden.contiguous()?, targets.contiguous()?);
    if learn { hidden.apply_op2(&targets, op) } else { hidden.apply_op2_no_bwd(&targets, &op) }
}

struct LanguageModelLoss {
    table: Arc<Parameter>,
    precision: Precision,
    weight: f64,
    learn: bool,
    /// [`Parameter::n_clears`] of the table before the forward pass.
    n_clears: u64,
    /// Gradient of the hidden state, from the forward pass.
    dhidden: Mutex<Vec<f32>>,
}

/// Scores, kept from call to call: the system would clear new memory each time, page by page.
static MEMORY: Mutex<Vec<ScratchBuffer>> = Mutex::new(Vec::new());

/// Bytes of scores that exist at a time. Each part reads and writes all of the table's gradient.
const SCORES: usize = 96 << 20;

/// Rows that are scored together.
pub(crate) fn rows_together(n: usize, v: usize) -> usize {
    let wanted = SCORES / (size_of::<f32>() * v.max(1));
    wanted.next_multiple_of(64).clamp(64, n.max(64)).min(n.max(1))
}

/// Bytes of the scores that exist at a time on the CPU in [`language_model_loss`] over `n` rows and `v` tokens; their gradient
/// takes their place.
pub fn scores_bytes(n: usize, v: usize) -> u64 {
    (size_of::<f32>() * rows_together(n, v)) as u64 * v as u64
}

/// `scores`: gradients of scores at the beginnings of rows that once held `v` scores, f32. Returns the gradient of `hidden`,
/// `[N, D]`, to `dhidden`, and adds that of the `table`.
pub(crate) fn from_score_gradients<E: Element>(
    precision: Precision,
    table: &Parameter,
    scores: &[f32],
    hidden: &[f32],
    dhidden: &mut [f32],
) -> Result<()> {
    let (v, _) = table.var().dims2()?;
    let stride = v * size_of::<f32>() / size_of::<E>();
    let gradients = Matrix::new(bytemuck::cast_slice::<f32, E>(scores), scores.len() / v, v, stride);
    multiply_deep(gradients, &*table.panels(precision, false)?, dhidden);
    table.add_product_gradient(precision, gradients, hidden)
}

impl CustomOp2 for LanguageModelLoss {
    fn name(&self) -> &'static str {
        "language-model-loss"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (hidden, targets) = (f32s(s1, l1, self.name())?, u32s(s2, l2, self.name())?);
        let ((_, d), (v, width)) = (l1.shape().dims2()?, self.table.var().dims2()?);
        if d != width {
            bail!("the hidden state has width {d}, but the embedding table has width {width}");
        }
        if let Some(target) = targets.iter().find(|&&t| t != IGNORE && t as usize >= v) {
            bail!("target {target} is outside the vocabulary of {v}");
        }
        let loss = among_the_threads(|| match self.precision {
            Precision::F32 => self.forward::<f32>(hidden, targets),
            Precision::Bf16 => self.forward::<bf16>(hidden, targets),
        })?;
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        _targets: &Tensor,
        _loss: &Tensor,
        dloss: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.table.must_hold_gradient(dloss, self.n_clears)?;
        let dhidden = std::mem::take(&mut *self.dhidden.lock().unwrap_or_else(PoisonError::into_inner));
        if dhidden.len() != hidden.elem_count() {
            bail!("the gradient of a loss can be computed only once");
        }
        Ok((Some(Tensor::from_vec(dhidden, hidden.shape(), hidden.device())?), None))
    }
}

impl LanguageModelLoss {
    /// The loss of `hidden`, `[N, D]`; its gradients, where they are wanted.
    fn forward<E: Element>(&self, hidden: &[f32], targets: &[u32]) -> Result<f32> {
        let (n, (v, d)) = (targets.len(), self.table.var().dims2()?);
        let share = (self.weight / counted(targets).max(1) as f64) as f32;
        let panels = self.table.panels(self.precision, true)?;
        let rows = rows_together(n, v);
        let mut memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let scores = memory.numbers::<f32>(rows.min(n) * v);
        let mut dhidden = vec![0.0; if self.learn { n * d } else { 0 }];
        let mut total = 0.0;
        for first in (0..n).step_by(rows) {
            let last = (first + rows).min(n);
            let (hidden, targets) = (&hidden[first * d..last * d], &targets[first..last]);
            let scores = &mut scores[..(last - first) * v];
            write_scores(Matrix::new(hidden, last - first, d, d), &panels, scores);
            let of_row = |(row, &target): (&mut [f32], &u32)| match self.learn {
                true => loss_and_gradient::<E>(row, target, share),
                false => loss(row, target),
            };
            total += scores.par_chunks_mut(v).zip(targets).map(of_row).collect::<Vec<_>>().iter().sum::<f64>();
            if self.learn {
                let dhidden = &mut dhidden[first * d..last * d];
                from_score_gradients::<E>(self.precision, &self.table, scores, hidden, dhidden)?;
            }
        }
        MEMORY.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        *self.dhidden.lock().unwrap_or_else(PoisonError::into_inner) = dhidden;
        Ok((total / counted(targets).max(1) as f64 * self.weight) as f32)
    }
}

vectorized! {
    /// −log softmax(row)\[target\]; 0 when the target is [`IGNORE`].
    fn loss(row: &[f32], target: u32) -> f64 {
        if target == IGNORE {
            return 0.0;
        }
        let most = max(row);
        f64::from(most - row[target as usize]) + f64::from(sum(row, |x| exp::<FUSED>(x - most))).ln()
    }
}

vectorized! {
    /// The same; `share`·(softmax − one-hot), or zeros, takes the place of the row.
    fn loss_and_gradient[E: Element](row: &mut [f32], target: u32, share: f32) -> f64 {
        if target == IGNORE {
            replace::<E>(row, |_| 0.0);
            return 0.0;
        }
        let (most, target) = (max(row), target as usize);
        let picked = row[target];
        let total = map_and_sum(row, |x| exp::<FUSED>(x - most));
        let scale = share / total;
        let of_target = row[target] * scale - share;
        replace::<E>(row, |x| x * scale)[target] = E::of(of_target);
        f64::from(most - picked) + f64::from(total).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, draw};
    use crate::cross_entropy::cross_entropy;
    use candle_core::{Device, Var};

    fn ids(ids: &[u32]) -> Tensor {
        Tensor::new(ids, &Device::Cpu).unwrap()
    }

    fn table(v: usize, d: usize) -> Arc<Parameter> {
        Arc::new(Parameter::new(&draw(2, &[v, d])).unwrap())
    }

    #[test]
    fn the_loss_agrees_with_candles_operations_forward_and_backward() {
        let table = table(11, 6);
        let hidden = Var::from_tensor(&(draw(1, &[5, 6]) * 2.0).unwrap()).unwrap();
        for targets in [[0, 10, 3, 3, 7], [0, IGNORE, 3, IGNORE, 7], [IGNORE; 5]] {
            let scores = logits(hidden.as_tensor(), &table, Precision::F32, true).unwrap();
            let plain = (cross_entropy(&scores, &ids(&targets)).unwrap() * 0.7).unwrap();
            let grads = plain.backward().unwrap();
            for path in [language_model_loss, device::losses::language_model_loss] {
                let loss =
                    |learn| path(hidden.as_tensor(), &table, &ids(&targets), Precision::F32, 0.7, learn).unwrap();
                let fast = loss(true);
                assert_close("loss", &fast, &plain, 1e-6);
                assert_close("loss alone", &loss(false), &plain, 1e-6);
                let fast_grads = fast.backward().unwrap();
                assert_close("dhidden", fast_grads.get(&hidden).unwrap(), grads.get(&hidden).unwrap(), 1e-6);
                assert_close("dtable", &table.gradient().unwrap(), grads.get(table.var()).unwrap(), 1e-6);
                table.clear_gradient();
            }
        }
    }

    #[test]
    fn without_rows_the_loss_is_0() {
        let hidden = Var::zeros((0, 6), candle_core::DType::F32, &Device::Cpu).unwrap();
        for path in [language_model_loss, device::losses::language_model_loss] {
            for learn in [false, true] {
                let loss = path(hidden.as_tensor(), &table(5, 6), &ids(&[]), Precision::F32, 1.0, learn).unwrap();
                assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.0);
                if learn {
                    loss.backward().unwrap();
                }
            }
        }
    }

    /// More rows than scores may exist of at a time.
    #[test]
    fn rows_go_in_parts() {
        let (n, v) = (200, 600_000);
        let table = table(v, 1);
        let hidden = Var::from_tensor(&draw(1, &[n, 1])).unwrap();
        let targets: Vec<u32> = (0..n as u32).map(|i| i * 7).collect();
        let loss = |first: usize, n: usize| {
            let hidden = hidden.as_tensor().narrow(0, first, n).unwrap();
            let targets = ids(&targets[first..first + n]);
            language_model_loss(&hidden, &table, &targets, Precision::F32, n as f64 / 200.0, true).unwrap()
        };
        let parts = (loss(0, 150) + loss(150, 50)).unwrap();
        let expected = table.gradient().unwrap();
        table.clear_gradient();
        let whole = loss(0, n);
        assert_close("loss", &whole, &parts, 1e-4);
        assert_close("dtable", &table.gradient().unwrap(), &expected, 1e-6);
    }

    #[test]
    fn a_loss_that_is_scaled_afterwards_is_refused() {
        let hidden = Var::from_tensor(&draw(1, &[1, 6])).unwrap();
        let loss = language_model_loss(hidden.as_tensor(), &table(5, 6), &ids(&[1]), Precision::F32, 1.0, true);
        let error = (loss.unwrap() * 2.0).unwrap().backward().unwrap_err();
        assert!(error.to_string().contains("instead of scaling"), "{error}");
    }

    #[test]
    fn a_loss_whose_table_gradient_was_cleared_is_refused() {
        let hidden = Var::from_tensor(&draw(1, &[1, 6])).unwrap();
        let table = table(5, 6);
        let loss = language_model_loss(hidden.as_tensor(), &table, &ids(&[1]), Precision::F32, 1.0, true).unwrap();
        table.clear_gradient();
        let error = loss.backward().unwrap_err();
        assert!(error.to_string().contains("gradients were cleared"), "{error}");
    }

    #[test]
    fn huge_scores_stay_finite() {
        let hidden = Tensor::new(&[[1e30f32]], &Device::Cpu).unwrap();
        let table = Parameter::new(&Tensor::new(&[[1f32], [-1.0], [0.0]], &Device::Cpu).unwrap()).unwrap();
        let loss = language_model_loss(&hidden, &Arc::new(table), &ids(&[0]), Precision::F32, 1.0, false).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.0);
    }

    #[test]
    fn a_target_outside_the_vocabulary_is_refused() {
        let loss = language_model_loss(&draw(1, &[1, 6]), &table(5, 6), &ids(&[5]), Precision::F32, 1.0, false);
        let error = loss.unwrap_err();
        assert!(error.to_string().contains("target 5"), "{error}");
    }
}
