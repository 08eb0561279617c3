from __future__ import annotations

import hashlib
import pickle
import socket
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lightweight_decoder.accelerator import precision
from lightweight_decoder.encoder import TextEncoder, model_runtime
from lightweight_decoder.encoder.model_files import model_fingerprint
from lightweight_decoder.errors import ConfigError, EncoderError

TEXTS = ["a road", "road", "a wide road for fast traffic", "", "a road", "Straße 🛣"]


def expected_vectors(encoder, texts):
    return np.stack([encoder._model.vector(text) for text in texts])


def forbid_loading(encoder):
    class Forbidden:
        def __getattr__(self, name):
            pytest.fail("the model was used")

    encoder.__dict__["_model"] = Forbidden()
    return encoder


def test_vectors_come_in_the_order_of_the_texts(make_encoder):
    encoder = make_encoder()
    vectors = encoder.encode_phrases(TEXTS)
    np.testing.assert_array_equal(vectors, expected_vectors(encoder, TEXTS))
    assert vectors.dtype == np.float32


def test_equal_texts_are_encoded_once(make_encoder):
    encoder = make_encoder(cache_dir=None)
    encoder.encode_phrases(TEXTS)
    assert sorted(encoder._model.encoded) == sorted(set(TEXTS))


def test_a_second_run_encodes_nothing_and_loads_nothing(make_encoder):
    expected = make_encoder().encode_phrases(TEXTS)
    again = forbid_loading(make_encoder())
    np.testing.assert_array_equal(again.encode_phrases(TEXTS), expected)
    assert again.dim == 8


def test_only_new_texts_are_encoded(make_encoder):
    make_encoder().encode_phrases(TEXTS)
    encoder = make_encoder()
    vectors = encoder.encode_phrases(["new", *TEXTS, "newer still"])
    assert encoder._model.encoded == ["new", "newer still"]
    np.testing.assert_array_equal(
        vectors, expected_vectors(encoder, ["new", *TEXTS, "newer still"])
    )


def test_a_killed_run_goes_on_where_it_was(make_encoder):
    texts = [f"text {i}" for i in range(3_000)]
    killed = make_encoder()
    killed._model.fail_after = 2_500
    with pytest.raises(KeyboardInterrupt):
        killed.encode(texts)

    encoder = make_encoder()
    np.testing.assert_array_equal(encoder.encode_phrases(texts), expected_vectors(encoder, texts))
    assert len(encoder._model.encoded) == 3_000 - 2 * 1_024


def test_a_changed_model_never_reads_old_vectors(make_encoder, model_folder):
    make_encoder().encode_phrases(TEXTS)
    (model_folder / "model.safetensors").write_bytes(b"other weights")
    encoder = make_encoder()
    encoder.encode_phrases(TEXTS)
    assert sorted(encoder._model.encoded) == sorted(set(TEXTS))


def test_unnormalized_vectors_have_a_cache_of_their_own(make_encoder):
    make_encoder().encode_phrases(TEXTS)
    encoder = make_encoder(normalize=False)
    encoder.encode_phrases(TEXTS)
    assert len(encoder._model.encoded) == len(set(TEXTS))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_the_model_computes_in_the_chosen_precision(make_encoder, precision, dtype):
    encoder = make_encoder(precision=precision)
    vectors = encoder.encode_phrases(TEXTS)
    assert set(encoder._model.dtypes) == {dtype}
    assert vectors.dtype == np.float32
    assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.float32  # as it was before


def test_each_precision_has_a_cache_of_its_own(make_encoder):
    make_encoder().encode_phrases(TEXTS)
    encoder = make_encoder(precision="bfloat16")
    encoder.encode_phrases(TEXTS)
    assert len(encoder._model.encoded) == len(set(TEXTS))
    forbid_loading(make_encoder(precision="bfloat16")).encode_phrases(TEXTS)
    forbid_loading(make_encoder(precision="float32")).encode_phrases(TEXTS)


def test_only_float32_has_the_fingerprint_of_the_files(make_encoder, model_folder):
    files = model_fingerprint(model_folder, cache_dir=None)
    assert make_encoder().fingerprint == files
    expected = hashlib.sha256(files.encode() + b"\0bfloat16").hexdigest()
    assert make_encoder(precision="bfloat16").fingerprint == expected


@pytest.mark.parametrize("asked", ["half", "float16", "bf16", "", None])
def test_an_unknown_precision_is_refused_at_once(asked):
    expected = rf"precision: .*expected float32 or bfloat16 or int8 or auto, found {asked!r}"
    with pytest.raises(ConfigError, match=expected):
        TextEncoder(precision=asked)


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_the_precision_that_is_asked_for_stays(asked, device):
    assert TextEncoder(precision=asked, device=device).precision == asked


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_follows_the_processor(native, chosen, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: native)
    assert TextEncoder(precision="auto").precision == chosen
    assert TextEncoder(precision="auto", device="mps").precision == "float32"


def test_it_shows_what_it_is_without_loading_anything():
    encoder = TextEncoder(model="some/model", device="cuda:1", precision="auto")
    assert repr(encoder) == "TextEncoder('some/model', device='cuda:1', precision='auto')"


def test_the_cache_is_the_users_own_unless_another_is_named(make_encoder, monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTWEIGHT_DECODER_CACHE", str(tmp_path / "users"))
    make_encoder(cache_dir="auto").encode_phrases(TEXTS)
    assert list((tmp_path / "users" / "embeddings").glob("*.sqlite"))


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_asks_the_gpu_that_is_used(native, chosen, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: asked.append(device) or nullcontext())
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: native | including_emulation
    )
    assert TextEncoder(precision="auto", device="cuda:1").precision == chosen
    assert asked == ["cuda:1"]


