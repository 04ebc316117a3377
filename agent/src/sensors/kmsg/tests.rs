use std::{collections::BTreeMap, fs, io::Write, os::unix::fs::symlink};

use c4_detect::observation::Severity;

use super::*;
use crate::sensors::Address;

/// GPUs at these addresses.
fn gpus(addresses: &[&str]) -> Gpus {
    let gpus = Gpus::default();
    gpus.learn(addresses.iter().map(|address| Address::parse(address).unwrap()));
    gpus
}

fn places() -> Places {
    let at = |text| Address::parse(text).unwrap();
    Places::new(
        gpus(&["0000:3b:00.0", "0000:65:00.0"]),
        BTreeMap::from([(at("0000:5e:00.0"), "mlx5_0".to_owned())]),
    )
}

fn parse(record: &str) -> Option<Health> {
    parse_record(record, &places())
}

#[test]
fn xids_as_the_driver_writes_them() {
    let record = "4,1203,998877,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n SUBSYSTEM=pci";
    let health = parse(record).unwrap();
    assert_eq!((health.code.as_str(), health.severity, health.gpu), ("xid-79", Severity::Fatal, Some(0)));
    assert!(health.detail.starts_with("NVRM: Xid (PCI:0000:3b:00): 79"));
    let mmu =
        parse("NVRM: Xid (PCI:0000:65:00): 31, pid=9, name=python, Ch 00000010, intr 00000000. MMU Fault")
            .unwrap();
    assert_eq!((mmu.severity, mmu.gpu), (Severity::Info, Some(1)));
    let nvlink = "NVRM: Xid (PCI:0000:65:00): 149, NETIR_LINK_EVT  Nonfatal XC0 i0 Link 07 (0x0 0x0)";
    assert_eq!(parse(nvlink).unwrap().severity, Severity::Warning);
    let action = "NVRM: Xid (PCI:0000:65:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)";
    assert_eq!(parse(action).unwrap().severity, Severity::Fatal);
}

#[test]
fn sxids_belong_to_a_switch_not_to_a_gpu() {
    let switch =
        parse("nvidia-nvswitch3: SXid (PCI:0000:3b:00.0): 20034, Fatal, Link 30 LTSSM Fault Up").unwrap();
    assert_eq!((switch.code.as_str(), switch.gpu, switch.severity), ("sxid-20034", None, Severity::Fatal));
    let light = parse("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 11012, Non-fatal, Link 30 ECC").unwrap();
    assert_eq!(light.severity, Severity::Info);
}

#[test]
fn ports_of_one_nic_are_told_apart() {
    let at = |address: &str, name: &str| (Address::parse(address).unwrap(), name.to_owned());
    let nics = [at("0000:3c:00.0", "mlx5_0"), at("0000:3c:00.1", "mlx5_1")];
    let places = Places::new(gpus(&["0000:18:00.0"]), nics.into());
    assert_eq!((places.nic("0000:3c:00.0"), places.nic("0000:3c:00.1")), (Some("mlx5_0"), Some("mlx5_1")));
    assert_eq!((places.gpu("0000:18:00"), places.gpu("0000:18:00.1")), (Some(0), Some(0)), "one GPU");
}

#[test]
fn mlx5_links_and_health() {
    let down = parse("6,99,1,-;mlx5_core 0000:3c:00.0 eth2: Link down").unwrap();
    assert_eq!(
        (down.code.as_str(), down.nic.as_deref(), down.cleared),
        ("mlx5-link-down", Some("eth2"), false)
    );
    let up = parse("6,99,1,-;mlx5_core 0000:3c:00.0 eth2: Link up").unwrap();
    assert!(up.cleared && up.nic == down.nic);
    let health = |address: &str| {
        format!(
            "mlx5_core {address}: poll_health:825:(pid 0): device's health compromised - reached miss count"
        )
    };
    let known = parse(&health("0000:5e:00.0")).unwrap();
    assert_eq!((known.code.as_str(), known.nic.as_deref()), ("mlx5-health", Some("mlx5_0")));
    assert_eq!(parse(&health("0000:5f:00.0")).unwrap().nic.as_deref(), Some("0000:5f:00.0"));
}

