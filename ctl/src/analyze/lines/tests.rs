use std::io::{Cursor, Write};

use flate2::{Compression, write::GzEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

fn all(bytes: Vec<u8>, limit: usize) -> io::Result<Vec<Option<String>>> {
    let mut lines = Lines::new(decompressed(Cursor::new(bytes))?, limit);
    let mut read = Vec::new();
    while let Some(line) = lines.read()? {
        read.push(match line {
            Line::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            Line::TooLong => None,
        });
    }
    Ok(read)
}

fn texts(lines: &[&str]) -> Vec<Option<String>> {
    lines.iter().map(|line| Some((*line).to_owned())).collect()
}

#[test]
fn the_last_line_needs_no_newline_and_windows_is_welcome() {
    assert_eq!(all(b"a\r\n\nb".to_vec(), 100).expect("reads"), texts(&["a", "", "b"]));
    assert_eq!(all(Vec::new(), 100).expect("reads"), texts(&[]));
}

#[test]
fn a_line_that_is_too_long_is_skipped_and_the_next_is_read() {
    let mut bytes = vec![b'x'; 1 << 20];
    bytes.extend_from_slice(b"\nshort\n");
    let lines = all(bytes, 16).expect("reads");
    assert_eq!(lines, [None, Some("short".to_owned())]);
}

#[test]
fn a_long_line_is_not_kept_in_memory() {
    let endless = BufReader::with_capacity(BUFFER, io::repeat(b'x').take(1 << 28));
    let mut lines = Lines::new(Box::new(endless), 1 << 10);
    assert_eq!(lines.read().expect("reads"), Some(Line::TooLong));
    assert!(lines.buffer.capacity() <= 1 << 10, "{}", lines.buffer.capacity());
}

#[test]
fn gzip_and_zstd_read_like_plain_text() {
    let text = "one\ntwo\n".repeat(20_000);
    let expected = all(text.clone().into_bytes(), 100).expect("plain");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text.as_bytes()).expect("compresses");
    assert_eq!(all(gzip.finish().expect("compresses"), 100).expect("gzip"), expected);
    let zstd = compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
    assert_eq!(all(zstd, 100).expect("zstd"), expected);
}

#[test]
fn several_members_or_frames_are_one_text() {
    let member = |text: &str| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(text.as_bytes()).expect("compresses");
        gzip.finish().expect("compresses")
    };
    let gzip = [member("a\n"), member("b\n")].concat();
    assert_eq!(all(gzip, 100).expect("gzip"), texts(&["a", "b"]));
    let frame = |text: &str| compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    let zstd = [skippable, frame("a\n"), frame("b\n")].concat();
    assert_eq!(all(zstd, 100).expect("zstd"), texts(&["a", "b"]));
}

#[test]
fn what_is_cut_off_is_an_error_after_what_was_whole() {
    for whole in [
        {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&b"line\n".repeat(1000)).expect("compresses");
            gzip.finish().expect("compresses")
        },
        compress_to_vec(&b"line\n".repeat(1000)[..], CompressionLevel::Fastest),
    ] {
        let cut = whole[..whole.len() - 6].to_vec();
        assert!(all(cut, 100).is_err());
    }
}
