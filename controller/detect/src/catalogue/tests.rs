use super::*;

#[test]
fn every_documented_xid_is_there_once() {
    for number in 1..=xid::LAST {
        let said = xid::entry(number, "").said;
        assert!(!said.contains("not in C4's table"), "XID {number}");
    }
    assert!(xid::entry(xid::LAST + 1, "").said.contains("not in C4's table"));
    assert_eq!(entry("xid-4294967296", ""), None, "no number");
}

#[test]
fn the_programs_faults_are_not_the_hardwares() {
    for number in [11, 13, 25, 31, 43, 69, 137] {
        let entry = xid::entry(number, "");
        assert_eq!((entry.origin, entry.severity), (Origin::Application, Severity::Info), "XID {number}");
        assert_eq!(entry.action, Action::CheckApplication, "XID {number}");
    }
    assert_eq!(xid::entry(45, "").origin, Origin::Consequence);
}

#[test]
fn what_breaks_a_gpu_is_fatal_and_says_what_to_do() {
    for number in
        [46, 48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 144, 149, 151, 158, 167, 171, 172]
    {
        let entry = xid::entry(number, "");
        assert_eq!((entry.severity, entry.effect), (Severity::Fatal, Effect::Stops), "XID {number}");
        assert_ne!(entry.action, Action::Nothing, "XID {number}");
    }
}

#[test]
fn what_the_driver_writes_weighs_more_than_the_number() {
    let changed = |to: &str| format!("154, GPU recovery action changed from 0x0 (None) to {to}");
    assert_eq!(xid::entry(154, &changed("0x2 (Node Reboot Required)")).action, Action::RestartNode);
    assert_eq!(xid::entry(154, &changed("0x1 (GPU Reset Required)")).severity, Severity::Fatal);
    let back = xid::entry(154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)");
    assert_eq!((back.severity, back.action), (Severity::Info, Action::FollowOther));
    let nvlink =
        |word: &str| xid::entry(149, &format!("149, NETIR_LINK_EVT  {word} XC0 i0 Link 07")).severity;
    assert_eq!((nvlink("Fatal"), nvlink("Nonfatal")), (Severity::Fatal, Severity::Warning));
}

#[test]
fn switches_have_three_classes() {
    assert_eq!(sxid::class(11012), Some(sxid::Class::NonFatal));
    assert_eq!(sxid::class(20034), Some(sxid::Class::Fatal));
    assert_eq!(sxid::class(23001), Some(sxid::Class::AlwaysFatal));
    let severity = |code: &str, detail: &str| entry(code, detail).map(|entry| entry.severity);
    assert_eq!(severity("sxid-20034", "20034, Fatal, Link 30 LTSSM Fault Up"), Some(Severity::Fatal));
    assert_eq!(severity("sxid-19084", "19084, Non-fatal, Link 04"), Some(Severity::Info));
    assert_eq!(
        severity("sxid-99999", "99999, Fatal, Link 04"),
        Some(Severity::Fatal),
        "unknown, but it says so"
    );
    assert_eq!(severity("sxid-99999", ""), Some(Severity::Info));
}

#[test]
fn codes_have_titles_and_unknown_ones_have_no_entry() {
    assert_eq!(
        (title("xid-79"), title("sxid-1"), title("link-down")),
        ("XID 79".into(), "SXID 1".into(), "link-down".into())
    );
    assert!(entry("nic-symbol-errors", "").is_some_and(|entry| entry.part == Part::Nic && !entry.moment));
    assert_eq!(entry("something-else", ""), None);
}
