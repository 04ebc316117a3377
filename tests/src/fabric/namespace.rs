//! Network namespaces, each held by a descriptor: they are gone when this process is, whatever happens to it.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
    thread,
};

use anyhow::{Context, bail};

use super::{netlink::Netlink, requests};

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(File);

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Namespace {
    /// A new one, with nothing in it.
    ///
    /// # Errors
    /// When this process may not have one.
    pub fn new() -> io::Result<Self> {
        let made = || {
            // SAFETY: no pointers; only this thread, which ends at once, is moved.
            checked(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            File::open("/proc/thread-self/ns/net").map(Self)
        };
        thread::scope(|scope| scope.spawn(made).join())
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    }

    /// A new one whose loopback interface has these addresses.
    ///
    /// # Errors
    /// When this process may not have one.
    pub fn with_addresses(addresses: impl IntoIterator<Item = Ipv4Addr> + Send) -> io::Result<Self> {
        let namespace = Self::new()?;
        let given = || {
            let mut link = Netlink::route()?;
            // The loopback interface is always the first.
            requests::set_up(&mut link, 1, true)?;
            addresses.into_iter().try_for_each(|one| requests::address(&mut link, 1, one, 32))
        };
        namespace.run(given)??;
        Ok(namespace)
    }

    /// Calls something in a thread that is in this namespace. Sockets stay in the namespace they were made in.
    ///
    /// # Errors
    /// When this process may not enter it.
    pub fn run<T: Send>(&self, call: impl FnOnce() -> T + Send) -> io::Result<T> {
        let entered = || {
            self.enter()?;
            Ok(call())
        };
        thread::scope(|scope| scope.spawn(entered).join())
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    }

    fn enter(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open; only this thread is moved.
        checked(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) })
    }

    /// Has a program run in it.
    pub fn hold(&self, command: &mut Command) {
        let descriptor = self.0.as_raw_fd();
        // SAFETY: between fork and exec only a system call is made. The descriptor lives as long as the fabric, which
        // outlives whatever runs in it; if not, the program does not start.
        unsafe {
            command.pre_exec(move || checked(libc::setns(descriptor, libc::CLONE_NEWNET)));
        }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes sure that this process may make namespaces: as root, or as root of a user namespace of its own. Must be called
/// before there are other threads.
///
/// # Errors
/// Says what is missing.
pub fn acquire_rights() -> anyhow::Result<()> {
    if Namespace::new().is_ok() {
        return Ok(());
    }
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // SAFETY: no pointers; this process has one thread.
    checked(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) }).with_context(|| {
        format!(
            "network namespaces need root (CAP_SYS_ADMIN), or unprivileged user namespaces; neither is there: {}",
            in_the_way()
        )
    })?;
    // Not there on old kernels, where it is not needed either.
    let _ = fs::write("/proc/self/setgroups", "deny");
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))
        .context("cannot become root of a user namespace")?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
        .context("cannot become root of a user namespace")?;
    if let Err(error) = Namespace::new() {
        bail!("a user namespace was had, but no network namespace in it: {error}; {}", in_the_way());
    }
    Ok(())
}

/// Settings of kernels, and the values that forbid namespaces to those who are not root.
const FORBIDDING: [(&str, &str); 4] = [
    ("user.max_user_namespaces", "0"),
    ("user.max_net_namespaces", "0"),
    ("kernel.unprivileged_userns_clone", "0"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1"),
];

/// What forbids them here.
fn in_the_way() -> String {
    let forbids = |(name, value): &(&str, &str)| {
        let text = fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/")));
        text.is_ok_and(|text| text.trim() == *value)
    };
    let found = FORBIDDING.iter().filter(|setting| forbids(setting));
    let found: Vec<String> = found.map(|(name, value)| format!("{name} is {value}")).collect();
    match found.is_empty() {
        true => "no setting of the kernel forbids it, but a container's filter or a security module may"
            .to_owned(),
        false => found.join(", "),
    }
}
