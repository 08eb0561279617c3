"""Queries and phrases, held to what sentence-transformers makes of them."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.encoder.model_files import model_fingerprint
from lightweight_decoder.errors import ConfigError, EncoderError

from .conftest import make_model

TEXTS = ["a road", "a wide road for fast traffic", "", "music"]


def assert_same(vectors, expected):
    assert vectors.dtype == np.float32
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, unit, atol=1e-6)


def assert_sides(encoder, model):
    """Hold both sides, first computed and then from the cache, to the model's own."""
    for _ in range(2):
        assert_same(encoder.encode_queries(TEXTS), model.encode_query(TEXTS))
        assert_same(encoder.encode_phrases(TEXTS), model.encode_document(TEXTS))
        encoder.__dict__.pop("_model", None)


@pytest.fixture
def make(tmp_path):
    def make(folder, **options):
        options = {"cache_dir": tmp_path / "cache", **options}
        return TextEncoder(model=str(folder), show_progress=False, **options)

    return make


BOTH = {"query": "query: ", "document": "passage: "}


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({}, None),
        (BOTH, None),
        (BOTH, "query"),
        ({"query": "ask: ", "document": ""}, "query"),
        ({"document": "text: "}, None),
        ({"other": "x: "}, "other"),
    ],
)
def test_both_sides_are_those_of_sentence_transformers(make, model_copy, loaded, prompts, default):
    folder = model_copy(prompts=prompts, default_prompt_name=default)
    encoder = make(folder)
    assert_sides(encoder, loaded(folder))
    assert encoder.knows_sides == (prompts.get("query", "") != prompts.get("document", ""))


def test_a_prompt_that_is_not_pooled_is_not_pooled(make, model_copy, loaded):
    folder = model_copy(prompts={"query": "find this: ", "document": "text: "})
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"include_prompt": False}))
    model = loaded(folder)
    pooled = model.encode(["find this: a road"])
    assert not np.allclose(model.encode_query(["a road"]), pooled, atol=1e-3)
    assert_sides(make(folder), model)


def test_a_router_has_a_tower_for_each_side(make, trained_folder, tmp_path, loaded):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    other = make_model(tmp_path / "other", seed=1)
    router = Router.for_query_document(
        query_modules=list(loaded(trained_folder)), document_modules=list(loaded(other))
    )
    folder = tmp_path / "router"
    SentenceTransformer(modules=[router], device="cpu").save(str(folder))

    encoder = make(folder)
    assert_sides(encoder, loaded(folder))
    assert encoder.knows_sides
    assert_same(encoder.encode_queries(TEXTS), loaded(trained_folder).encode(TEXTS))
    assert_same(encoder.encode_phrases(TEXTS), loaded(other).encode(TEXTS))


@pytest.mark.parametrize("name", ["passage", "corpus"])
def test_older_names_of_a_phrases_prompt_are_known(make, model_copy, loaded, name):
    """As sentence-transformers documents it; 6.2.0 itself does not look for them."""
    folder = model_copy(prompts={"query": "query: ", name: "passage: "})
    expected = loaded(folder).encode(TEXTS, prompt="passage: ")
    assert_same(make(folder).encode_phrases(TEXTS), expected)


@pytest.mark.parametrize(
    ("prompt", "around"),
    [
        ("", ("", "")),
        ("{}", ("", "")),
        ("the meaning of ", ("the meaning of ", "")),
        ("the meaning of {}", ("the meaning of ", "")),
        ("what is {} in {English}?", ("what is ", " in {English}?")),
    ],
)
def test_a_users_prompt_goes_before_the_models_own(make, model_copy, loaded, prompt, around):
    folder = model_copy(prompts=BOTH)
    model = loaded(folder)
    asked = [f"{around[0]}{text}{around[1]}" for text in TEXTS]
    encoder = make(folder, query_prompt=prompt)
    assert_same(encoder.encode_queries(TEXTS), model.encode(asked, prompt=""))
    assert_same(encoder.encode_phrases(TEXTS), model.encode_document(TEXTS))
    assert_same(make(folder, phrase_prompt=prompt).encode_phrases(TEXTS), model.encode(asked))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("from {} to {}", r"expected one \{\} for the text, found 2"),
        ("quer", r"expected a prompt.*found 'quer'.*not the name of a prompt"),
        ("v1", r"found 'v1'"),
    ],
)
@pytest.mark.parametrize("key", ["query_prompt", "phrase_prompt"])
def test_what_is_no_prompt_is_refused_at_once(key, prompt, message):
    with pytest.raises(ConfigError, match=rf"^{key}: .*{message}"):
        TextEncoder(**{key: prompt})


