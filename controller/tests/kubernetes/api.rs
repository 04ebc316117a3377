//! An API server for the tests of the Kubernetes actuator. It checks what it is sent against the published schemas, counts
//! versions, refuses writes that rest on an old one (409), has watches that begin where they are told to and do not know what is
//! long ago (410), and says when it has enough (429). What it stores is acted on by [`super::controllers`].

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State as Extract,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::Response,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::{StreamExt, wrappers::WatchStream};

use super::{controllers, patch, schema};

/// What is stored, by resource ("nodes", "jobsets.jobset.x-k8s.io"), namespace (empty: none) and name.
pub(crate) type Key = (String, String, String);

/// What happened to an object.
#[derive(Clone)]
struct Change {
    version: u64,
    key: Key,
    kind: &'static str,
    object: Value,
}

/// The server's memory.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) objects: BTreeMap<Key, Value>,
    version: u64,
    changes: Vec<Change>,
    /// Watches from before this version are told so.
    forgotten: u64,
    /// Watches that began before this are ended.
    generation: u64,
    /// How many more requests are told to come again later.
    pub(crate) throttled: u32,
    /// How many more writes somebody else comes before.
    pub(crate) raced: u32,
    /// Answers by status.
    pub(crate) answers: BTreeMap<u16, u32>,
    /// Writes that were taken: method and path.
    pub(crate) writes: Vec<String>,
    /// The controllers of jobs do nothing.
    pub(crate) deaf: bool,
}

impl Memory {
    /// Stores an object under a new version.
    pub(crate) fn put(&mut self, key: Key, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let kind = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(key.clone(), object.clone());
        self.changes.push(Change { version: self.version, key, kind, object });
    }

    /// Stores an object that is new.
    pub(crate) fn add(&mut self, key: Key, mut object: Value) {
        object["metadata"]["uid"] = format!("uid-{}", self.version + 1).into();
        object["metadata"]["name"] = key.2.clone().into();
        if !key.1.is_empty() {
            object["metadata"]["namespace"] = key.1.clone().into();
        }
        self.put(key, object);
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(object) = self.objects.remove(key) {
            self.version += 1;
            self.changes.push(Change { version: self.version, key: key.clone(), kind: "DELETED", object });
        }
    }

    /// Forgets what happened, and ends all watches.
    pub(crate) fn forget(&mut self) {
        self.version += 1;
        self.forgotten = self.version;
        self.generation += 1;
        self.changes.clear();
    }
}

/// The server.
#[derive(Clone)]
pub(crate) struct Api {
    memory: Arc<Mutex<Memory>>,
    changed: watch::Sender<()>,
    pub(crate) address: SocketAddr,
}

/// A request's place: resource, namespace, name, subresource, and what the resource's objects are.
struct Place {
    key: Key,
    subresource: String,
    api_version: String,
    kind: &'static str,
}

