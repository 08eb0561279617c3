from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.accelerator.cuda_errors import ERROR_KINDS, classify

TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040)."
UNEXPECTED = "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before"
ABORT = 'rocdevice.cpp: "hipErrorNoBinaryForGpu: Unable to find code object "'


# Texts as users reported them or as torch 2.14 said them to a stubbed driver.
@pytest.mark.parametrize(
    ("text", "verdict", "code"),
    [
        (
            "AcceleratorError: CUDA error: no kernel image is available for execution on it",
            "no_kernels",
            209,
        ),
        ("RuntimeError: HIP error: invalid device function", "no_kernels", 98),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ARCH_MISMATCH", "no_kernels", 209),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ARCH_MISMATCH when calling", "no_kernels", 209),
        ("RuntimeError: Triton Error [CUDA]: device kernel image is invalid", "no_kernels", 200),
        ("RuntimeError: CUDA error: named symbol not found", "no_kernels", 500),
        ("RuntimeError: CUDA error: a PTX JIT compilation failed", "no_kernels", 218),
        ("RuntimeError: CUDA error: PTX JIT compiler library not found", "no_kernels", 221),
        (
            "CUDA error: the provided PTX was compiled with an unsupported toolchain.",
            "driver_too_old",
            222,
        ),
        ("RuntimeError: CUDA error: PTX JIT compilation was disabled", "no_kernels", 223),
        (ABORT, "no_kernels", 209),
        (f"RuntimeError: {TOO_OLD}", "driver_too_old", 35),
        ("RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable", "busy", 46),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB", "out_of_memory", 2),
        ("RuntimeError: No CUDA GPUs are available", "init_failed", 100),
        (f"RuntimeError: {UNEXPECTED} Error 802: system not yet initialized", "init_failed", 802),
        (f"RuntimeError: {UNEXPECTED} Error 214: uncorrectable ECC error", "init_failed", 214),
        (f"RuntimeError: {UNEXPECTED} Error 804: some new wording", "init_failed", 804),
        ("RuntimeError: CUDA unknown error - this may be due to", "init_failed", 999),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "crashed", 700),
        ("AssertionError: Torch not compiled with CUDA enabled", "not_built", None),
    ],
)
def test_known_texts(text, verdict, code):
    kind = classify(text)

    assert kind is not None
    assert (kind.verdict, kind.code) == (verdict, code)


def test_a_number_alone_is_enough():
    kind = classify("error 803")

    assert kind is not None
    assert kind.code == 803


@pytest.mark.parametrize("text", ["", "ValueError: shapes differ", "error 12345 in line 35"])
def test_other_texts_are_not_ours(text):
    assert classify(text) is None


def test_every_failure_to_start_has_its_own_reason_and_advice():
    kinds = [kind for kind in ERROR_KINDS if kind.verdict not in {"no_kernels", "not_built"}]

    assert len({kind.reason for kind in kinds}) == len(kinds)
    assert all(kind.advice for kind in kinds)


@given(st.text(), st.one_of(st.just(""), st.integers()))
def test_any_text_is_read(text, code):
    kind = classify(f"{text} error {code}")

    assert kind is None or kind in ERROR_KINDS
