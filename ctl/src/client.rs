//! The connection to a controller, and what to say when there is none. A person who reads the error is on call and
//! does not know yet whether the network, the controller or the address is wrong, so each case is told apart.

use std::{error::Error, io, time::Duration};

use c4_proto::v1::{
    GetStatusRequest, alerting_client::AlertingClient, backups_client::BackupsClient,
    operations_client::OperationsClient, pictures_client::PicturesClient, steering_client::SteeringClient,
};
use c4_tls::{ClientFiles, FileError};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{cli::Credentials, failure::Failure};

const NOT_RUNNING: &str = "is c4-controller running there? set --controller or C4_CONTROLLER";
const NOT_LET_IN: &str = "show --cert and --key, or --token-file";
const NOT_OURS: &str = "is it the gRPC port of a c4-controller (by default 4400; 4401 is HTTP)? set --controller or C4_CONTROLLER";

/// Answers that are larger are not taken.
const MAX_PICTURE_BYTES: usize = 64 << 20;

/// A connected controller.
#[derive(Clone, Debug)]
pub struct Client {
    /// The calls.
    pub calls: OperationsClient<InterceptedService<Channel, Token>>,
    /// Calls that try receivers of alerts.
    pub alerting: AlertingClient<InterceptedService<Channel, Token>>,
    /// Calls for what the page shows.
    pub pictures: PicturesClient<InterceptedService<Channel, Token>>,
    /// Calls for what must not be forgotten.
    pub backups: BackupsClient<InterceptedService<Channel, Token>>,
    /// Where it is, for error messages.
    pub url: String,
    /// Calls about actions.
    pub steering: SteeringClient<InterceptedService<Channel, Token>>,
}

/// Goes along with every call, if there is one.
#[derive(Clone, Debug)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Client {
    /// Connects to a controller, or to the one that leads of several with commas between their addresses.
    ///
    /// # Errors
    /// [`Failure::Configuration`] when an address is none or does not go with the credentials, or one of these cannot be
    /// used; [`Failure::Unreachable`] when nobody answers in time, or nobody leads.
    pub async fn connect(
        controllers: &str,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let addresses: Vec<&str> = controllers.split(',').collect();
        let [several @ .., last] = &*addresses else {
            return Err(misconfigured(controllers, "it is empty"));
        };
        let each = timeout / u32::try_from(addresses.len()).unwrap_or(1);
        let mut away = Vec::new();
        for address in several {
            match Self::leader(address, credentials, each).await {
                Err(Failure::Unreachable { url, cause, .. }) => away.push(format!("{url}: {cause}")),
                found => return found,
            }
        }
        if several.is_empty() {
            return Self::connect_to(last, credentials, timeout).await;
        }
        match Self::leader(last, credentials, each).await {
            Err(Failure::Unreachable { url, cause, hint }) => {
                away.push(cause);
                Err(Failure::Unreachable { url, cause: away.join("; "), hint })
            }
            found => found,
        }
    }

    /// Connects to one of several, and asks whether it leads.
    async fn leader(address: &str, credentials: &Credentials, timeout: Duration) -> Result<Self, Failure> {
        let client = Self::connect_to(address, credentials, timeout).await?;
        let mut calls = client.calls.clone();
        match client.call(timeout, "", calls.get_status(GetStatusRequest {})).await {
            Err(away @ Failure::Unreachable { .. }) => Err(away),
            // Whatever else it answers, it does not stand by.
            _ => Ok(client),
        }
    }

    async fn connect_to(
        controller: &str,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let url = normalised(controller)?;
        let mut endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| misconfigured(controller, &error.to_string()))?
            .connect_timeout(timeout);
        if let Some(files) = protection(&url, credentials)? {
            let config = files.load().map_err(unusable)?;
            endpoint = endpoint
                .tls_config(config)
                .map_err(|error| misconfigured(controller, &root_cause(&error)))?;
        }
        let token =
            Token(credentials.token_file.as_deref().map(c4_tls::bearer).transpose().map_err(unusable)?);
        match tokio::time::timeout(timeout, endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(Self {
                calls: OperationsClient::with_interceptor(channel.clone(), token.clone()),
                alerting: AlertingClient::with_interceptor(channel.clone(), token.clone()),
                steering: SteeringClient::with_interceptor(channel.clone(), token.clone()),
                backups: BackupsClient::with_interceptor(channel.clone(), token.clone()),
                // Of very large jobs they are some megabytes.
                pictures: PicturesClient::with_interceptor(channel, token)
                    .max_decoding_message_size(MAX_PICTURE_BYTES),
                url,
            }),
            Ok(Err(error)) => Err(unreachable(&url, root_cause(&error), NOT_RUNNING)),
            Err(_) => Err(unreachable(&url, no_answer(timeout), NOT_RUNNING)),
        }
    }

    /// Makes one call, and turns its failure into words. `missing` is what to say when the controller does not know
    /// what was asked for.
    ///
    /// # Errors
    /// As the controller or the network decide.
    pub async fn call<T>(
        &self,
        timeout: Duration,
        missing: &str,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failed(&status, missing)),
            Err(_) => Err(unreachable(&self.url, no_answer(timeout), NOT_RUNNING)),
        }
    }

    /// What a failed call means.
    #[must_use]
    pub fn failed(&self, status: &Status, missing: &str) -> Failure {
        let message = status.message();
        match status.code() {
            Code::NotFound if !missing.is_empty() => Failure::Check(missing.to_owned()),
            Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition | Code::PermissionDenied => {
                Failure::Check(format!("the controller refuses: {message}"))
            }
            Code::Unauthenticated => {
                Failure::Check(format!("the controller refuses: {message}; {NOT_LET_IN}"))
            }
            Code::ResourceExhausted => Failure::Check(format!("the controller refuses: {message}")),
            Code::Unimplemented => unreachable(
                &self.url,
                "what listens there does not answer operators' calls".to_owned(),
                NOT_OURS,
            ),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                unreachable(&self.url, cause_or(status, message), NOT_RUNNING)
            }
            _ => unreachable(&self.url, cause_or(status, message), NOT_OURS),
        }
    }
}