type Refusal = (u16, &'static str, String);

impl Api {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let api = Self { memory: Arc::default(), changed: watch::Sender::new(()), address };
        let router = Router::new().fallback(answer).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        tokio::spawn(controllers::run(api.clone()));
        api
    }

    /// The memory; what is changed in it is told when [`Self::tell`] is called.
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("unpoisoned")
    }

    pub(crate) fn tell(&self) {
        let _ = self.changed.send(());
    }

    fn handle(
        &self,
        place: &Place,
        method: &Method,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Value, Refusal> {
        let parse =
            || serde_json::from_slice::<Value>(body).map_err(|error| (400, "BadRequest", error.to_string()));
        let mut memory = self.memory();
        match (method.as_str(), place.subresource.as_str()) {
            ("GET", "") => memory.objects.get(&place.key).cloned().ok_or_else(|| missing(place)),
            ("POST", "eviction") => {
                controllers::evict(&mut memory, &place.key, &checked(parse()?, "policy/v1", "Eviction")?)
            }
            ("POST", "") => {
                let object = checked(parse()?, &place.api_version, place.kind)?;
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let key = (place.key.0.clone(), place.key.1.clone(), name);
                if memory.objects.contains_key(&key) {
                    return Err((409, "AlreadyExists", format!("{} is there already", key.2)));
                }
                memory.add(key.clone(), object);
                let stored = memory.objects[&key].clone();
                controllers::act(&mut memory);
                Ok(stored)
            }
            ("PATCH", "" | "status") => {
                if memory.raced > 0 {
                    memory.raced -= 1;
                    // Somebody else writes between the client's look and its patch.
                    let mut object = memory.objects.get(&place.key).cloned().ok_or_else(|| missing(place))?;
                    object["metadata"]["annotations"]["somebody"] = "else".into();
                    memory.put(place.key.clone(), object);
                }
                let before = memory.objects.get(&place.key).cloned().ok_or_else(|| missing(place))?;
                let change = parse()?;
                let rests_on = &change["metadata"]["resourceVersion"];
                if !rests_on.is_null() && *rests_on != before["metadata"]["resourceVersion"] {
                    return Err((409, "Conflict", "the object has been modified".into()));
                }
                let kind =
                    headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
                let schema = schema::definition(&place.api_version, place.kind);
                let mut after = match kind {
                    "application/merge-patch+json" => patch::merged(before.clone(), &change),
                    "application/strategic-merge-patch+json" => {
                        patch::merged_by_keys(before.clone(), &change, schema)
                    }
                    other => return Err((415, "UnsupportedMediaType", format!("{other:?}"))),
                };
                // Each of the two addresses takes its own half.
                let (kept, half) =
                    if place.subresource == "status" { ("spec", "status") } else { ("status", "spec") };
                after[kept] = before[kept].clone();
                if after[kept].is_null() {
                    after.as_object_mut().expect("an object").remove(kept);
                }
                let after = checked(after, &place.api_version, place.kind)?;
                if after != before {
                    memory.put(place.key.clone(), after.clone());
                    memory.writes.push(format!("{half} {} {}", place.key.0, place.key.2));
                    controllers::act(&mut memory);
                }
                Ok(memory.objects.get(&place.key).cloned().unwrap_or(after))
            }
            ("DELETE", "") => {
                let options = if body.is_empty() { json!({}) } else { parse()? };
                let options = checked(options, "v1", "DeleteOptions")?;
                controllers::delete(&mut memory, &place.key, &options)
            }
            (method, sub) => Err((405, "MethodNotAllowed", format!("{method} {sub}"))),
        }
    }

    fn list(&self, place: &Place, query: &BTreeMap<String, String>) -> Value {
        let memory = self.memory();
        let items: Vec<&Value> = memory
            .objects
            .iter()
            .filter(|(key, object)| wanted(key, object, place, query))
            .map(|(_, object)| object)
            .collect();
        json!({
            "kind": format!("{}List", place.kind), "apiVersion": place.api_version,
            "metadata": {"resourceVersion": memory.version.to_string()}, "items": items,
        })
    }

    fn watch(&self, place: Place, query: BTreeMap<String, String>) -> Body {
        let mut since: u64 = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        let generation = self.memory().generation;
        let api = self.clone();
        let lines = WatchStream::new(self.changed.subscribe()).map_while(move |()| {
            let memory = api.memory();
            let mut lines = String::new();
            if memory.generation != generation {
                return None;
            }
            if since < memory.forgotten {
                since = u64::MAX;
                let gone = status(410, "Expired", "too old resource version".into());
                lines += &format!("{}\n", json!({"type": "ERROR", "object": gone}));
            }
            for change in memory.changes.iter().filter(|change| change.version > since) {
                if wanted(&change.key, &change.object, &place, &query) {
                    lines += &format!("{}\n", json!({"type": change.kind, "object": change.object}));
                }
            }
            since = since.max(memory.version);
            Some(lines)
        });
        Body::from_stream(lines.filter(|lines| !lines.is_empty()).map(Ok::<_, Infallible>))
    }
}

