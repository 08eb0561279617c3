"""Prove one device in a process of its own: run kernels, compare their values with the CPU's.

This file is a program, ``python -I probe_child.py BACKEND INDEX ANNOUNCE SYS_PATH``, and never
imported by the package: whatever the device does to this process, the one that asked lives on. It
needs nothing but torch. Each line it writes is one JSON record with a ``kind``: ``build``,
``backend`` and ``device`` (only when announcing), ``memory``, ``step``, then one of ``done``,
``wrong``, ``error``. With BACKEND ``build`` the first of them is all.
"""

# ruff: noqa: PLC0415 - torch is imported late: an import that fails is one of the findings

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    Step = Callable[[str], Tensor]

# Wide enough for TF32 and half precision: the check is for garbage, not for rounding.
RELATIVE_TOLERANCE = 2e-2


def main() -> None:
    """Look at the backend, then at one device, and say what was found."""
    backend, index, announcing = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
    # Isolated mode hides the folders that user sites and PYTHONPATH gave to the parent.
    sys.path += [path for path in json.loads(sys.argv[4]) if path not in sys.path]
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the records

    def say(kind: str, **facts: object) -> None:
        print(json.dumps({"kind": kind, "index": index, **facts}), file=channel, flush=True)

    stage = "import torch"
    try:
        if announcing:
            say("build", arch_list=arch_list())
        if backend == "build":
            leave(channel)
        stage = "initialize"
        count = start(backend)
        if announcing:
            announce(backend, count, channel)
        device = f"{backend}:{index}" if backend == "cuda" else backend
        stage = "allocate"
        say("memory", **memory(backend, device))
        support: dict[str, bool] = {}
        for step in STEPS:
            stage = step.__name__
            say("step", name=stage)
            difference = compare(step, device)
            if not difference <= RELATIVE_TOLERANCE:  # also true for NaN
                say("wrong", stage=stage, difference=repr(difference))
                leave(channel)
        for step in HALF_STEPS:
            stage = step.__name__
            say("step", name=stage)
            support[stage] = native(stage, backend) and works(step, device)
        stage = "synchronize"
        compare(elementwise, device)
        say("done", precision_support={**support, **other_precisions(backend)})
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent wants to know
        say("error", stage=stage, type=type(error).__name__, text=str(error)[:4000])
    leave(channel)


def leave(channel: TextIO) -> None:
    """End at once: the teardown of a broken driver may hang."""
    channel.flush()
    os._exit(0)


def arch_list() -> list[str]:
    """Return what the build has kernels for; nothing where it has no list.

    ``torch.cuda.get_arch_list()`` asks the driver first, up to torch 2.12, and says nothing of a
    build whose driver does not answer.
    """
    import torch

    flags: str = getattr(torch._C, "_cuda_getArchFlags", str)() or ""  # noqa: SLF001
    return flags.split()


def start(backend: str) -> int:
    """Return the number of devices of an initialized backend."""
    import torch

    if backend == "mps":
        if not torch.backends.mps.is_available():
            message = "MPS backend is not available here (macOS version, sandbox, or no Metal GPU)"
            raise RuntimeError(message)
        return 1
    torch.cuda.init()  # type: ignore[no-untyped-call]
    return torch.cuda.device_count()


def announce(backend: str, count: int, channel: TextIO) -> None:
    """Write who is there before any of them is touched."""
    records: list[dict[str, Any]] = [{"kind": "backend", "count": count}]
    records += [identity(backend, index) for index in range(count)]
    for record in records:
        print(json.dumps(record), file=channel, flush=True)


def identity(backend: str, index: int) -> dict[str, Any]:
    """Return what the driver says about a device, without creating a context on it."""
    import torch

    record: dict[str, Any] = {"kind": "device", "index": index}
    if backend == "mps":
        return {**record, "name": "Apple GPU"}
    try:
        properties = torch.cuda.get_device_properties(index)
    except Exception as error:  # noqa: BLE001 - one bad device must not hide the next
        return {**record, "error": f"{type(error).__name__}: {error}"[:4000]}
    uuid = getattr(properties, "uuid", None)
    if torch.version.hip:
        record["gcn_arch"] = properties.gcnArchName
    else:
        record["capability"] = [properties.major, properties.minor]
    return {
        **record,
        "name": properties.name,
        "uuid": f"GPU-{uuid}" if uuid is not None else None,
        "total_memory_bytes": properties.total_memory,
    }


def memory(backend: str, device: str) -> dict[str, int | None]:
    """Free and total memory of a device, after its context was created."""
    import torch

    if backend == "mps":
        return {"free_memory_bytes": None}
    torch.cuda.set_device(device)
    return {"free_memory_bytes": torch.cuda.mem_get_info()[0]}


