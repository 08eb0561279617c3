"""The k largest products by group maxima, compared with float64.

On a GPU these run with ``-m gpu``; ``test_triton_interpreter.py`` runs them on the CPU.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.search import ExactSearch
from lightweight_decoder.search.kernels import few_queries, group_maxima
from lightweight_decoder.search.kernels.group_maxima import (
    GroupedPass,
    Roundings,
    choice_error,
    is_available,
    top_k_products,
)
from lightweight_decoder.vectors.directions import unit_rows

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_kernels = pytest.mark.gpu if not INTERPRETED else lambda test: test
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16}
if not INTERPRETED:  # the interpreter takes bfloat16's bits for integers
    PRECISIONS["bfloat16"] = torch.bfloat16


def whole_numbers(seed, *shape):
    """Make small whole numbers, whose products and sums no precision rounds."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()


def unit(seed, *shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def expected(queries, vectors, k):
    """Sort all products in float64, ties to the lower id."""
    products = queries.double() @ vectors.double().T
    values, ids = products.sort(dim=1, descending=True, stable=True)
    return values[:, :k].float(), ids[:, :k]


def assert_found(queries, vectors, k, precision="float32"):
    dtype = PRECISIONS[precision]
    found = top_k_products(
        queries.to(DEVICE, dtype), vectors.to(DEVICE, dtype), k, precision=precision
    )
    values, ids = expected(queries, vectors, k)
    assert torch.equal(found.values.cpu(), values)
    assert torch.equal(found.vectors.cpu(), ids)


@needs_kernels
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("q", "n", "d", "k"),
    [
        (3, 1000, 40, 5),
        (1, 257, 7, 16),
        (17, 515, 33, 1),
        (2, 300, 1, 3),
        (2, 7, 5, 9),
        (1, 1, 1, 1),
        (2, 130, 3, 130),
    ],
)
def test_whole_numbers_are_found_exactly(precision, q, n, d, k):
    assert_found(whole_numbers(0, q, d), whole_numbers(1, n, d), k, precision)


@needs_kernels
@pytest.mark.parametrize("k", [1, 40])
def test_equal_products_go_to_the_lowest_ids(k):
    assert_found(torch.ones(2, 5), torch.ones(700, 5), k)


@needs_kernels
def test_duplicates_stand_in_the_order_of_their_ids():
    distinct = whole_numbers(0, 30, 16)
    copies = torch.randint(30, (801,), generator=torch.Generator().manual_seed(1))
    assert_found(distinct[:4], distinct[copies], 50)


@needs_kernels
@pytest.mark.parametrize("n", [600, 605])
def test_negative_products_are_not_displaced_by_what_is_past_the_end(n):
    assert_found(whole_numbers(0, 3, 8).abs() + 1, -whole_numbers(1, n, 8).abs() - 1, 20)


@needs_kernels
def test_one_huge_outlier_leaves_the_others_in_order():
    vectors = whole_numbers(1, 400, 8)
    vectors[123] *= 1e6
    assert_found(whole_numbers(0, 4, 8), vectors, 20)


@needs_kernels
def test_rows_that_are_not_contiguous():
    assert_found(whole_numbers(0, 24, 3).T, whole_numbers(1, 24, 400).T, 4)


@needs_kernels
def test_no_queries():
    found = top_k_products(
        torch.empty(0, 4, device=DEVICE), torch.ones(50, 4, device=DEVICE), 3, precision="float32"
    )
    assert found.values.shape == found.vectors.shape == (0, 3)


@needs_kernels
@pytest.mark.parametrize("distinct", [300, 5])
def test_excluded_vectors_are_passed_over(distinct):
    queries, vectors = whole_numbers(0, 4, 8), whole_numbers(1, distinct, 8).repeat(60, 1)[:300]
    _, best = expected(queries, vectors, 20)
    excluded = torch.full((4, 3), NO_ID)
    excluded[:, 0], excluded[1:, 2] = best[:, 0], best[1:, 3]
    hidden = torch.zeros(4, 300, dtype=torch.bool)
    hidden[torch.arange(4), excluded[:, 0]] = True
    hidden[torch.arange(1, 4), excluded[1:, 2]] = True
    products = (queries @ vectors.T).masked_fill(hidden, -torch.inf)
    values, ids = products.sort(dim=1, descending=True, stable=True)
    found = top_k_products(
        queries.to(DEVICE),
        vectors.to(DEVICE),
        6,
        excluded=excluded.to(DEVICE),
        precision="float32",
    )
    assert torch.equal(found.values.cpu(), values[:, :6])
    assert torch.equal(found.vectors.cpu(), ids[:, :6])


@needs_kernels
def test_rows_end_in_nothing_where_all_is_excluded():
    everything = torch.arange(40, device=DEVICE)[None]
    ones = torch.ones(40, 2, device=DEVICE)
    found = top_k_products(ones[:1], ones, 3, excluded=everything, precision="float32")
    assert found.values.tolist() == [[-torch.inf] * 3]
    assert found.vectors.tolist() == [[NO_ID] * 3]


