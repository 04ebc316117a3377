//! The plugin, and the NCCL that is to load it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use object::{Architecture, Object, ObjectSymbol};

use super::Check;

/// Where NCCL usually is.
const PLACES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/cuda/lib64",
    "/usr/local/lib",
    "/usr/lib64",
    "/opt/nccl/lib",
];
/// A library larger than this is none.
const MAX_BYTES: u64 = 2 << 30;
const INSTALL: &str = "install libnccl-profiler-c4.so, or name it with --plugin";

/// Where the plugin is: packages put it in the first place.
const PLUGINS: [&str; 2] = ["/usr/lib/c4/libnccl-profiler-c4.so", "/usr/local/lib/libnccl-profiler-c4.so"];

/// Whether the plugin can be loaded, and by which NCCL.
pub(super) fn plugin(path: Option<&Path>) -> Check {
    const NAME: &str = "plugin";
    let [first, second] = PLUGINS.map(Path::new);
    let path = path.unwrap_or(if second.exists() && !first.exists() { second } else { first });
    let shown = path.display();
    let content = match fs::metadata(path).and_then(|_| fs::read(path)) {
        Ok(content) => content,
        Err(error) => return Check::bad(NAME, format!("{shown}: {error}"), INSTALL),
    };
    let file = match object::File::parse(&*content) {
        Ok(file) => file,
        Err(error) => return Check::bad(NAME, format!("{shown} is no library: {error}"), INSTALL),
    };
    if architecture(file.architecture()) != std::env::consts::ARCH {
        return Check::bad(
            NAME,
            format!("{shown} is of another processor, {:?}", file.architecture()),
            INSTALL,
        );
    }
    let exported = |symbol: &str| symbol.strip_prefix("ncclProfiler_v")?.parse::<u32>().ok();
    let mut versions: Vec<u32> = file
        .dynamic_symbols()
        .filter(|s| s.is_definition())
        .filter_map(|s| exported(s.name().ok()?))
        .collect();
    versions.sort_unstable();
    let (Some(first), Some(last)) = (versions.first(), versions.last()) else {
        return Check::bad(NAME, format!("{shown} is no NCCL profiler plugin"), INSTALL);
    };
    // What else a library needs is known to the loader alone.
    if let Some(complaint) = preload(path) {
        return Check::bad(NAME, complaint, "install what it needs, or a build for this system's glibc");
    }
    Check::good(NAME, format!("{shown} can be loaded, profiler API v{first} to v{last}"))
}

fn architecture(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "x86_64",
        Architecture::Aarch64 => "aarch64",
        _ => "another",
    }
}

/// What the loader says of a library, if it does not take it.
fn preload(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let output =
        Command::new("/bin/true").env("LD_PRELOAD", &path).env("C4_PROFILER", "off").output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    (!output.status.success() || !said.is_empty()).then_some(said)
}

/// Which NCCL there is, and what is known of that version.
pub(super) fn nccl(given: Option<&Path>) -> Check {
    const NAME: &str = "NCCL";
    let Some(path) = given.map(Path::to_owned).or_else(find) else {
        return Check::doubtful(
            NAME,
            "libnccl.so.2 is not where it usually is",
            "PyTorch brings its own: name it with --nccl (…/site-packages/nvidia/nccl/lib/libnccl.so.2)",
        );
    };
    let shown = path.display();
    let size = fs::metadata(&path).map(|metadata| metadata.len()).unwrap_or(0);
    let content =
        if size <= MAX_BYTES { fs::read(&path) } else { Err(std::io::ErrorKind::FileTooLarge.into()) };
    let content = match content {
        Ok(content) => content,
        Err(error) => {
            return Check::bad(NAME, format!("{shown}: {error}"), "name the right file with --nccl");
        }
    };
    match version(&content) {
        Some(version) => {
            judged(NAME, version, &format!("{}.{}.{} in {shown}", version.0, version.1, version.2))
        }
        None => Check::doubtful(NAME, format!("{shown} does not say its version"), "is it libnccl.so.2?"),
    }
}

type Version = (u32, u32, u32);

/// What is known to be wrong with some versions, as far as it matters beside C4.
struct Trap {
    /// The first version that has it.
    from: Version,
    /// The first that does not.
    until: Version,
    what: &'static str,
    advice: &'static str,
}

