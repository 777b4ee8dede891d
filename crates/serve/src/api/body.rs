//! Request bodies: bytes → fields, with the names of those that nobody knows.

use crate::api::error::ApiError;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::time::Duration;

/// How deep JSON may be nested.
const DEPTH: usize = 64;

/// The fields of a request.
#[derive(Debug)]
pub(crate) struct RequestFields {
    map: Map<String, Value>,
    /// Names that no reader knew so far.
    unknown: Option<BTreeSet<String>>,
}

impl RequestFields {
    /// Reads a body of at most `limit` bytes that is a JSON object, and arrives within `time`.
    pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: usize, time: Duration) -> Result<Self, ApiError> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if media != "application/json" {
            let message = "the content type must be application/json";
            let (status, kind) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error");
            return Err(ApiError::new(status, kind, "unsupported_media_type", message));
        }
        let too_large = || ApiError::too_large(format!("the body is longer than {limit} bytes"));
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let read = tokio::time::timeout(time, Limited::new(body, limit).collect()).await;
        let late = |_| {
            let (status, kind) = (StatusCode::REQUEST_TIMEOUT, "invalid_request_error");
            ApiError::new(status, kind, "body_timeout", "the body did not arrive in time")
        };
        let bytes = read.map_err(late)?.map_err(|e| match e.is::<LengthLimitError>() {
            true => too_large(),
            false => ApiError::bad("invalid_body", "the body could not be read"),
        })?;
        Self::parse(&bytes.to_bytes())
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        if depth(bytes) > DEPTH {
            return Err(ApiError::too_large(format!("the JSON is nested deeper than {DEPTH} levels")));
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self { map, unknown: None }),
            Ok(_) => Err(ApiError::bad("invalid_json", "the body must be a JSON object")),
            Err(e) => Err(ApiError::bad("invalid_json", format!("the body is not valid JSON: {e}"))),
        }
    }

    /// The fields that `T` knows.
    pub(crate) fn get<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let mut unknown = BTreeSet::new();
        let mut note = |path: serde_ignored::Path| {
            // What lies in a known field is that field's business.
            let path = path.to_string();
            if !path.contains('.') {
                unknown.insert(path);
            }
        };
        let value = Value::Object(self.map.clone());
        let mut track = serde_path_to_error::Track::new();
        let fields = {
            let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
            T::deserialize(serde_ignored::Deserializer::new(tracked, &mut note))
        };
        let fields = fields.map_err(|e| ApiError::invalid(param(&track.path().to_string()), e.to_string()))?;
        self.unknown = Some(match self.unknown.take() {
            None => unknown,
            Some(before) => before.intersection(&unknown).cloned().collect(),
        });
        Ok(fields)
    }

    /// Names that no reader knew; an error with `strict`.
    pub(crate) fn ignored(&self, strict: bool) -> Result<Vec<String>, ApiError> {
        let names: Vec<String> = self.unknown.iter().flatten().cloned().collect();
        match names.first().filter(|_| strict) {
            Some(name) => Err(ApiError::bad("unknown_parameter", format!("{name} is not known")).about(name)),
            None => Ok(names),
        }
    }
}

/// A path as OpenAI writes it: `messages[3].content`.
fn param(path: &str) -> String {
    let mut text = String::new();
    for part in path.split('.') {
        match part.parse::<usize>() {
            Ok(n) => text += &format!("[{n}]"),
            Err(_) if text.is_empty() => text += part,
            Err(_) => text += &format!(".{part}"),
        }
    }
    text
}

/// How deep the brackets of some JSON are nested.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct First {
        a: u32,
    }

    #[derive(Debug, Deserialize)]
    struct Second {
        #[serde(default)]
        list: Vec<First>,
    }

    fn fields(text: &str) -> Result<RequestFields, ApiError> {
        RequestFields::parse(text.as_bytes())
    }

    #[test]
    fn a_field_is_unknown_when_no_reader_knows_it() {
        let mut all = fields(r#"{"a": 1, "list": [{"a": 2, "more": 3}], "top_q": 4, "x": {}}"#).unwrap();
        assert_eq!(all.get::<First>().unwrap().a, 1);
        assert_eq!(all.get::<Second>().unwrap().list[0].a, 2);
        assert_eq!(all.ignored(false).unwrap(), ["top_q", "x"]);
        assert_eq!(all.ignored(true).unwrap_err().body.param.as_deref(), Some("top_q"));
    }

    #[test]
    fn errors_name_the_field() {
        let mut all = fields(r#"{"a": 1, "list": [{"a": 2}, {"a": "two"}]}"#).unwrap();
        let error = all.get::<Second>().unwrap_err();
        assert_eq!(error.body.param.as_deref(), Some("list[1].a"));
        assert!(error.body.message.contains("invalid type: string"), "{error:?}");
    }

    #[test]
    fn json_that_is_none_or_too_deep_is_refused() {
        for text in ["", "[1]", "{", "{\"a\":1}x", "nul"] {
            assert_eq!(fields(text).unwrap_err().body.code, Some("invalid_json"), "{text}");
        }
        let deep = |n: usize| format!("{{\"a\":{}1{}}}", "[".repeat(n), "]".repeat(n));
        assert!(fields(&deep(DEPTH - 1)).is_ok());
        assert_eq!(fields(&deep(DEPTH)).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(fields(&"[".repeat(1_000_000)).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(fields(r#"{"a": "[[[\"[["}"#).is_ok_and(|_| depth(br#"{"a": "[[[\"[["}"#) == 1));
    }
}
