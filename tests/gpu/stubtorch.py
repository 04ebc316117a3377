"""Just enough of PyTorch to run one rank of the training job alone, for tests: it moves nothing and notes what was called."""

import contextlib
import os
import types


class Tensor:
    """A tensor whose elements are all alike."""

    def __init__(self, count, value):
        self.count, self.value = count, value

    def fill_(self, value):
        self.value = value

    def numel(self):
        return self.count

    def item(self):
        return self.value

    def tolist(self):
        return list(self.value)

    def min(self):
        return self

    max = min

    def __getitem__(self, key):
        if not isinstance(key, slice):
            return self
        return Tensor(len(range(*key.indices(self.count))), self.value)

    def __truediv__(self, _):
        return self


class Event:
    """An event of a stream."""

    def __init__(self, **_):
        pass

    def record(self):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, _):
        return 1.0


def work():
    """What an operation returns that nobody has to wait for."""
    return types.SimpleNamespace(wait=lambda: None)


def distributed(calls):
    """torch.distributed. Groups are tuples of ranks, None is all of them."""

    def note(name):
        return lambda *_, **__: calls.append((name,))

    def collective(name, size_of):
        def function(*tensors, op=None, group=None, async_op=False):
            del op, async_op
            calls.append((name, size_of(tensors).numel(), *([group] if group else [])))
            return work()

        return function

    def batch(operations):
        calls.append(("batch", tuple((kind, peer, tensor.numel()) for kind, tensor, peer, _ in operations)))
        return [work()]

    return types.SimpleNamespace(
        ReduceOp=types.SimpleNamespace(AVG="avg"),
        FileStore=lambda path, ranks: (path, ranks),
        P2POp=lambda *operation: operation,
        isend="send",
        irecv="receive",
        batch_isend_irecv=batch,
        init_process_group=lambda *_, store=None, **__: calls.append(("init", os.path.basename(store[0]))),
        destroy_process_group=note("destroy"),
        new_group=lambda ranks, group_desc: (group_desc, *ranks),
        all_reduce=collective("all_reduce", lambda tensors: tensors[0]),
        all_gather_into_tensor=collective("all_gather", lambda tensors: tensors[1]),
        reduce_scatter_tensor=collective("reduce_scatter", lambda tensors: tensors[0]),
        broadcast=lambda *_: None,
        barrier=lambda: None,
        distributed_c10d=types.SimpleNamespace(_abort_process_group=note("abort")),
    )


def cuda(calls):
    """torch.cuda. A graph replays what it captured: the calls of that time."""

    class Graph:
        def replay(self):
            calls.extend(self.captured)

    @contextlib.contextmanager
    def capture(graph, **_):
        begin = len(calls)
        yield
        graph.captured = calls[begin:]
        del calls[begin:]

    stream = types.SimpleNamespace(wait_stream=lambda _: None)
    return types.SimpleNamespace(
        Event=Event,
        Stream=lambda: stream,
        CUDAGraph=Graph,
        graph=capture,
        stream=lambda _: contextlib.nullcontext(),
        current_stream=lambda: stream,
        set_device=lambda _: None,
        synchronize=lambda: None,
        _sleep=lambda cycles: calls.append(("spin", cycles)),
    )


def torch(calls):
    """The module; what it is asked for goes into `calls`."""
    return types.SimpleNamespace(
        distributed=distributed(calls),
        cuda=cuda(calls),
        bfloat16="bfloat16",
        int64="int64",
        device=lambda *_: "cuda:0",
        empty=lambda *_, **__: None,
        randn=lambda *_, **__: Tensor(1, 0.0),
        full=lambda shape, value, **_: Tensor(shape[0], value),
        tensor=lambda values, **_: Tensor(len(values), values),
        matmul=lambda *_: None,
    )
