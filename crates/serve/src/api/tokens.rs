//! `POST /tokenize`, `/detokenize` and `/apply-template`.

use crate::api::body::RequestFields;
use crate::api::chat::{MessageField, messages, prompt};
use crate::api::error::ApiError;
use crate::api::request::model_of;
use crate::app::App;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// A text or a conversation to be tokenized.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeFields {
    /// Name of a served model.
    model: Option<String>,
    /// The text.
    #[serde(alias = "content")]
    prompt: Option<String>,
    /// A conversation, in place of the text.
    messages: Option<Vec<MessageField>>,
    /// Whether the tokens that the model expects around a text are added.
    #[serde(alias = "add_special")]
    add_special_tokens: Option<bool>,
    /// Whether the text of each token is returned too.
    #[serde(alias = "return_token_strs")]
    with_pieces: Option<bool>,
}

/// Tokens to be turned into text.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DetokenizeFields {
    /// Name of a served model.
    model: Option<String>,
    /// Token ids.
    tokens: Vec<u32>,
}

/// A conversation to be turned into the text that the model reads.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ApplyTemplateFields {
    /// Name of a served model.
    model: Option<String>,
    /// The messages.
    messages: Vec<MessageField>,
}

/// Text → tokens.
pub(crate) fn tokenize(app: &App, mut fields: RequestFields) -> Result<(Value, Vec<String>), ApiError> {
    let tokenize: TokenizeFields = fields.get()?;
    let ignored = fields.ignored(app.settings.strict)?;
    let model = &app.served.writers[model_of(app, tokenize.model.as_deref())?];
    let refused = |e: anyhow::Error| ApiError::invalid("prompt", format!("{e:#}"));
    let tokens = match (&tokenize.prompt, &tokenize.messages) {
        (Some(text), None) => match tokenize.add_special_tokens.unwrap_or(true) {
            true => model.tokenizer.encode_prompt(text).map_err(refused)?,
            false => model.tokenizer.encode(text).map_err(refused)?,
        },
        (None, Some(fields)) => prompt(model, &messages(fields)?)?,
        _ => return Err(ApiError::invalid("prompt", "give either prompt or messages")),
    };
    let mut answer = json!({ "tokens": tokens, "count": tokens.len(), "max_model_len": model.context() });
    if tokenize.with_pieces.unwrap_or(false) {
        let piece = |&id: &u32| json!({ "id": id, "piece": model.tokenizer.token_text(id) });
        answer["pieces"] = tokens.iter().map(piece).collect();
    }
    Ok((answer, ignored))
}

/// Tokens → text.
pub(crate) fn detokenize(app: &App, mut fields: RequestFields) -> Result<(Value, Vec<String>), ApiError> {
    let detokenize: DetokenizeFields = fields.get()?;
    let ignored = fields.ignored(app.settings.strict)?;
    let model = &app.served.writers[model_of(app, detokenize.model.as_deref())?];
    let vocab_size = model.tokenizer.vocab_size();
    if let Some(id) = detokenize.tokens.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(ApiError::invalid("tokens", format!("{id} is not a token id below {vocab_size}")));
    }
    let text = model.tokenizer.decode(&detokenize.tokens);
    let text = text.map_err(|e| ApiError::invalid("tokens", format!("{e:#}")))?;
    Ok((json!({ "prompt": text, "content": text }), ignored))
}

/// Messages → the text that the model reads.
pub(crate) fn apply_template(app: &App, mut fields: RequestFields) -> Result<(Value, Vec<String>), ApiError> {
    let apply: ApplyTemplateFields = fields.get()?;
    let ignored = fields.ignored(app.settings.strict)?;
    let model = &app.served.writers[model_of(app, apply.model.as_deref())?];
    let tokens = prompt(model, &messages(&apply.messages)?)?;
    let text: String = tokens.iter().map(|&id| model.tokenizer.token_text(id)).collect();
    Ok((json!({ "prompt": text }), ignored))
}
