//! The bodies of calls, in small pieces.
//!
//! What a call receives is added to a buffer of its own, frame by frame, before the messages in it are taken out, and the buffer stays as
//! large as it ever had to be. Frames have up to 16 KiB, so ten thousand agents that once had much to say would keep 46 kB each;
//! in pieces it is little more than their largest message.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::{Bytes, Frame};
use tonic::{Status, body::Body, codegen::http::Request};

/// Bytes of a piece.
const PIECE: usize = 4 << 10;

/// See the module.
struct Pieces {
    body: Body,
    /// What is left of a frame.
    rest: Bytes,
}

/// The same request with its body in pieces.
pub(super) fn in_pieces(request: Request<Body>) -> Request<Body> {
    request.map(|body| Body::new(Pieces { body, rest: Bytes::new() }))
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use hyper::body::Body as _;

    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_or_mixed_up() {
        let sent: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        let whole = Body::new(axum::body::Body::from(sent.clone()));
        let mut body = in_pieces(Request::new(whole)).into_body();
        let (mut came, mut lengths) = (Vec::new(), Vec::new());
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let data = frame.unwrap().into_data().unwrap();
            lengths.push(data.len());
            came.extend_from_slice(&data);
        }
        assert_eq!(came, sent);
        assert_eq!(lengths, [4096, 4096, 1808]);
        assert!(body.is_end_stream());
    }
}
