//! From the last hidden state to the log-probability of each token that was chosen, for stages whose loss is not the
//! language model's: policies and preferences.

use crate::cpu::among_the_threads;
use crate::cpu::element::{Element, bf16};
use crate::device;
use crate::exp::exp;
use crate::head::{from_score_gradients, rows_together, write_scores};
use crate::matrix::Matrix;
use crate::parameter::Parameter;
use crate::path::Precision;
use crate::slices::{f32s, max, replace, sum, sums, with_f32s};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Of softmax(hidden·tableᵀ / temperature): the log-probability of each row's token in row 0, the entropy in row 1, nats.
/// `hidden`: `[N, D]`; `table`: `[V, D]`; `tokens`: N of them. Returns `[2, N]`, part of a graph with `learn`.
///
/// Scores of all rows exist at once when they are few. When they are many, the backward pass makes them again.
///
/// # Errors
/// When the shapes do not fit or a token is not below `V`.
pub fn token_log_probs(
    hidden: &Tensor,
    table: &Arc<Parameter>,
    tokens: &[u32],
    temperature: f32,
    precision: Precision,
    learn: bool,
) -> Result<Tensor> {
    let (n, (v, _)) = (hidden.dim(0)?, table.var().dims2()?);
    if tokens.len() != n {
        bail!("{} tokens for {n} rows", tokens.len());
    }
    if let Some(token) = tokens.iter().find(|&&t| t as usize >= v) {
        bail!("token {token} is outside the vocabulary of {v}");
    }
    if !hidden.device().is_cpu() {
        return device::losses::token_log_probs(hidden, table, tokens, temperature, precision, learn);
    }
    let (table, tokens) = (Arc::clone(table), tokens.to_vec());
    let op = LogProbs { table, tokens, per_score: 1.0 / temperature, precision, learn, scores: Mutex::default() };
    let hidden = hidden.contiguous()?;
    if learn { hidden.apply_op1(op) } else { hidden.apply_op1_no_bwd(&op) }
}

struct LogProbs {
    table: Arc<Parameter>,
    tokens: Vec<u32>,
    /// What a score is multiplied with.
    per_score: f32,
    precision: Precision,
    learn: bool,
    /// Of all rows, where they were few, for the backward pass.
    scores: Mutex<Vec<f32>>,
}

impl CustomOp1 for LogProbs {
    fn name(&self) -> &'static str {
        "token-log-probs"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let hidden = f32s(storage, layout, self.name())?;
        let (n, (v, d)) = (self.tokens.len(), self.table.var().dims2()?);
        if layout.shape().dims() != [n, d] {
            bail!("the hidden state has shape {:?}, but the embedding table has width {d}", layout.shape());
        }
        let mut found = vec![0.0; 2 * n];
        let (log_probs, entropies) = found.split_at_mut(n);
        let kept = among_the_threads(|| {
            self.scored(hidden, |first, scores| {
                let rows = scores.par_chunks(v).zip(&self.tokens[first..]);
                let out = log_probs[first..].par_iter_mut().zip(&mut entropies[first..]);
                rows.zip(out).for_each(|((scores, &token), (log_prob, entropy))| {
                    (*log_prob, *entropy) = log_prob_and_entropy(scores, token, self.per_score);
                });
                Ok(())
            })
        })?;
        if self.learn && self.together() >= n {
            *self.scores.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        }
        Ok((CpuStorage::F32(found), Shape::from((2, n))))
    }

    fn bwd(&self, hidden: &Tensor, _found: &Tensor, dfound: &Tensor) -> Result<Option<Tensor>> {
        let dfound = dfound.contiguous()?;
        let dhidden = with_f32s(hidden, |hidden| {
            with_f32s(&dfound, |dfound| {
                among_the_threads(|| match self.precision {
                    Precision::F32 => self.backward::<f32>(hidden, dfound),
                    Precision::Bf16 => self.backward::<bf16>(hidden, dfound),
                })
            })
        })???;
        Ok(Some(Tensor::from_vec(dhidden, hidden.shape(), hidden.device())?))
    }
}

impl LogProbs {
    /// Rows that are scored together.
    fn together(&self) -> usize {
        rows_together(self.tokens.len(), self.table.var().dims()[0])
    }

