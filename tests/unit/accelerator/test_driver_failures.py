"""Driver and init failures, with torch's own texts, from a stubbed libcuda.

Slow, and skipped unless LIGHTWEIGHT_DECODER_CUDA_PYTHON names an interpreter that has a CUDA build
of torch. No GPU is needed: the stub's cuInit fails before one would be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import lightweight_decoder

CUDA_PYTHON = os.environ.get("LIGHTWEIGHT_DECODER_CUDA_PYTHON", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CUDA_PYTHON, reason="LIGHTWEIGHT_DECODER_CUDA_PYTHON is not set"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the stub needs gcc"),
]

# The runtime looks every driver function up by name and accepts "not found" for most of them.
STUB = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static int setting(const char *name, int fallback) {
    const char *text = getenv(name);
    return text ? atoi(text) : fallback;
}
static int unavailable(void) { return 999; }

int cuInit(unsigned flags) { (void)flags; return setting("STUB_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = setting("STUB_DRIVER", 13000); return 0; }
int cuGetExportTable(const void **table, const void *id) { (void)id; *table = NULL; return 500; }

static void *find(const char *name) {
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    void *symbol = self ? dlsym(self, name) : NULL;
    return symbol ? symbol : (void *)unavailable;
}
int cuGetProcAddress(const char *name, void **found, int version, unsigned long long flags) {
    (void)version; (void)flags;
    *found = find(name);
    return 0;
}
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags,
                        int *status) {
    if (status) *status = 0;
    return cuGetProcAddress(name, found, version, flags);
}
"""

# The package's own __init__ may need libraries that the CUDA interpreter does not have.
PROGRAM = """
import json, sys, types
package = types.ModuleType("lightweight_decoder")
package.__path__ = [sys.argv[1]]
sys.modules["lightweight_decoder"] = package
from lightweight_decoder.accelerator import resolve_accelerator
from lightweight_decoder.errors import AcceleratorError
plan = resolve_accelerator(cache=False).to_dict()
try:
    resolve_accelerator("cuda", cache=False)
    refused = None
except AcceleratorError as error:
    refused = str(error)
import torch
print(json.dumps({"plan": plan, "refused": refused, "initialized": torch.cuda.is_initialized()}))
"""


@pytest.fixture(scope="module")
def stub_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stub")
    (folder / "stub.c").write_text(STUB)
    flags = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-ldl"]
    subprocess.run(
        [str(shutil.which("gcc")), "-o", "libcuda.so.1", "stub.c", *flags], cwd=folder, check=True
    )
    return folder


def resolve(stub_folder, tmp_path, **settings):
    package = Path(lightweight_decoder.__file__).parent
    finished = subprocess.run(
        [CUDA_PYTHON, "-c", PROGRAM, str(package)],
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(stub_folder),
            "LIGHTWEIGHT_DECODER_CACHE": str(tmp_path),
            # As Lightning leaves it: torch then counts devices instead of asking the driver.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
            **settings,
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    return json.loads(finished.stdout.splitlines()[-1]), finished.stderr


@pytest.mark.parametrize(
    ("settings", "finding", "texts"),
    [
        ({"STUB_DRIVER": "12040"}, ("driver_too_old", 35), ("too old", "supports 12.4")),
        ({"STUB_INIT": "2"}, ("out_of_memory", 2), ("memory is full", "process that fills it")),
        ({"STUB_INIT": "46"}, ("busy", 46), ("another process", "nvidia-smi -c DEFAULT")),
        ({"STUB_INIT": "100"}, ("init_failed", 100), ("finds no device", "nvidia-smi lists")),
        ({"STUB_INIT": "214"}, ("init_failed", 214), ("could not correct", "Reset the device")),
        ({"STUB_INIT": "802"}, ("init_failed", 802), ("fabric is not up", "nvidia-fabricmanager")),
        ({"STUB_INIT": "803"}, ("init_failed", 803), ("different versions", "driver update")),
        ({"STUB_INIT": "804"}, ("init_failed", 804), ("compatibility package", "LD_LIBRARY_PATH")),
        ({"STUB_INIT": "999"}, ("init_failed", 999), ("without saying why", "reboot")),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else None,
)
def test_each_failure_has_its_own_verdict(stub_folder, tmp_path, settings, finding, texts):
    found, stderr = resolve(stub_folder, tmp_path, **settings)

    plan = found["plan"]
    (report,) = plan["reports"]
    assert (report["verdict"], report["error_code"]) == finding
    assert texts[0] in report["reason"]
    assert texts[1] in report["advice"]
    assert plan["accelerator"] == "cpu"
    assert stderr.count("Running on cpu") == 1
    assert report["reason"] in found["refused"]
    assert found["initialized"] is False
