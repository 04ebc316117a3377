//! Texts are lldpd 1.0.16's own, of ports in network namespaces; what is wrong with others was done to them.

use super::*;

const ONE: &str = include_str!("../../../tests/lldp/forms/node2.json");
const TWO: &str = include_str!("../../../tests/lldp/fabric/node0.json");
const JSON0: &str = include_str!("../../../tests/lldp/forms/node0.json0");
const KEYVALUE: &str = include_str!("../../../tests/lldp/forms/node0.keyvalue");

fn whom(text: &str) -> Vec<(String, String, String)> {
    let neighbours = parse(text).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    neighbours.into_iter().map(|n| (n.port, n.device, n.their_port)).collect()
}

#[test]
fn all_forms_say_the_same() {
    let expected = parse(TWO).expect("sound");
    assert_eq!(whom(TWO).len(), 3);
    assert!(whom(TWO).contains(&("enp65s0f0np0".into(), "leaf0".into(), "swp1".into())));
    for text in [JSON0, KEYVALUE] {
        let mut others = parse(text).expect("sound");
        for (other, own) in others.iter_mut().zip(&expected) {
            assert_ne!(other.place, own.place);
            other.place.clone_from(&own.place);
        }
        assert_eq!(others, expected);
    }
    assert!(expected.iter().any(|neighbour| neighbour.forwards), "leaves do");
    assert!(expected.iter().all(|neighbour| neighbour.gbps == Some(10.0)), "as the kernel says of veth");
}

#[test]
fn what_is_there_once_is_no_list() {
    assert_eq!(whom(ONE), [("enp65s0f0np0".into(), "leaf0".into(), "swp3".into())]);
    for nobody in ["{\n  \"lldp\": {\n    \n  }\n}", "{\"lldp\": [{}]}", "\n", ""] {
        assert_eq!(whom(nobody), [], "{nobody:?}");
    }
}

#[test]
fn who_has_no_name_goes_by_its_id() {
    let unnamed = r#"{"lldp": {"interface": {"eth0": {"via": "LLDP",
        "chassis": {"id": {"type": "mac", "value": "02:00:00:00:00:01"}, "descr": "a switch"},
        "port": {"id": {"type": "ifname", "value": "Ethernet1/1"}, "descr": "to node0"}}}}}"#;
    assert_eq!(whom(unnamed), [("eth0".into(), "02:00:00:00:00:01".into(), "Ethernet1/1".into())]);
}

#[test]
fn descriptions_may_have_several_lines_and_ports_dots() {
    let text = "lldp.eth0.100.via=LLDP\nlldp.eth0.100.chassis.mac=02:00:00:00:00:01\nlldp.eth0.100.chassis.name=leaf0\n\
        lldp.eth0.100.chassis.descr=Switch OS\nCopyright (c)\n\nall rights\nlldp.eth0.100.port.ifname=swp1\n\
        lldp.eth0.100.port.descr=to node0\n";
    assert_eq!(whom(text), [("eth0.100".into(), "leaf0".into(), "swp1".into())]);
}

#[test]
fn what_is_no_such_text_is_told_with_its_place() {
    let place = |text: &str| parse(text).expect_err("wrong").place;
    assert_eq!(place("{"), "");
    assert_eq!(place("{\"lldpd\": 1}"), "");
    assert_eq!(place("{\"lldp\": {\"interface\": [1]}}"), "lldp.interface[0]");
    assert_eq!(
        place("{\"lldp\": {\"interface\": {\"eth0\": {\"via\": \"LLDP\"}}}}"),
        "lldp.interface[0].eth0"
    );
    assert_eq!(place(&ONE.replace("\"id\"", "\"it\"")), "lldp.interface[0].enp65s0f0np0");
    assert_eq!(place("hello"), "line 1");
    assert_eq!(place("lldp.eth0.chassis.name=leaf0"), "line 1");
    assert_eq!(place("lldp.eth0.via=LLDP\nlldp.eth1.rid=1"), "line 2");
    assert_eq!(place("lldp.eth0.via=LLDP\nlldp.eth0.chassis.name=leaf0"), "line 1 (eth0)");
}

#[test]
fn rates_are_in_the_names_of_media() {
    for (mau, expected) in [
        ("100GbaseCR4 - 100GBASE-R PCS/PMA over 4 lane shielded copper", Some(100.0)),
        ("10GigBaseLR - R fiber over 1310 nm optics", Some(10.0)),
        ("1000BaseTFD - Four-pair Category 5 UTP, full duplex mode", Some(1.0)),
        ("2.5GbaseT", Some(2.5)),
        ("unknown", None),
        ("0Gbase", None),
        ("", None),
    ] {
        assert_eq!(rate(mau), expected, "{mau}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_is_in_a_file_is_read_or_refused(text: String, at in 0usize..KEYVALUE.len(), with: String) {
        let _ = parse(&text);
        for whole in [TWO, JSON0, KEYVALUE] {
            let mut at = at.min(whole.len());
            while !whole.is_char_boundary(at) {
                at -= 1;
            }
            let _ = parse(&format!("{}{with}{}", &whole[..at], &whole[at..]));
            let _ = parse(&whole[at..]);
        }
    }
}
