"""Kernel errors in the middle of a run: which operation, of which library, and how to go on.

A probe proves the operations it knows. An extension built for another card can still fail later;
then the run should say so, forget the verdict, and go on where it is allowed to.
"""

from __future__ import annotations

import re
import sys
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lightweight_decoder.accelerator.cuda_errors import classify
from lightweight_decoder.accelerator.diagnosis import quote
from lightweight_decoder.accelerator.precision import choose_precision
from lightweight_decoder.errors import AcceleratorError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from lightweight_decoder.accelerator.plan import AcceleratorPlan

_PTX_TOO_NEW = 222
_UNMISTAKABLE = 209
# Libraries that name themselves in their errors, most telling first.
_NAMES_IN_TEXT = {
    "cublas": "cuBLAS",
    "cudnn": "cuDNN",
    "nccl": "NCCL",
    "cusparse": "cuSPARSE",
    "cusolver": "cuSOLVER",
    "cufft": "cuFFT",
    "hipblas": "hipBLAS",
    "miopen": "MIOpen",
    "triton": "Triton",
}


@dataclass(frozen=True)
class KernelFailure:
    """A kernel that the device could not run.

    Attributes:
        operation: The innermost Python function and its source line, or an operator's name.
        library: Whose kernel it was, such as ``"torch"``, ``"cuBLAS"`` or ``"fbgemm"``.
        message: The first line of the error, without paths.
        reason: What it means, in one sentence.
        advice: What to do.
    """

    operation: str
    library: str
    message: str
    reason: str
    advice: str

    def __str__(self) -> str:
        """Return the whole story in one line."""
        return (
            f"a kernel of {self.library} failed in {self.operation}: {self.reason}"
            f" ({self.message}). {self.advice}"
        )


def recognize_kernel_failure(error: BaseException) -> KernelFailure | None:
    """Return what failed, if an exception (or one behind it) says that a device lacks a kernel."""
    for one in _chain(error):
        text = f"{type(one).__name__}: {one}"
        kind = classify(text)
        if kind is None or not (kind.verdict == "no_kernels" or kind.code == _PTX_TOO_NEW):
            continue
        # The other texts are also those of linkers and compilers.
        if kind.code != _UNMISTAKABLE and not re.search(
            r"cuda|hip|ptx|triton", text, re.IGNORECASE
        ):
            continue
        operation, package = _where(one)
        named = next((name for key, name in _NAMES_IN_TEXT.items() if key in text.lower()), None)
        library = named or package
        return KernelFailure(
            operation=operation,
            library=library,
            message=quote(text),
            reason=kind.reason,
            advice=kind.advice or f"Install a build of {library} with kernels for this device.",
        )
    return None


def plan_after(failure: KernelFailure, plan: AcceleratorPlan) -> AcceleratorPlan:
    """Return the plan to go on with after a kernel failure: the CPU, if the plan may fall back.

    Raises:
        AcceleratorError: If the request rules a fallback out.
    """
    if plan.on_unusable != "fallback":
        raise AcceleratorError(
            str(failure),
            where=f"accelerator={plan.asked.accelerator}",
            advice="Or use accelerator=cpu, or accelerator.on_unusable=fallback.",
        )
    precision, changed = choose_precision(plan.precision, "cpu")
    return replace(
        plan,
        accelerator="cpu",
        devices=1,
        precision=precision,
        strategy="auto",
        reasons=(*plan.reasons, str(failure), *filter(None, [changed])),
        advice=(*plan.advice, failure.advice),
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Return an exception and those behind it, each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _where(error: BaseException) -> tuple[str, str]:
    """Return the operation an exception was raised in, and the package that it belongs to."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return "an unknown operation", "torch"
    for frame, _ in reversed(frames):
        operator = _custom_operator(frame)
        if operator:
            return operator, operator.partition("::")[0]
    frame, _ = frames[-1]
    module = str(frame.f_globals.get("__name__", "?"))
    source = traceback.extract_tb(error.__traceback__)[-1].line or ""
    operation = f"{module}.{frame.f_code.co_qualname}"
    package = module.partition(".")[0]
    library = package if _is_compiled(package) else "torch"
    return (f"{operation} ({source.strip()})" if source else operation), library


def _custom_operator(frame: FrameType) -> str | None:
    """Return the name of an extension's operator, if a frame calls one."""
    if frame.f_globals.get("__name__") != "torch._ops":
        return None
    called = frame.f_locals.get("self")
    name = getattr(called, "_qualified_op_name", None) or getattr(called, "_name", None)
    if not isinstance(name, str) or "::" not in name or name.startswith(("aten::", "prims::")):
        return None
    return name


def _is_compiled(package: str) -> bool:
    """Whether a package has compiled modules; one without can only have called torch's kernels."""
    return any(
        name.startswith(f"{package}.")
        and (getattr(module, "__file__", None) or "").endswith((".so", ".pyd"))
        for name, module in list(sys.modules.items())
    )
