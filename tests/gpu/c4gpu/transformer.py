"""A small transformer, trained with PyTorch's own ways of spreading it over GPUs: DDP, FSDP, tensor parallelism, a pipeline.

Here the collectives are PyTorch's, in its order and on its streams; only the reduction of the loss at the end of an iteration
is our own, and it is the one that faults skip or shorten. This module imports PyTorch, so it must itself be imported after the
environment is set.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from .shapes import MICROBATCHES, Shape

HEAD = 64
LEARNING_RATE = 1e-3


class Block(nn.Module):
    """Attention and a multilayer perceptron, each after a normalisation and beside a residual connection."""

    def __init__(self, width):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        normed = self.norms[0](x)
        # As many heads as this rank has of them.
        heads = [part(normed).unflatten(-1, (-1, HEAD)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        attended = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


def loss_of(output, target):
    """How far an output is from what was wanted."""
    return (output - target).float().square().mean()


class Model(Shape):
    """What all ways have: the blocks, a batch, an optimizer, the reduction of the loss."""

    def __init__(self, trainer):
        super().__init__(trainer)
        options = trainer.options
        torch.manual_seed(1)
        blocks = [Block(options.width) for _ in range(self.layers())]
        self.model = nn.Sequential(*blocks).to(device=trainer.device, dtype=torch.bfloat16)
        shape = (options.batch, options.sequence, options.width)
        self.input = torch.randn(shape, device=trainer.device, dtype=torch.bfloat16)
        self.target = torch.randn(shape, device=trainer.device, dtype=torch.bfloat16)
        self.optimizer = None

    def layers(self):
        """Blocks of this rank."""
        return self.job.options.layers

    def open(self):
        self.spread()
        # One tensor after the other: with tensor parallelism, not all are of one kind.
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE, foreach=False)

    def spread(self):
        """Makes the model one of several processes."""
        raise NotImplementedError

    def learn(self):
        """Forward and backward; returns the loss."""
        loss = loss_of(self.model(self.input), self.target)
        loss.backward()
        return loss.detach()

    def step(self):
        # Beside the model's own compute, as much as was asked for: it makes iterations longer without more memory.
        self.job.compute(self.job.matmuls)
        self.optimizer.zero_grad(set_to_none=True)
        self.job.metrics.fill_(self.learn())
        self.optimizer.step()
        count = self.job.marked(self.job.metrics.numel())
        if count:
            dist.all_reduce(self.job.metrics[:count], op=dist.ReduceOp.AVG)


class Replicated(Model):
    """DistributedDataParallel."""

    def spread(self):
        self.model = DistributedDataParallel(self.model, gradient_as_bucket_view=True)


class FullySharded(Model):
    """FSDP: every block is gathered before it is used."""

    def spread(self):
        for block in self.model:
            fully_shard(block)
        fully_shard(self.model)


class TensorParallel(Model):
    """Each block's matrices are split between all ranks."""

    def spread(self):
        mesh = init_device_mesh(self.job.device.type, (self.job.world_size,))
        columns = {name: ColwiseParallel() for name in ("query", "key", "value", "up")}
        rows = {name: RowwiseParallel() for name in ("out", "down")}
        for block in self.model:
            parallelize_module(block, mesh, {**columns, **rows})


class Pipelined(Model):
    """Each rank is a stage; microbatches one forward, one backward."""

    def layers(self):
        return max(1, self.job.options.layers // self.job.world_size)

    def spread(self):
        job = self.job
        stage = PipelineStage(self.model, job.rank, job.world_size, job.device)
        self.schedule = Schedule1F1B(stage, MICROBATCHES, loss_fn=loss_of)

    def learn(self):
        last = self.job.rank + 1 == self.job.world_size
        losses = []
        inputs = (self.input,) if self.job.rank == 0 else ()
        self.schedule.step(*inputs, **({"target": self.target, "losses": losses} if last else {}))
        return torch.stack(losses).mean().detach() if losses else self.job.metrics[0]


MODELS = {
    "gpt-dp": Replicated,
    "gpt-fsdp": FullySharded,
    "gpt-tp": TensorParallel,
    "gpt-pp": Pipelined,
}
