use super::*;

/// A value in words, for comparing.
fn say(pickle: &Pickle, id: NodeId) -> String {
    match pickle.node(id) {
        Node::None => "None".to_owned(),
        Node::Bool(value) => value.to_string(),
        Node::Int(value) => value.to_string(),
        Node::Float(value) => format!("{value:?}"),
        Node::Text(text) => format!("'{text}'"),
        Node::List(items) => {
            format!("[{}]", items.iter().map(|item| say(pickle, *item)).collect::<Vec<_>>().join(", "))
        }
        Node::Dict(pairs) => {
            let pairs =
                pairs.iter().map(|(key, value)| format!("{}: {}", say(pickle, *key), say(pickle, *value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

fn read(bytes: &[u8]) -> String {
    let pickle = parse(bytes).expect("a pickle");
    say(&pickle, pickle.root())
}

#[test]
fn every_protocol_says_the_same() {
    // pickle.dumps({'a': [1, -2, 300, 2**40, 2.5, True, None], 'b': ('x', 'x')}, protocol=N)
    let zero = b"(dp0\nVa\np1\n(lp2\nI1\naI-2\naI300\naI1099511627776\naF2.5\naI01\naNasVb\np3\n(Vx\np4\ng4\ntp5\ns.";
    let two = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01\x8a\x06\x00\x00\x00\x00\x00\x01G@\x04\x00\x00\x00\x00\x00\x00\x88NeX\x01\x00\x00\x00bq\x03X\x01\x00\x00\x00xq\x04h\x04\x86q\x05u.";
    let four = b"\x80\x04\x955\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01\x8a\x06\x00\x00\x00\x00\x00\x01G@\x04\x00\x00\x00\x00\x00\x00\x88Ne\x8c\x01b\x94\x8c\x01x\x94h\x04\x86\x94u.";
    let expected = "{'a': [1, -2, 300, 1099511627776, 2.5, true, None], 'b': ['x', 'x']}";
    assert_eq!(read(zero), expected);
    assert_eq!(read(two), expected);
    assert_eq!(read(four), expected);
}

#[test]
fn code_is_named_and_placed() {
    let says = |bytes: &[u8]| parse(bytes).expect_err("refused").to_string();
    let said = says(b"\x80\x02}q\x00X\x01\x00\x00\x00acos\nsystem\nX\x02\x00\x00\x00id\x85R.");
    assert!(said.contains("this pickle holds code (GLOBAL 'os system' at byte 11)"), "{said}");
    let said = says(b"\x80\x04\x8c\x05posix\x8c\x06system\x93.");
    assert!(said.contains("STACK_GLOBAL 'posix system' at byte 17"), "{said}");
    let said = says(b"(S'id'\nios\nsystem\n.");
    assert!(said.contains("INST 'os system' at byte 7"), "{said}");
    for (op, name) in
        [(b'R', "REDUCE"), (b'b', "BUILD"), (b'o', "OBJ"), (0x81, "NEWOBJ"), (0x82, "EXT1"), (b'P', "PERSID")]
    {
        let said = says(&[0x80, 2, b'N', b'N', op, b'.']);
        assert!(said.contains(&format!("{name} at byte 4")), "{said}");
    }
}

#[test]
fn every_beginning_of_a_pickle_is_an_error_with_its_place() {
    let whole = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01e\x8a\x02\x00\x01NG@\x04\x00\x00\x00\x00\x00\x00Nu.";
    parse(whole).expect("whole");
    for length in 0..whole.len() {
        match parse(&whole[..length]) {
            Err(PickleError::Truncated { at, .. }) => assert_eq!(at, length),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
}

#[test]
fn nonsense_is_refused() {
    for bytes in [
        &b"\x80\x09N."[..],  // a protocol that does not exist
        b".",                // nothing on the stack
        b"\x80\x02a.",       // append to nothing
        b"\x80\x02NNa.",     // append to what is no list
        b"\x80\x02](Nu.",    // half a pair
        b"\x80\x02h\x07.",   // a memo that was never stored
        b"\x80\x02e.",       // no mark
        b"\x80\x02N(0\x86.", // fewer than two
        b"\x80\x02]N(Na.e.", // reaching below a mark
        b"\x80\x02\xff.",    // no instruction
        b"Iseven\n.",
        b"\x8b\xff\xff\xff\x7f.",
    ] {
        assert!(parse(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_length_beyond_the_file_costs_no_memory() {
    let error = parse(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f").expect_err("refused");
    assert!(matches!(error, PickleError::Truncated { .. }), "{error}");
}

#[test]
fn what_contains_itself_is_read() {
    // l = []; l.append(l)
    let pickle = parse(b"\x80\x02]q\x00h\x00a.").expect("a pickle");
    assert_eq!(pickle.node(pickle.root()), &Node::List(vec![pickle.root()]));
}

#[test]
fn whole_numbers_of_every_length() {
    assert_eq!(read(b"\x8a\x00."), "0");
    assert_eq!(read(b"\x8a\x01\xff."), "-1");
    assert_eq!(read(b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80."), i64::MIN.to_string());
    assert_eq!(read(b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\x00."), i64::MAX.to_string());
    assert_eq!(read(b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00."), format!("{:?}", f64::MAX));
}
