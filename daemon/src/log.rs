//! The log, on standard error, and beside it the spans for a collector.

use std::io::IsTerminal;

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::Targets, layer::SubscriberExt, registry::LookupSpan, reload,
    util::SubscriberInitExt,
};

use crate::otlp::{Collector, CollectorError, Sending};

/// Whose spans a collector gets: not those of libraries, which would tell of its own connection, too.
const OURS: &str = "c4";

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// A log that has begun. It ends with this: the last spans are sent then.
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    _sending: Option<Sending>,
}

impl Log {
    /// Begins to log what `filter` lets through: a level or directives, as RUST_LOG has them. One that is wrong counts as
    /// `info`: whoever configures it has checked it. Spans go to `collector`, if there is one, whatever the filter says.
    ///
    /// # Errors
    /// Nothing can be sent to the collector, whether it is there or not.
    pub fn start(
        filter: &str,
        format: Format,
        collector: Option<&Collector>,
    ) -> Result<Self, CollectorError> {
        let sending = collector.map(Sending::start).transpose()?;
        let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
        let (filter, handle) = reload::Layer::new(filter);
        let lines = lines(format).with_filter(filter);
        Registry::default().with(lines).with(sending.as_ref().map(spans)).init();
        Ok(Self { filter: handle, _sending: sending })
    }

    /// From now on logs what `filter` lets through. One that is wrong changes nothing.
    pub fn change(&self, filter: &str) {
        let changed = EnvFilter::try_new(filter).map_err(|error| error.to_string());
        match changed.and_then(|filter| self.filter.reload(filter).map_err(|error| error.to_string())) {
            Ok(()) => tracing::info!(filter, "the log's level was changed"),
            Err(problem) => tracing::error!(filter, %problem, "the log's level stays as it was"),
        }
    }
}

fn lines<S>(format: Format) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().boxed(),
    }
}

fn spans<S>(sending: &Sending) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    tracing_opentelemetry::layer()
        .with_tracer(sending.tracer())
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(Targets::new().with_target(OURS, LevelFilter::INFO))
}
