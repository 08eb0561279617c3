"""Prove the accelerator resolver on a machine with NVIDIA GPUs; prints one JSON object.

    python3 scripts/benchmarks/accelerator_gpu.py

Needs a CUDA build of torch, filelock and nvidia-ml-py. Prints the checks and the times; all that
was found goes to ``accelerator_gpu.json`` in the folder that the variable OUT names. Every
measurement is a process of its own. Exit status 1 if a check fails. CUDA_FORCE_PTX_JIT=1 makes the
driver ignore the binaries of a build; with a wheel that holds no PTX, that is the "no kernel image"
fault on healthy hardware.
"""

# ruff: noqa: PLC0415 - each measurement decides for itself what is imported before the clock starts

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2] / "src" / "lightweight_decoder"
FAULT = {"CUDA_FORCE_PTX_JIT": "1"}
TIME_LIMIT_S = 150


def load_package() -> None:
    """Make the accelerator package importable without the libraries that its siblings need."""
    package = types.ModuleType("lightweight_decoder")
    package.__path__ = [str(SOURCE)]
    sys.modules["lightweight_decoder"] = package


# Measurements: each runs in a process of its own and prints one JSON object.


def measure_resolve(accelerator: str = "auto", cache: str = "cache") -> dict[str, Any]:
    """Resolve, then see whether this process is still free to fork."""
    from lightweight_decoder.accelerator import resolve_accelerator
    from lightweight_decoder.errors import AcceleratorError

    began = time.perf_counter()
    import torch

    imported_s = time.perf_counter() - began
    began = time.perf_counter()
    try:
        plan = resolve_accelerator(accelerator, cache=cache == "cache")
    except AcceleratorError as error:
        return {"refused": str(error), "ms": round((time.perf_counter() - began) * 1000, 2)}
    resolved_ms = (time.perf_counter() - began) * 1000
    found = {
        "ms": round(resolved_ms, 2),
        "import_torch_ms": round(imported_s * 1000),
        "initialized": torch.cuda.is_initialized(),
        "plan": plan.to_dict(),
    }
    if plan.accelerator == "cuda":
        found["fork_works"] = _forked_child_computes()
    return found


def _forked_child_computes() -> bool:
    import torch

    child = os.fork()
    if child == 0:
        try:
            right = float((torch.ones(8, device="cuda") * 2).sum()) == 16.0  # noqa: PLR2004
        except Exception:  # noqa: BLE001
            right = False
        os._exit(0 if right else 1)
    return os.waitpid(child, 0)[1] == 0


def measure_cpu() -> dict[str, Any]:
    """``accelerator=cpu``, with nothing imported before."""
    from lightweight_decoder.accelerator import resolve_accelerator

    began = time.perf_counter()
    plan = resolve_accelerator("cpu")
    milliseconds = (time.perf_counter() - began) * 1000
    return {"ms": milliseconds, "torch": "torch" in sys.modules, "chosen": plan.accelerator}


def measure_nvml() -> dict[str, Any]:
    """NVML's share of a cached start."""
    from lightweight_decoder.accelerator.machine import list_gpus

    began = time.perf_counter()
    count = len(list_gpus())
    return {"ms": (time.perf_counter() - began) * 1000, "gpus": count}


def measure_doctor() -> dict[str, Any]:
    """Return what the doctor would print."""
    from lightweight_decoder.accelerator.doctor import examine

    return examine(use_cache=False).to_dict()


def measure_failure() -> dict[str, Any]:
    """Return a layer on the GPU, and what the guard makes of its error."""
    import torch

    from lightweight_decoder.accelerator import recognize_kernel_failure

    layer = torch.nn.Linear(8, 8).cuda()
    try:
        layer(torch.ones(4, 8, device="cuda")).sum().item()
    except RuntimeError as error:
        failure = recognize_kernel_failure(error)
        return {"failure": None if failure is None else str(failure)}
    return {"failure": None}


def measure_fill(index: str) -> dict[str, Any]:
    """Fill a GPU's memory and hold it until standard input closes."""
    import torch

    held, size = [], 1 << 30
    torch.cuda.set_device(int(index))
    while size >= 1 << 20:
        try:
            held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    print(json.dumps({"free_mib": torch.cuda.mem_get_info()[0] >> 20}), flush=True)
    sys.stdin.read()
    return {"held": len(held)}


# The run


