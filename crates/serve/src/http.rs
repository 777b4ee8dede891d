//! The server: connections with time limits, routes, and its end.

use crate::api::body::RequestFields;
use crate::api::error::ApiError;
use crate::api::{chat, completions, feedback, models, scoring, tokens, training};
use crate::app::App;
use crate::engine;
use crate::engine::queue::Queue;
use crate::guard::{self, Requester};
use crate::metrics::Metrics;
use crate::models::Served;
use crate::openapi;
use crate::page;
use crate::settings::{ServerLimits, ServerSettings};
use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use gptkit_feedback::FeedbackStore;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutWriter;
use tower_http::compression::CompressionLayer;
use ulid::Ulid;

/// The longest time that a client may read nothing of its answer.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Bytes of the headers of a request.
const HEADER_BYTES: usize = 32 << 10;

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    app: Arc<App>,
    limits: ServerLimits,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    /// Opens the port; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be used, or two models have one name.
    pub fn open(
        served: Served,
        address: SocketAddr,
        settings: ServerSettings,
        limits: ServerLimits,
        feedback: Option<FeedbackStore>,
    ) -> Result<Self> {
        served.check()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address));
        let listener = listener.with_context(|| format!("the server cannot listen on {address}"))?;
        let metrics = Arc::new(Metrics::new());
        let app = App {
            served: Arc::new(served),
            queue: Arc::new(Queue::new(limits.queue, Arc::clone(&metrics))),
            metrics,
            settings,
            feedback: feedback.map(Mutex::new),
            cache_bytes: limits.engine.cache_bytes,
            rows: limits.engine.rows,
            body_bytes: limits.body,
            body_time: limits.patience,
        };
        Ok(Self { listener, app: Arc::new(app), limits, runtime })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers requests until `stop` is true, then until those that run have ended or the time for that is over.
    ///
    /// # Errors
    /// When the engine's thread cannot be started.
    pub fn run(self, stop: watch::Receiver<bool>) -> Result<()> {
        let Self { listener, app, limits, runtime } = self;
        let (queue, served) = (Arc::clone(&app.queue), Arc::clone(&app.served));
        let engine = engine::start(served, Arc::clone(&queue), Arc::clone(&app.metrics), limits.engine)?;
        runtime.block_on(accept(listener, Arc::clone(&app), limits, stop));
        let _ = engine.join(); // a panic was reported where it happened
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    }
}

/// A sender of the stop signal, and its receiver.
pub fn stop_signal() -> (watch::Sender<bool>, watch::Receiver<bool>) {
    watch::channel(false)
}

async fn accept(listener: TcpListener, app: Arc<App>, limits: ServerLimits, mut stop: watch::Receiver<bool>) {
    let router = router(Arc::clone(&app));
    let places = Arc::new(Semaphore::new(limits.connections));
    let (drain, draining) = watch::channel(false);
    let stopped = async |stop: &mut watch::Receiver<bool>| {
        let _ = stop.wait_for(|&stop| stop).await; // a sender that is gone asks to stop as well
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        // A failed connection is its client's business; lacking files, it is worth a pause.
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                let router = router.clone();
                let connection = connection(stream, peer.ip(), router, limits.patience, draining.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(_) => {
                app.metrics.rejected("connections");
                tokio::spawn(turn_away(stream));
            }
        }
    }
    drop(listener);
    app.queue.stop(Instant::now() + limits.drain);
    let _ = drain.send(true);
    // The connections that are left end with their answers, which the engine ends in time.
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(limits.drain + Duration::from_secs(2), places.acquire_many(all)).await;
}

/// One connection: it ends when its client sends or reads nothing for too long, and after its answer when the server stops.
async fn connection(
    stream: TcpStream,
    peer: IpAddr,
    router: Router,
    patience: Duration,
    mut draining: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(WRITE_TIME));
    let router = router.layer(axum::Extension(Peer(peer)));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEADER_BYTES);
    let served = builder.serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    let mut served = pin!(served);
    let drains = async { draining.wait_for(|&draining| draining).await.is_ok() };
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        _ = drains => None,
    };
    // What goes wrong in a connection is its client's business.
    if ended.is_none() {
        served.as_mut().graceful_shutdown();
        let _ = served.await;
    }
}

