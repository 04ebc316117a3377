//! Lines of a file that may be compressed and may be hostile: a line longer than [`LONGEST_LINE`] is skipped without
//! being kept, so ten gigabytes on one line cost no more memory than a short one.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// Longest line that is read, in bytes. An operation is some hundred bytes, the meta line of 100,000 ranks some ten
/// million.
pub const LONGEST_LINE: usize = 32 << 20;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BUFFER: usize = 1 << 16;

/// Opens a file, decompressing gzip and zstd as its first bytes say.
///
/// # Errors
/// When it cannot be opened or its first bytes cannot be read.
pub fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    decompressed(BufReader::with_capacity(BUFFER, File::open(path)?))
}

/// Decompresses what is compressed.
///
/// # Errors
/// When the first bytes cannot be read.
pub fn decompressed(mut source: impl BufRead + 'static) -> io::Result<Box<dyn BufRead>> {
    let magic = source.fill_buf()?;
    if magic.starts_with(&GZIP) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(source))));
    }
    if magic.starts_with(&ZSTD) || is_skippable_frame(magic) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, ZstdFrames::new(source))));
    }
    Ok(Box::new(source))
}

fn is_skippable_frame(magic: &[u8]) -> bool {
    matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// All frames of a zstd file, one after the other; the decoder itself knows only one.
struct ZstdFrames<S: BufRead> {
    source: S,
    decoder: FrameDecoder,
    inside: bool,
}

impl<S: BufRead> ZstdFrames<S> {
    fn new(source: S) -> Self {
        Self { source, decoder: FrameDecoder::new(), inside: false }
    }

    fn begin_frame(&mut self) -> io::Result<()> {
        match self.decoder.init(&mut self.source) {
            Ok(()) => self.inside = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
            }
            Err(error) => return Err(invalid(&error)),
        }
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.inside = false;
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(written), Some(calculated)) if written != calculated => {
                Err(invalid(&"the checksum of a zstd frame is wrong"))
            }
            _ => Ok(()),
        }
    }
}

fn invalid(error: &impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl<S: BufRead> Read for ZstdFrames<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside {
                if self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.begin_frame()?;
                continue;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                self.end_frame()?;
                continue;
            }
            let strategy = BlockDecodingStrategy::UptoBytes(buffer.len());
            self.decoder.decode_blocks(&mut self.source, strategy).map_err(|error| invalid(&error))?;
        }
    }
}

/// All of a file that must be small enough to be kept.
///
/// # Errors
/// When it cannot be read or decompressed, or is larger than `limit`: then what was `expected` is said.
pub fn read_whole(path: &Path, limit: u64, expected: &str) -> Result<Vec<u8>, String> {
    let too_large = || format!("more than {limit} bytes; expected {expected}");
    let told = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if told > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let source = open(path).map_err(|error| error.to_string())?;
    // One more than is allowed tells that there is more.
    let read = source.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot read on after {} bytes: {error}", bytes.len()))?;
    if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
}

/// A line of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Its bytes, without the newline.
    Text(&'a [u8]),
    /// It is longer than allowed.
    TooLong,
}

/// Reads line by line into one buffer.
pub struct Lines {
    source: Box<dyn BufRead>,
    buffer: Vec<u8>,
    limit: usize,
    number: u64,
}

impl Lines {
    /// Lines of `source` of at most `limit` bytes.
    #[must_use]
    pub fn new(source: Box<dyn BufRead>, limit: usize) -> Self {
        Self { source, buffer: Vec::new(), limit, number: 0 }
    }

    /// Number of the line last read, from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line, none at the end.
    ///
    /// # Errors
    /// When reading or decompressing fails; what was read before is still good.
    pub fn read(&mut self) -> io::Result<Option<Line<'_>>> {
        self.buffer.clear();
        let mut any = false;
        let mut too_long = false;
        loop {
            let available = match self.source.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            if available.is_empty() {
                break;
            }
            if !any {
                any = true;
                self.number += 1;
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..newline.unwrap_or(available.len())];
            if self.buffer.len() + part.len() > self.limit {
                too_long = true;
                self.buffer = Vec::new();
            }
            if !too_long {
                self.buffer.extend_from_slice(part);
            }
            let used = part.len() + usize::from(newline.is_some());
            self.source.consume(used);
            if newline.is_some() {
                break;
            }
        }
        Ok(match (any, too_long) {
            (false, _) => None,
            (true, true) => Some(Line::TooLong),
            (true, false) => Some(Line::Text(self.buffer.strip_suffix(b"\r").unwrap_or(&self.buffer))),
        })
    }
}

#[cfg(test)]
mod tests;
