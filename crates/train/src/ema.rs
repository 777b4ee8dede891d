//! A moving average of the weights, which wanders less than they do (Ouyang et al. 2022, appendix C.4).

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use gptkit_model::Params;
use gptkit_model::folder::save_tensors;
use gptkit_model::tensor_files::TensorFiles;
use std::path::Path;

/// Averages of parameters, in their order.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    averages: Vec<(String, Tensor)>,
}

impl Ema {
    /// The average begins with the weights as they are.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn new(params: &Params, decay: f64) -> Result<Self> {
        let copy = |(name, parameter): (&str, &std::sync::Arc<gptkit_ops::Parameter>)| {
            Ok((name.to_owned(), parameter.tensor(false).copy()?))
        };
        Ok(Self { decay, averages: params.iter().map(copy).collect::<Result<_>>()? })
    }

    /// Takes the weights after an update: average = decay·average + (1 − decay)·weights.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn update(&mut self, params: &Params) -> Result<()> {
        for ((_, average), (_, parameter)) in self.averages.iter_mut().zip(params.iter()) {
            *average = ((&*average * self.decay)? + (parameter.tensor(false) * (1.0 - self.decay))?)?;
        }
        Ok(())
    }

    /// Exchanges averages and weights, to read or write a model of the averages; a second time exchanges them back.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn swap(&mut self, params: &Params) -> Result<()> {
        for ((_, average), (_, parameter)) in self.averages.iter_mut().zip(params.iter()) {
            let weights = parameter.tensor(false).copy()?;
            parameter.set(average)?;
            *average = weights;
        }
        Ok(())
    }

    /// Writes the averages.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        save_tensors(path, self.averages.iter().map(|(name, average)| (name, average)))
    }

    /// Takes the averages that [`Self::save`] wrote.
    ///
    /// # Errors
    /// When the file cannot be read, or is of other parameters.
    pub fn restore(&mut self, path: &Path) -> Result<()> {
        let stored = TensorFiles::open(&[path])?;
        for (name, average) in &mut self.averages {
            let found = stored.load(name, average.device());
            let found = found.with_context(|| format!("{} does not match the model", path.display()))?;
            let (is, was) = (found.dims(), average.dims());
            ensure!(is == was, "{name} in {} has shape {is:?}, but its parameter has {was:?}", path.display());
            *average = found;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use gptkit_model::ModelConfig;

    #[test]
    fn comes_back_and_is_exchanged_with_the_weights() {
        let config: ModelConfig = serde_json::from_value(serde_json::json!({
            "kind": "gpt2", "n_layer": 1, "n_head": 1, "d_model": 4, "context": 4, "vocab_size": 5,
        }))
        .unwrap();
        let params = Params::init(&config, 1, &Device::Cpu).unwrap();
        let values = || -> Vec<f32> {
            let all = params.iter().map(|(_, p)| p.tensor(false).flatten_all().unwrap().to_vec1::<f32>().unwrap());
            all.flatten().collect()
        };
        let first = values();
        let mut ema = Ema::new(&params, 0.9).unwrap();
        for (_, parameter) in params.iter() {
            parameter.set(&(parameter.tensor(false) + 1.0).unwrap()).unwrap();
        }
        assert_eq!(first.len(), values().len());
        ema.update(&params).unwrap();
        let (weights, folder) = (values(), tempfile::tempdir().unwrap());
        ema.save(&folder.path().join("ema.safetensors")).unwrap();
        let mut again = Ema::new(&params, 0.9).unwrap();
        again.restore(&folder.path().join("ema.safetensors")).unwrap();
        again.swap(&params).unwrap();
        for (average, first) in values().iter().zip(&first) {
            assert!((average - first - 0.1).abs() < 1e-6, "{average} from {first}");
        }
        again.swap(&params).unwrap();
        assert_eq!(values(), weights);
    }
}
