//! Any bytes as the messages of an agent, converted and shown to the detector: a refusal is fine; a panic, or a finding that
//! cannot be written down, is not. The input is a list of messages, each behind two bytes of length.
//!

use c4_controller::convert::{Body, Incoming};
use c4_detect::{
    detector::{Config, Detector},
    observation::{NodeName, Observation, Timestamp},
    report::findings_document,
};
use c4_proto::v1;
use prost::Message;

/// What the detector is told of a message, if anything.
fn observation(body: Body) -> Option<Observation> {
    Some(match body {
        Body::ProcessStarted(info, _) => Observation::ProcessStarted(info),
        Body::CommunicatorJoined(membership) => Observation::CommunicatorJoined(membership),
        Body::Window(window) => Observation::Window(window),
        Body::ProcessEnded(end) => Observation::ProcessEnded(end),
        Body::Health(event) => Observation::Health(event),
        _ => return None,
    })
}

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let (mut rest, mut now) = (bytes, Timestamp(1_700_000_000_000_000));
    let mut detector = Detector::new(Config::default());
    let node = NodeName("node-0".to_owned());
    while let [high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (message, after) = after.split_at(length);
        rest = after;
        now = now.after(1_000_000);
        let Ok(message) = v1::AgentMessage::decode(message) else { continue };
        let Ok(Incoming { body, .. }) = Incoming::from_wire(message, &node) else { continue };
        for told in observation(body).into_iter().chain([Observation::Tick]) {
            let findings = detector.observe(told, now);
            assert!(
                findings_document(&findings)["findings"]
                    .as_array()
                    .is_some_and(|all| all.len() == findings.len())
            );
        }
    }
    drop(detector.jobs());
}