class Run:
    """Starts measurements and collects what they show."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.found: dict[str, Any] = {}
        self.checks: dict[str, bool] = {}

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Return a measurement's process."""
        inherited = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        return subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env={**inherited, "LIGHTWEIGHT_DECODER_CACHE": str(self.cache), **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, name: str, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Return what a measurement printed."""
        output, errors = process.communicate(timeout=TIME_LIMIT_S)
        try:
            found = json.loads(output.splitlines()[-1])
        except (IndexError, ValueError):
            found = {}
        found["warnings"] = [line for line in errors.splitlines() if line.startswith("Running on")]
        if process.returncode:
            found["failed"] = errors[-2000:]
        self.found[name] = found
        return found

    def measure(self, name: str, *arguments: str, **variables: str) -> dict[str, Any]:
        """Run one measurement."""
        return self.finish(name, self.start(*arguments, **variables))

    def check(self, name: str, holds: object) -> None:
        """Note whether something holds."""
        self.checks[name] = bool(holds)


def verdicts(found: dict[str, Any]) -> list[str]:
    """Return the verdicts of a resolved plan, in order."""
    return [report["verdict"] for report in found.get("plan", {}).get("reports", [])]


def chosen(found: dict[str, Any]) -> tuple[Any, Any]:
    """Accelerator and devices of a resolved plan."""
    plan = found.get("plan", {})
    return plan.get("accelerator"), plan.get("devices")


def healthy(run: Run) -> int:
    """Cold, cached and uncached; returns the number of GPUs."""
    cold = run.measure("cold", "resolve")
    count = len(verdicts(cold))
    run.check("cold: all usable", count and set(verdicts(cold)) == {"usable"})
    run.check("cold: cuda chosen", chosen(cold) == ("cuda", list(range(count))))
    run.check("cold: parent not initialized", cold.get("initialized") is False)
    run.check("cold: forked child computes", cold.get("fork_works"))
    for name in ("cached", "cached_again"):
        cached = run.measure(name, "resolve")
        run.check(f"{name}: from cache, under 50 ms", cached.get("ms", 99) < 50)  # noqa: PLR2004
        run.check(f"{name}: same plan", chosen(cached) == chosen(cold))
    run.measure("nvml", "nvml")
    run.measure("uncached", "resolve", "auto", "no-cache")
    cpu = run.measure("cpu", "cpu")
    run.check("cpu: under 5 ms, no torch", cpu.get("ms", 9) < 5 and not cpu.get("torch"))  # noqa: PLR2004
    return count


def faulty(run: Run) -> None:
    """Return the build's binaries are ignored."""
    fault = run.measure("fault", "resolve", **FAULT)
    run.check("fault: no_kernels", set(verdicts(fault)) == {"no_kernels"})
    run.check("fault: falls back to the cpu", chosen(fault) == ("cpu", 1))
    run.check("fault: one warning", len(fault.get("warnings", [])) == 1)
    asked = run.measure("fault_gpu", "resolve", "gpu", **FAULT)
    run.check("fault: gpu refused", "CUDA_FORCE_PTX_JIT" in asked.get("refused", ""))
    doctor = run.measure("doctor_fault", "doctor", **FAULT)
    run.check("fault: doctor agrees", doctor.get("auto", {}).get("accelerator") == "cpu")
    doctor = run.measure("doctor", "doctor")
    run.check("doctor: cuda", doctor.get("auto", {}).get("accelerator") == "cuda")
    guard = run.measure("guard", "failure", **FAULT)
    run.check("guard: recognized", "torch" in (guard.get("failure") or ""))


def crowded(run: Run, count: int) -> None:
    """One GPU's memory is held by another process, with and without a cached verdict."""
    last, others = count - 1, list(range(count - 1))
    holder = run.start("fill", str(last))
    assert holder.stdout is not None  # noqa: S101
    run.found["filled"] = json.loads(holder.stdout.readline())
    want = ("cuda", others) if others else ("cpu", 1)
    try:
        for name, cache in (("full_cached", "cache"), ("full", "no-cache")):
            full = run.measure(name, "resolve", "auto", cache)
            run.check(f"{name}: out_of_memory", verdicts(full)[-1:] == ["out_of_memory"])
            run.check(f"{name}: not chosen", chosen(full) == want)
    finally:
        holder.communicate(timeout=TIME_LIMIT_S)


def hidden(run: Run, count: int) -> None:
    """Return what CUDA_VISIBLE_DEVICES can say."""
    for value in ("", "-1", "0,0", "garbage", "99", "MIG-00000000-0000-0000-0000-000000000000"):
        none = run.measure(f"visible={value}", "resolve", CUDA_VISIBLE_DEVICES=value)
        run.check(f"visible={value!r}: cpu", chosen(none) == ("cpu", 1))
        reasons = " ".join(none.get("plan", {}).get("reasons", []))
        run.check(f"visible={value!r}: named", f"CUDA_VISIBLE_DEVICES={value!r}" in reasons)
    for index in range(min(count, 2)) if count > 1 else ():
        one = run.measure(f"visible={index}", "resolve", CUDA_VISIBLE_DEVICES=str(index))
        run.check(f"visible={index}: first chosen", chosen(one) == ("cuda", [0]))
        run.check(f"visible={index}: others hidden", verdicts(one)[1:] == ["hidden"] * (count - 1))


def ranks(run: Run) -> None:
    """Four ranks start at once without a cache: one probes, all agree."""
    processes = [
        run.start("resolve", "auto", "no-cache", LOCAL_RANK=str(rank), MASTER_PORT="29511")
        for rank in range(4)
    ]
    found = [run.finish(f"rank_{rank}", process) for rank, process in enumerate(processes)]
    sources = sorted(one["plan"]["source"] for one in found)
    run.check("ranks: one probe", sources == ["parent"] * 3 + ["probe"])
    run.check("ranks: agree", len({str(chosen(one)) for one in found}) == 1)


def main() -> None:
    """Run everything and print what was found."""
    load_package()
    if len(sys.argv) > 1:
        measurement = globals()[f"measure_{sys.argv[1]}"]
        print(json.dumps(measurement(*sys.argv[2:])))
        return
    with tempfile.TemporaryDirectory() as cache:
        run = Run(Path(cache))
        count = healthy(run)
        for part in (faulty, ranks):
            part(run)
        if count:
            hidden(run, count)
            crowded(run, count)
    times = {name: found["ms"] for name, found in run.found.items() if "ms" in found}
    summary = {"gpus": count, "checks": run.checks, "times_ms": times}
    if "OUT" in os.environ:
        everything = json.dumps({**summary, "found": run.found}, indent=1)
        (Path(os.environ["OUT"]) / "accelerator_gpu.json").write_text(everything)
    print(json.dumps(summary, indent=1))
    failed = [name for name, holds in run.checks.items() if not holds]
    print("failed checks:", ", ".join(failed) or "none", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
