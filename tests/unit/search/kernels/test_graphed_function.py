"""Calls replayed as CUDA graphs: which are captured, and what they return."""

from __future__ import annotations

import copy
import threading
from types import SimpleNamespace

import pytest
import torch

from lightweight_decoder.search.kernels import few_queries
from lightweight_decoder.search.kernels.few_queries import Captured, GraphedFunction


class FakeGraph:
    """Runs a function again on its buffers, as a graph does."""

    def __init__(self, run):
        self.run = run
        self.replays = 0

    def replay(self):
        self.replays += 1
        self.run()


@pytest.fixture(name="captures")
def fake_captures(monkeypatch):
    """Let CPU tensors be captured; returns the graphs so far."""
    captures = []

    def capture(function, inputs, settings, sharing):
        buffers = tuple(given.clone() for given in inputs)
        outputs = function(*buffers, **settings)

        def run():
            for output, again in zip(outputs, function(*buffers, **settings), strict=True):
                output.copy_(again)

        captures.append(SimpleNamespace(graph=FakeGraph(run), sharing=sharing))
        return Captured(captures[-1].graph, buffers, outputs)

    monkeypatch.setattr(few_queries, "can_capture", lambda _: True)
    monkeypatch.setattr(few_queries, "capture", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "a stream")
    return captures


def shifted(rows, other=None, *, by):
    return rows + by, rows.sum() if other is None else other.sum()


def test_the_second_call_alike_is_captured_and_later_ones_replay_it(captures):
    graphed = GraphedFunction(shifted)
    results = []
    for call, expected_captures in enumerate([0, 1, 1, 1]):
        results.append(graphed(torch.full((2, 3), float(call)), by=1))
        assert len(captures) == expected_captures
    assert captures[0].graph.replays == 3
    for call, (moved, total) in enumerate(results):  # later calls have not changed them
        assert torch.equal(moved, torch.full((2, 3), call + 1.0))
        assert total == 6 * call


@pytest.mark.parametrize(
    ("inputs", "settings"),
    [
        ((torch.zeros(3, 3),), {"by": 1}),
        ((torch.zeros(2, 3, dtype=torch.float64),), {"by": 1}),
        ((torch.zeros(2, 3, device="meta"),), {"by": 1}),
        ((torch.zeros(2, 3),), {"by": 2}),
        ((torch.zeros(2, 3), torch.zeros(2, 1)), {"by": 1}),
    ],
    ids=["shape", "type", "device", "setting", "one more"],
)
def test_calls_that_differ_have_graphs_of_their_own(captures, inputs, settings):
    graphed = GraphedFunction(shifted)
    for _ in range(2):
        graphed(torch.zeros(2, 3), by=1)
    graphed(*inputs, **settings)
    assert len(captures) == 1
    graphed(*inputs, **settings)
    assert len(captures) == 2
    assert captures[0].sharing is None
    assert captures[1].sharing.graph is captures[0].graph


def test_no_more_than_so_many_are_captured(captures, monkeypatch):
    monkeypatch.setattr(few_queries, "MOST_GRAPHS", 2)
    graphed = GraphedFunction(shifted)
    for _ in range(3):
        for by in range(4):
            moved, _ = graphed(torch.zeros(1), by=by)
            assert moved == by
    assert len(captures) == 2


def test_what_cannot_be_captured_is_called_and_not_tried_again(captures, monkeypatch):
    del captures
    attempts = []
    monkeypatch.setattr(few_queries, "capture", lambda *_: attempts.append(1))
    graphed = GraphedFunction(shifted)
    for call in range(4):
        moved, _ = graphed(torch.zeros(1), by=call // 4)
        assert moved == 0
    assert len(attempts) == 1


def test_on_a_cpu_the_function_is_called():
    graphed = GraphedFunction(shifted)
    for call in range(3):
        moved, total = graphed(torch.full((2,), float(call)), by=1)
        assert moved.tolist() == [call + 1] * 2
        assert total == 2 * call


def test_a_copy_starts_without_graphs(captures):
    graphed = GraphedFunction(shifted)
    for _ in range(2):
        graphed(torch.zeros(1), by=1)
    copied = copy.deepcopy(graphed)
    copied(torch.zeros(1), by=1)
    assert len(captures) == 1
    copied(torch.zeros(1), by=1)
    assert len(captures) == 2


def test_threads_do_not_mix_up_their_answers(captures):
    graphed = GraphedFunction(shifted)
    wrong = []

    def call(number):
        for _ in range(200):
            moved, _ = graphed(torch.full((50,), float(number)), by=1)
            wrong.extend(moved[moved != number + 1].tolist())

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(captures) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("first_inference", [True, False])
def test_a_gpu_replays_with_new_inputs(first_inference):
    graphed = GraphedFunction(shifted)
    results = []
    for call in range(6):
        with torch.inference_mode(mode=(call < 3) == first_inference):
            results.append(graphed(torch.full((2, 3), float(call), device="cuda"), by=1))
    assert isinstance(next(iter(graphed._graphs.values())), Captured)
    for call, (moved, total) in enumerate(results):
        assert torch.equal(moved.cpu(), torch.full((2, 3), call + 1.0))
        assert total.item() == 6 * call


@pytest.mark.gpu
def test_streams_of_a_gpu_wait_for_each_other():
    graphed = GraphedFunction(lambda rows: ((rows @ rows).sum(dim=1),))
    streams = [torch.cuda.Stream() for _ in range(3)]
    inputs = [torch.full((512, 512), float(number), device="cuda") for number in range(30)]
    torch.cuda.synchronize()
    results = []
    for number, rows in enumerate(inputs):
        with torch.cuda.stream(streams[number % 3]):
            results.append(graphed(rows)[0])
    torch.cuda.synchronize()
    for number, sums in enumerate(results):
        assert torch.equal(sums.cpu(), torch.full((512,), 512.0 * 512 * number**2))


@pytest.mark.gpu
def test_what_waits_for_a_gpu_is_called_instead():
    graphed = GraphedFunction(lambda rows: (rows * rows.sum().item(),))
    for call in range(4):
        (found,) = graphed(torch.full((2,), float(call), device="cuda"))
        assert found.tolist() == [2.0 * call**2] * 2
    assert list(graphed._graphs.values()) == [None]


@pytest.mark.gpu
def test_inside_of_another_capture_nothing_is_captured():
    graphed = GraphedFunction(lambda rows: (rows + 1,))
    rows = torch.zeros(2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    for _ in range(3):
        graphed(rows.double())
    with torch.cuda.graph(graph):
        (found,) = graphed(rows)
    graph.replay()
    assert found.tolist() == [1, 1]
    assert len(graphed._graphs) == 1