#[test]
fn errors_of_the_bus_the_memory_and_the_host() {
    let code = |text: &str| parse(text).map(|health| (health.code, health.gpu, health.nic));
    let told = |code: &str, gpu, nic: Option<&str>| Some((code.to_owned(), gpu, nic.map(str::to_owned)));
    let of = |address: &str| {
        format!("pcieport 0000:3a:00.0: AER: Uncorrectable (Fatal) error message received from {address}")
    };
    assert_eq!(code(&of("0000:65:00.0")), told("pcie-error", Some(1), None));
    assert_eq!(code(&of("0000:5e:00.0")), told("pcie-error", None, Some("mlx5_0")));
    assert_eq!(code(&of("0000:01:00.0")), told("pcie-error", None, None));
    assert_eq!(
        code("pcieport 0000:3a:00.0: AER: Corrected error received: 0000:01:00.0"),
        told("pcie-corrected", None, None)
    );
    for killed in [
        "Out of memory: Killed process 4711 (python) total-vm:1kB",
        "Memory cgroup out of memory: Killed process 1 (x)",
    ] {
        assert_eq!(code(killed), told("oom-kill", None, None));
    }
    assert_eq!(
        code("mce: [Hardware Error]: CPU 5: Machine Check Exception: 5 Bank 0"),
        told("machine-check", None, None)
    );
    assert_eq!(code("mce: [Hardware Error]: Machine check events logged"), None, "corrected, mostly");
    let crash =
        "6,1,1,-;python[4711]: segfault at 0 ip 00007f sp 00007f error 4 in libnccl.so.2.28.9[7f00+100]";
    assert_eq!(code(crash), told("nccl-segfault", None, None));
    assert_eq!(code("python[1]: segfault at 0 ip 0 sp 0 error 4 in libc.so.6"), None);
}

#[test]
fn everything_else_is_ignored() {
    for text in [
        "",
        ";",
        "6,1,2,-;",
        "Xid (",
        "NVRM: Xid (PCI",
        "NVRM: Xid (PCI:1): x",
        "NVRM: Xid (PCI:1): 99999999999",
        "mlx5_core ",
    ] {
        assert_eq!(parse(text), None, "{text:?}");
    }
    let long = format!("NVRM: Xid (PCI:0000:3b:00): 79, {}", "ü".repeat(10_000));
    assert_eq!(parse(&long).unwrap().detail.chars().count(), 300);
}

#[test]
fn nics_are_found_by_address() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("mlx5_0")).unwrap();
    symlink("../../../0000:5e:00.0", root.path().join("mlx5_0/device")).unwrap();
    let mut places = Places::new(gpus(&[]), BTreeMap::new());
    places.look(root.path());
    assert_eq!(places.nic("0000:5e:00.0"), Some("mlx5_0"));
}

#[test]
fn only_what_is_written_after_the_start_is_told_and_the_same_once_in_ten_seconds() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "4,1,1,-;NVRM: Xid (PCI:0000:3b:00): 48, old").unwrap();
    let settings = KmsgSettings { path: file.path().to_owned(), ..KmsgSettings::default() };
    let (mut sensor, _) = KmsgSensor::open(settings, gpus(&[])).unwrap();
    let start = Instant::now();
    let mut at = |second| {
        let sampled = sensor.sample(start + Duration::from_secs(second), Duration::ZERO);
        assert!(!sampled.waited, "a plain file cannot tell that there is more");
        let told = |health: Health| (health.code, health.detail.contains("(2 more since"));
        sampled.health.into_iter().map(told).collect::<Vec<_>>()
    };
    assert_eq!(at(0), []);
    writeln!(file, "4,2,2,-;NVRM: Xid (PCI:0000:3b:00): 79, new\n SUBSYSTEM=pci\n6,3,3,-;other").unwrap();
    assert_eq!(at(1), [("xid-79".to_owned(), false)]);
    assert_eq!(at(2), []);
    writeln!(
        file,
        "4,4,4,-;NVRM: Xid (PCI:0000:3b:00): 79, again\n4,5,5,-;NVRM: Xid (PCI:0000:3b:00): 79, again"
    )
    .unwrap();
    writeln!(
        file,
        "4,6,6,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=1, x\n4,7,7,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=2, x"
    )
    .unwrap();
    assert_eq!(at(3), [("xid-31".to_owned(), false), ("xid-31".to_owned(), false)], "two processes");
    writeln!(file, "4,8,8,-;NVRM: Xid (PCI:0000:3b:00): 79, again").unwrap();
    assert_eq!(at(12), [("xid-79".to_owned(), true)]);
    writeln!(
        file,
        "6,9,9,-;mlx5_core 0000:3c:00.0 eth2: Link down\n6,9,9,-;mlx5_core 0000:3c:00.0 eth2: Link up"
    )
    .unwrap();
    writeln!(file, "6,9,9,-;mlx5_core 0000:3c:00.0 eth2: Link down").unwrap();
    assert_eq!(at(13).len(), 3, "a condition that comes and goes");
}
