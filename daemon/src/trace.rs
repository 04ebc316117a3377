//! The name of one conversation, by which its lines are found in the logs of both ends, and its spans at a collector: W3C
//! Trace Context, of which proxies and scripts may have begun one before.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
};

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header that it travels in.
pub const HEADER: &str = "traceparent";

/// The name of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    /// Whoever sends the header.
    parent: u64,
    /// Whether its spans are kept.
    sampled: bool,
}

impl Trace {
    /// A new one. The standard library seeds its hashers from the system's random numbers.
    #[must_use]
    pub fn begin() -> Self {
        let word = || RandomState::new().build_hasher().finish();
        // Zero means none; it is as likely as any other number.
        let id = (u128::from(word()) << 64 | u128::from(word())).max(1);
        Self { id, parent: word().max(1), sampled: true }
    }

    /// Makes `span`, which nobody has entered yet, a part of the conversation that a header names; without such a header, of the one
    /// that goes on around it, or that begins with it. The span says in its field `trace` which, and what is returned is to be sent on.
    #[must_use]
    pub fn of(span: &Span, header: Option<&str>) -> Self {
        let before = header.and_then(Self::from_header);
        if let Some(before) = before {
            // Without a collector nobody wants to know.
            let _ = span.set_parent(Context::new().with_remote_span_context(before.context()));
        }
        let known = span.context();
        let known = known.span();
        let known = known.span_context();
        let trace = if known.is_valid() {
            Self {
                id: u128::from_be_bytes(known.trace_id().to_bytes()),
                parent: u64::from_be_bytes(known.span_id().to_bytes()),
                sampled: known.is_sampled(),
            }
        } else {
            before.unwrap_or_else(Self::begin)
        };
        span.record("trace", field::display(trace));
        trace
    }

    fn context(self) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        let (id, parent) =
            (TraceId::from_bytes(self.id.to_be_bytes()), SpanId::from_bytes(self.parent.to_be_bytes()));
        SpanContext::new(id, parent, flags, true, TraceState::NONE)
    }

    /// What is in a header, if it is one.
    #[must_use]
    pub fn from_header(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        // Later versions may have more parts; this one has not.
        let known = is_hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
        if !known || !is_hex(id, 32) || !is_hex(parent, 16) || !is_hex(flags, 2) {
            return None;
        }
        let trace = Self {
            id: u128::from_str_radix(id, 16).ok()?,
            parent: u64::from_str_radix(parent, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (trace.id != 0 && trace.parent != 0).then_some(trace)
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.id, self.parent, u8::from(self.sampled))
    }
}

/// As logs have it.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_the_same_conversation_at_both_ends() {
        let trace = Trace::begin();
        assert_eq!(Trace::from_header(&trace.header()), Some(trace));
        assert_ne!(Trace::begin(), trace);
        let known = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert_eq!(Trace::from_header(known).expect("one").to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(Trace::from_header(&known.replacen("00-", "cc-", 1)).is_some(), "a later version");
        for nonsense in [
            "",
            "00",
            &known.replacen("00-", "ff-", 1),
            &known.replace('4', "G"),
            &known.replace('b', "B"),
            &format!("{known}-00"),
            &known[..54],
            "00-00000000000000000000000000000000-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b71-00",
        ] {
            assert_eq!(Trace::from_header(nonsense), None, "{nonsense}");
        }
    }
}
