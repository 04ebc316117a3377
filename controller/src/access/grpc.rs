//! The gate before every gRPC call.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use c4_daemon::trace::{self, Trace};
use c4_tls::Peer;
use tonic::{Status, body::Body, codegen::http};
use tower::{Layer, Service};
use tracing::{Instrument, field::Empty};

use super::{Denied, Gate, Need, needs};
use crate::{access::web::bearer, clock::Clock, metrics::Metrics};

/// Puts a [`Gate`] before a server.
#[derive(Clone)]
pub struct GateLayer {
    /// The gate.
    pub gate: Arc<Gate>,
    /// The time.
    pub clock: Clock,
    /// Where those who are turned away are counted.
    pub metrics: Arc<Metrics>,
}

/// A server behind a gate.
#[derive(Clone)]
pub struct Gated<S> {
    layer: GateLayer,
    inner: S,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { layer: self.clone(), inner }
    }
}

impl GateLayer {
    /// Waits for the keys of an issuer, where a token names one that is not known.
    pub(super) async fn prepare(&self, headers: &http::HeaderMap) {
        if let Some(token) = bearer(headers)
            && let Some(issuer) = self.gate.issuer_of(&token)
        {
            issuer.ready(&token).await;
        }
    }

    /// Lets a request in, or says why not. Privileged calls are written down either way.
    pub(super) fn admit<B>(&self, request: &mut http::Request<B>, need: Need) -> Result<(), Denied> {
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return Err(Denied::Unknown);
        };
        let admitted = self.gate.admit(&peer, bearer(request.headers()).as_deref(), need, self.clock.now());
        let call = request.uri().path();
        let header = request.headers().get(trace::HEADER).and_then(|header| header.to_str().ok());
        let trace = header.and_then(Trace::from_header).map(tracing::field::display);
        match &admitted {
            Ok(who) if need.is_privileged() => tracing::info!(
                target: "c4::audit", who = %who.name, via = who.via.name(), from = %peer.address, call, trace, "allowed"
            ),
            Ok(_) => {}
            Err(denied) => {
                self.metrics.denied.with_label_values(&[denied.name()]).inc();
                // Attempts at what is privileged are rare and worth a line; a misconfigured agent asks every few seconds.
                if need.is_privileged() && *denied != Denied::TooFast {
                    tracing::warn!(target: "c4::audit", from = %peer.address, call, why = denied.name(), trace, "denied");
                } else {
                    tracing::debug!(target: "c4::audit", from = %peer.address, call, why = denied.name(), "denied");
                }
            }
        }
        request.extensions_mut().insert(admitted?);
        Ok(())
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unknown | Denied::BadToken | Denied::Issued(_) => {
                Status::unauthenticated(denied.to_string())
            }
            Denied::Role(_) | Denied::Host | Denied::Site => Status::permission_denied(denied.to_string()),
            Denied::TooFast => Status::resource_exhausted(denied.to_string()),
        }
    }
}

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let need = needs(request.uri().path());
        let layer = self.layer.clone();
        // The one that said that it is ready is the one to be called.
        let another = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, another);
        // The stream of an agent has a span of its own, which lasts as long as the stream does.
        let span = tracing::info_span!("call", path = request.uri().path(), trace = Empty);
        let header = request.headers().get(trace::HEADER).and_then(|header| header.to_str().ok());
        let _ = Trace::of(&span, header);
        let work = async move {
            layer.prepare(request.headers()).await;
            match layer.admit(&mut request, need) {
                Ok(()) => inner.call(request).await,
                Err(denied) => Ok(Status::from(denied).into_http()),
            }
        };
        Box::pin(work.instrument(span))
    }
}
