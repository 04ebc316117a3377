//! What operators see of the fault, and when: the event that is told, and the finding as it is listed.

use std::time::{Duration, Instant};

use anyhow::Context;
use c4_proto::v1::{
    Event, Finding, ListFindingsRequest, WatchEventsRequest, operations_client::OperationsClient,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tonic::transport::{Channel, Endpoint};

use crate::ringjob::clock;

/// Time between two looks at the list.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An operator who watches.
pub struct Operator {
    client: OperationsClient<Channel>,
    events: UnboundedReceiver<(Instant, Event)>,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// When the event came.
    pub told: Instant,
    /// When the finding was in the list.
    pub listed: Instant,
    /// The finding.
    pub finding: Finding,
}

impl Operator {
    /// Connects and follows events.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        // The pictures of a large job are large.
        let mut client = OperationsClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut stream = client.watch_events(WatchEventsRequest { history: 0 }).await?.into_inner();
        let (sender, events) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(event)) = stream.message().await {
                if event.kind == "finding" && sender.send((clock::now(), event)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { client, events })
    }

    /// What was told of findings until now.
    pub fn told(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|(_, event)| event.text).collect()
    }

    /// Waits for a finding whose first suspect is `rank`. What else is told meanwhile goes to `others`.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn verdict(
        &mut self,
        rank: u32,
        limit: Duration,
        others: &mut Vec<String>,
    ) -> anyhow::Result<Verdict> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            let (told, event) = event.context("nothing was found")?.context("the controller ends")?;
            match self.listed(&event.text, deadline).await? {
                Some((listed, finding)) if finding.suspects.first().is_some_and(|s| s.rank == Some(rank)) => {
                    return Ok(Verdict { told, listed, finding });
                }
                _ => others.push(event.text),
            }
        }
    }

    /// Looks at the list until it shows what was told, or that is out of date.
    async fn listed(
        &mut self,
        text: &str,
        deadline: tokio::time::Instant,
    ) -> anyhow::Result<Option<(Instant, Finding)>> {
        while tokio::time::Instant::now() < deadline && self.events.is_empty() {
            let request = ListFindingsRequest { job: String::new(), include_cleared: true };
            let answer = self.client.list_findings(request).await?.into_inner();
            let found = answer.findings.into_iter().find(|finding| finding.summary.starts_with(text));
            if let Some(finding) = found {
                return Ok(Some((clock::now(), finding)));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(None)
    }
}
