//! Which GPU a process has, as CUDA's driver tells it. The driver is a stand-in (`cuda.c`) that is there before the plugin, as CUDA's
//! is.

use std::path::{Path, PathBuf};

use c4_recorder::GpuAddress;
use c4_recorder::snapshot::Identity;
use c4_tests::cc::compile;
use tempfile::TempDir;

use crate::harness::{Sandbox, init, isolated, nccl};

/// The stand-in, for LD_PRELOAD.
fn driver(directory: &TempDir) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugin/cuda.c");
    let library = directory.path().join("libcuda.so.1");
    compile(&["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"], &[source], &library);
    library
}

fn identity(sandbox: &Sandbox) -> Identity {
    let nccl = nccl();
    let _comm = init(&nccl, 1);
    sandbox.snapshot().identity
}

#[test]
fn the_driver_tells_where_the_gpu_is() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let driver = driver(&directory);
    let driver = driver.to_str().expect("a plain path");
    let environment = [("LD_PRELOAD", driver), ("CUDA_STAND_IN_DEVICE", "3"), ("LOCAL_RANK", "0")];
    isolated(&environment, |sandbox| {
        let identity = identity(sandbox);
        assert_eq!(identity.gpu_address, Some(GpuAddress { domain: 1, bus: 0x1e, device: 0 }));
        assert_eq!(identity.gpu, Some(0), "as the environment counts");
    });
}

#[test]
fn a_thread_without_a_context_has_no_gpu() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let driver = driver(&directory);
    isolated(&[("LD_PRELOAD", driver.to_str().expect("a plain path"))], |sandbox| {
        assert_eq!(identity(sandbox).gpu_address, None);
    });
}

#[test]
fn a_process_without_cuda_has_no_gpu() {
    isolated(&[], |sandbox| assert_eq!(identity(sandbox).gpu_address, None));
}
