"""Which ranks of a job belong together, for each shape of job. Pure functions.

Tensor parallelism sits on neighbouring ranks and data parallelism on strided ones, as Megatron lays them out; pipeline
stages are blocks of neighbouring ranks.
"""

SHAPES = ("dp", "tpdp", "pp", "fsdp", "graphs", "streams")
# A transformer, spread by PyTorch itself, which makes its own groups.
MODELS = ("gpt-dp", "gpt-fsdp", "gpt-tp", "gpt-pp")
TENSOR = 2
STAGES = 4


class LayoutError(ValueError):
    """So many ranks cannot be laid out in this shape."""


def pipeline_stages(world):
    """Four stages where there are replicas of them, else as many as make two stages at least."""
    return STAGES if world % STAGES == 0 and world > STAGES else 2


def groups(shape, world):
    """The groups beside that of all ranks: {name: [members, ...]}, in the order in which all ranks make them."""
    everybody = list(range(world))
    if shape == "streams":
        return {"gradients-a": [everybody], "gradients-b": [everybody]}
    if shape == "tpdp":
        return split(shape, world, TENSOR, "tp", "dp")
    if shape == "pp":
        replicas = world // pipeline_stages(world)
        return split(shape, world, replicas, "dp", "pp")
    return {}


def split(shape, world, inner, inner_name, outer_name):
    """Groups of `inner` neighbours, and groups across them."""
    if inner < 1 or world % inner or world // inner < 2:
        raise LayoutError(f"{world} ranks do not make a job of shape {shape}: expected a multiple of {max(inner, 1) * 2}")
    neighbours = [list(range(first, first + inner)) for first in range(0, world, inner)]
    across = [list(range(first, world, inner)) for first in range(inner)]
    return {inner_name: neighbours, outer_name: across}


def own(members, rank):
    """The group of several that a rank is in."""
    return next(group for group in members if rank in group)
