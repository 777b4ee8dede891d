use super::*;
use crate::config::Kind;
use crate::config::tests::tiny;
use crate::folder::read_json;
use crate::load::{load_adapted_weights, load_model};
use crate::weights::Weights;
use crate::{Gpt, Input, Pass};
use candle_core::Device;
use gptkit_ops::check::{assert_close, draw};
use gptkit_ops::{Parameter, Precision};
use std::path::PathBuf;
use std::sync::Arc;

const KINDS: [Kind; 3] = [Kind::Gpt1, Kind::Gpt2, Kind::Gpt3];
const TRAIN: Pass = Pass::Train { seed: 1, first_row: 0, recompute: false };

fn ids() -> Tensor {
    Tensor::from_vec((0..24u32).map(|i| i * 7 % 17).collect::<Vec<_>>(), (2, 12), &Device::Cpu).unwrap()
}

fn weights(kind: Kind) -> (ModelConfig, Weights) {
    dropping(kind, 0.0)
}

/// With this dropout before the adapters.
fn dropping(kind: Kind, dropout: f64) -> (ModelConfig, Weights) {
    // GPT-3 with an output layer of its own, which new tokens have rows of too.
    let config = ModelConfig { tie_word_embeddings: kind != Kind::Gpt3, ..tiny(kind) };
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    let lora = LoraConfig { dropout, ..LoraConfig::new(2, 3.0) };
    let adapters = Adapters::new(&lora, &config, &params, Path::new("base"), &[15, 16], 1).unwrap();
    (config, Weights::adapted(params, adapters))
}

fn loss(config: &ModelConfig, weights: &Weights, pass: Pass) -> Tensor {
    let gpt = Gpt::new(config, weights.params(), Precision::F32).unwrap();
    gpt.loss(&Input::windows(&ids()).unwrap(), &ids(), pass, 1.0).unwrap()
}

#[test]
fn adapters_are_counted_before_they_are_made() {
    for kind in KINDS {
        let (config, params) = (tiny(kind), Params::init(&tiny(kind), 1, &Device::Cpu).unwrap());
        let lora = LoraConfig::new(2, 3.0);
        let adapters = Adapters::new(&lora, &config, &params, Path::new("base"), &[], 1).unwrap();
        assert_eq!(lora.n_trained(&config), adapters.n_trained());
    }
}

#[test]
fn fresh_adapters_change_nothing() {
    for kind in KINDS {
        let (config, mut weights) = weights(kind);
        let before = loss(&config, &weights, Pass::Eval);
        weights.change(|_| Ok(())).unwrap();
        assert_close("loss", &loss(&config, &weights, Pass::Eval), &before, 1e-6);
    }
}

/// Against finite differences of the loss, for the largest number of each adapter.
#[test]
fn adapters_have_the_gradient_of_finite_differences() {
    for (kind, dropout) in KINDS.into_iter().map(|kind| (kind, 0.0)).chain([(Kind::Gpt2, 0.3)]) {
        let (config, mut weights) = dropping(kind, dropout);
        let pass = if dropout > 0.0 { TRAIN } else { Pass::Eval };
        let draw_b = |(i, (name, parameter)): (usize, (&str, &Arc<Parameter>))| match name.contains("lora_B") {
            true => Ok(parameter.set(&(draw(i as u64, parameter.var().dims()) * 0.3)?)?),
            false => Ok(()),
        };
        weights.change(|trained| trained.iter().enumerate().try_for_each(draw_b)).unwrap();
        let gpt = Gpt::new(&config, weights.params(), Precision::F32).unwrap();
        let mut update = weights.begin_update();
        update.backward(|| gpt.loss(&Input::windows(&ids())?, &ids(), TRAIN, 1.0)).unwrap();
        let gradient = |(_, parameter): (&str, &Arc<Parameter>)| parameter.gradient().unwrap();
        let gradients: Vec<Tensor> = update.apply(|trained| Ok(trained.iter().map(gradient).collect())).unwrap();
        let trained = weights.trained().clone();
        assert!(trained.iter().all(|(_, parameter)| parameter.gradient().is_none()), "an update frees its gradients");
        for ((name, parameter), gradient) in trained.iter().zip(gradients) {
            let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
            let (at, largest) = gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
            let values: Vec<f32> = parameter.tensor(false).flatten_all().unwrap().to_vec1().unwrap();
            let mut moved = |by: f32| {
                let mut values = values.clone();
                values[at] += by;
                let values = Tensor::from_vec(values, parameter.var().shape(), &Device::Cpu).unwrap();
                weights.change(|_| Ok(parameter.set(&values)?)).unwrap();
                loss(&config, &weights, pass).to_scalar::<f32>().unwrap()
            };
            let measured = (moved(0.002) - moved(-0.002)) / 0.004;
            moved(0.0);
            assert!((measured - largest).abs() < 0.02 * largest.abs() + 2e-4, "{kind:?} {name}: {measured}, {largest}");
        }
    }
}

