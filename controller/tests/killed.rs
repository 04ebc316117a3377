//! The controller as it ships is killed (SIGKILL) at every step of an action, started again, and must neither lose the
//! action nor do anything twice. The agents are doubles that count what they are made to do; as real ones, they carry a
//! command out once and answer it again with the same result.

use std::sync::{Arc, Mutex};

mod support;

use support::{
    done, program,
    world::{RANKS, World, agent},
};

/// Kills the controller at one moment, and lets another finish. Returns whether the moment came.
async fn killed_at(moment: &str) -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("c4.yaml");
    let write = |grpc: &str, http: &str| {
        let state = dir.path().join("state");
        let text = format!(
            "listen: {grpc}\nhttp: {http}\nstate: {}\nsteer: {{mode: auto, settle_seconds: 0.0, stop_timeout_seconds: 25.0}}\n",
            state.display()
        );
        std::fs::write(&config, text).expect("written");
    };
    write("127.0.0.1:0", "127.0.0.1:0");
    let (mut first, grpc) = program(&config, Some(moment)).await;
    write(&grpc, "127.0.0.1:0");
    let world = Arc::new(Mutex::new(World::dying()));
    let agents: Vec<_> = (0..RANKS as usize)
        .map(|node| tokio::spawn(agent(node, vec![format!("http://{grpc}")], world.clone())))
        .collect();
    let came = tokio::select! {
        _ = first.wait() => true,
        actions = done(&grpc) => {
            assert_eq!(actions.len(), 1);
            false
        }
    };
    if came {
        let (_second, grpc) = program(&config, None).await;
        let actions = done(&grpc).await;
        assert_eq!(actions.len(), 1, "killed {moment}: {actions:#?}");
        let world = world.lock().expect("unpoisoned");
        let once = |node: usize| (node, 1);
        for node in 0..RANKS as usize {
            assert_eq!(world.stops.get(&(node, 0)), Some(&1), "killed {moment}: {world:#?}");
            assert_eq!(world.starts.get(&once(node)), Some(&1), "killed {moment}: {world:#?}");
            assert_eq!((world.incarnation[node], world.stopped[node]), (1, false), "killed {moment}");
        }
        assert_eq!((world.stops.len(), world.starts.len()), (2, 2), "killed {moment}: {world:#?}");
    }
    for agent in agents {
        agent.abort();
    }
    came
}

#[tokio::test]
async fn a_controller_killed_at_every_step_loses_nothing_and_does_nothing_twice() {
    let mut moments = 0;
    for number in 1.. {
        let before = killed_at(&format!("before:{number}")).await;
        if !before {
            break;
        }
        assert!(killed_at(&format!("after:{number}")).await);
        moments += 2;
    }
    // Planned, stopping, starting, done: each before and after it was written.
    assert_eq!(moments, 8);
}
