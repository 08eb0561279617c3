"""What encoders want to read around a text: what the model says, its model card, or the user."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from lightweight_decoder.errors import ConfigError

if TYPE_CHECKING:
    from lightweight_decoder.encoder.model_files import ModelFacts

PLACE = "{}"
"""Stands for the text in a prompt; alone it is no prompt."""


_KEYS = (("query",), ("document", "passage", "corpus"))
"""What sentence-transformers documents of ``encode_query`` and ``encode_document``; 6.2.0 never
looks for the last two, as it fills in an empty "document"."""


class _Family(NamedTuple):
    """Models whose prompts only their model card has."""

    names: str
    query: str
    phrase: str
    source: str


_PASSAGES = "Represent this sentence for searching relevant passages: "
_INSTRUCTION = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)
_FAMILIES = (
    _Family(
        r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?",
        *("query: ", "passage: ", "huggingface.co/intfloat/e5-base-v2"),
    ),
    _Family(
        r"multilingual-e5-large-instruct",
        *(f"{_INSTRUCTION} ", "", "huggingface.co/intfloat/multilingual-e5-large-instruct"),
    ),
    _Family(
        r"nomic-embed-text-v\d.*|modernbert-embed-(base|large)",
        *("search_query: ", "search_document: ", "huggingface.co/nomic-ai/nomic-embed-text-v1.5"),
    ),
    _Family(
        r"bge-(small|base|large)-en(-v1\.5)?",
        *(_PASSAGES, "", "huggingface.co/BAAI/bge-base-en-v1.5"),
    ),
    _Family(
        r"mxbai-embed-(large|xsmall)-v1",
        *(_PASSAGES, "", "huggingface.co/mixedbread-ai/mxbai-embed-large-v1"),
    ),
    _Family(
        r"qwen3-embedding-.*",
        *(_INSTRUCTION, "", "huggingface.co/Qwen/Qwen3-Embedding-0.6B"),
    ),
)


def as_pattern(asked: str, *, where: str) -> str:
    """Return a prompt as a pattern with one ``{}``: as it is, or with the text at its end.

    Args:
        asked: A text to put before each text, "" for none, or a pattern.
        where: The key that it comes from.

    Raises:
        ConfigError: It has ``{}`` more than once, or would be glued to the text: then it is rather
            the name of a prompt than one.
    """
    places = asked.count(PLACE)
    if places > 1:
        raise ConfigError.unexpected(where, "one {} for the text", f"{places} in {asked!r}")
    if places:
        return asked
    if asked[-1:].isascii() and asked[-1:].isalnum():
        raise ConfigError.unexpected(
            where,
            "a prompt: a text that ends in a space or a sign, or a pattern with {} for the text",
            repr(asked),
            advice=f"Write '{asked}: ' or '{asked} {{}}', not the name of a prompt.",
        )
    return asked + PLACE


class Prompts(NamedTuple):
    """The pattern of each side.

    Attributes:
        query: What a query becomes, with ``{}`` for its text.
        phrase: What a phrase becomes.
        source: Where they are said, if not in the model's files.
    """

    query: str
    phrase: str
    source: str = ""


def prompts_of_model(name: str, facts: ModelFacts) -> Prompts:
    """Return the prompts that a model says itself, else those of its model card.

    Args:
        name: The model's name or folder, the last part of which tells its family.
        facts: What its files say.
    """
    if not facts.prompts:
        last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
        for family in _FAMILIES:
            if re.fullmatch(family.names, last):
                return Prompts(family.query + PLACE, family.phrase + PLACE, family.source)
    query, phrase = (
        next((facts.prompts[key] for key in keys if key in facts.prompts), "") for keys in _KEYS
    )
    return Prompts(query + PLACE, phrase + PLACE)