/// Says that there are too many connections.
async fn turn_away(stream: TcpStream) {
    let body = r#"{"error":{"message":"too many connections","type":"unavailable_error","param":null,"code":"too_many_connections"}}"#;
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let mut rest = head.as_bytes();
    while !rest.is_empty() && stream.writable().await.is_ok() {
        match stream.try_write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// The address of a client.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

type Shared = State<Arc<App>>;

/// The routes, each with and without `/v1` where llama.cpp's clients expect that.
pub(crate) fn router(app: Arc<App>) -> Router {
    let routes: [(&str, MethodRouter<Arc<App>>); 33] = [
        ("/v1/chat/completions", post(chat_completions)),
        ("/chat/completions", post(chat_completions)),
        ("/v1/completions", post(text_completions)),
        ("/completions", post(text_completions)),
        ("/v1/models", get(list_models)),
        ("/models", get(list_models)),
        ("/v1/models/{*name}", get(one_model)),
        ("/v1/score", post(score)),
        ("/score", post(score)),
        ("/v1/rerank", post(rerank)),
        ("/rerank", post(rerank)),
        ("/v1/embeddings", post(embeddings)),
        ("/tokenize", post(tokenize)),
        ("/detokenize", post(detokenize)),
        ("/apply-template", post(apply_template)),
        ("/health", get(health)),
        ("/v1/health", get(health)),
        ("/version", get(version)),
        ("/metrics", get(metrics)),
        ("/openapi.json", get(description)),
        ("/api/session", get(session).post(consent)),
        ("/api/ratings", post(rate)),
        ("/api/rankings", post(rank)),
        ("/api/demonstrations", post(demonstrate)),
        ("/api/tasks", post(make_tasks)),
        ("/api/tasks/next", post(next_task)),
        ("/api/feedback", get(figures)),
        ("/api/feedback/records", get(records)),
        ("/api/feedback/records/{id}", get(record)),
        ("/api/models/{*name}", get(training_of_model)),
        ("/api/people", post(exclude)),
        ("/api/people/{name}", delete(delete_person)),
        ("/api/export", get(export)),
    ];
    let router = routes
        .into_iter()
        .fold(Router::new(), |router, (path, route)| router.route(path, route.fallback(wrong_method)));
    let screens = ["/", "/compare", "/label", "/write", "/data", "/served", "/page/{name}"];
    let page = get(page_file).fallback(wrong_method).layer(CompressionLayer::new());
    let router = screens.into_iter().fold(router, |router, path| router.route(path, page.clone()));
    router.fallback(unknown_path).layer(middleware::from_fn_with_state(Arc::clone(&app), around)).with_state(app)
}

/// What happens to every request: the guard before it; afterwards its id, and the counters.
async fn around(State(app): Shared, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::from([127, 0, 0, 1]), |peer| peer.0);
    let path = request.uri().path().to_owned();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let method = request.method().clone();
    let mut response = match guard::check(&app.settings, &method, &path, request.headers(), peer) {
        Err(error) => error.into_response(),
        Ok(_) if method == Method::OPTIONS && origin.is_some() => preflight(request.headers()),
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
    };
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("x-request-id", &format!("req-{}", Ulid::new()));
    set("openai-processing-ms", &begun.elapsed().as_millis().to_string());
    set("x-content-type-options", "nosniff");
    if let Some(origin) = origin.as_ref().and_then(|origin| origin.to_str().ok())
        && app.settings.cors_origins.iter().any(|allowed| allowed == origin)
    {
        set("access-control-allow-origin", origin);
        set("vary", "origin");
        set("access-control-expose-headers", "x-request-id, openai-processing-ms, retry-after");
    }
    app.metrics.responded(route_name(&path), response.status().as_u16());
    response
}

/// A bounded set of names for the counters.
fn route_name(path: &str) -> &str {
    const KNOWN: [&str; 21] = [
        "/chat/completions",
        "/completions",
        "/models",
        "/score",
        "/rerank",
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/health",
        "/version",
        "/metrics",
        "/openapi.json",
        "/api/session",
        "/api/ratings",
        "/api/rankings",
        "/api/demonstrations",
        "/api/tasks",
        "/api/tasks/next",
        "/api/feedback",
        "/api/people",
        "/api/export",
    ];
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let path = if path.starts_with("/models/") { "/models" } else { path };
    let path = if path.starts_with("/api/people/") { "/api/people" } else { path };
    KNOWN.into_iter().find(|known| *known == path).unwrap_or("other")
}

/// The answer to a browser that asks what a page of an allowed origin may send.
fn preflight(headers: &axum::http::HeaderMap) -> Response {
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert("access-control-allow-methods", HeaderValue::from_static("GET, POST, OPTIONS"));
    headers.insert("access-control-max-age", HeaderValue::from_static("600"));
    // Clients send authorization, content-type and headers of their own; the origin was checked.
    if let Some(asked) = asked {
        headers.insert("access-control-allow-headers", asked);
    }
    response
}

/// Who asks; the guard has found it out.
fn person(request: &Request) -> Result<Requester, ApiError> {
    request.extensions().get::<Requester>().cloned().ok_or_else(|| ApiError::internal("the request was not checked"))
}

async fn fields(app: &App, request: Request) -> Result<(Requester, RequestFields), ApiError> {
    let client = person(&request)?;
    let (parts, body) = request.into_parts();
    Ok((client, RequestFields::read(&parts.headers, body, app.body_bytes, app.body_time).await?))
}

/// `response` with the names of fields that were ignored.
fn with_ignored(mut response: Response, ignored: &[String]) -> Response {
    if !ignored.is_empty()
        && let Ok(names) = HeaderValue::from_str(&ignored.join(", "))
    {
        response.headers_mut().insert("x-gptkit-ignored", names);
    }
    response
}

fn answered((value, ignored): (Value, Vec<String>)) -> Response {
    with_ignored(Json(value).into_response(), &ignored)
}

async fn chat_completions(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (client, fields) = fields(&app, request).await?;
    let (response, ignored) = chat::complete(&app, &client, fields).await?;
    Ok(with_ignored(response, &ignored))
}

async fn text_completions(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (client, fields) = fields(&app, request).await?;
    let (response, ignored) = completions::complete(&app, &client, fields).await?;
    Ok(with_ignored(response, &ignored))
}

async fn score(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (_, fields) = fields(&app, request).await?;
    scoring::score(&app, fields).await.map(answered)
}

async fn rerank(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (_, fields) = fields(&app, request).await?;
    scoring::rerank(&app, fields).await.map(answered)
}

async fn tokenize(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (_, fields) = fields(&app, request).await?;
    tokens::tokenize(&app, fields).map(answered)
}

async fn detokenize(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (_, fields) = fields(&app, request).await?;
    tokens::detokenize(&app, fields).map(answered)
}

async fn apply_template(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (_, fields) = fields(&app, request).await?;
    tokens::apply_template(&app, fields).map(answered)
}

async fn embeddings() -> ApiError {
    ApiError::not_found("not_supported", "no model of gptkit computes embeddings")
}

async fn list_models(State(app): Shared) -> Json<Value> {
    Json(models::list(&app))
}

async fn one_model(State(app): Shared, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    models::one(&app, &name).map(Json)
}

async fn health(State(app): Shared) -> Result<Json<Value>, ApiError> {
    match app.queue.stopping() {
        Some(_) => Err(ApiError::stopping()),
        None => Ok(Json(json!({ "status": "ok" }))),
    }
}

async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

async fn metrics(State(app): Shared) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.text())
}