def test_a_prompt_that_leaves_no_room_is_refused(make, trained_folder):
    encoder = make(trained_folder, query_prompt="word " * 30)
    with pytest.raises(ConfigError, match=r"query_prompt: .*than the 24 that the model reads.*32"):
        encoder.encode_queries(["a"])
    encoder.encode_phrases(["a"])


@pytest.mark.parametrize("dim", [1, 20, 32])
def test_the_first_entries_are_kept(make, trained_folder, loaded, dim):
    encoder = make(trained_folder, truncate_dim=dim)
    assert_same(
        encoder.encode_phrases(TEXTS), loaded(trained_folder, truncate_dim=dim).encode(TEXTS)
    )
    assert encoder.dim == dim
    raw = make(trained_folder, truncate_dim=dim, normalize=False).encode_queries(TEXTS)
    np.testing.assert_allclose(raw, loaded(trained_folder).encode(TEXTS)[:, :dim], atol=1e-6)


def test_more_entries_than_there_are_cannot_be_kept(make, trained_folder):
    with pytest.raises(ConfigError, match=r"truncate_dim: .*expected at most 32, .*found 33"):
        make(trained_folder, truncate_dim=33).encode_phrases(TEXTS)
    with pytest.raises(ConfigError, match=r"truncate_dim: .*expected at least 1, found 0"):
        make(trained_folder, truncate_dim=0)


OPTIONS = [
    {},
    {"query_prompt": "query: "},
    {"phrase_prompt": "query: "},
    {"query_prompt": "query: ", "phrase_prompt": "query: "},
    {"truncate_dim": 20},
    {"truncate_dim": 21},
    {"normalize": False},
    {"precision": "bfloat16"},
    {"precision": "bfloat16", "truncate_dim": 20},
]


def test_each_treatment_has_a_fingerprint_and_vectors_of_its_own(make, trained_folder):
    encoders = [make(trained_folder, **options) for options in OPTIONS]
    fresh = [make(trained_folder, cache_dir=None, **options) for options in OPTIONS]
    assert len({encoder.fingerprint for encoder in encoders}) == len(OPTIONS)
    for encode in (TextEncoder.encode_queries, TextEncoder.encode_phrases):
        for encoder, other in zip(encoders, fresh, strict=True):
            np.testing.assert_allclose(encode(encoder, TEXTS), encode(other, TEXTS), atol=1e-6)


def test_without_prompts_the_fingerprint_is_that_of_the_files(make, model_copy):
    files = model_fingerprint(model_copy("plain"), cache_dir=None)
    plain = make(model_copy("again"))
    assert plain.fingerprint == files
    assert plain.settings is None
    done = make(model_copy("more"), query_prompt="", phrase_prompt="{}")
    assert done.fingerprint == files
    told = make(model_copy("asks", prompts={"query": "query: "}))
    assert told.settings.query_prompt == "query: {}"
    assert told.settings.phrase_prompt == "{}"
    assert told.fingerprint != model_fingerprint(told.folder, cache_dir=None)


PASSAGES = "Represent this sentence for searching relevant passages: "
CARDS = {
    "e5-small-v2": ("query: ", "passage: "),
    "multilingual-e5-base": ("query: ", "passage: "),
    "nomic-embed-text-v1.5": ("search_query: ", "search_document: "),
    "bge-large-en-v1.5": (PASSAGES, ""),
    "mxbai-embed-large-v1": (PASSAGES, ""),
    "bge-m3": ("", ""),
    "my-e5": ("", ""),
}


