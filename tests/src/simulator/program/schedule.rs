//! The order in which Megatron launches the pieces of an iteration.

use super::{Function, Model, Op, Program, Sharding, Stream};
use crate::simulator::layout::{Group, Layout};

/// Puts a program together, in launch order.
pub(super) struct Builder<'a> {
    layout: &'a Layout,
    model: &'a Model,
    stage: u32,
    ops: Vec<(Stream, Op)>,
    events: u16,
    /// Where the pass before this one began.
    pass_before: Option<u16>,
    /// Layers of a fully sharded model that are still to be gathered, and the end of the gathering of the next.
    to_gather: u32,
    gathered: Option<u16>,
}

/// One microbatch in one chunk of the model on a stage.
#[derive(Clone, Copy)]
struct Pass {
    chunk: u32,
    microbatch: u32,
}

impl<'a> Builder<'a> {
    pub(super) fn new(layout: &'a Layout, model: &'a Model, stage: u32) -> Self {
        Self {
            layout,
            model,
            stage,
            ops: Vec::new(),
            events: 0,
            pass_before: None,
            to_gather: 0,
            gathered: None,
        }
    }

    pub(super) fn build(self) -> Program {
        Program { ops: self.ops, events: self.events }
    }

    /// A training iteration.
    pub(super) fn train(&mut self) {
        let (stages, model) = (self.layout.pp, self.model);
        let passes = model.microbatches * model.chunks;
        self.to_gather = 2 * passes * model.layers;
        // Forward passes before the first backward pass: as many as it takes to fill the pipeline behind this stage.
        let ahead = match model.chunks {
            1 => stages - 1 - self.stage,
            chunks => (stages - 1 - self.stage) * 2 + (chunks - 1) * stages,
        };
        let warm_up = passes.min(ahead);
        for pass in 0..warm_up {
            self.forward(pass);
        }
        for pass in warm_up..passes {
            self.forward(pass);
            self.backward(pass - warm_up);
        }
        for pass in passes - warm_up..passes {
            self.backward(pass);
        }
        self.step();
    }

    /// A forward pass over all microbatches.
    pub(super) fn evaluate(&mut self) {
        let passes = self.model.microbatches * self.model.chunks;
        self.to_gather = passes * self.model.layers;
        for pass in 0..passes {
            self.forward(pass);
        }
        self.push(Stream::Compute, Self::agreement());
    }

    fn push(&mut self, stream: Stream, op: Op) {
        self.ops.push((stream, op));
    }

    /// Makes `after` wait for all that is on `before` by now.
    fn order(&mut self, before: Stream, after: Stream) {
        let event = self.mark(before);
        self.push(after, Op::Wait { event });
    }

    fn mark(&mut self, before: Stream) -> u16 {
        let event = self.events;
        self.events += 1;
        self.push(before, Op::Record { event });
        event
    }

    /// Which chunk and microbatch the `number`th pass is about: as many microbatches as there are stages go through a
    /// chunk before the next chunk's turn.
    fn pass(&self, number: u32, is_backward: bool) -> Pass {
        let (stages, chunks) = (self.layout.pp, self.model.chunks);
        if chunks == 1 {
            return Pass { chunk: 0, microbatch: number };
        }
        let round = stages * chunks;
        let chunk = number % round / stages;
        let chunk = if is_backward { chunks - 1 - chunk } else { chunk };
        Pass { chunk, microbatch: number / round * stages + number % stages }
    }

    fn is_first(&self, pass: Pass) -> bool {
        self.stage == 0 && pass.chunk == 0
    }

    fn is_last(&self, pass: Pass) -> bool {
        self.stage + 1 == self.layout.pp && pass.chunk + 1 == self.model.chunks
    }

    /// PyTorch has NCCL's stream wait for what is on the current one, so nothing is received ahead, unless the program
    /// posts the receive before the pass in front of it.
    fn receive(&mut self, next: bool, pass_before: Option<u16>) {
        let stream = if next { Stream::RecvNext } else { Stream::RecvPrevious };
        match pass_before {
            Some(event) => self.push(stream, Op::Wait { event }),
            None => self.order(Stream::Compute, stream),
        }
        self.push(stream, Op::Recv { next, bytes: self.model.activation_bytes });
        self.order(stream, Stream::Compute);
    }

    /// Notes where a pass begins, and returns where the one before it began.
    fn begin_pass(&mut self) -> Option<u16> {
        if !self.model.overlap {
            return None;
        }
        let event = self.mark(Stream::Compute);
        self.pass_before.replace(event)
    }

    fn send(&mut self, next: bool) {
        let stream = if next { Stream::SendNext } else { Stream::SendPrevious };
        self.order(Stream::Compute, stream);
        self.push(stream, Op::Send { next, bytes: self.model.activation_bytes });
    }

    /// Half of a layer's collectives run beside the computation of the other half of the microbatch.
    fn layer(&mut self, ns: u64) {
        if !self.model.overlap {
            self.push(Stream::Compute, Op::Compute { ns });
            self.exchange(Stream::Compute, ns, 1);
            return;
        }
        for _ in 0..2 {
            self.push(Stream::Compute, Op::Compute { ns: ns / 2 });
            self.order(Stream::Compute, Stream::Layer);
            self.exchange(Stream::Layer, ns, 2);
        }
        self.order(Stream::Layer, Stream::Compute);
    }