fn normalised(controller: &str) -> Result<String, Failure> {
    let trimmed = controller.trim();
    if trimmed.is_empty() {
        return Err(misconfigured(controller, "it is empty"));
    }
    match trimmed.split_once("://") {
        None => Ok(format!("http://{trimmed}")),
        Some(("http" | "https", _)) => Ok(trimmed.to_owned()),
        Some((scheme, _)) => Err(misconfigured(controller, &format!("{scheme}:// is not supported"))),
    }
}

/// How to protect the connection. A token does not go over the network in the clear.
fn protection(url: &str, credentials: &Credentials) -> Result<Option<ClientFiles>, Failure> {
    let wrong = |problem: &str| Err(Failure::Configuration(format!("{url}: {problem}")));
    let Credentials { ca, cert, key, token_file, server_name } = credentials;
    if !url.starts_with("https://") {
        return match (cert, token_file) {
            (Some(_), _) => wrong("a certificate is only shown over https://"),
            (None, Some(_)) if !c4_tls::is_local(url) => wrong("a token is only sent over https://"),
            _ if server_name.is_some() => wrong("a certificate's name is only asked for over https://"),
            _ => Ok(None),
        };
    }
    let Some(ca) = ca else { return wrong("https:// needs --ca or C4_CA: whom to believe") };
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
        (None, None) => None,
        _ => return wrong("--cert and --key go together"),
    };
    Ok(Some(ClientFiles { ca: ca.clone(), identity, server_name: server_name.clone() }))
}

fn unusable(error: FileError) -> Failure {
    Failure::Configuration(error.to_string())
}

fn misconfigured(controller: &str, why: &str) -> Failure {
    Failure::Configuration(format!(
        "the controller's address {controller:?} is not usable: {why}; expected something like {}",
        crate::cli::DEFAULT_CONTROLLER
    ))
}

fn unreachable(url: &str, cause: String, hint: &'static str) -> Failure {
    Failure::Unreachable { url: url.to_owned(), cause, hint }
}

fn no_answer(timeout: Duration) -> String {
    format!("no answer within {} s", timeout.as_secs())
}

fn cause_or(status: &Status, message: &str) -> String {
    match status.source() {
        Some(source) => root_cause(source),
        None if message.is_empty() => status.code().to_string(),
        None => message.to_owned(),
    }
}

/// The operating system's own words where there are any, else the innermost error's.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.raw_os_error().is_some()
        {
            return words_of(error);
        }
        innermost = error;
        next = error.source();
    }
    innermost.to_string()
}

fn words_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_lack_its_scheme() {
        assert_eq!(normalised("localhost:4400").expect("usable"), "http://localhost:4400");
        assert_eq!(normalised(" http://c4:1 ").expect("usable"), "http://c4:1");
    }

    #[test]
    fn an_unusable_address_is_a_configuration_error() {
        for address in ["", "ftp://x"] {
            let error = normalised(address).expect_err("unusable");
            assert_eq!(error.code(), 64, "{address}");
        }
    }
}
