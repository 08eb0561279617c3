#!/usr/bin/env bash
# Writes requirements.txt and requirements-dev.txt from pyproject.toml, every version locked.
# Run it from the repository's root, in an environment that has pip-tools (the dev extra has it).
# torch, the Triton that its CUDA builds need, and lightning are held at the versions the tests ran
# with; change them here, nowhere else.
set -euo pipefail

lock() {
    local output=$1
    shift
    pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links \
        --no-emit-trusted-host --allow-unsafe --no-header --no-annotate --upgrade \
        --upgrade-package torch==2.13.0 --upgrade-package lightning==2.6.6 \
        --upgrade-package triton==3.7.1 \
        "$@" --output-file "$output" pyproject.toml
    # A wheel from another index carries its origin in the version; every index has the plain one.
    sed -i -E 's/\+[a-z0-9.]+$//' "$output"
    sed -i '/^lightweight-decoder/d' "$output"
    sed -i -E 's/^(triton==[^ ]+)$/\1 ; sys_platform == "linux"/' "$output"
    sed -i "1i # Written by scripts/lock_requirements.sh; do not edit." "$output"
    echo "-e ." >> "$output"
}

lock requirements.txt --extra engines
lock requirements-dev.txt --extra dev
