"""Checkpoints of decoders, written whole and read without giving the file any powers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import torch
from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from torch import Tensor, nn

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.decoder.abstention import STRICT
from lightweight_decoder.errors import CheckpointError
from lightweight_decoder.files import whole_file
from lightweight_decoder.rerank import ListwiseReranker, PhraseClassifier, QueryAdapter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightweight_decoder.decoder.calibration import Calibration
    from lightweight_decoder.rerank import Reranker

CHECKPOINT_VERSION = 2

_Part = TypeVar("_Part", bound=nn.Module)

_WRITTEN_BY = "a checkpoint written by training, calibrating or PhraseBankDecoder.save"

Count = Annotated[int, Field(gt=0, lt=2**31)]


@dataclass(frozen=True, slots=True)
class BankIdentity:
    """The bank that a decoder belongs to.

    Attributes:
        path: Its folder when the checkpoint was written; None: it lived in memory.
        fingerprint: What tells it from any other.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    path: str | None
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class AdapterOptions:
    """Arguments of :class:`~lightweight_decoder.rerank.QueryAdapter`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    query_dim: Count
    bank_dim: Count


@dataclass(frozen=True)
class RerankerOptions(AdapterOptions):
    """Arguments of :class:`~lightweight_decoder.rerank.ListwiseReranker`."""

    num_phrases: Count
    num_candidates: Count
    rank_dim: Count
    hidden_dim: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class ClassifierOptions(AdapterOptions):
    """Arguments of :class:`~lightweight_decoder.rerank.PhraseClassifier`."""

    num_phrases: Count
    num_candidates: Count
    penalty: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a decoder is made of, besides the weights.

    Attributes:
        version: ``CHECKPOINT_VERSION``.
        bank: The bank it belongs to.
        adapter: Arguments of its adapter; None: it has none.
        reranker: Arguments of its reranker; None: it has none.
        calibration: The fields of its calibration; None: it has none.
        classifier: Arguments of its phrase classifier, in place of a reranker; None: it has none.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    version: int
    bank: BankIdentity
    adapter: AdapterOptions | None
    reranker: RerankerOptions | None
    calibration: dict[str, JsonValue] | None
    classifier: ClassifierOptions | None = None


_READER = TypeAdapter(Recipe)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read, its recipe checked.

    Attributes:
        path: The file.
        recipe: What the decoder is made of.
        content: All that the file holds, a training run's state included.
    """

    path: Path
    recipe: Recipe
    content: Mapping[str, Any]

    def find_bank(self) -> Path:
        """Return where the bank was when the checkpoint was written.

        Raises:
            CheckpointError: It is there no longer, or lived in memory.
        """
        bank = self.recipe.bank.path
        try:
            is_there = bank is not None and Path(bank).is_dir()
        except OSError:  # no system has names of such a length
            is_there = False
        if bank is None or not is_there:
            raise CheckpointError.unexpected(
                self.path,
                bank or "a bank that lived in memory",
                "no such folder",
                summary="the bank it was trained with has moved",
                advice="Name the bank's new place with bank=DIR.",
            )
        return Path(bank)

    def open_bank(self, bank: str | Path | PhraseBank | None = None) -> PhraseBank:
        """Open the bank that the decoder belongs to, or its folder; None: where it was.

        Raises:
            CheckpointError: It has moved, or another bank is there.
            BankError: It is missing or damaged.
        """
        if not isinstance(bank, PhraseBank):
            bank = PhraseBank.open(self.find_bank() if bank is None else bank)
        self.check_bank(bank)
        return bank

    def check_bank(self, bank: PhraseBank) -> None:
        """Refuse a bank that is not the one that the decoder belongs to, or has other sizes."""
        wanted = self.recipe.bank.fingerprint
        if bank.fingerprint != wanted:
            raise CheckpointError(
                "was trained with another bank",
                where=self.path,
                expected=f"a bank with fingerprint {wanted[:12]}",
                found=f"{bank.fingerprint[:12]} in {bank.path}",
                advice="Name the bank of the training run with bank=DIR, or train again.",
            )
        sizes = {"bank_dim": bank.dim, "num_phrases": bank.num_phrases}
        for part in ("adapter", "reranker", "classifier"):
            options = getattr(self.recipe, part)
            for name, size in sizes.items():
                found = getattr(options, name, size)
                if found != size:
                    raise _misfit(self.path, f"decoder.{part}.{name}", size, found)
            if options is not None:
                sizes["query_dim"] = options.query_dim  # both read the same queries

    def adapter(self) -> QueryAdapter | None:
        """Return the adapter with its weights; None where there is none.

        Raises:
            CheckpointError: The weights are missing, of other shapes, or not finite numbers.
        """
        return self._load("adapter", QueryAdapter, self.recipe.adapter)

    def reranker(self) -> Reranker | None:
        """Return the reranker, of either kind, with its weights; None where there is none.

        Raises:
            CheckpointError: As of ``adapter``.
        """
        if self.recipe.classifier is not None:
            return self._load("classifier", PhraseClassifier, self.recipe.classifier)
        return self._load("reranker", ListwiseReranker, self.recipe.reranker)

    def calibration(self) -> Calibration | None:
        """Return the calibration, one that could have been fitted; None where there is none."""
        if self.recipe.calibration is None:
            return None
        # plain search does without SciPy, which takes 0.1 s and 20 MB
        from lightweight_decoder.decoder.calibration import Calibration  # noqa: PLC0415

        return Calibration.from_dict(self.recipe.calibration)

    def _load(self, name: str, build: type[_Part], options: AdapterOptions | None) -> _Part | None:
        """Build a learned part out of its options and weights, ready to decode with."""
        if options is None:
            return None
        state, prefix = self.content.get("state_dict"), f"{name}."
        if not isinstance(state, dict):
            raise _misfit(self.path, "state_dict", "weights by name", state)
        weights = {
            key.removeprefix(prefix): _checked(self.path, key, weight)
            for key, weight in state.items()
            if str(key).startswith(prefix)
        }
        try:
            with torch.device("meta"):  # sizes of a stranger's recipe take no memory
                part = build(**vars(options))
            part.load_state_dict(weights, assign=True)
        except (TypeError, RuntimeError) as error:
            found = " ".join(str(error).split())
            raise _misfit(self.path, f"decoder.{name}", f"a {build.__name__}", found) from error
        return part.float().eval().requires_grad_(requires_grad=False)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint and check the decoder's recipe in it; it is never unpickled.

    Raises:
        CheckpointError: It is missing, damaged, of another version, or holds no decoder; the
            message has the key that is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("there is no such checkpoint", where=path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many unrelated types for a damaged file
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError.unreadable(path, found, expected=_WRITTEN_BY) from error
    recipe = content.get("decoder") if isinstance(content, dict) else None
    if not isinstance(recipe, dict):
        raise CheckpointError("holds no decoder", where=path, expected=_WRITTEN_BY)
    if recipe.get("version") != CHECKPOINT_VERSION:
        raise CheckpointError(
            "has another version",
            where=path,
            expected=CHECKPOINT_VERSION,
            found=repr(recipe.get("version"))[:80],
            advice="Train again with this version of lightweight-decoder.",
        )
    return Checkpoint(path, _read_recipe(path, recipe), content)


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint, and make its folder; a failed write leaves what was there before.

    Raises:
        CheckpointError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem, advice = "the file cannot be written", "Name another folder."
        raise CheckpointError(problem, where=path, found=error.strerror, advice=advice) from error
    with whole_file(path, error=CheckpointError) as partial:
        torch.save(dict(content), partial)


def _read_recipe(path: Path, fields: dict[str, Any]) -> Recipe:
    """Return the recipe, or name the first key that no decoder of ours has written."""
    try:
        return _READER.validate_json(json.dumps(fields))  # as JSON: tuples may be lists
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        key = ".".join(["decoder", *map(str, wrong["loc"])])
        found = "nothing" if wrong["type"] == "missing" else repr(wrong["input"])[:80]
        raise _misfit(path, key, wrong["msg"], found) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise _misfit(path, "decoder", "plain values", error) from error


def _checked(path: Path, name: str, weight: object) -> Tensor:
    """Return a weight if it is an array of finite numbers."""
    if (
        not isinstance(weight, Tensor)
        or not weight.is_floating_point()
        or weight.layout is not torch.strided
        # numbers that take more room than was stored repeat themselves: few bytes fill the memory
        or weight.untyped_storage().nbytes() < weight.nbytes
    ):
        raise _misfit(path, f"state_dict.{name}", "an array of floats", type(weight).__name__)
    if not weight.isfinite().all():
        raise _misfit(path, f"state_dict.{name}", "finite numbers", "NaN or infinity")
    return weight


def _misfit(path: Path, key: str, expected: object, found: object) -> CheckpointError:
    """Build the error for a checkpoint with missing or altered parts."""
    problem, advice = "its parts do not fit together", "Copy the checkpoint again, or train again."
    return CheckpointError.unexpected(
        path, expected, found, at=f"key '{key}'", summary=problem, advice=advice
    )
