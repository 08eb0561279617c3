from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

KEY = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
    import logging, sys
    from pathlib import Path
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from lightweight_decoder.training import tracking
    tracking._INIT_TIMEOUT_S = 1
    with tracking.open_wandb(Path(sys.argv[1])) as tracker:
        tracker.log_metrics({"value": 1.5}, step=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, KEY])
def test_where_the_server_cannot_be_reached_the_run_goes_on_offline(
    tmp_path, key, read_offline_run
):
    environment = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    environment |= {
        "HOME": str(tmp_path),
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
    }
    if key is not None:
        environment["WANDB_API_KEY"] = key
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    output = done.stdout + done.stderr

    assert done.returncode == 0, output
    assert output.count("W&B cannot be used online") == 1
    assert "wandb sync" in output
    run = read_offline_run(tmp_path / "run")
    assert run.summary["value"] == 1.5
    assert run.exit_code == 0
    assert KEY not in output
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()
