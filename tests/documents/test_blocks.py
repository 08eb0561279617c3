"""What the documents tell people to type does what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLLOWED = [
    "docs/index.md",
    *(f"docs/tutorials/{path.name}" for path in ROOT.glob("docs/tutorials/*.md")),
]
"""Documents that are followed from their first line to the last, commands too."""

INSTALLS = re.compile(r"^pip install ", re.MULTILINE)
COMMAND = re.compile(r"^lightweight-decoder\b", re.MULTILINE)


def blocks(path: Path) -> list[tuple[str, str]]:
    """Return the language and content of each block to run, in order."""
    return [
        (language, content)
        for language, content in FENCE.findall(path.read_text(encoding="utf-8"))
        if not INSTALLS.search(content)
    ]


def documents_with(language: str) -> list[str]:
    """Return the documents that have a block of that language."""
    paths = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
    return [
        str(path.relative_to(ROOT))
        for path in paths
        if any(found == language for found, _ in blocks(path))
    ]


def run_python(content: str, names: dict[str, object], path: Path) -> None:
    """Run a block in the names that the blocks before it left."""
    exec(compile(content, str(path), "exec"), names)  # noqa: S102 - our own documents


def run_console(content: str) -> None:
    """Run a block's lines as a shell does, with this Python's command."""
    python = f"{sys.executable} -m lightweight_decoder"
    done = subprocess.run(
        ["bash", "-euc", COMMAND.sub(python, content)],  # noqa: S607
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{content}\n{done.stdout}{done.stderr}"


def test_there_are_documents_to_run():
    assert {"README.md", *FOLLOWED} <= {*documents_with("python"), "docs/index.md"}


@pytest.mark.parametrize("name", documents_with("python"))
def test_python_blocks_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for language, content in blocks(ROOT / name):
        if language == "python":
            run_python(content, names, ROOT / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLLOWED)
def test_documents_can_be_followed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for language, content in blocks(ROOT / name):
        if language == "python":
            run_python(content, names, ROOT / name)
        else:
            run_console(content)
