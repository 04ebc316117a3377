//! Where the profiler plugin is, and how it gets into a job's container.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Names under which the plugin is installed, or built.
pub const NAMES: [&str; 2] = ["libnccl-profiler-c4.so", "libnccl_profiler_c4.so"];

/// The plugin beside this program, or where the packages put it.
#[must_use]
pub fn find() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let beside = program.parent()?;
    let installed = beside.parent().map(|prefix| prefix.join("lib/c4"));
    let directories = [Some(beside.to_owned()), installed];
    let mut paths =
        directories.into_iter().flatten().flat_map(|dir| NAMES.iter().map(move |name| dir.join(name)));
    paths.find(|path| path.is_file())
}

/// Copies the plugin into `directory`, readable for everybody. What is there is replaced in one step, so that jobs which
/// have it loaded go on with what they have.
///
/// # Errors
/// There is no plugin, or it cannot be copied.
pub fn install(plugin: &Path, directory: &Path) -> io::Result<PathBuf> {
    let (target, draft) = (directory.join(NAMES[0]), directory.join(format!(".{}.new", NAMES[0])));
    fs::copy(plugin, &draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644))?;
    fs::rename(&draft, &target)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_plugin_that_is_in_use_is_replaced_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source.so");
        fs::write(&source, "one").unwrap();
        let target = install(&source, dir.path()).unwrap();
        let used = fs::File::open(&target).unwrap();
        fs::write(&source, "two").unwrap();
        install(&source, dir.path()).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"two");
        assert_eq!(io::read_to_string(used).unwrap(), "one", "who had it open still has it");
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o644);
        assert!(install(Path::new("/nonexistent"), dir.path()).is_err());
    }
}
