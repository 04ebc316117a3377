//! The edge at which orders become deeds.

use std::{future::Future, pin::Pin};

use thiserror::Error;

use super::action::Order;

/// An order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ActuatorError(pub String);

/// What an actuator answers, when it does: what it did, in words that may be empty.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<String, ActuatorError>> + Send + 'a>>;

/// Carries orders out. The future ends when the order has visibly taken effect, or cannot; it may be dropped at any
/// time, and the same order may come again.
pub trait Actuator: Send + Sync {
    /// Carries out one order.
    fn carry_out<'a>(&'a self, order: &'a Order) -> Answer<'a>;
}