    fn exchange(&mut self, stream: Stream, ns: u64, parts: u64) {
        let bytes = self.model.activation_bytes / parts;
        let collective = |group, function| Op::Collective { group, function, bytes };
        if self.layout.cp > 1 {
            self.push(stream, collective(Group::Context, Function::AllGather));
        }
        if self.layout.tp > 1 {
            self.push(stream, collective(Group::Tensor, Function::AllReduce));
        }
        if self.layout.ep > 1 {
            self.push(stream, collective(Group::Expert, Function::AlltoAll));
            self.push(stream, Op::Compute { ns: ns / 2 / parts });
            self.push(stream, collective(Group::Expert, Function::AlltoAll));
        }
    }

    fn forward(&mut self, number: u32) {
        let pass = self.pass(number, false);
        let before = self.begin_pass();
        if !self.is_first(pass) {
            self.receive(false, before);
        }
        let prefetched = self.gathers(number);
        for layer in 0..self.model.layers {
            self.gather_for(prefetched.as_deref(), layer);
            self.layer(self.model.layer_ns);
        }
        if !self.is_last(pass) {
            self.send(true);
        }
    }

    /// Gathers the parameters that the optimizer has changed, ahead of the first pass through each chunk, where that
    /// overlaps: an event for each layer.
    fn gathers(&mut self, number: u32) -> Option<Vec<u16>> {
        let first = self.pass(number, false).microbatch == 0;
        if self.layout.dp * self.layout.cp == 1
            || self.model.sharding != Sharding::Optimizer
            || !self.model.overlap
            || !first
        {
            return None;
        }
        let gather = self.of_parameters(Function::AllGather, 1);
        Some(
            (0..self.model.layers)
                .map(|_| {
                    self.push(Stream::Gradients, gather);
                    self.mark(Stream::Gradients)
                })
                .collect(),
        )
    }

    /// Makes the computation of a layer wait for its parameters.
    fn gather_for(&mut self, prefetched: Option<&[u16]>, layer: u32) {
        if let Some(event) = prefetched.and_then(|events| events.get(layer as usize)) {
            self.push(Stream::Compute, Op::Wait { event: *event });
        } else if self.is_fully_sharded() {
            self.gather_layer();
        }
    }

    /// Waits for a layer's parameters, and begins to gather the next layer's, which overlaps with this one's
    /// computation.
    fn gather_layer(&mut self) {
        let event = match self.gathered.take() {
            Some(event) => event,
            None => self.begin_gathering(),
        };
        if self.model.overlap && self.to_gather > 0 {
            self.gathered = Some(self.begin_gathering());
        }
        self.push(Stream::Compute, Op::Wait { event });
    }

    fn begin_gathering(&mut self) -> u16 {
        self.to_gather = self.to_gather.saturating_sub(1);
        self.order(Stream::Compute, Stream::Gradients);
        let gather = self.of_parameters(Function::AllGather, 1);
        self.push(Stream::Gradients, gather);
        self.mark(Stream::Gradients)
    }

    fn backward(&mut self, number: u32) {
        let pass = self.pass(number, true);
        let before = self.begin_pass();
        if !self.is_last(pass) {
            self.receive(true, before);
        }
        let last = pass.microbatch + 1 == self.model.microbatches;
        for _ in 0..self.model.layers {
            if self.is_fully_sharded() {
                self.gather_layer();
            }
            self.layer(2 * self.model.layer_ns);
            if self.is_fully_sharded() || (last && self.model.overlap) {
                self.reduce_layer();
            }
        }
        if !self.is_first(pass) {
            self.send(false);
        }
    }

    fn is_fully_sharded(&self) -> bool {
        self.model.sharding == Sharding::Full && self.layout.dp * self.layout.cp > 1
    }

    fn of_parameters(&self, function: Function, layers: u32) -> Op {
        let bytes = self.model.gradient_bytes * u64::from(layers);
        Op::Collective { group: Group::Data, function, bytes }
    }

    fn reduce_layer(&mut self) {
        if self.layout.dp * self.layout.cp > 1 {
            let function = match self.model.sharding {
                Sharding::None => Function::AllReduce,
                Sharding::Optimizer | Sharding::Full => Function::ReduceScatter,
            };
            self.order(Stream::Compute, Stream::Gradients);
            let reduce = self.of_parameters(function, 1);
            self.push(Stream::Gradients, reduce);
        }
    }

    fn step(&mut self) {
        let (model, layers) = (self.model, self.model.layers * self.model.chunks);
        let replicated = self.layout.dp * self.layout.cp > 1;
        if replicated && !model.overlap && model.sharding != Sharding::Full {
            (0..layers).for_each(|_| self.reduce_layer());
        }
        if replicated {
            self.order(Stream::Gradients, Stream::Compute);
        }
        self.push(Stream::Compute, Op::Compute { ns: model.optimizer_ns });
        if replicated && model.sharding == Sharding::Optimizer && !model.overlap {
            let gather = self.of_parameters(Function::AllGather, layers);
            self.push(Stream::Compute, gather);
        }
        self.push(Stream::Compute, Self::agreement());
    }

    /// The norm of the gradients, or the loss.
    fn agreement() -> Op {
        Op::Collective { group: Group::World, function: Function::AllReduce, bytes: 8 }
    }
}