async fn description() -> Json<Value> {
    Json(openapi::description())
}

async fn session(State(app): Shared, request: Request) -> Result<Json<Value>, ApiError> {
    feedback::session(&app, &person(&request)?).await.map(Json)
}

async fn consent(State(app): Shared, request: Request) -> Result<Json<Value>, ApiError> {
    let (person, fields) = fields(&app, request).await?;
    feedback::consent(&app, &person, fields).await.map(Json)
}

async fn rate(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (person, fields) = fields(&app, request).await?;
    let (status, stored) = feedback::rate(&app, &person, fields).await?;
    Ok((status, Json(stored)).into_response())
}

async fn rank(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (person, fields) = fields(&app, request).await?;
    let (status, stored) = feedback::rank(&app, &person, fields).await?;
    Ok((status, Json(stored)).into_response())
}

async fn demonstrate(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (person, fields) = fields(&app, request).await?;
    let (status, stored) = feedback::demonstrate(&app, &person, fields).await?;
    Ok((status, Json(stored)).into_response())
}

async fn make_tasks(State(app): Shared, request: Request) -> Result<Json<Value>, ApiError> {
    let (person, fields) = fields(&app, request).await?;
    feedback::make_tasks(&app, &person, fields).await.map(Json)
}

async fn next_task(State(app): Shared, request: Request) -> Result<Json<Value>, ApiError> {
    let (person, _) = fields(&app, request).await?;
    feedback::next_task(&app, &person).await.map(Json)
}

async fn figures(State(app): Shared, request: Request) -> Result<Json<Value>, ApiError> {
    feedback::figures(&app, &person(&request)?).await.map(Json)
}

async fn records(State(app): Shared, request: Request) -> Result<Json<Value>, ApiError> {
    feedback::records(&app, &person(&request)?, request.uri().query()).await.map(Json)
}

async fn record(State(app): Shared, Path(id): Path<String>, request: Request) -> Result<Json<Value>, ApiError> {
    feedback::record(&app, &person(&request)?, &id).await.map(Json)
}

async fn training_of_model(State(app): Shared, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    training::of_model(&app, &name).await.map(Json)
}

async fn exclude(State(app): Shared, request: Request) -> Result<Json<Value>, ApiError> {
    let (person, fields) = fields(&app, request).await?;
    feedback::exclude(&app, &person, fields).await.map(Json)
}

async fn delete_person(
    State(app): Shared,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    feedback::delete(&app, &person(&request)?, &name).await.map(Json)
}

async fn export(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let (name, text) = feedback::export(&app, &person(&request)?, request.uri().query()).await?;
    let attachment = format!("attachment; filename=\"{name}\"");
    let headers = [(header::CONTENT_TYPE, "application/jsonl"), (header::CONTENT_DISPOSITION, attachment.as_str())];
    Ok((headers, text).into_response())
}

async fn page_file(request: Request) -> Result<Response, ApiError> {
    let path = request.uri().path();
    page::file(path).ok_or_else(|| ApiError::not_found("unknown_path", format!("there is no {path}")))
}

async fn unknown_path(request: Request<Body>) -> ApiError {
    let path = request.uri().path();
    ApiError::not_found("unknown_path", format!("there is no {path}; GET /openapi.json lists the endpoints"))
}

async fn wrong_method(request: Request<Body>) -> ApiError {
    let what = format!("{} cannot be used with {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", what)
}