@pytest.mark.parametrize(
    ("precision", "batch_size", "most_texts", "most_tokens"),
    [("float32", None, 64, 512), ("bfloat16", None, 256, 1_024), ("bfloat16", 32, 32, 1_024)],
)
def test_texts_of_equal_length_share_a_batch_that_suits_the_processor(
    make_encoder, precision, batch_size, most_texts, most_tokens
):
    texts = [f"{i}" for i in range(300)]
    texts += [" ".join(["word"] * (1 + i % 97)) + f" {i}" for i in range(400)]
    encoder = make_encoder(batch_size=batch_size, precision=precision)
    encoder.encode_phrases(texts)
    lengths = [
        [len(ids) for ids in encoder._model.tokenizer(b)["input_ids"]]
        for b in encoder._model.batches
    ]
    assert most_tokens / 2 < max(len(batch) * max(batch) for batch in lengths) <= most_tokens
    assert max(len(batch) for batch in lengths) == most_texts
    flat = [length for batch in lengths for length in batch]
    assert flat == sorted(flat)


def test_a_text_longer_than_any_batch_is_a_batch_of_its_own(make_encoder):
    encoder = make_encoder()
    encoder.encode_phrases([" ".join(["word"] * 900), "short"])
    assert [len(batch) for batch in encoder._model.batches] == [1, 1]


def test_other_devices_get_full_batches(make_encoder):
    encoder = make_encoder(device="cuda", batch_size=100)
    encoder.encode_phrases([" ".join(["word"] * 50) + f" {i}" for i in range(250)])
    assert [len(batch) for batch in encoder._model.batches] == [100, 100, 50]


def test_a_model_without_a_plain_tokenizer_is_batched_by_characters(make_encoder):
    encoder = make_encoder()
    encoder._model.tokenizer = None
    np.testing.assert_array_equal(encoder.encode_phrases(TEXTS), expected_vectors(encoder, TEXTS))


def test_no_texts_give_no_vectors(make_encoder):
    assert make_encoder().encode_phrases([]).shape == (0, 8)


def test_a_vector_that_is_not_finite_is_refused_and_not_kept(make_encoder):
    encoder = make_encoder()
    encoder._model.not_finite = "road"
    with pytest.raises(EncoderError, match=r"'road': .*not finite"):
        encoder.encode_phrases(TEXTS)
    again = make_encoder()
    again.encode_phrases(TEXTS)
    assert "road" in again._model.encoded


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    encoder = TextEncoder(model=str(tmp_path), cache_dir=None)
    with pytest.raises(EncoderError, match="cannot be loaded") as raised:
        encoder.encode_phrases(["a"])
    assert str(tmp_path) in str(raised.value)


def test_progress_is_shown_for_long_work_only(make_encoder, capsys):
    make_encoder(show_progress=True).encode_phrases(TEXTS)
    assert capsys.readouterr().out == ""
    make_encoder(show_progress=True).encode([f"text {i}" for i in range(1_000)])
    assert "1000/1000" in capsys.readouterr().out


def test_importing_and_constructing_is_light(tmp_path):
    code = (
        "import sys; from pathlib import Path;"
        "from lightweight_decoder.encoder import TextEncoder;"
        f"TextEncoder(cache_dir=Path({str(tmp_path)!r})).fingerprint;"
        "heavy = {'sentence_transformers', 'transformers', 'lightning', 'hydra'};"
        "print(*heavy.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_encoder_can_be_pickled_before_it_is_used(tmp_path):
    encoder = TextEncoder(cache_dir=tmp_path)
    assert pickle.loads(pickle.dumps(encoder)).name == encoder.name  # noqa: S301, our own bytes


def test_the_real_model_gives_its_own_vectors_without_a_network(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = TextEncoder(cache_dir=tmp_path)
    vectors = encoder.encode_phrases(TEXTS)

    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(encoder.folder), device="cpu", local_files_only=True)
    np.testing.assert_allclose(vectors, model.encode(TEXTS), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert encoder.dim == 384
    again = TextEncoder(cache_dir=str(tmp_path))
    np.testing.assert_array_equal(again.encode_phrases(TEXTS), vectors)
    assert "_model" not in vars(again)  # all were found in the cache


def test_the_real_model_loses_little_in_bfloat16(tmp_path):
    texts = [*TEXTS, "the act of moving from one place to another"]
    exact = TextEncoder(cache_dir=tmp_path).encode(texts).astype(np.float64)
    rounded = TextEncoder(cache_dir=tmp_path, precision="bfloat16").encode(texts)
    assert rounded.dtype == np.float32
    assert not np.allclose(rounded, exact, atol=1e-5)
    np.testing.assert_allclose((exact * rounded).sum(axis=1), 1, atol=5e-4)
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-6)


def test_rounding_weights_once_gives_the_vectors_of_rounding_them_each_time(monkeypatch):
    once = TextEncoder(cache_dir=None, precision="bfloat16", backend="torch").encode_phrases(TEXTS)
    monkeypatch.setattr(model_runtime, "_round_linear_layers", lambda _: None)
    each_time = TextEncoder(cache_dir=None, precision="bfloat16", backend="torch").encode_phrases(
        TEXTS
    )
    np.testing.assert_array_equal(once, each_time)


def test_a_rounded_layer_leaves_the_embedding_that_it_shares_alone():
    model = torch.nn.Sequential(
        torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5), torch.nn.LayerNorm(5)
    )
    model[1].weight = model[0].weight
    model_runtime._round_linear_layers(model)
    assert model[1].weight.dtype == model[1].bias.dtype == torch.bfloat16
    assert model[0].weight.dtype == model[2].weight.dtype == torch.float32
