"""Exact search for a few queries in one go: nothing waits for the device until the end.

The steps are those of :class:`.ExactSearch` in six kernels, which fit into a CUDA graph. What they
cannot settle is only reported.
"""
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from lightweight_decoder.search.kernels.group_maxima import (
    Precision,
    Roundings,
    current,
    error_beyond_queries,
    fastest_precision,
    has_room_for,
    top_k_products,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


_LOG = logging.getLogger(__name__)
_LOCK = threading.Lock()
"""Only one capture may be under way in a process, and the calls of a graph share its buffers."""

MOST_GRAPHS = 32
"""Of a function. Graphs are kept, and what comes later is not captured: to capture takes as long as
dozens of calls, which would be lost where sizes keep changing."""

MOST_QUERIES = 64
_LONGEST_LIST = 128
"""One program compares all pairs of a query's listed vectors."""
_BYTES_PER_COPY = 16


class Captured(NamedTuple):
    """A graph, what it reads and what it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class GraphedFunction:
    """Calls a function of small tensors; on a GPU it replays what an earlier call did.

    Starting dozens of small kernels takes the CPU longer than they take the GPU; a CUDA graph
    starts them together. PyTorch's own capture does it: ``torch.cuda.make_graphed_callables`` is
    for training, and ``torch.compile`` needs many seconds.

    Calls are alike whose inputs have the same shapes, types and devices, and whose settings are
    equal. The first of them runs the function, which compiles its kernels; the second captures it.
    Where that fails, on a CPU, and inside of another capture, the function is called as ever.

    Threads may share it. Its graphs share a pool of memory: as much as the largest captured call
    takes, and all inputs and outputs; kept until the function goes.

    Args:
        function: Computes tensors from tensors on one device and settings. It must not wait for the
            device, and what else it reads must stay where it is.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function = function
        self._seen: set[object] = set()
        self._graphs: dict[object, Captured | None] = {}
        self._last_stream: torch.cuda.Stream | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle the function alone: graphs belong to a process."""
        return GraphedFunction, (self._function,)

    def __call__(self, *inputs: Tensor, **settings: object) -> tuple[Tensor, ...]:
        """Return what the function returns, in tensors that later calls do not change.

        Inputs are tensors on one device, settings hashable; to be called under ``torch.no_grad``.
        """
        if can_capture(inputs[0].device):
            key = (*((tuple(i.shape), i.dtype, i.device) for i in inputs), *settings.items())
            with _LOCK:
                captured = self._captured(key, inputs, settings)
                if captured is not None:
                    return self._replay(captured, inputs)
        return self._function(*inputs, **settings)

    def _captured(
        self, key: object, inputs: tuple[Tensor, ...], settings: dict[str, object]
    ) -> Captured | None:
        """Return the graph of calls like this, if they have one."""
        if key not in self._seen:
            if len(self._seen) < MOST_GRAPHS:
                self._seen.add(key)
            return None
        if key not in self._graphs:
            other = next(filter(None, self._graphs.values()), None)
            self._graphs[key] = capture(self._function, inputs, settings, other)
        return self._graphs[key]

    def _replay(self, captured: Captured, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run a graph on the current stream, after what other streams run of the same memory."""
        stream = torch.cuda.current_stream(inputs[0].device)
        if self._last_stream != stream:
            if self._last_stream is not None:
                stream.wait_stream(self._last_stream)
            self._last_stream = stream
        for buffer, given in zip(captured.inputs, inputs, strict=True):
            buffer.copy_(given)
        captured.graph.replay()
        return tuple(output.clone() for output in captured.outputs)


def can_capture(device: torch.device) -> bool:
    """Say whether calls on a device can be captured now."""
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def capture(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    settings: dict[str, object],
    sharing: Captured | None,
) -> Captured | None:
    """Capture a call, which must have run before; None where that fails.

    Inputs are copied. ``sharing`` is another graph, never replayed at the same time, whose memory
    is used for this one too.
    """
    graph = torch.cuda.CUDAGraph()
    device = inputs[0].device
    pool = None if sharing is None else sharing.graph.pool()
    stream = torch.cuda.Stream(device)
    try:
        # Tensors of inference mode could not be written to by a later call outside of it.
        with torch.inference_mode(mode=False), torch.cuda.device(device), torch.cuda.stream(stream):
            buffers = tuple(given.detach().clone() for given in inputs)
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                outputs = function(*buffers, **settings)
    except RuntimeError as error:
        _LOG.info("A call is not captured in a CUDA graph: %s", error)
        return None
    return Captured(graph, buffers, outputs)


class FewQueriesSearch:
    """Searches for few queries in vectors that a GPU holds; needs Triton.

    Extra memory on the device: about n / 4 + 600 k bytes for a query, 16 MB for 64 queries and
    1,000,000 vectors. Arguments are those of :func:`.make_kernels`.
    """

    def __init__(
        self, vectors: Tensor, owners: Tensor | None, *, margin: float, roundings: Roundings
    ) -> None:
        self._vectors = vectors
        self._roundings = roundings
        search = partial(_search_at_once, vectors=vectors, owners=owners, margin=margin)
        self._graphed = GraphedFunction(search)

    def suits(self, num_queries: int, list_length: int, excluded: Tensor | None) -> bool:
        """Say whether it is made for such a search.

        Vectors in rows that are no multiple of 16 bytes would be copied whole by every search,
        which the memory of a graph is not for.
        """
        return (
            0 < num_queries <= MOST_QUERIES
            and list_length <= _LONGEST_LIST
            and self._vectors.shape[1] * self._vectors.itemsize % _BYTES_PER_COPY == 0
            and has_room_for(list_length, excluded)
        )

    def search(
        self, queries: Tensor, k: int, list_length: int, excluded: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Find the k best phrases for each query (q, d) of any length, and say if they are certain.

        At most 128 vectors are compared (``list_length``, k or more); ``excluded`` as of
        :class:`.FirstPass`. Returns values, vectors and phrases (q, k) as ``ExactSearch`` gives
        them, and (q,) bool: whether they are right. They may not be where a cut falls among values
        that are too close to call, or where a query is zero or not finite.
        """
        precision = fastest_precision(self._vectors.dtype, len(queries))
        return self._graphed(
            *((queries,) if excluded is None else (queries, excluded)),
            k=k,
            list_length=list_length,
            precision=precision,
            vectors_error=self._roundings.longest(precision),
        )


def _search_at_once(
    queries: Tensor,
    excluded: Tensor | None = None,
    *,
    vectors: Tensor,
    owners: Tensor | None,
    margin: float,
    vectors_error: float,
    precision: Precision,
    k: int,
    list_length: int,
) -> tuple[Tensor, ...]:
    """Start all kernels."""
    from lightweight_decoder.search.kernels import triton_launch as launch  # noqa: PLC0415 - optional

    with current(queries.device):
        unit, unit32, left_out, usable = launch.scaled(queries, precision)
        listed = top_k_products(
            unit32, vectors, list_length, excluded=excluded, precision=precision
        )
        return launch.settled(
            listed,
            (unit, left_out, usable),
            vectors,
            owners,
            k=k,
            margin=margin,
            error=error_beyond_queries(vectors.shape[1], vectors_error, precision),
        )
