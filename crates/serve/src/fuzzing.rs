//! An entrance for a fuzzer.

use crate::api::body::RequestFields;
use crate::api::chat::{ChatFields, messages};
use crate::api::completions::CompletionFields;
use crate::api::sampling::SamplingFields;
use crate::api::scoring::{RerankFields, ScoreFields};
use crate::api::tokens::{DetokenizeFields, TokenizeFields};

/// Reads `bytes` as the body of every kind of request, for a fuzzer: whatever they are, they are fields or an error.
pub fn read_any_body(bytes: &[u8]) {
    let Ok(mut fields) = RequestFields::parse(bytes) else { return };
    if let Ok(sampling) = fields.get::<SamplingFields>() {
        let _ = (sampling.sampling(1000), sampling.stop(), sampling.n(), sampling.stream());
    }
    if let Ok(chat) = fields.get::<ChatFields>() {
        let _ = (chat.check(true), chat.log_probs(), messages(&chat.messages));
    }
    let _ = fields.get::<CompletionFields>();
    let _ = (fields.get::<ScoreFields>(), fields.get::<RerankFields>());
    let _ = (fields.get::<TokenizeFields>(), fields.get::<DetokenizeFields>());
    let _ = fields.ignored(true);
}
