//! The page's files, as they are in `page/` beside `src/`.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../page/", $name)))),*]
    };
}

/// Name and content.
const FILES: &[(&str, &str)] = files![
    "index.html",
    "style.css",
    "icon.svg",
    "main.js",
    "live.js",
    "session.js",
    "decide.js",
    "actions.js",
    "dom.js",
    "words.js",
    "fleet.js",
    "job.js",
    "finding.js",
    "fabric.js",
    "links.js",
    "fabricmodel.js",
    "fabricpaint.js",
    "scene.js",
    "model.js",
    "report.js",
    "grid.js",
    "chart.js",
    "matrix.js",
    "timeline.js",
];

/// The content of a file.
pub(super) fn text(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, content)| *content)
}

pub(super) fn file(name: &str) -> Response {
    let Some(content) = text(name) else {
        return (StatusCode::NOT_FOUND, "no such file\n").into_response();
    };
    ([(header::CONTENT_TYPE, content_type(name))], content).into_response()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_loads_nothing_from_elsewhere() {
        let total: usize = FILES.iter().map(|(_, content)| content.len()).sum();
        assert!(total < 200_000, "{total} bytes");
        for (name, content) in FILES {
            let namespace = "http://www.w3.org/2000/svg";
            let rest = content.replace(namespace, "");
            assert!(!rest.contains("http:") && !rest.contains("https:"), "{name} names another place");
            assert_ne!(content_type(name), "text/plain; charset=utf-8", "{name}");
        }
    }
}
