//! Where the built programs are: beside this one, as cargo lays them out.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, bail, ensure};

use crate::cargo::cargo;

/// The directory of built programs and libraries.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
}

/// Packages a cluster needs.
const PACKAGES: [&str; 7] =
    ["c4-agent", "c4-controller", "c4ctl", "c4-nccl-profiler", "c4-netfault", "c4-clockfault", "c4-tests"];

impl Programs {
    /// Finds the programs. Cargo builds the programs of other packages for a test only by chance, so they are built here,
    /// once a process, unless `C4_BIN_DIR` says where they are.
    ///
    /// # Errors
    /// When they are not where `C4_BIN_DIR` says, or cannot be built.
    pub fn built() -> anyhow::Result<Self> {
        static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let dir = BUILT.get_or_init(|| find_or_build().map_err(|error| format!("{error:#}")));
        match dir {
            Ok(dir) => Ok(Self { dir: dir.clone() }),
            Err(error) => bail!("{error}"),
        }
    }

    /// `c4-controller`.
    #[must_use]
    pub fn controller(&self) -> PathBuf {
        self.dir.join("c4-controller")
    }

    /// `c4-agent`.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.dir.join("c4-agent")
    }

    /// `c4ctl`.
    #[must_use]
    pub fn ctl(&self) -> PathBuf {
        self.dir.join("c4ctl")
    }

    /// `ringjob`.
    #[must_use]
    pub fn ringjob(&self) -> PathBuf {
        self.dir.join("ringjob")
    }

    /// The profiler plugin.
    #[must_use]
    pub fn plugin(&self) -> PathBuf {
        self.dir.join("libnccl_profiler_c4.so")
    }

    /// The library that breaks connections.
    #[must_use]
    pub fn netfault(&self) -> PathBuf {
        self.dir.join("libc4_netfault.so")
    }

    /// The library that sets clocks wrong.
    #[must_use]
    pub fn clockfault(&self) -> PathBuf {
        self.dir.join("libc4_clockfault.so")
    }

    fn check(&self) -> anyhow::Result<()> {
        let libraries = [self.plugin(), self.netfault(), self.clockfault()];
        let programs = [self.controller(), self.agent(), self.ctl(), self.ringjob()];
        for path in programs.into_iter().chain(libraries) {
            ensure!(path.exists(), "{} is missing", path.display());
        }
        Ok(())
    }
}

fn find_or_build() -> anyhow::Result<PathBuf> {
    if let Some(dir) = env::var_os("C4_BIN_DIR") {
        let programs = Programs { dir: dir.into() };
        programs.check().context("C4_BIN_DIR")?;
        return Ok(programs.dir);
    }
    let own = env::current_exe().context("cannot tell where this program is")?;
    let mut dir = own.parent().context("this program is in no directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("deps is in no directory")?;
    }
    build(dir)?;
    let programs = Programs { dir: dir.to_owned() };
    programs.check()?;
    Ok(programs.dir)
}

fn build(dir: &Path) -> anyhow::Result<()> {
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut command = cargo();
    command.args(["build", "--quiet", "--profile", profile, "--target-dir"]);
    command.arg(dir.parent().context("the build directory has no parent")?);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    for package in PACKAGES {
        command.args(["-p", package]);
    }
    let status = command.status().context("cannot run cargo to build the programs")?;
    ensure!(status.success(), "building the programs failed");
    Ok(())
}
