#!/usr/bin/env bash
# The guess: OpenVINO can be loaded twice in a process and let go of, and the process goes on as if
# it had never been there.
#
# What happens: the CPU plugin of each Core gives the thread that loads it another stack for signals
# (sigaltstack), keeps the one before, and puts that back when it is gone. Where the first Core goes
# before the second, the second puts back the stack of the first, which is no longer mapped. The next
# signal whose handler runs on that stack, as all of Python's do, ends the process: a segmentation
# fault in place of KeyboardInterrupt, or of what handles SIGTERM. In the other order all is well.
# Seen with two compiled models, of which the older one was replaced.
#
# Versions: openvino 2026.4.1, Linux x86-64 (a Xeon with AMX).
# Source: src/plugins/intel_cpu/src/plugin.cpp, SigAltStackSetup.
#
# Runs without lightweight-decoder; fails when the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" openvino==2026.4.1
rm -rf "$folder"/openvino_telemetry  # which reports to Google Analytics when imported

cat > "$folder/two_cores.py" <<'PYTHON'
import os
import signal
import sys

import openvino


def loaded():
    core = openvino.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    return core


print("openvino", openvino.__version__, flush=True)
first, second = loaded(), loaded()
if sys.argv[1] == "first":
    del first
    del second
else:
    del second
    del first
signal.signal(signal.SIGINT, lambda *_: print("the signal was handled", flush=True))
os.kill(os.getpid(), signal.SIGINT)
PYTHON

cd "$folder"
export PYTHONPATH=$folder
python3 two_cores.py second
status=0
python3 two_cores.py first || status=$?
echo "the first Core went first: status $status"
[ "$status" = 139 ] || { echo "no segmentation fault any more"; exit 1; }
