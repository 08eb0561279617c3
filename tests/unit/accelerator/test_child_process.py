"""Stand-in children that misbehave in the ways real probes were seen or feared to."""

from __future__ import annotations

import os
import signal
import sys
import time

import psutil
import pytest

from lightweight_decoder.accelerator.child_process import run_child


def run(program, time_limit_s=30.0, on_message=None):
    return run_child(
        [sys.executable, "-I", "-c", program],
        environment=dict(os.environ),
        time_limit_s=time_limit_s,
        on_message=on_message,
    )


def test_records_arrive_and_other_lines_are_lost():
    outcome = run(
        "print('chatter'); print('{\"kind\": \"one\"}'); print('[1]'); print('{\"kind\": 2}');"
        " print('[' * 100000); print('1' * 5000); print('{\"kind\": \"two\", \"x\": 1}')"
    )

    assert outcome.messages == ({"kind": "one"}, {"kind": "two", "x": 1})
    assert (outcome.ended, outcome.exit_code) == ("exit", 0)


def test_nonsense_is_no_record():
    outcome = run("import os; os.write(1, bytes(range(256)) * 100 + b'\\n')")

    assert outcome.messages == ()
    assert (outcome.ended, outcome.exit_code) == ("exit", 0)


def test_a_flood_is_stopped():
    outcome = run("import os\nwhile True: os.write(1, b'x' * 65536)")

    assert (outcome.ended, outcome.exit_code) == ("flood", None)


def test_a_flood_of_errors_is_read_and_forgotten():
    outcome = run(
        "import os\nfor _ in range(200): os.write(2, b'x' * 65536)\nos.write(2, b'the end')"
    )

    assert (outcome.ended, outcome.exit_code) == ("exit", 0)
    assert outcome.error_text.endswith("the end")
    assert len(outcome.error_text) <= 8192


def test_a_signal_is_an_exit_code():
    outcome = run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")

    assert (outcome.ended, outcome.exit_code) == ("exit", -signal.SIGSEGV)


def test_a_child_that_ignores_signals_is_killed():
    outcome = run(
        "import os, signal, time\n"
        "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        'print(\'{"kind": "pid", "pid": %d}\' % os.getpid(), flush=True)\n'
        "time.sleep(600)",
        time_limit_s=1.0,
    )

    assert outcome.ended == "time"
    assert not psutil.pid_exists(outcome.messages[0]["pid"])


def test_what_a_child_started_dies_with_it():
    outcome = run(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        'print(\'{"kind": "pid", "pid": %d}\' % child.pid, flush=True)'
    )

    assert (outcome.ended, outcome.exit_code) == ("exit", 0)
    grandchild = outcome.messages[0]["pid"]
    deadline = time.monotonic() + 20
    while _runs(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(grandchild)


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_closed_output_does_not_keep_us_waiting():
    outcome = run("import os, time; os.close(1); os.close(2); time.sleep(600)")

    assert (outcome.ended, outcome.exit_code) == ("exit", None)


def test_a_record_may_extend_the_time_limit():
    outcome = run(
        'import time; print(\'{"kind": "slow"}\', flush=True); time.sleep(2)',
        time_limit_s=1.5,
        on_message=lambda _message: 60.0,
    )

    assert outcome.ended == "exit"


def test_standard_input_is_empty():
    assert run("import sys; sys.exit(len(sys.stdin.read()))").exit_code == 0


def test_a_failing_listener_leaves_no_child():
    pids = []

    def fail(message):
        pids.append(message["pid"])
        raise KeyboardInterrupt

    program = (
        'import os, time; print(\'{"kind": "pid", "pid": %d}\' % os.getpid(), flush=True);'
        " time.sleep(600)"
    )
    with pytest.raises(KeyboardInterrupt):
        run(program, on_message=fail)
    assert not psutil.pid_exists(pids[0])