@needs_kernels
def test_blocks_of_vectors_and_of_queries_give_the_same(monkeypatch):
    monkeypatch.setattr(group_maxima, "_BLOCK_ROWS", 100)
    monkeypatch.setattr(group_maxima, "_MAXIMA_BYTES", 1)
    monkeypatch.setattr(group_maxima, "_QUERY_STEP", 2)
    vectors = whole_numbers(1, 110, 6).repeat(4, 1)  # ties in all blocks
    assert_found(whole_numbers(0, 5, 6), vectors, 30)


@needs_kernels
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
def test_nothing_that_is_not_found_exceeds_the_ceiling(precision):
    queries, vectors = unit(0, 6, 24), unit(1, 900, 24)
    found = top_k_products(queries.to(DEVICE), vectors.to(DEVICE), 8, precision=precision)
    products = queries.double() @ vectors.double().T
    unseen = products.scatter(1, found.vectors.cpu(), -torch.inf).amax(dim=1)
    rounding = Roundings(vectors, torch.device("cpu")).longest(precision)
    ceiling = found.ceiling.cpu() + choice_error(queries, rounding, precision)
    assert (unseen <= torch.maximum(found.values[:, -1].cpu(), ceiling) + 1e-6).all()
    torch.testing.assert_close(
        found.values.cpu().double(), products.gather(1, found.vectors.cpu()), rtol=0, atol=1e-6
    )


@needs_kernels
@pytest.mark.parametrize("at_once", [True, False])
def test_what_a_rough_choice_leaves_open_is_settled_by_finer_ones(at_once, monkeypatch):
    for user in (group_maxima, few_queries):
        monkeypatch.setattr(user, "fastest_precision", lambda *_: "float16")
    clusters = []
    for seed, width in ((0, 0.03), (1, 1e-6)):  # too dense for float16, and for float32
        near = unit(seed, 1, 16) + width * unit(seed + 2, 300, 16)
        clusters.append(torch.nn.functional.normalize(near, dim=1))
    queries = torch.cat([clusters[0][:1], clusters[1][:1], unit(5, 1, 16)])
    search = ExactSearch.over(torch.cat([*clusters, unit(6, 300, 16)]), device=DEVICE)
    if not at_once:
        search._kernels = search._kernels._replace(few=None)
    passes = []
    list_vectors, search_float64 = GroupedPass.list_vectors, search._search_float64

    def record(self, queries, *args):
        passes.append(("float32" if self._in_full else "float16", len(queries)))
        return list_vectors(self, queries, *args)

    def record_float64(queries, *args):
        passes.append(("float64", len(queries)))
        return search_float64(queries, *args)

    monkeypatch.setattr(GroupedPass, "list_vectors", record)
    monkeypatch.setattr(search, "_search_float64", record_float64)
    found = search.search(queries, 4)
    rough = [] if at_once else [("float16", 3)]  # the rough pass of few queries is another one
    assert passes == [*rough, ("float32", 2), ("float64", 1)]
    expected = search_float64(unit_rows(queries.double()).to(DEVICE), 4, None)
    assert torch.equal(found.vector_ids, expected.vectors.cpu())
    torch.testing.assert_close(found.values, expected.values.cpu(), rtol=0, atol=2e-6)


@needs_kernels
def test_a_listed_pass_bounds_what_it_does_not_list():
    queries, vectors = unit(0, 5, 20), unit(1, 700, 20).half()
    stored = vectors.to(DEVICE)
    grouped = GroupedPass(stored, Roundings(stored, stored.device))
    listed = grouped.list_vectors(queries.to(DEVICE), 6, None)
    products = queries.double() @ vectors.double().T
    rest = products.scatter(1, listed.vectors.cpu(), -torch.inf).amax(dim=1, keepdim=True)
    assert (rest <= listed.unseen.cpu() + 24 * 2.0**-24).all()


@pytest.mark.parametrize(("precision", "bits"), [("tf32", 11), ("float16", 11), ("bfloat16", 8)])
def test_the_error_of_a_choice_is_reached_but_not_exceeded(precision, bits):
    # In tf32 nearly a whole step is cut off, in the others nearly half a step is rounded off.
    part = 0.998 if precision == "tf32" else 0.499
    worst = torch.full((1, 64), (1 + part * 2.0 ** -(bits - 1)) / 8)
    rough, exact = torch.full((1, 64), 1 / 8), worst.double()
    rounding = Roundings(worst, torch.device("cpu")).longest(precision)
    both = (exact @ exact.T - rough.double() @ rough.double().T).item()
    bound = choice_error(worst, rounding, precision).item()
    assert 0.9 * bound < both <= bound
    one = (exact @ exact.T - rough.double() @ exact.T).item()
    bound = choice_error(worst, 0.0, precision).item()
    assert 0.9 * bound < one <= bound


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_nothing_is_rounded_off_vectors_that_are_stored_in_the_precision(precision):
    vectors = unit(0, 50, 8).to(getattr(torch, precision))
    assert Roundings(vectors, torch.device("cpu")).longest(precision) == 0
    wide = unit(0, 50, 8)
    expected = (wide - vectors.float()).norm(dim=1).max().item()
    assert Roundings(wide, torch.device("cpu")).longest(precision) == pytest.approx(expected)


def test_kernels_need_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not is_available(torch.device("cpu"))
    assert not is_available(torch.device("meta"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    has_triton = importlib.util.find_spec("triton") is not None
    assert is_available(torch.device("cpu")) == has_triton
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not is_available(torch.device("cpu"))
