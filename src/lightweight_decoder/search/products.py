"""Products of queries and vectors in full float32, whatever the caller has allowed elsewhere.

The order of phrases (:mod:`.order`) must not depend on ``trainer.precision=bf16-mixed``,
``torch.set_default_dtype`` or ``torch.set_float32_matmul_precision``.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightweight_decoder.datatypes import NO_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

_GATHERED_BYTES = 2**21  # stays in the cache between the copy and the product
_LOCK = threading.Lock()
_USERS: dict[str, tuple[int, str]] = {}
"""How many threads use the full float32 of a kind of device, and the setting before the first."""


@contextlib.contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Switch off autocast, and bfloat16 and TF32 inside float32 products, and put them back.

    The second is a setting of the process: of several threads, the last to leave puts it back.
    """
    kind = "cuda" if device.type == "cuda" else "mkldnn"
    matmul = getattr(torch.backends, kind).matmul
    with _LOCK:
        users, before = _USERS.get(kind, (0, matmul.fp32_precision))
        _USERS[kind] = users + 1, before
        matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        with _LOCK:
            users, before = _USERS.pop(kind)
            if users > 1:
                _USERS[kind] = users - 1, before
            else:
                matmul.fp32_precision = before


def products(queries: Tensor, vectors: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the product of each query (q, d) with each vector (m, d), (q, m) float32."""
    queries, vectors = queries.float(), vectors.float()
    with full_float32(queries.device):
        if len(queries) == 1:  # torch takes all cores for one query only if it is a vector
            return torch.mv(vectors, queries[0], out=None if out is None else out[0])[None]
        return torch.mm(queries, vectors.T, out=out)


def products_of_lists(queries: Tensor, lists: Tensor) -> Tensor:
    """Return the products of queries (q, d) with vectors of their own (q, m, d), (q, m) float32."""
    with full_float32(queries.device):
        return torch.bmm(lists.float(), queries.float()[:, :, None]).squeeze(2)


def listed_products(queries: Tensor, vectors: Tensor, ids: Tensor) -> Tensor:
    """Return each query's products with vectors of its own, (q, m) float32.

    Float32 vectors on the CPU are read where they are, by torch's product of two matrices that
    computes only the entries of a sparse pattern; others are gathered, a few queries at a time.
    2,048 queries with 160 of 148,730 x 384 each on 2 cores of an AMD EPYC (Zen 4): 35 ms, gathered
    140 ms.

    Args:
        queries: (q, d) floating point, on the device of ``vectors``.
        vectors: (n, d) float32, float16 or bfloat16.
        ids: (q, m) int64 rows of ``vectors``; ``NO_ID`` gives -inf.
    """
    rows = ids.clamp(min=0)
    in_memory = vectors.device.type == "cpu" and vectors.dtype == torch.float32
    if in_memory and ids.shape[1] <= len(vectors):  # torch takes no pattern with more entries
        values = _read_in_place(queries.float(), vectors, rows)
    else:
        values = _gathered(queries.float(), vectors, rows)
    return values.masked_fill_(ids == NO_ID, -torch.inf)


def _read_in_place(queries: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
    """Compute the entries (query, row) of all products."""
    _let_torch_say_that_sparse_is_beta()
    num_queries, length = rows.shape
    pattern = torch.sparse_csr_tensor(
        torch.arange(num_queries + 1) * length,
        rows.flatten(),
        queries.new_zeros(rows.numel()),
        (num_queries, len(vectors)),
        check_invariants=False,  # rows are in no order, and may come twice
    )
    values: Tensor = torch.sparse.sampled_addmm(pattern, queries, vectors.T, beta=0.0).values()
    return values.view(rows.shape)


def _gathered(queries: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
    """Copy the vectors of a few queries at a time, and multiply."""
    values = queries.new_empty(rows.shape)
    step = max(1, _GATHERED_BYTES // (4 * max(1, rows.shape[1]) * vectors.shape[1]))
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        lists = vectors.index_select(0, rows[some].flatten())
        lists = lists.view(*rows[some].shape, vectors.shape[1])
        values[some] = products_of_lists(queries[some], lists)
    return values


@cache
def _let_torch_say_that_sparse_is_beta() -> None:
    """Make the first sparse tensor of the process, which torch warns about, and only that one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), dtype=torch.float32, check_invariants=False)
