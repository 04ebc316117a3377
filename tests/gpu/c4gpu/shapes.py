"""What one iteration of each kind of parallel job does: which compute, which collectives, in which order.

The compute is matrix products, the collectives are those of a real job of that kind: gradient buckets that are reduced while
the next layer is still computed, tensor-parallel sums in every layer, activations handed from stage to stage, weights
gathered just before they are needed. Each shape sends one collective an iteration through `Trainer.marked`, which a fault may
skip or shorten, ends with a small reduction into `metrics`, and can check that NCCL still adds up.
"""

from . import layout
from .layout import own

LAYERS = 4
MICROBATCHES = 4
CAPTURE_WARM_UP = 2


class Shape:
    """Gradient buckets over one group or several, which most shapes have."""

    def __init__(self, trainer):
        self.job = trainer
        large = trainer.options.bucket_kib * 256  # float32 elements
        # The order is that of DDP's buckets: large gradients first, what is left over last.
        self.buckets = [self.full(count) for count in (large, large, large // 8, large // 8)]

    def full(self, count, value=1.0):
        """A buffer on the GPU."""
        return self.job.torch.full((count,), value, device=self.job.device)

    def open(self):
        """What needs the groups, once they are there and the job is calibrated."""

    def close(self):
        """Gives back what holds on to the groups."""

    def step(self):
        """One iteration up to the reduction of `metrics`; nothing in it waits on the host."""
        raise NotImplementedError

    def finish(self, group=None):
        """The reduction of the loss that ends an iteration."""
        self.job.dist.all_reduce(self.job.metrics, op=self.job.dist.ReduceOp.AVG, group=group)

    def reduce_gradients(self, slices, group=None):
        """Computes a slice, reduces a bucket, computes the next while it travels."""
        pending = []
        for index, (bucket, matmuls) in enumerate(zip(self.buckets, slices)):
            self.job.compute(matmuls)
            count = self.job.marked(bucket.numel()) if index == 0 else bucket.numel()
            if count:
                pending.append(self.job.reduce(bucket[:count], group))
        for work in pending:
            work.wait()

    def members(self):
        """The ranks whose gradients are averaged with this one's."""
        return list(range(self.job.world_size))

    def gradient_group(self):
        """Their group; None is that of all ranks."""
        return None

    def verify(self):
        """Checks that NCCL still adds up, with every observer in place."""
        offset = float(self.job.iteration % 7)
        members = self.members()
        expected = sum(members) / len(members) + 1 + offset
        for bucket in self.buckets:
            bucket.fill_(self.job.rank + 1 + offset)
        for work in [self.job.reduce(bucket, self.gradient_group()) for bucket in self.buckets]:
            work.wait()
        for bucket in self.buckets:
            self.check("average", bucket, expected)

    def check(self, what, buffer, expected):
        """Ends the job where a buffer does not hold one value throughout."""
        low, high = buffer.min().item(), buffer.max().item()
        if abs(low - expected) > 1e-3 or abs(high - expected) > 1e-3:
            raise SystemExit(f"iteration {self.job.iteration}: wrong {what}: {low}..{high}, expected {expected}")


class DataParallel(Shape):
    """All ranks do the same and average their gradients."""

    def step(self):
        head, *rest = self.job.slices(len(self.buckets) + 1)
        self.job.compute(head)
        self.reduce_gradients(rest)
        self.finish()


class TensorData(Shape):
    """Pairs of ranks share every layer and sum their halves in it; gradients are averaged across the pairs."""

    def __init__(self, trainer):
        super().__init__(trainer)
        self.activations = self.full(trainer.options.bucket_kib * 64)

    def step(self):
        job = self.job
        slices = iter(job.slices(2 * LAYERS + len(self.buckets)))
        for _ in range(2 * LAYERS):  # forward, then backward
            job.compute(next(slices))
            job.dist.all_reduce(self.activations, op=job.dist.ReduceOp.AVG, group=job.groups["tp"])
        self.reduce_gradients(list(slices), job.groups["dp"])
        self.finish()

    def members(self):
        return own(layout.groups("tpdp", self.job.world_size)["dp"], self.job.rank)

    def gradient_group(self):
        return self.job.groups["dp"]


class Pipeline(Shape):
    """Stages hand activations forward and gradients back, one microbatch of each in turn (1F1B); replicas of a stage average."""

    def __init__(self, trainer):
        super().__init__(trainer)
        count = trainer.options.bucket_kib * 64
        self.received = {"forward": self.full(count), "backward": self.full(count)}
        self.sent = self.full(count)
        self.line = own(layout.groups("pp", trainer.world_size)["pp"], trainer.rank)
        stage = self.line.index(trainer.rank)
        self.stage, self.stages = stage, len(self.line)
        self.before = self.line[stage - 1] if stage > 0 else None
        self.behind = self.line[stage + 1] if stage + 1 < self.stages else None

    def exchange(self, *transfers):
        """Sends and receives as one batch: ("send" or "receive", "forward" or "backward") each."""
        dist, group = self.job.dist, self.job.groups["pp"]
        operations = []
        for verb, direction in transfers:
            down = (verb == "send") == (direction == "forward")
            peer = self.behind if down else self.before
            if peer is None:
                continue
            function, buffer = (dist.isend, self.sent) if verb == "send" else (dist.irecv, self.received[direction])
            operations.append(dist.P2POp(function, buffer, peer, group))
        if operations:
            for work in dist.batch_isend_irecv(operations):
                work.wait()

    def step(self):
        job = self.job
        matmuls = job.slices(2 * MICROBATCHES + len(self.buckets))
        self.pipeline(matmuls[1])
        self.reduce_gradients(matmuls[-len(self.buckets) :], job.groups["dp"])
        self.finish(job.groups["pp"])

    def pipeline(self, matmuls):
        """All microbatches forward and backward."""
        warm_up = min(self.stages - self.stage - 1, MICROBATCHES)
        steady = MICROBATCHES - warm_up
        for _ in range(warm_up):
            self.exchange(("receive", "forward"))
            self.job.compute(matmuls)
            self.exchange(("send", "forward"))
        if steady:
            self.exchange(("receive", "forward"))
        for index in range(steady):
            self.job.compute(matmuls)
            self.exchange(("send", "forward"), ("receive", "backward"))
            self.job.compute(matmuls)
            last = index + 1 == steady
            self.exchange(("send", "backward"), *([] if last else [("receive", "forward")]))
        for _ in range(warm_up):
            self.exchange(("receive", "backward"))
            self.job.compute(matmuls)
            self.exchange(("send", "backward"))

    def members(self):
        return own(layout.groups("pp", self.job.world_size)["dp"], self.job.rank)

    def gradient_group(self):
        return self.job.groups["dp"]

    def verify(self):
        super().verify()
        self.sent.fill_(float(self.job.rank))
        self.exchange(("send", "forward"), ("receive", "forward"))
        if self.before is not None:
            self.check("activation", self.received["forward"], self.before)


class Sharded(Shape):
    """Every rank keeps a part of every layer; layers are gathered one ahead of their use, gradients scattered (FSDP)."""

    def __init__(self, trainer):
        super().__init__(trainer)
        count = trainer.options.bucket_kib * 256 // trainer.world_size
        self.shards = [self.full(count) for _ in range(LAYERS)]
        self.layers = [self.full(count * trainer.world_size) for _ in range(LAYERS)]

    def gather(self, layer, count=None):
        """Begins to gather a layer, or the first elements of each shard of it."""
        shard, whole = self.shards[layer], self.layers[layer]
        if count is None:
            count = shard.numel()
        if not count:
            return None
        return self.job.dist.all_gather_into_tensor(
            whole[: count * self.job.world_size], shard[:count], async_op=True
        )

    def scatter(self, layer):
        """Begins to average the gradients of a layer."""
        operation = self.job.dist.ReduceOp.AVG
        return self.job.dist.reduce_scatter_tensor(self.shards[layer], self.layers[layer], op=operation, async_op=True)

    def step(self):
        slices = self.job.slices(2 * LAYERS)
        gathered = self.gather(0, self.job.marked(self.shards[0].numel()))
        for layer in range(LAYERS):
            following = self.gather(layer + 1) if layer + 1 < LAYERS else None
            if gathered is not None:
                gathered.wait()
            self.job.compute(slices[layer])
            gathered = following
        scattered = []
        gathered = self.gather(LAYERS - 1)
        for layer in reversed(range(LAYERS)):
            following = self.gather(layer - 1) if layer else None
            gathered.wait()
            self.job.compute(slices[LAYERS + layer])
            scattered.append(self.scatter(layer))
            gathered = following
        for work in scattered:
            work.wait()
        self.finish()

    def verify(self):
        super().verify()
        self.shards[0].fill_(float(self.job.rank + 1))
        self.gather(0).wait()
        size = self.shards[0].numel()
        for rank in range(self.job.world_size):
            self.check("shard", self.layers[0][rank * size : (rank + 1) * size], rank + 1)


class Graphs(Shape):
    """Data-parallel, with compute and collectives captured in two CUDA graphs and replayed."""

    def __init__(self, trainer):
        super().__init__(trainer)
        self.graphs = []

    def open(self):
        head, *rest = self.job.slices(len(self.buckets) + 1)
        self.graphs = [
            self.capture(lambda: self.part(head, self.buckets[:1], rest[:1])),
            self.capture(lambda: self.part(0, self.buckets[1:], rest[1:])),
        ]

    def part(self, head, buckets, slices):
        """Some of the iteration."""
        self.job.compute(head)
        pending = []
        for bucket, matmuls in zip(buckets, slices):
            self.job.compute(matmuls)
            pending.append(self.job.reduce(bucket))
        for work in pending:
            work.wait()

    def capture(self, work):
        """A graph of some work, which has to have run before so that nothing is set up while it is captured."""
        torch = self.job.torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(CAPTURE_WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads (PyTorch's watchdog) may go on using CUDA meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        return graph

    def close(self):
        # A communicator is only gone once no graph holds it.
        self.graphs = []

    def step(self):
        first, second = self.graphs
        bucket = self.buckets[0]
        count = self.job.marked(bucket.numel())
        if count == bucket.numel():
            first.replay()
        elif count:
            self.job.dist.all_reduce(bucket[:count], op=self.job.dist.ReduceOp.AVG)
        second.replay()
        self.finish()


class Streams(Shape):
    """Two streams that compute and reduce side by side, each with a communicator of its own."""

    def __init__(self, trainer):
        super().__init__(trainer)
        self.streams = [trainer.torch.cuda.Stream() for _ in range(2)]

    def step(self):
        job, cuda = self.job, self.job.torch.cuda
        groups = (job.groups["gradients-a"], job.groups["gradients-b"])
        head, *rest = job.slices(len(self.buckets) + 1)
        job.compute(head)
        here = cuda.current_stream()
        pending = []
        for stream in self.streams:
            stream.wait_stream(here)
        for index, (bucket, matmuls) in enumerate(zip(self.buckets, rest)):
            with cuda.stream(self.streams[index % 2]):
                job.compute(matmuls)
                count = job.marked(bucket.numel()) if index == 0 else bucket.numel()
                if count:
                    pending.append(job.reduce(bucket[:count], groups[index % 2]))
        for work in pending:
            work.wait()
        for stream in self.streams:
            here.wait_stream(stream)
        self.finish()


SHAPES = {
    "dp": DataParallel,
    "tpdp": TensorData,
    "pp": Pipeline,
    "fsdp": Sharded,
    "graphs": Graphs,
    "streams": Streams,
}
