"""Exported models, held to what torch makes of the same texts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from lightweight_decoder import PhraseBank, PhraseBankDecoder
from lightweight_decoder.accelerator import precision as accelerator_precision
from lightweight_decoder.encoder import TextEncoder, engines, export, model_runtime, text_encoder
from lightweight_decoder.encoder.export import find_export, make_export
from lightweight_decoder.encoder.model_files import model_fingerprint
from lightweight_decoder.errors import ConfigError, EncoderError, MissingDependencyError
from lightweight_decoder.files import CACHE_VARIABLE

ENGINES = ["openvino", "onnx"]
TEXTS = [
    "a road",
    "",
    "music",
    "Straße 🛣",
    *("word " * n + "end" for n in range(1, 40, 3)),
    "a cat",
]
PHRASES = ["a road", "music", "a cat"]
OPTIONS = [
    {},
    {"query_prompt": "the meaning of {} in English", "phrase_prompt": "passage: "},
    {"truncate_dim": 20},
    {"normalize": False},
]

for library in ("openvino", "onnxruntime", "onnxscript"):
    pytest.importorskip(library)


@pytest.fixture(scope="session")
def exported(trained_folder, tmp_path_factory):
    """Export the tiny model once; the cache folder that has it."""
    cache = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(cache))
        encoder = TextEncoder(model=str(trained_folder), cache_dir=None, backend="openvino")
        encoder.encode(["a"])
    assert encoder._exported is not None
    return cache


@pytest.fixture
def cache(exported, tmp_path, monkeypatch):
    """Return a cache folder of one's own, with that export in it."""
    folder = tmp_path / "user cache"
    shutil.copytree(exported, folder)
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def make(trained_folder, cache, monkeypatch):
    """Build encoders without a cache of vectors, that compute in two threads."""
    monkeypatch.setattr(engines, "_num_threads", lambda: 2)

    def make(folder=trained_folder, **options):
        options = {"backend": "auto", "show_progress": False, "cache_dir": None, **options}
        return TextEncoder(model=str(folder), **options)

    return make


def cosines(vectors, others):
    one, other = vectors.astype(np.float64), others.astype(np.float64)
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def uses(encoder):
    encoder.encode(["a"])
    return "torch" if encoder._exported is None else type(encoder._exported._engine).__name__


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_both_sides_are_those_of_torch(make, backend, options, caplog, monkeypatch):
    monkeypatch.setattr(model_runtime, "_TEXTS_PER_WINDOW", 7)
    ours, torchs = make(backend=backend, **options), make(backend="torch", **options)
    np.testing.assert_allclose(
        ours.encode_queries(TEXTS), torchs.encode_queries(TEXTS), atol=1e-6, rtol=1e-5
    )
    np.testing.assert_allclose(
        ours.encode_phrases(TEXTS), torchs.encode_phrases(TEXTS), atol=1e-6, rtol=1e-5
    )
    assert ours._exported is not None
    assert "_model" not in vars(ours)
    assert (ours.fingerprint, ours.settings) == (torchs.fingerprint, torchs.settings)
    for encoder in (ours, torchs):
        encoder.report_cut_texts()
    first, second = (record.message.split(": ", 1)[1] for record in caplog.records)
    assert first == second
    assert "cut at 24 tokens" in first


@pytest.mark.parametrize(("backend", "precision"), [("openvino", "bfloat16"), ("onnx", "int8")])
def test_rounded_vectors_are_near_and_kept_apart(make, backend, precision, tmp_path):
    exact, rounded = make(backend="torch"), make(backend=backend, precision=precision)
    vectors, expected = rounded.encode_phrases(TEXTS), exact.encode_phrases(TEXTS)
    assert cosines(vectors, expected).min() > 0.999
    assert np.abs(vectors - expected).max() > 1e-5  # float32's own are within 1e-6
    assert rounded.fingerprint != exact.fingerprint
    auto = make(precision=precision)
    assert uses(auto) == uses(rounded) != "torch"
    assert auto.fingerprint == rounded.fingerprint
    caches = {encoder.identity.cache_name("phrase") for encoder in (exact, rounded, auto)}
    assert len(caches) == 2


