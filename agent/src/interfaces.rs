//! The addresses of this host's network interfaces.

use std::net::IpAddr;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};

/// All addresses with the names of their interfaces, in the kernel's order: an interface's IPv4 addresses come first.
///
/// # Errors
/// When the kernel does not list them.
pub(crate) fn addresses() -> nix::Result<impl Iterator<Item = (String, IpAddr)>> {
    let address = |interface: InterfaceAddress| {
        let address = interface.address?;
        let own = address.as_sockaddr_in().map(|own| IpAddr::from(own.ip()));
        let own = own.or_else(|| address.as_sockaddr_in6().map(|own| own.ip().into()))?;
        Some((interface.interface_name, own))
    };
    Ok(getifaddrs()?.filter_map(address))
}