async fn answer(
    Extract(api): Extract<Api>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query: BTreeMap<String, String> = uri.query().map(pairs).unwrap_or_default();
    let throttled = {
        let mut memory = api.memory();
        let throttled = memory.throttled > 0;
        memory.throttled = memory.throttled.saturating_sub(1);
        throttled
    };
    let place = place(uri.path());
    let (code, body) = match place {
        _ if throttled => (429, Body::from("Too many requests, please try again later.")),
        None => (404, Body::from(status(404, "NotFound", format!("no such address: {uri}")).to_string())),
        Some(place) if place.key.2.is_empty() && method == Method::GET => {
            let watched = query.get("watch").is_some_and(|watch| watch == "true");
            (
                200,
                if watched {
                    api.watch(place, query)
                } else {
                    Body::from(api.list(&place, &query).to_string())
                },
            )
        }
        Some(place) => match api.handle(&place, &method, &headers, &body) {
            Ok(object) => (200, Body::from(object.to_string())),
            Err((code, reason, message)) => (code, Body::from(status(code, reason, message).to_string())),
        },
    };
    *api.memory().answers.entry(code).or_default() += 1;
    api.tell();
    let mut response = Response::builder()
        .status(StatusCode::from_u16(code).expect("a status"))
        .header(header::CONTENT_TYPE, "application/json");
    if throttled {
        response = response.header(header::RETRY_AFTER, "1");
    }
    response.body(body).expect("a response")
}

/// Whether a list or watch wants an object.
fn wanted(key: &Key, object: &Value, place: &Place, query: &BTreeMap<String, String>) -> bool {
    let fits = |selector: &str, read: &dyn Fn(&str) -> Value| match selector.split_once('=') {
        Some((key, value)) => read(key) == value,
        None => !read(selector).is_null(),
    };
    let text = |name: &str| query.get(name).filter(|text| !text.is_empty());
    key.0 == place.key.0
        && (place.key.1.is_empty() || key.1 == place.key.1)
        && text("labelSelector").is_none_or(|one| fits(one, &|key| object["metadata"]["labels"][key].clone()))
        && text("fieldSelector").is_none_or(|one| {
            fits(one, &|path| {
                object.pointer(&format!("/{}", path.replace('.', "/"))).cloned().unwrap_or_default()
            })
        })
}

fn checked(object: Value, api_version: &str, kind: &str) -> Result<Value, Refusal> {
    match schema::check(&object, api_version, kind) {
        Ok(()) => Ok(object),
        Err(wrong) => Err((422, "Invalid", wrong)),
    }
}

fn missing(place: &Place) -> Refusal {
    (404, "NotFound", format!("{} {:?} not found", place.key.0, place.key.2))
}

pub(crate) fn status(code: u16, reason: &str, message: String) -> Value {
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    if code == 429 {
        status["details"] = json!({"retryAfterSeconds": 1, "causes": [{"reason": "DisruptionBudget"}]});
    }
    status
}

fn place(path: &str) -> Option<Place> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", "v1", rest @ ..] => ("", "v1", rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        rest => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return None,
    };
    let kind = match (group, plural) {
        ("", "nodes") => "Node",
        ("", "pods") => "Pod",
        ("jobset.x-k8s.io", "jobsets") => "JobSet",
        ("kubeflow.org", "pytorchjobs") => "PyTorchJob",
        ("batch.volcano.sh", "jobs") => "Job",
        ("bus.volcano.sh", "commands") => "Command",
        _ => return None,
    };
    let resource = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(Place {
        key: (resource, namespace.into(), name.into()),
        subresource: subresource.into(),
        api_version,
        kind,
    })
}

fn pairs(query: &str) -> BTreeMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://c4/?{query}")).expect("a query");
    url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect()
}