def test_auto_takes_an_export_that_is_there_and_waits_for_work_where_none_is(
    make, cache, monkeypatch, caplog
):
    assert uses(make()) == "OnnxRuntimeEngine"
    many = make()
    many.encode([f"text {i}" for i in range(256)])
    assert uses(many) == "OpenVinoEngine"
    shutil.rmtree(cache / "exports")
    asked = []

    def refuse(*_):
        asked.append(1)
        raise EncoderError("cannot be exported", found="an operation of its own")

    monkeypatch.setattr(engines, "make_export", refuse)
    monkeypatch.setattr(text_encoder, "_TEXTS_WORTH_AN_EXPORT", 10)
    encoder = make()
    encoder.encode(["a"])
    assert not asked
    vectors = encoder.encode_phrases(TEXTS)
    encoder.encode_phrases(TEXTS)
    assert len(asked) == 1
    np.testing.assert_array_equal(vectors, make(backend="torch").encode_phrases(TEXTS))
    (said,) = (record.message for record in caplog.records)
    assert "torch computes instead of onnx or openvino: cannot be exported: found an operat" in said
    assert "\n" not in said


def test_auto_leaves_a_router_to_torch(make, caplog, loaded, trained_folder, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    transformer, pooling = loaded(trained_folder)
    router = Router.for_query_document(query_modules=[transformer], document_modules=[transformer])
    folder = tmp_path / "router"
    SentenceTransformer(modules=[router, pooling], device="cpu").save(str(folder))
    assert uses(make(folder)) == "torch"
    assert not caplog.records
    assert uses(make(folder, backend="onnx")) == "torch"
    assert "cannot be exported: found a tower for each side" in caplog.text


def test_auto_without_the_exporter_is_torch(make, cache, monkeypatch, caplog):
    shutil.rmtree(cache / "exports")
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    monkeypatch.setattr(text_encoder, "_TEXTS_WORTH_AN_EXPORT", 1)
    assert uses(make()) == "torch"
    assert not caplog.records


def test_an_engine_that_computes_something_else_is_not_used(make, monkeypatch, caplog):
    monkeypatch.setitem(engines._LEAST_COSINES, "float32", 1.1)
    assert uses(make(backend="onnx")) == "torch"
    assert "torch computes instead of onnx" in caplog.text
    assert "expected cosines of at least 1.1" in caplog.text
    monkeypatch.setitem(engines._LEAST_COSINES, "int8", 1.1)
    with pytest.raises(EncoderError, match=r"no engine computes .*onnx: .*at least 1\.1"):
        make(precision="int8").encode(["a"])


def test_auto_goes_on_with_the_next_engine(make, monkeypatch):
    class Broken:
        def __init__(self, *_):
            raise RuntimeError("no such operation")

    monkeypatch.setattr(engines, "OnnxRuntimeEngine", Broken)
    assert uses(make()) == "OpenVinoEngine"
    assert uses(make(backend="onnx")) == "torch"


def test_an_export_that_fails_leaves_nothing_and_says_why(
    make, model_copy, cache, monkeypatch, caplog
):
    def fail(*_, **__):
        raise ValueError("no such operation\nand many lines")

    monkeypatch.setattr(torch.onnx, "export", fail)
    folder = model_copy(prompts={"query": "query: "})
    assert uses(make(folder, backend="onnx")) == "torch"
    (said,) = (record.message for record in caplog.records)
    assert "cannot be exported: found no such operation. backend=torch" in said
    kept = model_fingerprint(folder, cache_dir=None)[:32]
    assert not [
        path for path in (cache / "exports").iterdir() if kept in path.name and path.is_dir()
    ]


def test_models_that_no_graph_holds_are_left_to_torch(make, model_copy, caplog):
    folder = model_copy(prompts={"query": "find this: "})
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": False}))
    encoder = make(folder, backend="openvino")
    expected = make(folder, backend="torch").encode_queries(TEXTS)
    np.testing.assert_array_equal(encoder.encode_queries(TEXTS), expected)
    assert "its pooling leaves prompts out" in caplog.text


def test_a_damaged_export_is_made_again(make, cache, caplog, trained_folder):
    fingerprint = model_fingerprint(trained_folder, cache_dir=None)
    whole = find_export(fingerprint, "float32")
    with (whole.folder / "model.onnx.data").open("r+b") as file:
        file.seek(999)
        file.write(b"\xff")
    assert find_export(fingerprint, "float32") is None
    encoder = make(backend="onnx")
    expected = make(backend="torch").encode_phrases(TEXTS)
    np.testing.assert_allclose(encoder.encode_phrases(TEXTS), expected, atol=1e-6)
    assert encoder._exported is not None
    assert "is not what was exported there, and is made anew" in caplog.text
    assert find_export(fingerprint, "float32") is not None
    names = sorted(path.name for path in (cache / "exports").iterdir())
    assert names == [f"{fingerprint[:32]}-float32", f"{fingerprint[:32]}-float32.lock"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "0" * 64},
        {"files": "0" * 64},
        {"version": 2},
        {"max_tokens": "24"},
        {"more": 1},
        None,
    ],
)
def test_what_is_not_this_models_export_is_not_found(cache, trained_folder, change):
    fingerprint = model_fingerprint(trained_folder, cache_dir=None)
    info = find_export(fingerprint, "float32").folder / ".export.json"
    info.write_text("{" if change is None else json.dumps(json.loads(info.read_text()) | change))
    assert find_export(fingerprint, "float32") is None


