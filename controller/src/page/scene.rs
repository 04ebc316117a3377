//! A scene as JSON: a column for each property, since there are tens of thousands of ranks.

use c4_detect::{
    observation::Timestamp,
    scene::{Entry, HealthNote, LinkDelay, Scene, Standing, Standstill},
    view::RankState,
};
use serde_json::{Value, json};

pub(super) fn value(scene: &Scene) -> Value {
    let Scene { spots, links, .. } = scene;
    json!({
        "taken_us": scene.taken.0,
        "incarnation": scene.incarnation,
        "nodes": scene.nodes,
        "rank": spots.iter().map(|spot| spot.rank).collect::<Vec<_>>(),
        "node": spots.iter().map(|spot| spot.node).collect::<Vec<_>>(),
        "gpu": spots.iter().map(|spot| spot.gpu).collect::<Vec<_>>(),
        "state": spots.iter().map(|spot| letter(spot.state)).collect::<String>(),
        "completed": spots.iter().map(|spot| spot.completed).collect::<Vec<_>>(),
        "left_out": scene.spots_left_out,
        "axes": scene.axes,
        "standstills": scene.standstills.iter().map(standstill).collect::<Vec<_>>(),
        "standstills_left_out": scene.standstills_left_out,
        "peer_waits": scene.peer_waits.iter()
            .map(|wait| json!([wait.waiter, wait.peer, wait.is_send, wait.since.0]))
            .collect::<Vec<_>>(),
        "roots": scene.roots,
        "links": links.iter().map(link).collect::<Vec<_>>(),
        "links_left_out": scene.links_left_out,
        "iterations": scene.iterations.iter()
            .map(|point| [point.at.0, point.iterations, point.least_us, point.mean_us, point.most_us])
            .collect::<Vec<_>>(),
        "health": scene.health.iter().map(health).collect::<Vec<_>>(),
    })
}

fn letter(state: RankState) -> char {
    match state {
        RankState::Running => 'r',
        RankState::Waiting => 'w',
        RankState::Stopped => 's',
        RankState::Dead => 'd',
        RankState::Ended => 'e',
        RankState::Unknown => 'u',
    }
}

fn standstill(standstill: &Standstill) -> Value {
    let members = &standstill.members;
    let moment = |at: fn(&Entry) -> Option<Timestamp>| -> Vec<Option<u64>> {
        members.iter().map(|entry| at(entry).map(|at| at.0)).collect()
    };
    json!({
        "communicator": standstill.communicator,
        "function": standstill.function,
        "operation": standstill.operation,
        "since_us": standstill.since.0,
        "is_root": standstill.is_root,
        "spot": members.iter().map(|entry| entry.spot).collect::<Vec<_>>(),
        "standing": members.iter().map(|entry| standing(entry.standing)).collect::<String>(),
        "enqueued_us": moment(|entry| entry.enqueued),
        "started_us": moment(|entry| entry.started),
        "position": members.iter().map(|entry| entry.position).collect::<Vec<_>>(),
        "left_out": standstill.members_left_out,
    })
}

fn standing(standing: Standing) -> char {
    match standing {
        Standing::Waiting => 'w',
        Standing::Past => 'p',
        Standing::Ended => 'e',
        Standing::Stopped => 's',
        Standing::NotEntered => 'n',
        Standing::Queued => 'q',
        Standing::Left => 'l',
        Standing::Unseen => 'u',
    }
}

fn link(link: &LinkDelay) -> Value {
    // Two digits are as many as mean anything, and a tenth of the bytes.
    json!([link.src, link.dst, (link.times * 100.0).round() / 100.0, link.slow])
}

fn health(note: &HealthNote) -> Value {
    json!({
        "at_us": note.at.0,
        "until_us": note.until.map(|at| at.0),
        "node": note.event.node,
        "gpu": note.event.gpu,
        "nic": note.event.nic,
        "code": note.event.code,
        "detail": note.event.detail,
        "severity": note.event.severity,
    })
}
