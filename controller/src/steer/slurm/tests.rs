use super::*;

#[test]
fn nodes_are_read_with_their_states_and_reasons() {
    let line = "NodeName=n1 Arch=x86_64 CPUTot=2 OS=Linux 6.1 #1 SMP State=IDLE+DRAIN ThreadsPerCore=1 \
                Reason=C4: GPU 3 fell off (XID=79) at noon [root@2026-11-28T20:00:00]";
    let drained = node(&fields(line)).expect("a node");
    assert_eq!((drained.name.0.as_str(), drained.drained, drained.down), ("n1", true, false));
    assert_eq!(drained.reason, "C4: GPU 3 fell off (XID=79) at noon");
    let down = node(&fields("NodeName=n2 State=DOWN* ThreadsPerCore=1 Reason=Not responding [slurm@x]"))
        .expect("a node");
    assert_eq!((down.drained, down.down, down.reason.as_str()), (false, true, "Not responding"));
    let up = node(&fields("NodeName=n3 State=MIXED+CLOUD ThreadsPerCore=1")).expect("a node");
    assert_eq!((up.drained, up.down, up.reason.as_str()), (false, false, ""));
    assert_eq!(node(&fields("No nodes in the system")), None);
}

#[test]
fn a_reason_is_one_short_line() {
    let long = "é\n\"".repeat(400);
    let reason = reason(&long, "a");
    assert!(reason.len() <= MAX_REASON + 7 && !reason.contains(['\n', '"']), "{reason}");
}

#[test]
fn jobs_of_slurm_are_known_by_their_names() {
    assert_eq!(number(&JobId("slurm-77".into())), Some(77));
    assert_eq!(number(&JobId("slurm-x".into())), None);
    assert_eq!(number(&JobId("gpt".into())), None);
}