#[test]
fn adapters_come_back_as_they_were_written() {
    for kind in [Kind::Gpt2, Kind::Gpt3] {
        let (folder, adapters) = folders(kind, |_| {});
        let mut weights = load_adapted_weights(&adapters, &Device::Cpu).unwrap();
        let set = |(i, (_, parameter)): (usize, (&str, &Arc<Parameter>))| {
            Ok(parameter.set(&draw(i as u64, parameter.var().dims()))?)
        };
        weights.change(|trained| trained.iter().enumerate().try_for_each(set)).unwrap();
        let again = folder.path().join("again");
        gptkit_data::disk::create_dir(&again).unwrap();
        weights.save(&again).unwrap();
        assert!(is_adapter(&again));
        assert_eq!(read_json(&again.join(DESCRIPTION)).unwrap(), read_json(&adapters.join(DESCRIPTION)).unwrap());
        let (config, params) = load_model(&again, &Device::Cpu).unwrap();
        assert_close("loss", &loss(&config, &params.into(), Pass::Eval), &loss(&config, &weights, Pass::Eval), 0.0);
    }
}

/// A base model and adapters of it, whose description `change` has changed.
fn folders(kind: Kind, change: impl Fn(&mut Value)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (base, adapters) = (folder.path().join("base"), folder.path().join("adapters"));
    let config = ModelConfig { tie_word_embeddings: kind != Kind::Gpt3, ..tiny(kind) };
    let tokenizer = gptkit_data::tokenizer::Tokenizer::of_characters(&('a'..='p').collect()).unwrap();
    crate::folder::save_description(&base, &config, &tokenizer).unwrap();
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    crate::folder::save_weights(&base, &params).unwrap();
    let lora = LoraConfig::new(2, 3.0);
    let made = Adapters::new(&lora, &config, &params, &base, &[15, 16], 1).unwrap();
    gptkit_data::disk::create_dir(&adapters).unwrap();
    made.save(&adapters).unwrap();
    let path = adapters.join(DESCRIPTION);
    let mut description = read_json(&path).unwrap();
    change(&mut description);
    write_json(&path, &description).unwrap();
    (folder, adapters)
}

/// Every element of a row has its own mask, which belongs to the row however the batch is divided; reading drops nothing.
#[test]
fn dropout_before_adapters_acts_in_training_alone() {
    let (config, mut weights) = dropping(Kind::Gpt2, 0.5);
    let (_, mut plain) = dropping(Kind::Gpt2, 0.0);
    let set = |(i, (_, parameter)): (usize, (&str, &Arc<Parameter>))| {
        Ok(parameter.set(&draw(i as u64, parameter.var().dims()))?)
    };
    weights.change(|trained| trained.iter().enumerate().try_for_each(set)).unwrap();
    plain.change(|trained| trained.iter().enumerate().try_for_each(set)).unwrap();
    let value = |weights: &Weights, pass| loss(&config, weights, pass).to_scalar::<f32>().unwrap();
    assert_eq!(value(&weights, Pass::Eval), value(&plain, Pass::Eval));
    assert!((value(&weights, TRAIN) - value(&plain, TRAIN)).abs() > 1e-3);
    assert_eq!(value(&weights, TRAIN), value(&weights, TRAIN));
    let row_of = |first_row| match TRAIN {
        Pass::Train { seed, recompute, .. } => Pass::Train { seed, first_row, recompute },
        Pass::Eval => Pass::Eval,
    };
    assert_ne!(value(&weights, row_of(0)), value(&weights, row_of(100)));
}

#[test]
fn only_the_target_modules_have_adapters() {
    let of = |targets: &[&str]| {
        let mut lora = LoraConfig::new(2, 3.0);
        lora.target_modules = targets.iter().map(|&target| target.to_owned()).collect();
        lora
    };
    let config = tiny(Kind::Gpt2);
    let params = Params::init(&config, 1, &Device::Cpu).unwrap();
    let names = |targets: &[&str]| {
        let made = Adapters::new(&of(targets), &config, &params, Path::new("base"), &[], 1).unwrap();
        assert_eq!(made.n_trained(), of(targets).n_trained(&config), "{targets:?}");
        assert_eq!(made.description["target_modules"], serde_json::json!(targets));
        made.trained().iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    assert!(names(&["c_attn"]).iter().all(|name| name.contains(".attn.c_attn.lora_")));
    // As in PEFT, a shorter name means all modules that end in it.
    assert_eq!(names(&["c_proj"]), names(&["attn.c_proj", "mlp.c_proj"]));
    assert_eq!(names(&["c_attn"]).len() + names(&["c_proj", "c_fc"]).len(), names(&["c_attn", "c_proj", "c_fc"]).len());
    let mut problems = gptkit_config::Problems::default();
    gptkit_config::Check::check(&of(&["c_attn", "proj", "q_proj"]), &mut problems);
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.clone()).collect();
    assert_eq!(keys, ["target_modules.1", "target_modules.2"]);
}