const TRAPS: [Trap; 5] = [
    Trap {
        from: (2, 23, 0),
        until: (2, 27, 0),
        what: "it names communicators late and never tells their size",
        advice: "who hangs is told later, and less surely: NCCL 2.27 or later is better",
    },
    Trap {
        from: (2, 23, 0),
        until: (2, 28, 3),
        what: "kernel events are harmful before 2.28.3, so C4 leaves them off",
        advice: "who is late is told less surely: NCCL 2.28.3 or later is better",
    },
    Trap {
        from: (2, 28, 9),
        until: (2, 28, 10),
        what: "it tells wrong times of kernels once a CUDA graph was replayed",
        advice: "C4 notices, and finds no stragglers in jobs with CUDA graphs",
    },
    // NVIDIA/nccl issues 1669, 1718, 1762 and 1996.
    Trap {
        from: (2, 26, 0),
        until: (2, 28, 0),
        what: "its RAS has crashed jobs, in 2.27.7 without being asked",
        advice: "set NCCL_RAS_ENABLE=0 for jobs, or do not poll ncclras",
    },
    // Issue 2346.
    Trap {
        from: (2, 29, 0),
        until: (2, 30, 0),
        what: "asking its RAS has crashed a job while communicators were made",
        advice: "do not poll ncclras",
    },
];

fn judged(name: &'static str, version: Version, found: &str) -> Check {
    if version < (2, 23, 0) {
        return Check::bad(name, format!("{found}: it has no profiler plugins"), "use NCCL 2.23 or later");
    }
    let traps: Vec<&Trap> =
        TRAPS.iter().filter(|trap| trap.from <= version && version < trap.until).collect();
    if traps.is_empty() {
        return Check::good(name, found);
    }
    let joined =
        |part: fn(&Trap) -> &'static str| traps.iter().map(|trap| part(trap)).collect::<Vec<_>>().join("; ");
    Check::doubtful(name, format!("{found}: {}", joined(|trap| trap.what)), joined(|trap| trap.advice))
}

/// "NCCL version 2.28.9+cuda12.9" is in every build of it.
fn version(content: &[u8]) -> Option<Version> {
    const MARK: &[u8] = b"NCCL version ";
    content.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK).find_map(|(at, _)| {
        let rest = &content[at + MARK.len()..content.len().min(at + MARK.len() + 24)];
        let text: String =
            rest.iter().map(|b| char::from(*b)).take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let mut parts = text.split('.').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next().and_then(Result::ok).unwrap_or(0)))
    })
}

fn find() -> Option<PathBuf> {
    let loader = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let given = loader.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let environment = std::env::var_os("VIRTUAL_ENV").or(std::env::var_os("CONDA_PREFIX")).map(PathBuf::from);
    let python = environment.into_iter().flat_map(|root| {
        let libraries = fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
        libraries.map(|entry| entry.path().join("site-packages/nvidia/nccl/lib"))
    });
    let mut places = given.chain(python).chain(PLACES.map(PathBuf::from));
    places.find_map(|dir| Some(dir.join("libnccl.so.2")).filter(|file| file.exists()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn versions_are_found_and_judged() {
        let content = b"\0NCCL version %d\0NCCL version 2.27.5+cuda12.9\0";
        assert_eq!(version(content), Some((2, 27, 5)));
        assert_eq!(version(b"NCCL version "), None);
        let grade = |version| judged("NCCL", version, "").grade;
        assert_eq!(
            [(2, 22, 3), (2, 28, 2), (2, 28, 3), (2, 28, 10), (2, 31, 2)].map(grade),
            [Grade::Bad, Grade::Doubtful, Grade::Good, Grade::Good, Grade::Good]
        );
        let check = judged("NCCL", (2, 27, 7), "2.27.7");
        assert!(check.found.contains("kernel events") && check.found.contains("RAS"), "{}", check.found);
        assert!(check.advice.is_some_and(|advice| advice.contains("NCCL_RAS_ENABLE=0")));
    }

    #[test]
    fn what_is_no_plugin_is_said_to_be_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("x.so");
        assert_eq!(plugin(Some(&file)).grade, Grade::Bad);
        fs::write(&file, "text").expect("room");
        assert!(plugin(Some(&file)).found.contains("is no library"));
        let other = plugin(Some(Path::new("/proc/self/exe")));
        assert!(other.found.contains("no NCCL profiler plugin"), "{}", other.found);
    }
}
