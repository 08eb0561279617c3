from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest
import torch

from lightweight_decoder.accelerator import precision
from lightweight_decoder.accelerator.kernel_failure import plan_after, recognize_kernel_failure
from lightweight_decoder.accelerator.plan import AcceleratorPlan, Asked
from lightweight_decoder.errors import AcceleratorError

NO_IMAGE = (
    "CUDA error: no kernel image is available for execution on the device\n"
    "CUDA kernel errors might be asynchronously reported at some other API call."
)
ASKED = Asked("auto", "auto", "16-mixed", "ddp", "auto")
PLAN = AcceleratorPlan(ASKED, "cuda", [0, 1], "16-mixed", "ddp", "fallback")


def raised(error, thrower=None):
    """The exception with a traceback that ends where it was thrown."""

    def throw():
        raise error

    with pytest.raises(type(error)) as caught:
        (thrower or throw)()
    return caught.value


def test_the_innermost_function_is_named():
    failure = recognize_kernel_failure(raised(RuntimeError(NO_IMAGE)))

    assert failure is not None
    assert failure.operation.endswith("raised.<locals>.throw (raise error)")
    assert failure.message == f"RuntimeError: {NO_IMAGE.splitlines()[0]}"
    assert failure.library == "torch"
    assert "no kernels for this device" in str(failure)


def test_an_operator_of_an_extension_is_named():
    library = torch.library.Library("other_card", "DEF")
    library.define("scale(Tensor x) -> Tensor")

    def scale(_values):
        raise RuntimeError(NO_IMAGE)

    library.impl("scale", scale, "CPU")
    error = raised(RuntimeError(NO_IMAGE), lambda: torch.ops.other_card.scale(torch.ones(1)))
    failure = recognize_kernel_failure(error)

    assert failure is not None
    assert failure.library == "other_card"
    assert failure.operation.startswith("other_card::scale")
    assert "other_card" in failure.advice


def test_a_compiled_package_is_named(monkeypatch):
    module = types.ModuleType("fast_things._kernels")
    module.__file__ = "/somewhere/_kernels.so"
    monkeypatch.setitem(sys.modules, "fast_things._kernels", module)
    scope = {"__name__": "fast_things.layers"}
    exec(f"def forward():\n    raise RuntimeError({NO_IMAGE!r})", scope)  # noqa: S102

    failure = recognize_kernel_failure(raised(RuntimeError(NO_IMAGE), scope["forward"]))

    assert failure is not None
    assert (failure.library, failure.operation) == ("fast_things", "fast_things.layers.forward")


@pytest.mark.parametrize(
    ("text", "library"),
    [
        ("CUDA error: CUBLAS_STATUS_ARCH_MISMATCH when calling cublasCreate", "cuBLAS"),
        ("cuDNN error: CUDNN_STATUS_ARCH_MISMATCH", "cuDNN"),
        ("Triton Error [CUDA]: device kernel image is invalid", "Triton"),
        ("HIP error: invalid device function", "torch"),
        ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", "torch"),
        ("CUDA error: named symbol not found", "torch"),
    ],
)
def test_relatives(text, library):
    failure = recognize_kernel_failure(raised(RuntimeError(text)))

    assert failure is not None
    assert failure.library == library


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory",
        "CUDA error: device-side assert triggered",
        "dlopen: named symbol not found",
        "mat1 and mat2 shapes cannot be multiplied",
    ],
)
def test_other_errors_are_not_ours(text):
    assert recognize_kernel_failure(raised(RuntimeError(text))) is None


def test_the_error_behind_an_error_counts():
    outer = ValueError("training failed")
    outer.__cause__ = raised(RuntimeError(NO_IMAGE))
    outer.__cause__.__context__ = outer  # a circle must end

    assert recognize_kernel_failure(outer) is not None


def test_no_path_is_told():
    failure = recognize_kernel_failure(
        RuntimeError("/home/ann/x.cu:7: CUDA error: no kernel image is available")
    )

    assert failure is not None
    assert "ann" not in str(failure)


def test_going_on_is_on_the_cpu_with_everything_changed_together(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    failure = recognize_kernel_failure(raised(RuntimeError(NO_IMAGE)))
    assert failure is not None

    plan = plan_after(failure, PLAN)

    assert plan.trainer_arguments() == {
        "accelerator": "cpu",
        "devices": 1,
        "precision": "32-true",
        "strategy": "auto",
    }
    assert plan.asked == ASKED
    assert plan.reasons[0] == str(failure)
    assert "16-mixed became 32-true" in plan.reasons[1]


@pytest.mark.parametrize("mode", ["raise", "force"])
def test_an_explicit_request_stops_with_the_story(mode):
    failure = recognize_kernel_failure(raised(RuntimeError(NO_IMAGE)))
    assert failure is not None

    with pytest.raises(AcceleratorError, match=r"a kernel of torch failed in .*no kernel image"):
        plan_after(failure, replace(PLAN, on_unusable=mode))
