//! Spans for a collector: what a controller decides and what agents do about it are one trace, and a collector that is not there, or does
//! not answer, is nobody's trouble. The collector is this test, and speaks the real protocol.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use c4_tests::{
    cluster::{Cluster, Spec, wait_for},
    faults::inject,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

const LIMIT: Duration = Duration::from_secs(120);
const JOB: &str = "traced";

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    if let Value::StringValue(text) = value { Some(text) } else { None }
}

/// A span, and the program and instance that sent it.
#[derive(Clone, Debug)]
struct Told {
    service: String,
    instance: String,
    span: Span,
}

impl Told {
    fn is(&self, service: &str, name: &str) -> bool {
        self.service == service && self.span.name == name
    }
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Told>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sent in request.into_inner().resource_spans {
            let about = sent.resource.map(|resource| resource.attributes).unwrap_or_default();
            let of = |key| text(&about, key).unwrap_or_default().to_owned();
            let (service, instance) = (of("service.name"), of("service.instance.id"));
            for span in sent.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                told.push(Told { service: service.clone(), instance: instance.clone(), span });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves until the runtime ends.
    fn start(&self) -> (Runtime, SocketAddr) {
        let runtime = Runtime::new().expect("a runtime");
        let listener =
            runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("an address is free");
        let address = listener.local_addr().expect("bound");
        let server = Server::builder().add_service(TraceServiceServer::new(self.clone()));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (runtime, address)
    }

    fn told(&self) -> Vec<Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The span of a program that is below another span.
    fn below(&self, parent: &Span, service: &str, name: &str) -> Option<Told> {
        let of = |told: &&Told| {
            told.is(service, name)
                && told.span.trace_id == parent.trace_id
                && told.span.parent_span_id == parent.span_id
        };
        self.told().iter().find(of).cloned()
    }
}

fn spec(collector: [SocketAddr; 2]) -> Spec {
    let mut spec = Spec::eight_ranks(JOB);
    spec.nodes = vec![("node-0".into(), 0..2), ("node-1".into(), 2..4)];
    spec.ring_args = ["--compute-us", "50000", "--bytes", "4096,65536"].map(str::to_owned).into();
    spec.controller_yaml = format!("  settle_seconds: 0\nlog: {{otlp: 'http://{}'}}\n", collector[0]);
    spec.agent_yaml = format!("log: {{otlp: 'http://{}'}}\n", collector[1]);
    spec
}

/// A rank dies, and the job is restarted.
fn restart(cluster: &Cluster) {
    let ctl = cluster.ctl();
    ctl.wait_healthy(JOB, 0, LIMIT).expect("healthy before the fault");
    inject::signal(&cluster.faults(), 1, Signal::KILL).expect("killed");
    ctl.wait_healthy(JOB, 1, LIMIT).expect("restarted");
}

#[test]
fn an_action_is_one_trace_of_controller_and_agents() {
    let collector = Collector::default();
    let (_runtime, address) = collector.start();
    let mut cluster = Cluster::start(spec([address; 2])).expect("a cluster");
    restart(&cluster);
    let commands = wait_for("the spans of a stop", LIMIT, || {
        let told = collector.told();
        let order = told.iter().find(|told| {
            told.is("c4-controller", "order") && text(&told.span.attributes, "step") == Some("Stop")
        });
        let Some(order) = order else { return Ok(None) };
        let Some(agents) = collector.below(&order.span, "c4-controller", "agents") else { return Ok(None) };
        let below = |told: &&Told| {
            told.is("c4-agent", "command")
                && told.span.trace_id == order.span.trace_id
                && told.span.parent_span_id == agents.span.span_id
        };
        let commands: Vec<Told> = told.iter().filter(below).cloned().collect();
        Ok((commands.len() == 2).then_some(commands))
    })
    .expect("one of each agent, below the controller's");
    let mut nodes: Vec<&str> = commands.iter().map(|told| told.instance.as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["node-0", "node-1"]);
    assert!(
        collector
            .told()
            .iter()
            .any(|told| told.is("c4-controller", "call") && told.span.parent_span_id.is_empty()),
        "c4ctl's calls begin traces of their own"
    );
    // A stream lasts as long as both ends do, and is told of at its end.
    cluster.stop();
    let streams = wait_for("the spans of both streams", LIMIT, || {
        let streams: Vec<Told> =
            collector.told().into_iter().filter(|told| told.is("c4-agent", "stream")).collect();
        let both = |told: &&Told| collector.below(&told.span, "c4-controller", "agent").is_some();
        Ok((streams.iter().filter(both).count() == 2).then_some(streams))
    });
    assert_eq!(streams.expect("the controller's below the agent's").len(), 2, "each connected once");
}

#[test]
fn a_collector_that_does_not_answer_is_nobodys_trouble() {
    // Nobody listens at the one address; at the other, nobody reads.
    let closed =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address");
    let silent = TcpListener::bind("127.0.0.1:0").expect("an address is free");
    let addresses = [closed, silent.local_addr().expect("bound")];
    let mut cluster = Cluster::start(spec(addresses)).expect("a cluster");
    restart(&cluster);
    let said = |log: &str| {
        let log = fs::read_to_string(cluster.dir().join(log)).unwrap_or_default();
        log.lines().filter(|line| line.contains("takes no spans")).count()
    };
    for log in ["controller.log", "node-0.log", "node-1.log"] {
        wait_for("a word about the collector", LIMIT, || Ok((said(log) > 0).then_some(()))).expect(log);
    }
    let text = |log| fs::read_to_string(cluster.dir().join(log)).expect(log);
    for log in ["controller.log", "node-0.log", "node-1.log"] {
        assert_eq!(said(log), 1, "once is enough:\n{}", text(log));
    }
    // They end as ever: what cannot be sent is not waited for.
    for agent in &cluster.agents {
        agent.terminate();
    }
    for agent in &mut cluster.agents {
        agent.wait(LIMIT).expect("it ends");
    }
    cluster.controller.terminate();
    assert!(cluster.controller.wait(LIMIT).expect("it ends").success());
}
