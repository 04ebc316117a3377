//! Whether a recorder's writer lives, asked of the kernel.
//!
//! The writer holds a POSIX record lock on the first byte. Unlike `flock` and open-file-description locks it belongs to the
//! process alone: a forked child (a data loader that outlives the trainer) does not inherit it, so the trainer's death
//! is seen at once. It works across PID namespaces and needs no /proc. Its trap: the lock goes when the process closes *any*
//! descriptor of the file, so nobody but the writer may open the file inside the writer's process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

fn first_byte(kind: libc::c_int) -> libc::flock {
    // SAFETY: `flock` is plain data for which all zeroes is valid.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_len = 1;
    range
}

/// Takes the writer's lock for as long as the process lives and keeps all descriptors of the file open.
pub fn hold(file: &File) -> io::Result<()> {
    let range = first_byte(libc::F_WRLCK);
    // SAFETY: the descriptor is open and `range` is a valid `flock` for the length of the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &range) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The process that holds the writer's lock, if it is another one than this; 0 if it is not in sight (in another PID namespace).
pub fn holder(file: &File) -> io::Result<Option<libc::pid_t>> {
    let mut range = first_byte(libc::F_RDLCK);
    // SAFETY: the descriptor is open and `range` is a valid `flock` that the call may write to.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut range) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok((libc::c_int::from(range.l_type) != libc::F_UNLCK).then_some(range.l_pid)),
    }
}
