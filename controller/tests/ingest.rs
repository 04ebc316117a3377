//! Agents that repeat themselves, lie and contradict each other, over real connections.

mod support;

use c4_proto::v1::{self, agent_message::Body};
use support::{Agent, controller, event, get, joined, operations, started, window};

async fn metrics(running: &c4_controller::server::Running) -> String {
    get(running.http, "/metrics").await.1
}

#[tokio::test]
async fn what_was_taken_is_acknowledged_and_not_taken_twice() {
    let running = controller("").await;
    let mut agent = Agent::connect(&running, "n0", "s", 1).await;
    agent.say(started(1, "llm", 0, 1)).await;
    let last = agent.say(joined(1, 9, 0, 1)).await;
    assert!(agent.acknowledged(last).await.is_empty());
    drop(agent);

    // The acknowledgement was lost, says the agent, and sends everything again on a new stream.
    let mut agent = Agent::connect(&running, "n0", "s", 1).await;
    agent.say(started(1, "llm", 0, 1)).await;
    agent.say(joined(1, 9, 0, 1)).await;
    let last = agent.say(window(1, 9, 5)).await;
    assert!(agent.acknowledged(last).await.is_empty());
    let text = metrics(&running).await;
    assert!(text.contains("c4_controller_messages_duplicate_total 2\n"), "{text}");
    assert!(text.contains("c4_controller_messages_total{body=\"process_started\"} 1\n"), "{text}");

    // A number that never came is said to be missing.
    agent.say_as(9, Some(window(1, 9, 6))).await;
    event(&running, |event| event.text == "5 messages of n0 never came").await;
    assert!(running.drain().await);
}

#[tokio::test]
async fn lies_are_refused_and_the_stream_goes_on() {
    let running = controller("").await;
    let mut honest = Agent::connect(&running, "n0", "s", 1).await;
    honest.say(started(1, "llm", 0, 2)).await;
    let last = honest.say(joined(1, 9, 0, 2)).await;
    honest.acknowledged(last).await;

    let mut liar = Agent::connect(&running, "n1", "s", 1).await;
    for (body, words) in [
        (window(1, 9, 5), "belongs to node n0, not to node n1"),
        (window(77, 9, 5), "never announced by node n1"),
        (started(1, "llm", 0, 2), "belongs to node n0"),
        (started(2, "llm", 2, 2), "process_started.rank: is 2 in a job of 2 ranks"),
        (joined(2, 9, 2, 2), "comm_rank: is 2 in a communicator of 2 ranks"),
        (Body::Hello(v1::Hello::default()), "only be the first message"),
    ] {
        let sequence = liar.say(body).await;
        let refused = liar.refusal().await;
        assert_eq!(refused.sequence, sequence);
        assert!(refused.reason.contains(words), "{}", refused.reason);
    }
    liar.say(started(2, "llm", 1, 2)).await;
    for (body, words) in [
        (joined(2, 9, 1, 4), "has 2 ranks according to others, 4 according to this message"),
        (window(2, 9, 1), "never joined communicator 9"),
    ] {
        liar.say(body).await;
        let refused = liar.refusal().await;
        assert!(refused.reason.contains(words), "{}", refused.reason);
    }
    // It is still listened to.
    liar.say(joined(2, 9, 1, 2)).await;
    liar.say(window(2, 9, 5)).await;
    let last = liar.say(window(2, 9, 4)).await;
    let refused = liar.refusal().await;
    assert!(refused.reason.contains("went back"), "{}", refused.reason);
    liar.acknowledged(last).await;
    assert!(running.drain().await);
}

#[tokio::test]
async fn an_agent_that_is_always_wrong_is_cut_off() {
    let running = controller("ingest: {max_refused: 3}").await;
    let mut agent = Agent::connect(&running, "n0", "s", 1).await;
    for sequence in 1..=3 {
        agent.say_as(sequence, None).await;
    }
    let status = agent.closed().await;
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    assert!(running.drain().await);
}

#[tokio::test]
async fn a_stream_must_begin_with_a_hello_that_makes_sense() {
    let running = controller("").await;
    let hello = v1::Hello { node: "n0".into(), session_id: "s".into(), protocol: 99, ..Default::default() };
    let status = match Agent::connect_as(&running, hello).await {
        Ok(mut agent) => agent.closed().await,
        Err(status) => status,
    };
    assert!(status.message().contains("hello.protocol: is 99"), "{status}");
    assert!(running.drain().await);
}

#[tokio::test]
async fn a_rank_claimed_twice_makes_the_job_unknown_until_one_is_gone() {
    let running = controller("").await;
    let mut first = Agent::connect(&running, "n0", "s", 1).await;
    first.say(started(1, "llm", 0, 2)).await;
    let last = first.say(started(2, "llm", 1, 2)).await;
    first.acknowledged(last).await;
    let mut second = Agent::connect(&running, "n1", "s", 1).await;
    second.say(started(3, "llm", 1, 2)).await;
    let conflict = event(&running, |event| event.text.starts_with("conflict:")).await;
    assert!(conflict.text.contains("rank 1 is claimed by pid 2 on n0 and pid 3 on n1"), "{}", conflict.text);

    second.say(Body::ProcessEnded(v1::ProcessEnded { process: 3, ..Default::default() })).await;
    event(&running, |event| event.text.starts_with("nothing contradicts")).await;
    let mut client = operations(&running).await;
    let findings =
        client.list_findings(v1::ListFindingsRequest { job: String::new(), include_cleared: true });
    assert!(findings.await.expect("answers").into_inner().findings.is_empty(), "nobody is accused");
    assert!(running.drain().await);
}

#[tokio::test]
async fn two_jobs_with_one_name_are_told_apart_and_nothing_is_done_to_them() {
    let running = controller("").await;
    let mut first = Agent::connect(&running, "n0", "s", 1).await;
    first.say(started(1, "llm", 0, 2)).await;
    let last = first.say(started(2, "llm", 1, 2)).await;
    first.acknowledged(last).await;
    let mut second = Agent::connect(&running, "n1", "s", 1).await;
    second.say(started(3, "llm", 7, 8)).await;
    event(&running, |event| event.text.contains("live processes claim world sizes 2 and 8")).await;
    assert!(running.drain().await);
}

#[tokio::test]
async fn a_node_is_lost_a_while_after_its_last_stream_closed() {
    let running = controller("ingest: {node_lost_seconds: 0.2}").await;
    let daemon = Agent::connect(&running, "n0", "daemon", 1).await;
    let run = Agent::connect(&running, "n0", "run", 1).await;
    event(&running, |event| event.text.starts_with("n0 is in sight")).await;
    drop(daemon);
    drop(run);
    event(&running, |event| event.text.starts_with("n0 is out of sight")).await;
    assert!(running.drain().await);
}

#[tokio::test]
async fn too_many_streams_are_turned_away() {
    let running = controller("ingest: {max_streams: 1}").await;
    let _first = Agent::connect(&running, "n0", "s", 1).await;
    let hello = v1::Hello { node: "n1".into(), session_id: "s".into(), protocol: 1, ..Default::default() };
    let Err(status) = Agent::connect_as(&running, hello).await else { panic!("let in") };
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(running.drain().await);
}

#[tokio::test]
async fn health_and_readiness_are_shown() {
    let running = controller("").await;
    assert_eq!(get(running.http, "/healthz").await.0, 200);
    assert_eq!(get(running.http, "/readyz").await.0, 200);
    assert_eq!(get(running.http, "/nothing").await.0, 404);
    assert!(running.drain().await);
}
