//! Output of supervised processes: passed through line by line with the rank in front, or written to a file each.
//!
//! Whoever reads the agent's own output may stop for a while (a full disk behind `tee`, say): then the job's processes wait, as they would
//! without the agent, and the agent does not.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::LazyLock,
};

use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, sink},
    sync::Mutex,
};

/// Longest piece written at once: a line without an end must not fill the memory.
const MAX_LINE: u64 = 64 << 10;

/// What several processes write their lines to.
type Shared = Mutex<Box<dyn AsyncWrite + Send + Unpin>>;

/// The agent's standard output.
pub(super) static STDOUT: LazyLock<Shared> =
    LazyLock::new(|| shared(io::stdout().as_fd().try_clone_to_owned()));
/// The agent's standard error.
pub(super) static STDERR: LazyLock<Shared> =
    LazyLock::new(|| shared(io::stderr().as_fd().try_clone_to_owned()));

/// One that was closed takes everything and shows nothing.
fn shared(file: io::Result<OwnedFd>) -> Shared {
    Mutex::new(match file {
        Ok(file) => Box::new(File::from_std(file.into())),
        Err(_) => Box::new(sink()),
    })
}

/// Copies `from` to `to`, each line with `prefix` in front and whole, until the end.
pub(super) async fn pump(from: impl AsyncRead + Unpin, prefix: String, to: &Shared) {
    let mut from = BufReader::new(from);
    let mut lines = Vec::new();
    loop {
        lines.clear();
        // Those that are there already are written together.
        while lines.is_empty() || (from.buffer().contains(&b'\n') && (lines.len() as u64) < MAX_LINE) {
            let begin = lines.len();
            lines.extend_from_slice(prefix.as_bytes());
            match (&mut from).take(MAX_LINE).read_until(b'\n', &mut lines).await {
                Ok(0) | Err(_) if begin == 0 => return,
                Ok(0) | Err(_) => lines.truncate(begin),
                Ok(_) if lines.last() != Some(&b'\n') => lines.push(b'\n'),
                Ok(_) => {}
            }
        }
        let mut to = to.lock().await;
        // A closed terminal is no reason to stop reading: the job would block on a full pipe.
        let _ = to.write_all(&lines).await;
        let _ = to.flush().await;
    }
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
    use std::{io::Read, time::Duration};

    use super::*;

    /// Pumps this into a pipe; what comes out of it is read from the other end.
    fn pumped(input: Vec<u8>) -> (tokio::task::JoinHandle<()>, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let to = shared(Ok(writer.into()));
        (tokio::spawn(async move { pump(&input[..], "[rank 3] ".to_owned(), &to).await }), reader)
    }

    async fn read(mut from: io::PipeReader) -> String {
        let mut text = String::new();
        tokio::task::spawn_blocking(move || from.read_to_string(&mut text).map(|_| text))
            .await
            .unwrap()
            .unwrap()
    }

    #[tokio::test]
    async fn lines_get_their_rank_and_endless_ones_are_cut() {
        let mut input = b"one\ntwo\n".to_vec();
        input.extend(std::iter::repeat_n(b'x', usize::try_from(MAX_LINE).unwrap() + 3));
        let (_pumping, out) = pumped(input);
        let text = read(out).await;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(&lines[..2], ["[rank 3] one", "[rank 3] two"]);
        assert_eq!((lines.len(), lines[3]), (4, "[rank 3] xxx"));
    }

    #[tokio::test]
    async fn whoever_does_not_read_holds_up_the_job_and_nobody_else() {
        // More than a pipe holds, on a runtime of one thread.
        let input = b"0123456789\n".repeat(50_000);
        let (pumping, out) = pumped(input);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!pumping.is_finished(), "the pipe is full");
        assert_eq!(read(out).await.lines().count(), 50_000);
        pumping.await.unwrap();
    }
}
