//! `GET /openapi.json`: the endpoints, from the types that read them.

use crate::api::answer::{GptkitDetails, PromptTokensDetails, TokenUsage};
use crate::api::chat::{ChatFields, MessageField};
use crate::api::completions::CompletionFields;
use crate::api::error::{ErrorBody, ErrorResponse};
use crate::api::feedback::{
    AnswerField, ConsentFields, DemonstrationFields, ExcludedFields, RankingFields, RatingFields, RecordFields,
    TaskFields, TaskPrompt, Thumb,
};
use crate::api::sampling::{SamplingFields, StreamOptions};
use crate::api::scoring::{RerankFields, ScoreFields};
use crate::api::tokens::{ApplyTemplateFields, DetokenizeFields, TokenizeFields};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(components(schemas(
    SamplingFields,
    StreamOptions,
    ChatFields,
    MessageField,
    CompletionFields,
    ScoreFields,
    RerankFields,
    TokenizeFields,
    DetokenizeFields,
    ApplyTemplateFields,
    AnswerField,
    RecordFields,
    RatingFields,
    Thumb,
    RankingFields,
    DemonstrationFields,
    TaskFields,
    TaskPrompt,
    ConsentFields,
    ExcludedFields,
    TokenUsage,
    PromptTokensDetails,
    GptkitDetails,
    ErrorResponse,
    ErrorBody
)))]
struct Schemas;

/// Path, summary, schemas of the body together.
const POSTS: [(&str, &str, &[&str]); 14] = [
    ("/v1/chat/completions", "Continue a conversation", &["SamplingFields", "ChatFields"]),
    ("/v1/completions", "Continue a text", &["SamplingFields", "CompletionFields"]),
    ("/v1/score", "Rewards of completions, from a reward model", &["ScoreFields"]),
    ("/v1/rerank", "Order answers by their rewards", &["RerankFields"]),
    ("/tokenize", "Text to tokens", &["TokenizeFields"]),
    ("/detokenize", "Tokens to text", &["DetokenizeFields"]),
    ("/apply-template", "A conversation as the model reads it", &["ApplyTemplateFields"]),
    ("/api/session", "Agree to training with one's feedback, or no longer", &["ConsentFields"]),
    ("/api/ratings", "Rate a stored answer", &["RecordFields", "RatingFields"]),
    ("/api/rankings", "Rank stored answers to one prompt", &["RecordFields", "RankingFields"]),
    ("/api/demonstrations", "Store a dialogue that a person wrote", &["RecordFields", "DemonstrationFields"]),
    ("/api/tasks", "Make tasks for labelers", &["TaskFields"]),
    ("/api/tasks/next", "Take the next task", &[]),
    ("/api/people", "Leave a person out of exports", &["ExcludedFields"]),
];

/// Requests without a body: method, path, summary.
const WITHOUT_BODY: [(&str, &str, &str); 13] = [
    ("get", "/v1/models", "The models that are served"),
    ("get", "/v1/models/{name}", "One model"),
    ("get", "/health", "Whether the server accepts requests"),
    ("get", "/version", "The version of gptkit"),
    ("get", "/metrics", "Counters in Prometheus' text format"),
    ("get", "/openapi.json", "This description"),
    ("get", "/api/session", "Who asks, what they may do, and what is served"),
    ("get", "/api/feedback", "Counts, agreement, win rates and strengths of models"),
    ("get", "/api/feedback/records", "The newest records; from=N leaves the first N out"),
    ("get", "/api/feedback/records/{id}", "Where a record is from: answers, models, settings, exports"),
    ("get", "/api/models/{name}", "What a model was trained on, and its loss or reward"),
    ("get", "/api/export", "Feedback as JSONL: kind=comparisons, demonstrations or prompts"),
    ("delete", "/api/people/{name}", "Delete all that a person wrote"),
];

/// The description of all endpoints.
pub(crate) fn description() -> Value {
    let mut description = json!(Schemas::openapi());
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let error = json!({
        "description": "Why the request is not answered",
        "content": { "application/json": { "schema": reference("ErrorResponse") } },
    });
    let responses = json!({ "200": { "description": "The answer" }, "default": error });
    let mut paths = Map::new();
    for (path, summary, schemas) in POSTS {
        let schema = match schemas {
            [one] => reference(one),
            [] => json!({ "type": "object" }),
            several => json!({ "allOf": several.iter().map(|name| reference(name)).collect::<Vec<_>>() }),
        };
        let body = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        paths.insert(
            path.to_owned(),
            json!({ "post": { "summary": summary, "requestBody": body, "responses": responses } }),
        );
    }
    for (method, path, summary) in WITHOUT_BODY {
        let mut operation = json!({ "summary": summary, "responses": responses });
        if let Some((_, name)) = path.trim_end_matches('}').split_once('{') {
            let parameter = json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
            operation["parameters"] = json!([parameter]);
        }
        let all = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        all[method] = operation;
    }
    description["info"] = json!({
        "title": "gptkit", "version": env!("CARGO_PKG_VERSION"),
        "description": "OpenAI-compatible server of gptkit",
    });
    description["paths"] = Value::Object(paths);
    description
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients are generated from it, so every change is seen.
    #[test]
    fn the_description_is_as_it_was() {
        let mut description = description();
        description["info"]["version"] = json!("0.0.0");
        insta::assert_snapshot!(serde_json::to_string_pretty(&description).unwrap());
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        let description = description();
        let text = description.to_string();
        let references: Vec<&str> = text.split("#/components/schemas/").skip(1).collect();
        assert!(references.len() > 15);
        for reference in references {
            let name = reference.split('"').next().unwrap();
            assert!(description["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