    /// Hands the scores of each part of `hidden`, `[N, D]`, to `take` with the number of its first row; they may be used up.
    /// Returns those of the last part.
    fn scored(&self, hidden: &[f32], mut take: impl FnMut(usize, &mut [f32]) -> Result<()>) -> Result<Vec<f32>> {
        let (n, (v, d)) = (self.tokens.len(), self.table.var().dims2()?);
        let panels = self.table.panels(self.precision, true)?;
        let rows = self.together();
        let mut scores = vec![0.0; rows.min(n) * v];
        for first in (0..n).step_by(rows.max(1)) {
            let last = (first + rows).min(n);
            let scores = &mut scores[..(last - first) * v];
            write_scores(Matrix::new(&hidden[first * d..last * d], last - first, d, d), &panels, scores);
            take(first, scores)?;
        }
        Ok(scores)
    }

    /// The gradient of `hidden`, `[N, D]`, from `dfound`, `[2, N]`. The table's is added.
    fn backward<E: Element>(&self, hidden: &[f32], dfound: &[f32]) -> Result<Vec<f32>> {
        let (n, (v, d)) = (self.tokens.len(), self.table.var().dims2()?);
        let (dlog_probs, dentropies) = dfound.split_at(n);
        let mut dhidden = vec![0.0; n * d];
        let mut take = |first: usize, scores: &mut [f32]| {
            let rows = scores.len() / v;
            let given = dlog_probs[first..].par_iter().zip(&dentropies[first..]).zip(&self.tokens[first..]);
            scores.par_chunks_mut(v).zip(given).for_each(|(scores, ((&dlog_prob, &dentropy), &token))| {
                gradient_of_scores::<E>(scores, token, self.per_score, (dlog_prob, dentropy));
            });
            let range = first * d..(first + rows) * d;
            let out = &mut dhidden[range.clone()];
            from_score_gradients::<E>(self.precision, &self.table, scores, &hidden[range], out)
        };
        let mut kept = std::mem::take(&mut *self.scores.lock().unwrap_or_else(PoisonError::into_inner));
        if n > 0 && kept.len() == n * v {
            take(0, &mut kept)?;
        } else {
            self.scored(hidden, take)?;
        }
        Ok(dhidden)
    }
}

crate::cpu::vectorized! {
    /// Of softmax(scale·scores): log of the token's probability, and the entropy.
    fn log_prob_and_entropy(scores: &[f32], token: u32, scale: f32) -> (f32, f32) {
        let most = max(scores);
        let [total, weighted] = sums(scores, |x| {
            let z = (x - most) * scale;
            let p = exp::<FUSED>(z);
            [p, z * p]
        });
        let mean = weighted / total;
        let log_total = total.ln();
        ((scores[token as usize] - most) * scale - log_total, log_total - mean)
    }
}

