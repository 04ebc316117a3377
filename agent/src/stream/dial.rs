//! How a connection to the controller is made. Narrow, so that tests put an in-memory transport in its place and run the
//! stream itself as it ships.

use std::{future::Future, time::Duration};

use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

/// The controller's address is no address.
#[derive(Debug, Error)]
#[error("{address:?} is not the address of a controller")]
pub struct BadAddress {
    address: String,
    source: tonic::transport::Error,
}

/// Makes connections to the controller.
pub trait Dial: Send + Sync + 'static {
    /// Makes one.
    fn dial(&self) -> impl Future<Output = Result<Channel, tonic::transport::Error>> + Send;
}

/// Connects over TCP.
#[derive(Clone, Debug)]
pub struct Tcp(Endpoint);

impl Tcp {
    /// To the controller at `address`, such as `http://10.0.0.1:4400`.
    ///
    /// # Errors
    /// It is not an address.
    pub fn new(address: &str, connect_timeout: Duration) -> Result<Self, BadAddress> {
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|source| BadAddress { address: address.to_owned(), source })?
            .connect_timeout(connect_timeout)
            // A controller whose machine is gone sends no FIN: ask it every ten seconds whether it is there.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        Ok(Self(endpoint))
    }
}

impl Dial for Tcp {
    async fn dial(&self) -> Result<Channel, tonic::transport::Error> {
        self.0.connect().await
    }
}