#[test]
fn hostile_adapters_are_refused_in_words() {
    let load = |adapters: &Path| load_model(adapters, &Device::Cpu).map_err(|e| format!("{e:#}"));
    let error = |change: &dyn Fn(&mut Value)| {
        let (folder, adapters) = folders(Kind::Gpt2, change);
        let _keep = folder;
        load(&adapters).map(|_| ()).unwrap_err()
    };
    let (folder, adapters) = folders(Kind::Gpt2, |_| {});
    assert!(load(&adapters).is_ok());
    for (key, value, says) in [
        ("r", json!(0), "rank must be positive"),
        ("r", json!(3), "adapter_config.json and the base model require [3, 8]"),
        ("r", json!(u64::MAX), "rank is too large"),
        ("lora_alpha", json!(1e300), "alpha must be positive and not extremely large"),
        ("lora_alpha", json!(-1), "alpha must be positive and not extremely large"),
        ("target_modules", json!(["q_proj"]), "target_modules matches no module"),
        ("target_modules", json!("("), "is not a valid regular expression"),
        ("target_modules", json!(["ln_1"]), "a type of layer that cannot have adapters"),
        ("target_modules", json!(["c_attn"]), "tensors that match neither adapter_config.json nor the base model"),
        ("layers_to_transform", json!([0]), "nor the base model: base_model.model.transformer.h.1.attn.c_attn.lora_A"),
        ("modules_to_save", json!(["wpe"]), "modules_to_save contains transformer.wpe, but"),
        ("modules_to_save", json!([""]), "transformer.wte is in trainable_token_indices and also in target_modules"),
        ("modules_to_save", json!(vec!["wpe"; 1001]), "it has a list of 1001 patterns"),
        ("target_modules", json!(vec!["c_attn"; 200_000]), "it has 200002 names and patterns for 46 modules"),
        ("rank_pattern", json!({ "c_attn": 3 }), "require [3, 8]"),
        ("rank_pattern", json!({ "(": 3 }), "in rank_pattern: \"(\" is not a valid regular expression"),
        ("use_dora", json!(true), "lacks base_model.model.transformer.h.0.attn.c_attn.lora_magnitude_vector"),
        ("bias", json!("some"), "bias is \"some\""),
        ("peft_type", json!("LOHA"), "peft_type is LOHA"),
        ("task_type", json!("SEQ_CLS"), "task_type is \"SEQ_CLS\""),
        ("init_lora_weights", json!("pissa_niter_4"), "init_lora_weights is \"pissa_niter_4\""),
        ("use_qalora", json!(true), "use_qalora is true, which is not supported"),
        ("layer_replication", json!([[0, 2]]), "layer_replication is [[0,2]], which is not supported"),
        ("a_later_key", json!({ "of": 1 }), "a_later_key is {\"of\":1}, which is not supported"),
        ("base_model_name_or_path", json!("gpt2-nowhere"), "names the base model \"gpt2-nowhere\""),
        ("trainable_token_indices", json!({ "wte": [15, 4_000_000_000u32] }), "contains the token id 4000000000"),
        (
            "trainable_token_indices",
            json!({ "wte": [15, 900_000] }),
            "has 900001 tokens including those of the adapters",
        ),
        ("trainable_token_indices", json!({ "wte": [15, 15] }), "contains the token id 15 twice"),
        ("trainable_token_indices", json!({ "wte": [15] }), "adapter_config.json and the base model require [1, 8]"),
        ("trainable_token_indices", json!({ "wte": [-1] }), "which is not a list of tokens"),
        ("trainable_token_indices", json!({ "wte": [15, 16], "wpe": [1] }), "lacks base_model.model.transformer.wpe"),
        ("trainable_token_indices", json!({ "wte": [15, 16], "h.1": [1] }), "which is not an embedding table"),
        ("trainable_token_indices", json!({ "c_proj": [1] }), "which does not match exactly one embedding table"),
        ("trainable_token_indices", json!(null), "match neither"),
    ] {
        let message = error(&|description: &mut Value| description[key] = value.clone());
        assert!(message.contains(says), "{key}: {message}");
    }
    // A base that is the adapters themselves, at once or by way of others.
    let describe = |of: &Path, base: &Path| {
        let mut description = read_json(&adapters.join(DESCRIPTION)).unwrap();
        description["base_model_name_or_path"] = json!(base);
        gptkit_data::disk::create_dir(of).unwrap();
        write_json(&of.join(DESCRIPTION), &description).unwrap();
    };
    let others = [0, 1].map(|i| folder.path().join(format!("other-{i}")));
    describe(&others[0], &others[1]);
    describe(&others[1], &others[0]);
    assert!(load(&others[0]).unwrap_err().contains("their own base model"));
    let chain: Vec<PathBuf> = (0..30).map(|i| folder.path().join(format!("chain-{i}"))).collect();
    chain.windows(2).for_each(|pair| describe(&pair[0], &pair[1]));
    describe(&chain[29], &folder.path().join("base"));
    assert!(load(&chain[0]).unwrap_err().contains("on top of more than 16 other adapters"));
    describe(&adapters, &adapters);
    assert!(load(&adapters).unwrap_err().contains("their own base model"));
}
