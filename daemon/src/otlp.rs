//! What a daemon did, as spans for a collector of OpenTelemetry's (OTLP over gRPC), where one is configured.
//!
//! It costs the daemon a bounded queue and nothing else: whoever ends a span puts it there without waiting, and a thread
//! takes them and has them sent by a runtime that does nothing else. While the queue is full spans are dropped, and so are those that a
//! collector does not take within some seconds. That is said when it begins and when it has been over for a while, since a collector that
//! comes and goes should not fill the log.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData,
        SpanExporter as Exporter,
    },
};
use thiserror::Error;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::timeout,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// A collector that takes longer for one batch does not get it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Spans are sent this often, if there are any.
const EVERY: Duration = Duration::from_secs(1);
/// Spans that may wait.
const QUEUE: usize = 2048;
/// At the end of the program, what is left is sent within this time, or not at all.
const LAST: Duration = Duration::from_secs(1);
/// A collector that has taken so many batches in a row is well again.
const WELL: u32 = 10;

/// Where spans go, and in whose name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Its address, such as `http://127.0.0.1:4317`.
    pub address: String,
    /// File with whom to believe about its name, where the address begins with `https`.
    pub ca: Option<PathBuf>,
    /// Name of the program.
    pub service: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Which one of several: the node, or the address that is listened at.
    pub instance: String,
}

/// Why spans cannot be sent anywhere.
#[derive(Debug, Error)]
pub enum CollectorError {
    /// The address.
    #[error("{address:?} is not the address of a collector, such as http://127.0.0.1:4317: {source}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// The file with the authority's certificate.
    #[error("the collector's authority, {}: {source}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("no thread for sending spans: {0}")]
    Thread(#[source] std::io::Error),
    /// The library.
    #[error("cannot send spans: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// A collector that is being sent to.
pub(crate) struct Sending {
    provider: SdkTracerProvider,
    runtime: Option<Runtime>,
}

impl Sending {
    /// Begins to send. Whether the collector is there shows later.
    pub(crate) fn start(collector: &Collector) -> Result<Self, CollectorError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()
            .map_err(CollectorError::Thread)?;
        let channel = {
            let _entered = runtime.enter();
            connect(collector)?
        };
        let inner =
            SpanExporter::builder().with_tonic().with_channel(channel).with_timeout(PATIENCE).build()?;
        let exporter = Patient {
            inner: Arc::new(inner),
            runtime: runtime.handle().clone(),
            address: collector.address.clone(),
            taken: AtomicU32::new(WELL),
        };
        let batches =
            BatchConfigBuilder::default().with_max_queue_size(QUEUE).with_scheduled_delay(EVERY).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_resource(
                Resource::builder_empty()
                    .with_attributes([
                        KeyValue::new("service.name", collector.service),
                        KeyValue::new("service.version", collector.version),
                        KeyValue::new("service.instance.id", collector.instance.clone()),
                    ])
                    .build(),
            )
            .build();
        Ok(Self { provider, runtime: Some(runtime) })
    }

    /// What makes spans.
    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("c4")
    }
}

/// Sends what is left, within its time.
impl Drop for Sending {
    fn drop(&mut self) {
        // Whether it could be sent was said.
        let _ = self.provider.shutdown_with_timeout(LAST);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn connect(collector: &Collector) -> Result<Channel, CollectorError> {
    let wrong = |source| CollectorError::Address { address: collector.address.clone(), source };
    let mut endpoint =
        Endpoint::from_shared(collector.address.clone()).map_err(wrong)?.connect_timeout(PATIENCE);
    if let Some(path) = &collector.ca {
        let pem = std::fs::read(path).map_err(|source| CollectorError::Ca { path: path.clone(), source })?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        endpoint = endpoint.tls_config(tls).map_err(wrong)?;
    }
    Ok(endpoint.connect_lazy())
}

/// Sends batches on a runtime, since whoever calls it has none, and waits no longer than its patience lasts.
#[derive(Debug)]
struct Patient {
    inner: Arc<SpanExporter>,
    runtime: Handle,
    address: String,
    /// Batches taken in a row since one was not.
    taken: AtomicU32,
}

impl Patient {
    fn say(&self, sent: &Result<(), String>) {
        match sent {
            Ok(()) => {
                let taken = self.taken.load(Relaxed);
                self.taken.store(taken.saturating_add(1), Relaxed);
                if taken == WELL - 1 {
                    tracing::info!(collector = self.address, "the collector takes spans again");
                }
            }
            Err(problem) => {
                if self.taken.swap(0, Relaxed) >= WELL {
                    tracing::warn!(
                        collector = self.address,
                        problem,
                        "the collector takes no spans: they are dropped"
                    );
                }
            }
        }
    }
}

impl Exporter for Patient {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let inner = Arc::clone(&self.inner);
        let sending = self.runtime.spawn(async move { timeout(PATIENCE, inner.export(batch)).await });
        let sent = match sending.await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(_)) => Err(format!("it does not answer within {} s", PATIENCE.as_secs())),
            Err(error) => Err(error.to_string()),
        };
        self.say(&sent);
        sent.map_err(OTelSdkError::InternalFailure)
    }

    /// In whose name spans are sent. That is said before the first are, so nobody else holds it yet.
    fn set_resource(&mut self, resource: &Resource) {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}
