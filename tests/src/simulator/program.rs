//! What a rank's GPU runs in one iteration: kernels in order on a few streams, tied together by events, as CUDA does
//! it. Ranks of one pipeline stage share their program.

use serde::{Deserialize, Serialize};

use super::layout::{Group, Layout};

/// Streams of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Kernels of the model, and the collectives it waits for at once.
    Compute,
    /// Pipeline traffic, a stream for each of (to next, from next, to previous, from previous).
    SendNext,
    /// See `SendNext`.
    RecvNext,
    /// See `SendNext`.
    SendPrevious,
    /// See `SendNext`.
    RecvPrevious,
    /// Gradient reduction that overlaps with the backward pass.
    Gradients,
}

impl Stream {
    /// Number of streams.
    pub const COUNT: usize = 6;
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

/// How the model is cut up and how long its pieces take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Microbatches in an iteration.
    pub microbatches: u32,
    /// Layers on a stage.
    pub layers: u32,
    /// Forward time of a layer for one microbatch.
    pub layer_ns: u64,
    /// Bytes of a microbatch's activations.
    pub activation_bytes: u64,
    /// Bytes of a layer's gradients on one rank.
    pub gradient_bytes: u64,
    /// Whether gradients are sharded (reduce-scatter and all-gather) or all-reduced.
    pub sharded: bool,
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
    /// The program of pipeline stage `stage`: 1F1B over the microbatches, gradients reduced while the last backward
    /// pass runs, an optimizer step, and an all-reduce of the loss over all ranks.
    #[must_use]
    pub fn of_stage(layout: &Layout, model: &Model, stage: u32) -> Self {
        let mut builder = Builder { layout, model, stage, ops: Vec::new(), events: 0 };
        let warm_up = model.microbatches.min(layout.pp - 1 - stage);
        for _ in 0..warm_up {
            builder.forward();
        }
        for _ in warm_up..model.microbatches {
            builder.forward();
            builder.backward(false);
        }
        for left in (0..warm_up).rev() {
            builder.backward(left == 0);
        }
        builder.step();
        Self { ops: builder.ops, events: builder.events }
    }
}

struct Builder<'a> {
    layout: &'a Layout,
    model: &'a Model,
    stage: u32,
    ops: Vec<(Stream, Op)>,
    events: u16,
}

impl Builder<'_> {
    fn push(&mut self, stream: Stream, op: Op) {
        self.ops.push((stream, op));
    }

    /// Makes `after` wait for all that is on `before` by now.
    fn order(&mut self, before: Stream, after: Stream) {
        let event = self.events;
        self.events += 1;
        self.push(before, Op::Record { event });
        self.push(after, Op::Wait { event });
    }

    fn receive(&mut self, next: bool) {
        let stream = if next { Stream::RecvNext } else { Stream::RecvPrevious };
        // PyTorch has NCCL's stream wait for what is on the current one, so nothing is received ahead.
        self.order(Stream::Compute, stream);
        self.push(stream, Op::Recv { next, bytes: self.model.activation_bytes });
        self.order(stream, Stream::Compute);
    }

    fn send(&mut self, next: bool) {
        let stream = if next { Stream::SendNext } else { Stream::SendPrevious };
        self.order(Stream::Compute, stream);
        self.push(stream, Op::Send { next, bytes: self.model.activation_bytes });
    }

    fn layer(&mut self, ns: u64) {
        let bytes = self.model.activation_bytes;
        let collective = |group, function| Op::Collective { group, function, bytes };
        self.push(Stream::Compute, Op::Compute { ns });
        if self.layout.tp > 1 {
            self.push(Stream::Compute, collective(Group::Tensor, Function::AllReduce));
        }
        if self.layout.ep > 1 {
            self.push(Stream::Compute, collective(Group::Expert, Function::AlltoAll));
            self.push(Stream::Compute, Op::Compute { ns: ns / 2 });
            self.push(Stream::Compute, collective(Group::Expert, Function::AlltoAll));
        }
    }

    fn forward(&mut self) {
        if self.stage > 0 {
            self.receive(false);
        }
        for _ in 0..self.model.layers {
            self.layer(self.model.layer_ns);
        }
        if self.stage + 1 < self.layout.pp {
            self.send(true);
        }
    }

    fn backward(&mut self, last: bool) {
        if self.stage + 1 < self.layout.pp {
            self.receive(true);
        }
        for _ in 0..self.model.layers {
            self.layer(2 * self.model.layer_ns);
            if last {
                self.reduce_gradients();
            }
        }
        if self.stage > 0 {
            self.send(false);
        }
    }

    fn reduce_gradients(&mut self) {
        if self.layout.dp > 1 {
            let function = if self.model.sharded { Function::ReduceScatter } else { Function::AllReduce };
            self.order(Stream::Compute, Stream::Gradients);
            let bytes = self.model.gradient_bytes;
            self.push(Stream::Gradients, Op::Collective { group: Group::Data, function, bytes });
        }
    }

    fn step(&mut self) {
        // Stages whose last backward pass was not the overlapped one reduce now.
        let reduced = self.ops.iter().any(|(stream, _)| *stream == Stream::Gradients);
        if !reduced {
            for _ in 0..self.model.layers {
                self.reduce_gradients();
            }
        }
        if self.layout.dp > 1 {
            self.order(Stream::Gradients, Stream::Compute);
        }
        self.push(Stream::Compute, Op::Compute { ns: self.model.optimizer_ns });
        if self.layout.dp > 1 && self.model.sharded {
            let bytes = self.model.gradient_bytes * u64::from(self.model.layers);
            let function = Function::AllGather;
            self.push(Stream::Compute, Op::Collective { group: Group::Data, function, bytes });
        }
        let function = Function::AllReduce;
        self.push(Stream::Compute, Op::Collective { group: Group::World, function, bytes: 8 });
    }
}