def compare(step: Step, device: str) -> float:
    """Largest difference between device and CPU, relative to the largest CPU value."""
    want, got = step("cpu").double(), step(device).cpu().double()
    return float((want - got).abs().max() / want.abs().max())


def works(step: Step, device: str) -> bool:
    """Whether a step that a device need not have runs on it with the right values."""
    try:
        return compare(step, device) <= RELATIVE_TOLERANCE
    except RuntimeError:
        return False


def numbers(device: str, *shape: int) -> Tensor:
    """Return the same random numbers on every device."""
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device)


def fill(device: str) -> Tensor:
    """Return a constant."""
    import torch

    return torch.full((64, 64), 3.0, device=device)


def elementwise(device: str) -> Tensor:
    """Arithmetic and comparison; copies alone succeed on devices that no kernel runs on."""
    import torch

    values = numbers(device, 64, 64)
    return torch.where(values != 0, values * 2 + 1, values).exp()


def matmul(device: str) -> Tensor:
    """Return a matrix product, which another library computes."""
    values = numbers(device, 128, 128)
    return values @ values


def gather(device: str) -> Tensor:
    """Rows picked by an index."""
    import torch

    return numbers(device, 64, 64)[torch.arange(63, -1, -2, device=device)]


def attention(device: str) -> Tensor:
    """Return what a text encoder runs most."""
    import torch

    values = numbers(device, 2, 4, 16, 32)
    return torch.nn.functional.scaled_dot_product_attention(values, values, values)


def backward(device: str) -> Tensor:
    """Return the gradient of a softmax through a normalization."""
    import torch

    values = numbers(device, 64, 64).requires_grad_()
    normed = torch.nn.functional.layer_norm(torch.nn.functional.gelu(values), (64,))
    loss = torch.log_softmax(normed, dim=1)[:, 0].sum()
    return torch.autograd.grad(loss, values)[0]


def top_k(device: str) -> Tensor:
    """Return the largest values and where they are."""
    import torch

    values, columns = torch.topk(numbers(device, 64, 500), 10)
    return torch.cat([values, columns.float()])


def sort(device: str) -> Tensor:
    """Values in order and where they were."""
    import torch

    values, columns = torch.sort(numbers(device, 8, 3000), dim=1)
    return torch.cat([values, columns.float()])


def adamw(device: str) -> Tensor:
    """Return a weight after one step of the optimizer."""
    import torch

    # The function under torch.optim.AdamW: the class costs seconds, as it imports the compiler.
    from torch.optim.adamw import adamw as adamw_step

    weight = numbers(device, 64, 64)
    moments = torch.zeros_like(weight), torch.zeros_like(weight)
    adamw_step(
        [weight], [weight.sign()], [moments[0]], [moments[1]], [], [torch.zeros(())],
        foreach=True, amsgrad=False, maximize=False,
        lr=0.1, beta1=0.9, beta2=0.999, weight_decay=0.01, eps=1e-8,
    )  # fmt: skip
    return weight


def fp16(device: str) -> Tensor:
    """Return a product of float16 matrices."""
    import torch

    return half_product(torch.float16, device)


def bf16(device: str) -> Tensor:
    """Return a product of bfloat16 matrices."""
    import torch

    return half_product(torch.bfloat16, device)


def half_product(dtype: torch.dtype, device: str) -> Tensor:
    """Return a product of rounded matrices; the CPU, as the reference, multiplies in float32."""
    values = numbers("cpu", 128, 128).to(dtype).to(device)
    if device == "cpu":
        values = values.float()
    return (values @ values).float()


STEPS: tuple[Step, ...] = (
    fill, elementwise, matmul, gather, attention, backward, top_k, sort, adamw,
)  # fmt: skip
HALF_STEPS: tuple[Step, ...] = (fp16, bf16)


def native(precision: str, backend: str) -> bool:
    """Whether half precision is the device's own, not an emulation."""
    import torch

    if backend == "mps":
        return precision == "bf16"  # fp16 needs a gradient scaler, which nobody has proved there
    if torch.version.hip:
        return True
    floor = (8, 0) if precision == "bf16" else (5, 3)
    return torch.cuda.get_device_capability() >= floor


def other_precisions(backend: str) -> dict[str, bool]:
    """Return what follows from the device's generation: TF32 and FP8."""
    import torch

    if backend == "mps":
        return {"tf32": False, "fp8": False}
    if torch.version.hip:
        arch = torch.cuda.get_device_properties().gcnArchName
        return dict.fromkeys(("tf32", "fp8"), arch.startswith(("gfx94", "gfx95")))
    capability = torch.cuda.get_device_capability()
    return {"tf32": capability >= (8, 0), "fp8": capability >= (8, 9)}


if __name__ == "__main__":
    main()
