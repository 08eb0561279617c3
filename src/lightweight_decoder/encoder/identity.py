"""What tells one encoder from another: its model's files, and all that is done besides."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightweight_decoder.encoder.encoder import EncoderSettings
from lightweight_decoder.encoder.model_files import (
    ModelFacts,
    locate_model,
    model_fingerprint,
    read_facts,
    remember_encoder,
)
from lightweight_decoder.encoder.prompts import PLACE, prompts_of_model
from lightweight_decoder.errors import EncoderError

if TYPE_CHECKING:
    from lightweight_decoder.encoder.encoder import EncoderPrecision, Side

_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What the user wants done besides what a model says.

    Attributes:
        query_prompt: A pattern with ``{}``; None: as the model says.
        phrase_prompt: The same of phrases.
        truncate_dim: As of ``EncoderSettings``.
        normalize: The same.
    """

    query_prompt: str | None
    phrase_prompt: str | None
    truncate_dim: int | None
    normalize: bool


class Identity:
    """Who an encoder is; each part is found when it is asked for.

    Args:
        name: The model, as of :func:`~lightweight_decoder.encoder.model_files.locate_model`.
        asked: What is done besides.
        precision: What the model's products are computed in.
        memo_dir: Where hashes of large files are kept; None: nowhere.
    """

    def __init__(
        self, name: str, asked: Asked, *, precision: EncoderPrecision, memo_dir: Path | None
    ) -> None:
        self._name = name
        self._asked = asked
        self._precision = precision
        self._memo_dir = memo_dir

    @cached_property
    def folder(self) -> Path:
        """Folder of the model; may be set, where it is known already.

        Raises:
            EncoderError: If the model is not to be found.
        """
        return locate_model(self._name)

    @cached_property
    def _facts(self) -> ModelFacts:
        """What the model's files say."""
        facts = read_facts(self.folder)
        if facts.similarity != "cosine":
            raise EncoderError(
                "the model's vectors are not made to be compared by cosine, as banks do",
                where=self.folder,
                expected="similarity_fn_name cosine",
                found=facts.similarity,
                advice=(
                    "Take a model for cosines; or copy the folder and write cosine into its "
                    "config_sentence_transformers.json, to have them compared so all the same"
                ),
            )
        return facts

    @cached_property
    def done(self) -> EncoderSettings:
        """What is done besides what the model's files say, were it nothing.

        Raises:
            EncoderError: If the model is not to be found or is not made for cosines.
        """
        asked, own = self._asked, prompts_of_model(self._name, self._facts)
        if own.source and None in {asked.query_prompt, asked.phrase_prompt}:
            _log.info(
                "%s: prompts of its model card (%s): %r for queries, %r for phrases; "
                'query_prompt="" and phrase_prompt="" do without',
                self._name,
                own.source,
                own.query,
                own.phrase,
            )
        return EncoderSettings(
            query_prompt=own.query if asked.query_prompt is None else asked.query_prompt,
            phrase_prompt=own.phrase if asked.phrase_prompt is None else asked.phrase_prompt,
            truncate_dim=asked.truncate_dim,
            normalize=asked.normalize,
            routed=self._facts.has_router,
            precision=self._precision,
        )

    @property
    def settings(self) -> EncoderSettings | None:
        """What is done besides what the model's files say; None: nothing, as in version 0.1."""
        done, untouched = self.done, self._facts.default_prompt + PLACE
        is_plain = done.normalize and not done.routed and done.truncate_dim is None
        is_plain = is_plain and done.precision != "int8"
        return None if is_plain and {done.query_prompt, done.phrase_prompt} == {untouched} else done

    @property
    def knows_sides(self) -> bool:
        """Whether a text may have another vector as a query than as a phrase."""
        return self.done.routed or self.done.query_prompt != self.done.phrase_prompt

    @cached_property
    def fingerprint_of_files(self) -> str:
        """What tells the model's files from any other's."""
        return model_fingerprint(self.folder, cache_dir=self._memo_dir)

    @cached_property
    def _computed_by(self) -> str:
        """What tells the model's files, and what they are computed in, from any other."""
        parts = [self.fingerprint_of_files]
        if self._facts.is_half:
            parts.append("float32")  # version 0.1 computed in what the model was saved in
        if self._precision != "float32":
            parts.append(self._precision)
        return _hash(*parts) if len(parts) > 1 else parts[0]

    @cached_property
    def fingerprint(self) -> str:
        """What tells this encoder from any other, a sha256.

        Raises:
            EncoderError: If the model is not to be found, cannot be read, or is not for cosines.
        """
        settings, fingerprint = self.settings, self._computed_by
        if settings is not None:
            fingerprint = _hash(fingerprint, json.dumps(asdict(settings), sort_keys=True))
        if Path(self._name).expanduser().is_dir():
            remember_encoder(fingerprint)
        return fingerprint

    def cache_name(self, side: Side) -> str:
        """Return the name of the file for a side's vectors; sides encoded alike share one."""
        besides: dict[str, object] = {}
        prompt = self.done.prompt(side)
        if prompt != self._facts.default_prompt + PLACE:
            besides["prompt"] = prompt
        if self._facts.has_router:
            besides["side"] = side
        if self._asked.truncate_dim is not None:
            besides["truncate_dim"] = self._asked.truncate_dim
        made_by = self._computed_by
        if besides:
            made_by = _hash(made_by, json.dumps(besides, sort_keys=True))
        kind = "unit" if self._asked.normalize else "raw"
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self._name.rstrip("/").rsplit("/")[-1])
        return f"{name}-{made_by[:32]}-{kind}.sqlite"


def _hash(*parts: str) -> str:
    """Return the sha256 of some texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