@pytest.mark.parametrize("name", CARDS)
def test_prompts_of_model_cards_are_used_and_said(make, model_copy, loaded, caplog, name):
    query, phrase = CARDS[name]
    folder = model_copy(name)
    with caplog.at_level(logging.INFO):
        encoder = make(folder)
        assert_same(encoder.encode_queries(TEXTS), loaded(folder).encode(TEXTS, prompt=query))
        assert_same(encoder.encode_phrases(TEXTS), loaded(folder).encode(TEXTS, prompt=phrase))
    assert caplog.text.count("prompts of its model card") == (1 if query else 0)

    without = make(folder, query_prompt="", phrase_prompt="")
    assert_same(without.encode_queries(TEXTS), loaded(folder).encode(TEXTS))


def test_a_model_that_says_its_prompts_is_not_looked_up(make, model_copy, loaded):
    folder = model_copy("e5-small", prompts={"query": "ask: "})
    assert_sides(make(folder), loaded(folder))


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_vectors_that_are_not_for_cosines_are_refused(make, model_copy, similarity):
    encoder = make(model_copy(similarity_fn_name=similarity))
    expected = rf"not made to be compared by cosine.*found {similarity}\. Take a model for cosines"
    for use in (lambda: encoder.fingerprint, lambda: encoder.encode_phrases(["a"])):
        with pytest.raises(EncoderError, match=expected):
            use()


def test_unit_vectors_have_one_order_by_dot_product_and_cosine(make, model_copy, loaded):
    folder = model_copy(similarity_fn_name="dot")
    modules = json.loads((folder / "modules.json").read_text())
    normalize = {"idx": 2, "name": "2", "path": "2_Normalize"}
    normalize["type"] = "sentence_transformers.base.modules.normalize.Normalize"
    (folder / "2_Normalize").mkdir()
    (folder / "modules.json").write_text(json.dumps([*modules, normalize]))
    assert_sides(make(folder), loaded(folder))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("said_in", ["config", "weights"])
def test_a_model_saved_in_16_bits_is_computed_in_float32(make, model_copy, loaded, dtype, said_in):
    folder = model_copy()
    weights = load_file(folder / "model.safetensors")
    half = {name: weight.to(getattr(torch, dtype)) for name, weight in weights.items()}
    config = json.loads((folder / "config.json").read_text())
    config |= {"dtype": dtype if said_in == "config" else None}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})

    model = loaded(folder, model_kwargs={"dtype": torch.float32})
    encoder = make(folder)
    assert_same(encoder.encode_phrases(TEXTS), model.encode(TEXTS))
    assert encoder.fingerprint != model_fingerprint(folder, cache_dir=None)  # of version 0.1
    rounded = make(folder, precision="bfloat16").encode_phrases(TEXTS)
    np.testing.assert_allclose((rounded * encoder.encode_phrases(TEXTS)).sum(axis=1), 1, atol=1e-2)


def test_texts_that_were_cut_are_counted_once_and_from_the_cache_too(make, trained_folder, caplog):
    long = ["word " * 40 + end for end in ("oceans", "lawyers", "oceans")]
    for _ in range(2):
        encoder = make(trained_folder)
        with caplog.at_level(logging.WARNING):
            encoder.encode_phrases([*long, "short"])
            encoder.encode_queries(long[:1])
            encoder.report_cut_texts()
            encoder.report_cut_texts()
        (said,) = (record.message for record in caplog.records)
        assert "2 texts were cut at 24 tokens" in said
        caplog.clear()
    assert np.allclose(*encoder.encode_phrases(long[:2]))  # what is behind was not read


def test_a_cache_of_another_width_is_set_aside(make, trained_folder, caplog):
    encoder = make(trained_folder)
    expected = encoder.encode_phrases(TEXTS)
    encoder._cache("phrase").path.unlink()
    encoder._cache("phrase").put(TEXTS[:2], np.ones((2, 5), dtype=np.float32))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(make(trained_folder).encode_phrases(TEXTS), expected, atol=1e-6)
    assert "width 5, not 32" in caplog.text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config_sentence_transformers.json", "{"),
        ("config_sentence_transformers.json", "[]"),
        ("config_sentence_transformers.json", '{"prompts": 3}'),
        ("modules.json", "[3]"),
        ("config.json", '"text"'),
    ],
)
def test_files_that_are_not_those_of_a_model_are_named(make, model_copy, file, content):
    folder = model_copy()
    (folder / file).write_text(content)
    with pytest.raises(EncoderError, match=r"copy.*: cannot be (read|used)"):
        _ = make(folder).fingerprint
