//! Output of supervised processes: passed through line by line with the rank in front, or written to a file each.

use std::{
    io::{self, Write},
    path::Path,
};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Longest piece written at once: a line without an end must not fill the memory.
const MAX_LINE: u64 = 64 << 10;

/// Copies `from` to `to`, each line with `prefix` in front, until the end.
pub(super) async fn pump(
    from: impl AsyncRead + Unpin,
    prefix: String,
    mut to: impl FnMut(&[u8]) -> io::Result<()>,
) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        line.extend_from_slice(prefix.as_bytes());
        match (&mut from).take(MAX_LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if line.last() != Some(&b'\n') {
                    line.push(b'\n');
                }
                // A closed terminal is no reason to stop reading: the job would block on a full pipe.
                let _ = to(&line);
            }
        }
    }
}

/// Writes a whole line to stdout.
pub(super) fn stdout(line: &[u8]) -> io::Result<()> {
    io::stdout().lock().write_all(line)
}

/// Writes a whole line to stderr.
pub(super) fn stderr(line: &[u8]) -> io::Result<()> {
    io::stderr().lock().write_all(line)
}

/// Opens the log of one rank, for appending: restarts go on in the same file.
///
/// # Errors
/// It cannot be opened.
pub(super) fn log_file(directory: &Path, name: &str) -> io::Result<std::fs::File> {
    std::fs::create_dir_all(directory)?;
    std::fs::OpenOptions::new().create(true).append(true).open(directory.join(format!("{name}.log")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_get_their_rank_and_endless_ones_are_cut() {
        let mut input = b"one\ntwo".to_vec();
        input.extend_from_slice(b"\n");
        input.extend(std::iter::repeat_n(b'x', usize::try_from(MAX_LINE).unwrap() + 3));
        let mut lines = Vec::new();
        pump(&input[..], "[rank 3] ".to_owned(), |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        })
        .await;
        assert_eq!(&lines[..2], ["[rank 3] one\n", "[rank 3] two\n"]);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[3], "[rank 3] xxx\n");
    }
}
