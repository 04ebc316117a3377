//! How a connection to the controller is made. Narrow, so that tests put an in-memory transport in its place and run the
//! stream itself as it ships.

use std::{future::Future, time::Duration};

use c4_tls::{ClientFiles, FileError};
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use crate::config;

/// Longest time to connect to one of several controllers.
const CONNECT: Duration = Duration::from_secs(1);

/// The controller's address is no address.
#[derive(Debug, Error)]
#[error("{address:?} is not the address of a controller")]
pub struct BadAddress {
    address: String,
    source: tonic::transport::Error,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// A certificate, key or token cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The network, or the controller.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
}

/// Makes connections to controllers.
pub trait Dial: Send + Sync + 'static {
    /// How many controllers there are, of which one leads.
    fn controllers(&self) -> usize;

    /// Connects to one of them.
    fn dial(&self, controller: usize) -> impl Future<Output = Result<Channel, DialError>> + Send;
}

/// Connects over TCP.
#[derive(Clone, Debug)]
pub struct Tcp {
    endpoints: Vec<Endpoint>,
    /// Read for each connection anew, so that a rotated certificate needs no restart.
    tls: Option<ClientFiles>,
}

impl Tcp {
    /// To the controller at an address such as `https://10.0.0.1:4400`, or to several with commas between their addresses.
    ///
    /// # Errors
    /// There is one that is not an address.
    pub fn new(list: &str, tls: Option<ClientFiles>, connect_timeout: Duration) -> Result<Self, BadAddress> {
        let addresses: Vec<&str> = config::addresses(list).collect();
        // A controller whose machine is gone sends no FIN, so it is asked whether it is there; sooner where another one
        // could take over, which it does within four seconds.
        let (ask, answer, connect) = match addresses.len() {
            0 | 1 => (Duration::from_secs(10), Duration::from_secs(5), connect_timeout),
            _ => (Duration::from_millis(1500), Duration::from_secs(2), connect_timeout.min(CONNECT)),
        };
        let endpoint = |address: &str| {
            let endpoint = Endpoint::from_shared(address.to_owned())
                .map_err(|source| BadAddress { address: address.to_owned(), source })?;
            Ok(endpoint
                .connect_timeout(connect)
                .http2_keep_alive_interval(ask)
                .keep_alive_timeout(answer)
                .keep_alive_while_idle(true)
                .tcp_nodelay(true))
        };
        let endpoints = addresses.into_iter().map(endpoint).collect::<Result<_, _>>()?;
        Ok(Self { endpoints, tls })
    }
}

impl Dial for Tcp {
    fn controllers(&self) -> usize {
        self.endpoints.len()
    }

    async fn dial(&self, controller: usize) -> Result<Channel, DialError> {
        let endpoint = self.endpoints[controller % self.endpoints.len()].clone();
        let endpoint = match &self.tls {
            Some(files) => endpoint.tls_config(files.load()?)?,
            None => endpoint,
        };
        Ok(endpoint.connect().await?)
    }
}