def test_exports_at_once_are_made_once(cache, trained_folder, monkeypatch):
    fingerprint = model_fingerprint(trained_folder, cache_dir=None)
    found = find_export(fingerprint, "float32")
    assert make_export(fingerprint, "float32", lambda: pytest.fail("loaded")) == found


def test_a_folder_that_cannot_be_written_leaves_torch(make, cache, monkeypatch, caplog):
    shutil.rmtree(cache)
    cache.write_text("a file")
    encoder = make(backend="openvino")
    assert uses(encoder) == "torch"
    assert "the export cannot be kept" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "tensorrt"},
            r"backend: .*auto or torch or openvino or onnx, found 'tensorrt'",
        ),
        ({"backend": None}, r"backend: .*found None"),
        ({"backend": "torch", "precision": "int8"}, r"precision: .*float32 or bfloat16 with back"),
        ({"backend": "openvino", "precision": "int8"}, r"precision: .*found 'int8'"),
        (
            {"backend": "onnx", "precision": "bfloat16"},
            r"precision: .*float32 or int8 with backend",
        ),
        (
            {"backend": "onnx", "device": "cuda:1"},
            r"backend: .*auto or torch on cuda:1, found 'onn",
        ),
        (
            {"precision": "int8", "device": "cuda"},
            r"precision: .*float32 or bfloat16 with .* on cud",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(options, message):
    with pytest.raises(ConfigError, match=message):
        TextEncoder(**options)


def test_int8_needs_a_processor_for_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_f": True})
    assert not accelerator_precision.cpu_has_int8()
    with pytest.raises(
        ConfigError, match=r"precision: .*a processor with instructions .*VNNI.*none"
    ):
        TextEncoder(precision="int8", backend="auto")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    assert TextEncoder(precision="int8", backend="auto").precision == "int8"


@pytest.mark.parametrize("native", [True, False])
def test_precision_auto_fits_the_backend(native, monkeypatch):
    monkeypatch.setattr(accelerator_precision, "cpu_has_bf16", lambda: native)
    rounded = "bfloat16" if native else "float32"
    assert TextEncoder(precision="auto", backend="openvino").precision == rounded
    assert TextEncoder(precision="auto", backend="onnx").precision == "float32"


def test_without_the_libraries_torch_computes_unless_more_was_asked(monkeypatch, make):
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    assert uses(make()) == "torch"
    assert uses(make(precision="bfloat16")) == "torch"
    for options, library in (
        ({"backend": "openvino"}, "openvino"),
        ({"backend": "onnx", "precision": "auto"}, "onnxruntime"),
        ({"backend": "auto", "precision": "int8"}, "onnxruntime"),
    ):
        with pytest.raises(
            MissingDependencyError, match=rf"{library}.*lightweight-decoder\[engines"
        ):
            TextEncoder(**options)


def test_without_the_exporter_torch_computes(make, cache, monkeypatch, caplog):
    shutil.rmtree(cache / "exports")
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    assert uses(make(backend="onnx")) == "torch"
    assert "needs the library onnxscript" in caplog.text


def test_an_error_in_a_worker_is_raised_and_ends_the_work(make, monkeypatch):
    encoder = make(backend="onnx", batch_size=1)
    encoder.encode(["a"])
    computed = []

    def fail(tokens, side):
        computed.append(1)
        time.sleep(0.01)
        raise MemoryError("no room")

    monkeypatch.setattr(encoder._exported, "compute", fail)
    with pytest.raises(MemoryError, match="no room"):
        encoder.encode([f"text {i}" for i in range(500)])
    assert len(computed) < 100


def test_texts_read_ahead_keep_their_places():
    class Lengths:
        """Gives a text's number; the longer, the later."""

        batch = model_runtime.Batch(3, 10_000)
        num_workers = 3

        def read(self, texts, _):
            lengths = np.array([len(text) for text in texts])
            return model_runtime.ReadTexts(texts, lengths, lengths % 2)

        def compute(self, tokens, _):
            time.sleep(0.001 * (len(tokens[0]) % 3))
            return np.array([[float(token.strip("x"))] for token in tokens], dtype=np.float32)

    texts = [f"{i}" + "x" * (i * 7 % 11) for i in range(20_000)]
    places = np.full(len(texts), -1)
    for batch in model_runtime.encode_in_batches(
        Lengths(), texts, "query", Lengths.batch._replace(texts=500)
    ):
        np.testing.assert_array_equal(batch.vectors[:, 0], batch.places)
        np.testing.assert_array_equal(batch.cut_at, [len(texts[i]) % 2 for i in batch.places])
        places[batch.places] = batch.places
    np.testing.assert_array_equal(places, np.arange(len(texts)))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_signal_stops_a_process_that_had_engines(cache, trained_folder):
    # OpenVINO itself leaves a signal stack that is no longer there: a crash, status -11
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from lightweight_decoder.encoder.engines import OpenVinoEngine;"
        "first, second = (OpenVinoEngine(Path(sys.argv[1]), 'float32', 1) for _ in range(2));"
        "del first; del second;"
        "signal.signal(signal.SIGINT, lambda *_: print('stopped'));"
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    export = find_export(model_fingerprint(trained_folder, cache_dir=None), "float32")
    command = [sys.executable, "-c", code, str(export.model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


@pytest.fixture
def bank(make, cache, trained_folder, tmp_path):
    encoder = make(backend="torch")
    vectors = encoder.encode_phrases(PHRASES)
    return PhraseBank.build(tmp_path / "bank", PHRASES, vectors, encoder=encoder)


def test_the_command_answers_a_text_without_the_libraries_that_the_model_came_from(
    bank, cache, tmp_path, make
):
    PhraseBankDecoder(bank).save(tmp_path / "decoder.ckpt")
    code = (
        "import sys; from lightweight_decoder.shell.composing import run_command;"
        "run_command('decode', sys.argv[1:]);"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    asked = "a sound that is made to be listened to"
    output = tmp_path / "answers.jsonl"
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, f"checkpoint={tmp_path}/decoder.ckpt", f"text={asked}"),
            *(f"output={output}", "top_k=3", "trainer.accelerator=cpu"),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {CACHE_VARIABLE: str(cache)},
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded >= {"tokenizers", "onnxruntime"}
    assert loaded.isdisjoint({"sentence_transformers", "transformers", "lightning", "openvino"})
    (answer,) = (json.loads(line) for line in output.read_text().splitlines())
    expected = bank.vectors @ make(backend="torch").encode_queries([asked])[0]
    given = dict(zip(answer["phrases"], answer["values"], strict=True))
    assert given == pytest.approx(dict(zip(PHRASES, expected.tolist(), strict=True)), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "modes", ["cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("cls", "mean")]
)
def test_every_pooling_is_exported(make, trained_folder, tmp_path, modes, loaded):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling

    pooling = Pooling(32, pooling_mode=modes)
    dense = Dense(pooling.pooling_output_dimension, 24)
    folder = tmp_path / "pooled"
    SentenceTransformer(modules=[loaded(trained_folder)[0], pooling, dense]).save(str(folder))
    expected = make(folder, backend="torch").encode_phrases(TEXTS)
    for backend in ENGINES:
        encoder = make(folder, backend=backend)
        np.testing.assert_allclose(encoder.encode_phrases(TEXTS), expected, atol=1e-5)
        assert encoder._exported is not None


@pytest.mark.slow
def test_a_model_that_pads_on_the_left_is_exported(make, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
    config = Qwen3Config(**sizes, num_key_value_heads=2, intermediate_size=48, vocab_size=30_522)
    parts = tmp_path / "parts"
    Qwen3Model(config).save_pretrained(parts)
    tokenizer = AutoTokenizer.from_pretrained(TextEncoder().folder, padding_side="left")
    tokenizer.save_pretrained(parts)
    transformer = Transformer(str(parts), max_seq_length=24)
    modules = [transformer, Pooling(32, pooling_mode="lasttoken")]
    folder = tmp_path / "left"
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    expected = make(folder, backend="torch").encode_phrases(TEXTS)
    for backend in ENGINES:
        encoder = make(folder, backend=backend)
        np.testing.assert_allclose(encoder.encode_phrases(TEXTS), expected, atol=1e-5)
        assert encoder._exported is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "precision", "least"),
    [
        ("openvino", "float32", 0.999999),
        ("onnx", "float32", 0.999999),
        ("openvino", "bfloat16", 0.9995),
        ("onnx", "int8", 0.95),
    ],
)
def test_the_real_model_is_near_torch(backend, precision, least):
    texts = [*TEXTS, "the act of moving from one place to another", "x " * 400]
    exact = TextEncoder(cache_dir=None, backend="torch").encode_phrases(texts)
    encoder = TextEncoder(cache_dir=None, backend=backend, precision=precision)
    near = cosines(encoder.encode_phrases(texts), exact)
    assert near.min() > least
    assert encoder._exported is not None
