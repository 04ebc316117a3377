//! How messages are read from a stream and written to one.
//!
//! A controller has a stream for each of ten thousand nodes, and takes what a hundred thousand processes say each second. So buffers
//! begin small, since most of what a controller says fits, and grow to what is said; and a message, which lies in one piece, is
//! read as such, which takes less than from a buffer that might be in several.

use std::marker::PhantomData;

use prost::{Message, bytes::Buf};
use tonic::{
    Status,
    codec::{self, BufferSettings, DecodeBuf},
};
use tonic_prost::ProstEncoder;

/// What a buffer begins with, and what it grows by, in bytes.
const BUFFER: usize = 1 << 10;
/// Bytes after which what is written goes out though there is more. Whoever reads has a buffer for the largest piece as long as the
/// connection lives, and agents have much to say only when they begin.
const YIELD: usize = 8 << 10;

/// See the module. `T` is written, `U` is read.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static, U: Message + Default + 'static> codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(PhantomData)
    }
}

/// Reads messages.
#[derive(Debug)]
pub struct Decoder<U>(PhantomData<U>);

impl<U: Message + Default> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let length = from.remaining();
        let message = if from.chunk().len() == length {
            let message = U::decode(from.chunk());
            from.advance(length);
            message
        } else {
            U::decode(from)
        };
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}
