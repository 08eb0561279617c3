from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightweight_decoder.errors import ConfigError
from lightweight_decoder.shell.exit_status import reported_errors, stopped_by_signals


def refused():
    raise ConfigError("out of range", where="top_k")


def unreadable():
    Path("/no/such/file").read_text()


@pytest.mark.parametrize(
    ("work", "told"),
    [(refused, "top_k: out of range"), (unreadable, "/no/such/file: No such file or directory")],
)
def test_an_error_is_a_line_and_status_1(caplog, work, told):
    with pytest.raises(SystemExit) as ended, reported_errors():
        work()
    assert ended.value.code == 1
    assert [record.getMessage() for record in caplog.records] == [told]
    assert caplog.records[0].exc_info is None


def test_other_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError), reported_errors():
        _ = 1 / 0
    with pytest.raises(OSError, match="no file"), reported_errors():
        raise OSError("no file")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize(("name", "status"), [("INT", 130), ("TERM", 143), ("HUP", 129)])
def test_a_signal_unwinds_the_program(capfd, name, status):
    number = getattr(signal, f"SIG{name}")
    before, cleaned = signal.getsignal(number), []

    def work():
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            cleaned.append(True)

    with pytest.raises(SystemExit) as ended, stopped_by_signals():
        work()
    assert ended.value.code == status
    assert cleaned == [True]
    assert signal.getsignal(number) == before
    assert capfd.readouterr().err == f"Stopped by SIG{name}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_signal_that_is_ignored_still_is():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_goes_without(tmp_path):
    code = (
        "import threading\n"
        "from lightweight_decoder.shell.exit_status import stopped_by_signals\n"
        "def work():\n"
        "    with stopped_by_signals():\n"
        "        print('done')\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")
