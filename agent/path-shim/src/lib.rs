//! `libc4-path.so`: puts a job's connections on planned paths by choosing their source ports, which is what ECMP hashes.
//!
//! Preloaded (`LD_PRELOAD`), it stands before libc's `connect`: a TCP socket without a port, on its way to a destination
//! that the agent's table ([`c4_path_table`]) knows, is first bound to a port that takes the planned path; if that
//! is in use, to the next port of the same path. And before `bind`: a socket that would listen on any port gets one of
//! the few that the table names, if it names any, because the path of a source port also depends on the destination's.
//!
//! For RoCE it stands before `ibv_modify_qp`, where a queue pair gets the flow label that its source port is made of, before
//! `ibv_destroy_qp`, and, since NCCL asks the loader for these functions, before `dlvsym`. Queue pairs of mlx5 follow a new
//! plan while they run (`live`); all others when they are connected next. Without libibverbs in the process nothing is done.
//!
//! It runs in somebody's training job and fails open: no table, a torn one, a dead agent, an unknown destination, no free
//! port, whatever else goes wrong, the call is made just as the program meant it. It keeps no descriptor open and
//! maps nothing, so that fork, exec and programs that close all descriptors need no care: the table is opened, read and
//! closed anew for each connection, which takes some microseconds. It never allocates, and no panic leaves it.

mod calls;
mod live;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod lookups;
mod mlx5;
mod plan;
mod settings;
mod sockets;
mod turns;
mod verbs;

pub use calls::{bind, connect};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub use lookups::dlvsym;
pub use verbs::{ibv_destroy_qp, ibv_modify_qp};
