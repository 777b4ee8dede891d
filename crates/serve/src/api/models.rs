//! `GET /v1/models`

use crate::api::answer::now;
use crate::api::error::ApiError;
use crate::app::App;
use crate::models::{ServedModel, ServedScorer};
use serde_json::{Value, json};

fn writer(model: &ServedModel, name: &str) -> Value {
    let config = model.config();
    json!({
        "id": name, "object": "model", "created": now(), "owned_by": "gptkit", "max_model_len": model.context(),
        "meta": {
            "kind": config.kind, "n_params": config.n_params(), "context": model.context(), "vocab": config.vocab_size,
            "weights": model.identity.weights, "dtype": model.identity.dtype, "chat": model.chats(),
        },
    })
}

fn scorer(scorer: &ServedScorer) -> Value {
    let config = scorer.scorer.model.gpt.config();
    json!({
        "id": scorer.name, "object": "model", "created": now(), "owned_by": "gptkit", "max_model_len": config.context,
        "meta": { "kind": "reward", "context": config.context, "vocab": config.vocab_size, "chat": false },
    })
}

/// A language model as the page shows it.
pub(crate) fn summary(model: &ServedModel) -> Value {
    let config = model.config();
    json!({
        "name": model.name, "chat": model.chats(), "context": model.context(), "n_params": config.n_params(),
        "kind": config.kind, "weights": model.identity.weights, "dtype": model.identity.dtype,
    })
}

/// All models.
pub(crate) fn list(app: &App) -> Value {
    let served = &app.served;
    let writers = served.writers.iter().map(|model| writer(model, &model.name));
    let aliases = served.aliases.iter().map(|alias| writer(&served.writers[0], alias));
    let data: Vec<Value> = writers.chain(aliases).chain(served.scorers.iter().map(scorer)).collect();
    json!({ "object": "list", "data": data })
}

/// One model.
pub(crate) fn one(app: &App, name: &str) -> Result<Value, ApiError> {
    let found = app.served.writer(name).map(|number| writer(&app.served.writers[number], name));
    let found = found.or_else(|| app.served.scorer(name).map(|number| scorer(&app.served.scorers[number])));
    found.ok_or_else(|| {
        let names: Vec<&str> = app.served.names().collect();
        let message = format!("the model {name} is not served; there are {}", names.join(", "));
        ApiError::not_found("model_not_found", message)
    })
}
