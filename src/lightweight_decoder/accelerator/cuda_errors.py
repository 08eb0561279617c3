"""What the error texts of CUDA, ROCm and their libraries mean for a device.

Numbers and texts are those of the CUDA runtime
(https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html) and of HIP
(https://rocm.docs.amd.com/projects/HIP/en/latest/reference/error_codes.html). Every row was written
for an error that users reported or that a stubbed driver produced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightweight_decoder.accelerator.plan import DeviceVerdict


@dataclass(frozen=True)
class ErrorKind:
    """One thing that can be wrong with a device, and what helps.

    Attributes:
        verdict: What it makes of the device.
        code: CUDA's number, or None where only a library reports it.
        pattern: Regular expression for its text, without regard to case.
        reason: One sentence for people.
        advice: What to do; empty where it depends on the build and the device.
    """

    verdict: DeviceVerdict
    code: int | None
    pattern: str
    reason: str
    advice: str = ""


NO_DEVICE = ErrorKind(
    "init_failed",
    100,
    r"no cuda-capable device|no (cuda|hip) gpus are available|hipErrorNoDevice",
    "the driver is there but finds no device it can use (error 100)",
    "See whether nvidia-smi lists the device; in a container, start it with --gpus all.",
)

ERROR_KINDS: tuple[ErrorKind, ...] = (
    ErrorKind(
        "no_kernels",
        209,
        r"no kernel image is available|cudaErrorNoKernelImageForDevice|hipErrorNoBinaryForGpu"
        r"|hipErrorSharedObjectInitFailed|(cublas|cudnn)_status_arch_mismatch",
        "the build has no kernels for this device",
    ),
    ErrorKind(
        "no_kernels",
        98,
        r"invalid device function|hipErrorInvalidDeviceFunction",
        "the build has no kernels for this device",
    ),
    ErrorKind(
        "no_kernels",
        200,
        r"device kernel image is invalid|hipErrorInvalidImage|hipErrorInvalidKernelFile",
        "the driver cannot read the kernels of this build",
    ),
    ErrorKind(
        "no_kernels",
        500,
        r"named symbol not found|hipErrorNotFound",
        "a kernel is missing from the build for this device",
    ),
    ErrorKind(
        "driver_too_old",
        222,
        r"compiled with an unsupported toolchain|cudaErrorUnsupportedPtxVersion",
        "the driver is older than the compiler of the build's PTX code (error 222)",
        "Install a newer NVIDIA driver, or a torch build with binaries for this device.",
    ),
    ErrorKind(
        "no_kernels",
        218,
        r"ptx jit compilation failed|\binvalid ptx\b|cudaErrorInvalidPtx",
        "the driver could not compile the build's PTX code for this device (error 218)",
    ),
    ErrorKind(
        "no_kernels",
        221,
        r"ptx jit compiler library not found|cudaErrorJitCompilerNotFound",
        "the driver's PTX compiler is missing (error 221)",
        "Install the driver's libnvidia-ptxjitcompiler, or a build with binaries for this device.",
    ),
    ErrorKind(
        "no_kernels",
        223,
        r"ptx jit compilation was disabled|cudaErrorJitCompilationDisabled",
        "PTX compilation is off and the build has nothing else for this device (error 223)",
        "Unset CUDA_DISABLE_PTX_JIT, or install a build with binaries for this device.",
    ),
    ErrorKind(
        "driver_too_old",
        35,
        r"driver version is insufficient|driver on your system is too old"
        r"|hipErrorInsufficientDriver",
        "the driver is too old for this torch build (error 35)",
        "Install a newer NVIDIA driver, or a torch build for an older CUDA.",
    ),
    ErrorKind(
        "busy",
        46,
        r"devices?\(s\) is/are busy or unavailable|cudaErrorDevicesUnavailable|device is busy",
        "another process holds the device for itself (error 46)",
        "End that process, or set the compute mode back with: nvidia-smi -c DEFAULT",
    ),
    ErrorKind(
        "out_of_memory",
        2,
        r"out of memory|OutOfMemoryError|cublas_status_alloc_failed|hipErrorOutOfMemory",
        "the device's memory is full (error 2)",
        "End the process that fills it (nvidia-smi names it), or use another device.",
    ),
    NO_DEVICE,
    ErrorKind(
        "init_failed",
        None,
        r"found no nvidia driver",
        "torch finds no NVIDIA driver",
        "Install the driver; in a container, start it with --gpus all.",
    ),
    ErrorKind(
        "init_failed",
        101,
        r"invalid device ordinal|invalid device id",
        "the driver lost the device while it was looked at (error 101)",
        "See the kernel log for Xid messages; a reset or a reboot brings the device back.",
    ),
    ErrorKind(
        "init_failed",
        214,
        r"uncorrectable ecc error|cudaErrorECCUncorrectable",
        "the device's memory has an error it could not correct (error 214)",
        "Reset the device or reboot (nvidia-smi -q -d ECC shows the counts); replace it if the"
        " error comes back.",
    ),
    ErrorKind(
        "init_failed",
        802,
        r"system not yet initialized|cudaErrorSystemNotReady",
        "the machine's NVSwitch fabric is not up (error 802)",
        "Start the fabric manager of the driver's version: systemctl start nvidia-fabricmanager",
    ),
    ErrorKind(
        "init_failed",
        803,
        r"unsupported display driver / cuda driver combination|cudaErrorSystemDriverMismatch",
        "the driver's library and its kernel module have different versions (error 803)",
        "Reboot after a driver update; in a container, use the host's libcuda.",
    ),
    ErrorKind(
        "init_failed",
        804,
        r"forward compatibility was attempted|cudaErrorCompatNotSupportedOnDevice",
        "a CUDA compatibility package is in use, which this device does not support (error 804)",
        "Take the cuda-compat folder out of LD_LIBRARY_PATH and update the driver instead.",
    ),
    ErrorKind(
        "init_failed",
        3,
        r"initialization error|cudaErrorInitializationError",
        "the driver failed to initialize (error 3)",
        "Restart the program in a fresh process; if it stays, reload the driver or reboot.",
    ),
    ErrorKind(
        "crashed",
        700,
        r"illegal memory access|cudaErrorIllegalAddress",
        "a correct kernel read memory that is not its own (error 700)",
        "See the kernel log for Xid messages; the device or its driver is faulty.",
    ),
    ErrorKind(
        "crashed",
        719,
        r"unspecified launch failure|illegal instruction|device-side assert|misaligned address",
        "a correct kernel failed on the device (error 719 or a relative)",
        "See the kernel log for Xid messages; the device or its driver is faulty.",
    ),
    ErrorKind(
        "init_failed",
        999,
        r"(cuda|hip) (error: )?unknown error|error 999|cudaErrorUnknown|hipErrorUnknown",
        "the driver failed without saying why (error 999)",
        "Reload the driver's kernel modules or reboot: it is often left so by a suspend or an"
        " update.",
    ),
    ErrorKind(
        "not_built",
        None,
        r"not compiled with (cuda|hip|mps) (enabled|support)|mps.* not built",
        "this torch build has no support for this kind of device",
    ),
)


def classify(text: str) -> ErrorKind | None:
    """Return the kind of error that a text or the number in it stands for; None if not known.

    The text is type name and message of an exception, or what a dying process printed.
    """
    for kind in ERROR_KINDS:
        if re.search(kind.pattern, text, re.IGNORECASE):
            return kind
    number = re.search(r"\berror (\d+)\b", text, re.IGNORECASE)
    return next((kind for kind in ERROR_KINDS if number and kind.code == int(number[1])), None)
