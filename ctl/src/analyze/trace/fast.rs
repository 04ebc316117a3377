//! The quick way through a line. Traces have millions of lines that all look alike: one flat object of names without
//! escapes and plain numbers. Those are read here, byte by byte; whatever is not exactly that, and every mistake, is
//! left to the JSON parser, which says what is wrong. So this need not know all of JSON, but what it takes must mean the
//! same to both.

use std::borrow::Cow;

use super::{Name, Raw, Whole};

/// Reads a line, if it is of the usual kind.
pub(super) fn read(text: &[u8]) -> Option<Raw<'_>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut raw = Raw::default();
    scanner.space();
    scanner.expect(b'{')?;
    let mut seen = 0_u16;
    loop {
        scanner.space();
        let key = scanner.name()?;
        scanner.space();
        scanner.expect(b':')?;
        scanner.space();
        let field = Field::of(key.as_bytes());
        if let Some(field) = field {
            // A field that comes twice is a mistake, which the other parser will name.
            let bit = 1 << field as u16;
            if seen & bit != 0 {
                return None;
            }
            seen |= bit;
        }
        scanner.value(field, &mut raw)?;
        scanner.space();
        match scanner.next()? {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    scanner.space();
    (scanner.at == text.len()).then_some(raw)
}

#[derive(Clone, Copy)]
enum Field {
    Rank,
    Comm,
    Seq,
    Peer,
    Name,
    Op,
    Tag,
    Group,
    Iteration,
    Bytes,
    Enqueued,
    Start,
    End,
}

impl Field {
    fn of(key: &[u8]) -> Option<Self> {
        Some(match key {
            b"rank" => Field::Rank,
            b"comm" => Field::Comm,
            b"seq" => Field::Seq,
            b"peer" => Field::Peer,
            b"name" => Field::Name,
            b"op" => Field::Op,
            b"tag" => Field::Tag,
            b"group" => Field::Group,
            b"iteration" => Field::Iteration,
            b"bytes" => Field::Bytes,
            b"enqueued_us" => Field::Enqueued,
            b"start_us" => Field::Start,
            b"end_us" => Field::End,
            _ => return None,
        })
    }
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

enum Number {
    Whole(u64),
    Float(f64),
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// A text without escapes.
    fn name(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        if rest[length] != b'"' {
            return None;
        }
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).ok()
    }

    fn value(&mut self, field: Option<Field>, raw: &mut Raw<'a>) -> Option<()> {
        match self.peek()? {
            b'"' => {
                let name = Name(Cow::Borrowed(self.name()?));
                match field {
                    None => {}
                    Some(Field::Comm) => raw.comm = Some(name),
                    Some(Field::Name) => raw.name = Some(name),
                    Some(Field::Op) => raw.op = Some(name),
                    Some(Field::Tag) => raw.tag = Some(name),
                    Some(Field::Group) => raw.group = Some(name),
                    Some(_) => return None,
                }
            }
            b'-' | b'0'..=b'9' => {
                let number = self.number()?;
                match (field, number) {
                    (None, _) => {}
                    (Some(Field::Enqueued), number) => raw.enqueued_us = Some(number.float()),
                    (Some(Field::Start), number) => raw.start_us = Some(number.float()),
                    (Some(Field::End), number) => raw.end_us = Some(number.float()),
                    (Some(field), Number::Whole(number)) => {
                        let whole = Some(Whole(number));
                        match field {
                            Field::Rank => raw.rank = whole,
                            Field::Seq => raw.seq = whole,
                            Field::Peer => raw.peer = whole,
                            Field::Iteration => raw.iteration = whole,
                            Field::Bytes => raw.bytes = whole,
                            _ => return None,
                        }
                    }
                    (Some(_), Number::Float(_)) => return None,
                }
            }
            // Lists, objects, null, true and false.
            _ => return None,
        }
        Some(())
    }

    /// A number without an exponent.
    fn number(&mut self) -> Option<Number> {
        let from = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let digits_from = self.at;
        let mut whole = 0_u64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            whole = whole.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        let digits = self.at - digits_from;
        if digits == 0 || digits > 18 || (digits > 1 && self.text[digits_from] == b'0') {
            return None;
        }
        if self.peek() != Some(b'.') {
            // An exponent may follow, which is not for here.
            return match self.peek() {
                Some(b'e' | b'E') => None,
                _ if negative => Some(Number::Float(-(whole as f64))),
                _ => Some(Number::Whole(whole)),
            };
        }
        self.at += 1;
        let fraction_from = self.at;
        let mut scaled = whole;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            scaled = scaled.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        let fraction = self.at - fraction_from;
        if fraction == 0 || matches!(self.peek(), Some(b'e' | b'E')) {
            return None;
        }
        // Up to 2^53 and 10^22 both are exact, and so is their quotient, rounded once.
        if digits + fraction <= 15 {
            const POWERS: [f64; 16] =
                [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
            let value = scaled as f64 / POWERS[fraction];
            return Some(Number::Float(if negative { -value } else { value }));
        }
        let text = std::str::from_utf8(&self.text[from..self.at]).ok()?;
        text.parse().ok().map(Number::Float)
    }
}

impl Number {
    fn float(self) -> f64 {
        match self {
            Number::Whole(number) => number as f64,
            Number::Float(number) => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(text: &str) {
        let fast = read(text.as_bytes()).map(|raw| raw.understand(None));
        let slow = serde_json::from_slice::<Raw<'_>>(text.as_bytes()).map(|raw| raw.understand(None));
        match (fast, slow) {
            (Some(fast), Ok(slow)) => assert_eq!(fast, slow, "{text}"),
            (None, _) => panic!("not read: {text}"),
            (Some(fast), Err(error)) => panic!("{text}: {fast:?}, but {error}"),
        }
    }

    #[test]
    fn usual_lines_mean_the_same_to_both() {
        for text in [
            r#"{"rank":0,"comm":"dp0","seq":12,"op":"all_reduce","bytes":1048576,"start_us":1.0,"end_us":2.0}"#,
            r#" { "rank" : 3 , "peer":4,"op":"send","tag":"x","group":"g","start_us":-5,"iteration":7 } "#,
            r#"{"rank":0,"op":"compute","name":"vorwärts","start_us":123456789012.345,"end_us":1234567890123456.789}"#,
            r#"{"rank":0,"comm":"c","seq":999999999999999999,"op":"x","start_us":0.1,"other":"é","more":1.5}"#,
            r#"{"rank":0,"comm":"c","op":"x","start_us":0.000001,"enqueued_us":-0.5}"#,
        ] {
            same(text);
        }
    }

    #[test]
    fn what_is_unusual_is_left_alone() {
        for text in [
            "",
            "{}",
            "[1]",
            r#"{"rank":0"#,
            r#"{"rank":0} x"#,
            r#"{"rank":0,}"#,
            r#"{"rank":01}"#,
            r#"{"rank":1.}"#,
            r#"{"rank":-1}"#,
            r#"{"rank":-}"#,
            r#"{"rank":1e3}"#,
            r#"{"rank":0,"rank":1}"#,
            r#"{"rank":null}"#,
            r#"{"rank":"0"}"#,
            r#"{"rank":0.5}"#,
            r#"{"op":1}"#,
            r#"{"op":"a\n"}"#,
            r#"{"other":[1]}"#,
            r#"{"rank":99999999999999999999}"#,
            r#"{"start_us":NaN}"#,
        ] {
            assert!(read(text.as_bytes()).is_none(), "{text}");
        }
        assert!(read(b"{\"op\":\"\xff\"}").is_none());
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_read_means_the_same_to_both(
            start in -1e15..1e15_f64, digits in 0_usize..6, seq: u64, rank: u32, op in "[a-z_ é\"\\\\]{0,8}",
        ) {
            let text = format!(
                r#"{{"rank":{rank},"comm":"c","seq":{seq},"op":"{op}","start_us":{start:.digits$}}}"#
            );
            if read(text.as_bytes()).is_some() {
                same(&text);
            }
        }
    }
}
