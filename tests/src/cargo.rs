//! Cargo, run by a test or program that cargo runs itself.

use std::{env, process::Command};

/// Cargo as a shell would run it: without what the cargo that runs this program says of its package. Build scripts that look at that
/// (those of `ring`) would run again, in here and once more outside, and all that depends on them would be compiled twice.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_nothing_of_the_package_of_this_test() {
        assert!(env::var_os("CARGO_MANIFEST_DIR").is_some(), "cargo runs this test");
        let command = cargo();
        let removed: Vec<_> =
            command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert!(removed.contains(&"CARGO_MANIFEST_DIR".as_ref()) && !removed.contains(&"PATH".as_ref()));
    }
}
