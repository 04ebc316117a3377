//! The log, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, reload};

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

type Set = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// A log that has begun.
pub struct Log {
    set: Set,
}

impl Log {
    /// Begins to log what `filter` lets through: a level or directives, as RUST_LOG has them. One that is wrong counts as
    /// `info`: whoever configures it has checked it.
    #[must_use]
    pub fn start(filter: &str, format: Format) -> Self {
        let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
        let builder =
            tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
        let set: Set = match format {
            Format::Text => {
                let builder = builder.with_env_filter(filter).with_filter_reloading();
                let handle = builder.reload_handle();
                builder.init();
                Box::new(move |filter| handle.reload(filter))
            }
            Format::Json => {
                let builder = builder.json().with_env_filter(filter).with_filter_reloading();
                let handle = builder.reload_handle();
                builder.init();
                Box::new(move |filter| handle.reload(filter))
            }
        };
        Self { set }
    }

    /// From now on logs what `filter` lets through. One that is wrong changes nothing.
    pub fn change(&self, filter: &str) {
        let changed = EnvFilter::try_new(filter).map_err(|error| error.to_string());
        match changed.and_then(|filter| (self.set)(filter).map_err(|error| error.to_string())) {
            Ok(()) => tracing::info!(filter, "the log's level was changed"),
            Err(problem) => tracing::error!(filter, %problem, "the log's level stays as it was"),
        }
    }
}
