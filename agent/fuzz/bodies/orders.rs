//! Any bytes as what a controller says to an agent, and as a file of orders: what is taken is within bounds. The input is a list
//! of messages, each behind two bytes of length; as a whole it is the file, too.

use std::time::Duration;

use c4_agent::{
    paths::{explore::Wish, mailbox::Instructions, orders},
    report::{Command, CommandAction, Part, TimeSteps},
};
use c4_proto::v1::{self, controller_message::Body};
use prost::Message;

/// Nothing that a controller says may last longer.
const LONGEST: Duration = Duration::from_secs(600);

/// Plays one input.
pub fn run(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        match orders::parse(text, "host-0") {
            Ok(orders) => assert!(orders.iter().all(|order| order.host == "host-0" && !order.paths.is_empty())),
            Err(error) => assert!(!error.to_string().is_empty(), "a refusal without a reason"),
        }
    }
    let mut rest = bytes;
    while let [high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (message, after) = after.split_at(length);
        rest = after;
        let Ok(message) = v1::ControllerMessage::decode(message) else { continue };
        match message.body {
            Some(Body::Command(command)) => {
                let Ok(command) = Command::try_from(command) else { continue };
                drop(command.span());
                let Command { id, action, .. } = command;
                assert!(!id.is_empty());
                match action {
                    CommandAction::StopGroup { grace, .. } => assert!(grace <= LONGEST),
                    CommandAction::StartGroup { part: Part::Assigned(assignment), .. } => {
                        assert!(assignment.node_rank < assignment.nodes && assignment.ranks <= assignment.world_size);
                    }
                    _ => {}
                }
            }
            Some(Body::TimeSteps(wish)) => assert!(TimeSteps::from(wish).duration <= LONGEST),
            Some(Body::PathOrders(orders)) => {
                let Ok(taken) = Instructions::try_from(orders) else { continue };
                assert!(taken.orders.iter().all(|order| order.paths.iter().all(|route| route.units > 0)));
            }
            Some(Body::ExplorePaths(wish)) => {
                let Ok(taken) = Wish::try_from(wish) else { continue };
                assert!(taken.ends.len() <= 4_096);
            }
            _ => {}
        }
    }
}
