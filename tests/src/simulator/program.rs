//! What a rank's GPU runs in one iteration: kernels in order on a few streams, tied together by events, as CUDA does
//! it. Ranks of one pipeline stage share their program.
//!
//! Each communicator is used from one stream at a time, as NCCL wants it, and every iteration ends with an all-reduce
//! over all ranks (the norm of the gradients, or the loss), so no rank is ever two iterations ahead of another.

mod schedule;

use serde::{Deserialize, Serialize};

use super::layout::{Group, Layout};
use schedule::Builder;

/// Streams of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Kernels of the model, and the collectives it waits for at once.
    Compute,
    /// Collectives of a layer (tensor, context, expert) where they overlap with computation.
    Layer,
    /// Pipeline traffic, a stream for each of (to next, from next, to previous, from previous).
    SendNext,
    /// See `SendNext`.
    RecvNext,
    /// See `SendNext`.
    SendPrevious,
    /// See `SendNext`.
    RecvPrevious,
    /// Parameters and gradients: gathered ahead of the forward pass, reduced beside the backward pass.
    Gradients,
}

impl Stream {
    /// Number of streams.
    pub const COUNT: usize = 7;
}

/// Something that is put on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A kernel of the model that takes this long without noise.
    Compute {
        /// Time.
        ns: u64,
    },
    /// A collective.
    Collective {
        /// On which of the rank's communicators.
        group: Group,
        /// Which function.
        function: Function,
        /// Bytes of the buffer.
        bytes: u64,
    },
    /// A send to the next or previous stage.
    Send {
        /// To the next stage.
        next: bool,
        /// Bytes.
        bytes: u64,
    },
    /// A receive from the next or previous stage.
    Recv {
        /// From the next stage.
        next: bool,
        /// Bytes.
        bytes: u64,
    },
    /// Marks a point of this stream.
    Record {
        /// Event.
        event: u16,
    },
    /// Waits for a point of another stream.
    Wait {
        /// Event.
        event: u16,
    },
}

/// Collective functions, by NCCL's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Function {
    /// `ncclAllReduce`.
    AllReduce,
    /// `ncclReduceScatter`.
    ReduceScatter,
    /// `ncclAllGather`.
    AllGather,
    /// `ncclAlltoAll`.
    AlltoAll,
}

impl Function {
    /// NCCL's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Function::AllReduce => "AllReduce",
            Function::ReduceScatter => "ReduceScatter",
            Function::AllGather => "AllGather",
            Function::AlltoAll => "AlltoAll",
        }
    }
}

/// How the parameters of a model are shared out in data parallelism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharding {
    /// Every replica has all of them; gradients are all-reduced.
    None,
    /// The optimizer's state is sharded (ZeRO-1): gradients are reduce-scattered, parameters gathered.
    Optimizer,
    /// The parameters are (ZeRO-3, FSDP): each layer is gathered before it is used, and its gradients are
    /// reduce-scattered right after.
    Full,
}

/// How the model is cut up and how long its pieces take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Microbatches in an iteration; a multiple of the number of stages if stages hold several chunks.
    pub microbatches: u32,
    /// Layers in a chunk.
    pub layers: u32,
    /// Chunks of the model on each stage: more than 1 for an interleaved pipeline.
    pub chunks: u32,
    /// Forward time of a layer for one microbatch.
    pub layer_ns: u64,
    /// Bytes of a microbatch's activations.
    pub activation_bytes: u64,
    /// Bytes of a layer's gradients on one rank.
    pub gradient_bytes: u64,
    /// How parameters are shared out.
    pub sharding: Sharding,
    /// Whether communication overlaps with computation wherever it can: gradients beside the backward pass, parameters
    /// beside the next forward pass, a layer's collectives beside the other half of its microbatch.
    pub overlap: bool,
    /// Optimizer step.
    pub optimizer_ns: u64,
}

/// The program of one stage: operations with their stream, in the order in which the host launches them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// In launch order.
    pub ops: Vec<(Stream, Op)>,
    /// Events used.
    pub events: u16,
}

impl Program {
    /// The program of pipeline stage `stage`: 1F1B over the microbatches, interleaved if stages hold several chunks, the
    /// reduction of gradients, an optimizer step, and an all-reduce over all ranks.
    #[must_use]
    pub fn of_stage(layout: &Layout, model: &Model, stage: u32) -> Self {
        let mut builder = Builder::new(layout, model, stage);
        builder.train();
        builder.build()
    }

    /// An evaluation pass: forward only, and an all-reduce of the loss.
    #[must_use]
    pub fn evaluation(layout: &Layout, model: &Model, stage: u32) -> Self {
        let mut builder = Builder::new(layout, model, stage);
        builder.evaluate();
        builder.build()
    }

    /// The same with its last two collectives on the compute stream in the opposite order; `None` if both are on one
    /// communicator, where that would be another fault.
    #[must_use]
    pub fn disordered(&self) -> Option<Self> {
        let mut last = self.ops.iter().enumerate().rev().filter_map(|(index, (stream, op))| match op {
            Op::Collective { group, .. } if *stream == Stream::Compute => Some((index, *group)),
            _ => None,
        });
        let ((later, of_later), (earlier, of_earlier)) = (last.next()?, last.next()?);
        let mut ops = self.ops.clone();
        ops.swap(later, earlier);
        (of_later != of_earlier).then_some(Self { ops, events: self.events })
    }
}