crate::cpu::vectorized! {
    /// Puts scale·(dlog_prob·(one-hot − p) − dentropy·p·(ln p + entropy)) in the place of the scores; p is softmax(scale·scores).
    fn gradient_of_scores[E: Element](scores: &mut [f32], token: u32, scale: f32, given: (f32, f32)) -> () {
        let (dlog_prob, dentropy) = given;
        let most = max(scores);
        scores.iter_mut().for_each(|x| *x = (*x - most) * scale);
        let total = sum(scores, exp::<FUSED>);
        // −Σ p·ln p = ln total − Σ p·z, so that ln p + entropy is z less the mean of z.
        let mean = sum(scores, |z| z * exp::<FUSED>(z)) / total;
        let token = token as usize;
        let of = |z: f32| -scale * (exp::<FUSED>(z) / total) * (dlog_prob + dentropy * (z - mean));
        let chosen = of(scores[token]) + scale * dlog_prob;
        replace::<E>(scores, of)[token] = E::of(chosen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, assert_gradient, draw};
    use crate::head::logits;
    use candle_core::{D, Var};
    use candle_nn::ops::log_softmax;

    /// The definition: `scores` are `[N, V]`.
    fn plain(scores: &Tensor, tokens: &[u32], temperature: f32) -> Result<Tensor> {
        let log_probs = log_softmax(&(scores / f64::from(temperature))?, D::Minus1)?; // [N, V]
        let chosen = log_probs.gather(&Tensor::new(tokens, scores.device())?.unsqueeze(1)?, 1)?.squeeze(1)?;
        let entropies = (log_probs.exp()? * &log_probs)?.sum(1)?.neg()?;
        Tensor::stack(&[chosen, entropies], 0)
    }

    fn table(v: usize, d: usize) -> Arc<Parameter> {
        Arc::new(Parameter::new(&draw(2, &[v, d])).unwrap())
    }

    #[test]
    fn agrees_with_the_definition_forward_and_backward() {
        let table = table(11, 6);
        let tokens = [0, 10, 3, 3, 7];
        for temperature in [1.0, 0.7, 2.5] {
            let hidden = Var::from_tensor(&(draw(1, &[5, 6]) * 2.0).unwrap()).unwrap();
            let weights = draw(3, &[2, 5]);
            let summed = |found: &Tensor| (found * &weights).unwrap().sum_all().unwrap().backward().unwrap();
            let expected = logits(hidden.as_tensor(), &table, Precision::F32, true).unwrap();
            let expected = plain(&expected, &tokens, temperature).unwrap();
            let found_grads = summed(&expected);
            for path in [token_log_probs, device::losses::token_log_probs] {
                let fast =
                    |learn| path(hidden.as_tensor(), &table, &tokens, temperature, Precision::F32, learn).unwrap();
                assert_close("without a graph", &fast(false), &expected, 2e-6);
                assert_close("with one", &fast(true), &expected, 2e-6);
                let grads = summed(&fast(true));
                assert_close("dhidden", grads.get(&hidden).unwrap(), found_grads.get(&hidden).unwrap(), 1e-5);
                assert_close("dtable", &table.gradient().unwrap(), found_grads.get(table.var()).unwrap(), 1e-5);
                table.clear_gradient();
            }
        }
    }

    #[test]
    fn has_the_gradient_of_finite_differences() {
        let table = table(7, 4);
        for temperature in [1.0, 0.7] {
            assert_gradient(&[draw(1, &[3, 4])], 1e-2, |x| {
                token_log_probs(&x[0], &table, &[6, 0, 2], temperature, Precision::F32, true)
            });
        }
    }

    /// More rows than scores may exist of at a time: the backward pass makes them again.
    #[test]
    fn rows_go_in_parts() {
        let (n, v) = (200, 600_000);
        let table = table(v, 1);
        let hidden = Var::from_tensor(&draw(1, &[n, 1])).unwrap();
        let tokens: Vec<u32> = (0..n as u32).map(|i| i * 7).collect();
        let found = |first: usize, n: usize| {
            let hidden = hidden.as_tensor().narrow(0, first, n).unwrap();
            let tokens = &tokens[first..first + n];
            token_log_probs(&hidden, &table, tokens, 1.0, Precision::F32, true).unwrap()
        };
        let gradients = |found: &Tensor| {
            let grads = found.sum_all().unwrap().backward().unwrap();
            let of_table = table.gradient().unwrap();
            table.clear_gradient();
            (grads.get(&hidden).unwrap().clone(), of_table)
        };
        let parts: Vec<Tensor> = (0..n).step_by(20).map(|first| found(first, 20)).collect();
        let (whole, parts) = (found(0, n), Tensor::cat(&parts, 1).unwrap());
        assert_close("found", &whole, &parts, 1e-4);
        let (whole, parts) = (gradients(&whole), gradients(&parts));
        assert_close("dhidden", &whole.0, &parts.0, 1e-5);
        assert_close("dtable", &whole.1, &parts.1, 1e-5);
    }

    #[test]
    fn tokens_that_do_not_fit_are_refused() {
        let found = |tokens: &[u32]| {
            let found = token_log_probs(&draw(1, &[2, 6]), &table(5, 6), tokens, 1.0, Precision::F32, false);
            found.unwrap_err().to_string()
        };
        assert!(found(&[1, 5]).contains("token 5"));
        assert!(found(&[1]).contains("1 tokens for 2 rows"));
    }
}
