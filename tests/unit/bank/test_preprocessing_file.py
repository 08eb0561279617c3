"""Banks with preprocessing: built, opened, and refused where something is wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA as ReferencePCA  # noqa: N811, ours has the name
from sklearn.preprocessing import normalize

from lightweight_decoder.bank import (
    BankRows,
    FileInfo,
    PhraseBank,
    PreprocessingInfo,
    preprocessing_file,
    write_bank,
)
from lightweight_decoder.bank.manifest import read_manifest, write_manifest
from lightweight_decoder.errors import BankBuildError, BankError, ConfigError
from lightweight_decoder.vectors.preprocessing import L2, PCA, Center, Clip

STEPS = (L2(), Center(), Clip(quantile=0.01), PCA(dim=4))
NUM_ROWS, WIDTH = 3_000, 8


def build_from(folder, rows, **options):
    """Build a bank from blocks, and open it."""
    write_bank(folder, rows, **options)
    return PhraseBank.open(folder)


def vectors(num_rows=NUM_ROWS):
    random = np.random.default_rng(0)
    mixed = random.normal(size=(num_rows, WIDTH)) @ random.normal(size=(WIDTH, WIDTH))
    return (mixed + 3).astype(np.float32)


class Blocks:
    """Rows that can be read again."""

    def __init__(self, size=700, *, rows=None):
        self.size = size
        self.rows = vectors() if rows is None else rows

    def __iter__(self):
        for start in range(0, len(self.rows), self.size):
            block = self.rows[start : start + self.size]
            yield BankRows([f"text {start + i}" for i in range(len(block))], block)


@pytest.fixture
def bank(tmp_path):
    return build_from(tmp_path / "bank", Blocks(), preprocessing=STEPS)


def test_stored_vectors_are_those_of_scikit_learn(tmp_path):
    bank = build_from(tmp_path / "bank", Blocks(), preprocessing=[L2(), PCA(dim=4, whiten=True)])
    unit = normalize(vectors().astype(np.float64))
    reference = ReferencePCA(4, whiten=True, svd_solver="full").fit_transform(unit)
    np.testing.assert_allclose(bank.vectors, normalize(reference), atol=1e-5)
    assert (bank.input_dim, bank.dim, bank.manifest.format_version) == (WIDTH, 4, 2)
    bank.verify()


def test_preprocessing_what_was_stored_gives_the_stored_vectors(bank):
    again = bank.preprocess(vectors())
    np.testing.assert_allclose(normalize(again), bank.vectors, atol=1e-6)
    assert bank.manifest.preprocessing == PreprocessingInfo(WIDTH, STEPS)


@pytest.mark.parametrize("size", [1, 64, NUM_ROWS])
def test_blocks_do_not_change_the_files(tmp_path, bank, size):
    other = build_from(tmp_path / "other", Blocks(size), preprocessing=STEPS)
    assert other.fingerprint == bank.fingerprint


def test_a_bank_without_steps_is_as_it_always_was(tmp_path):
    bank = build_from(tmp_path / "bank", Blocks())
    assert bank.manifest.format_version == 1
    assert "preprocessing" not in (tmp_path / "bank" / "manifest.json").read_text()
    assert sorted(path.name for path in bank.path.iterdir()) == [
        "manifest.json",
        "owners.npy",
        "phrases.arrow",
        "vectors.npy",
    ]
    rows = vectors()
    assert bank.preprocess(rows) is rows
    assert bank.input_dim == bank.dim == WIDTH


def test_a_fingerprint_of_version_one_stays():
    """As it was before there was preprocessing: checkpoints name banks by it."""
    fields = {
        "format_version": 1,
        "num_vectors": 7,
        "num_phrases": 4,
        "dim": 5,
        "dtype": "float16",
        "metric": "cosine",
        "normalized": True,
        "encoder": None,
        "files": {"vectors.npy": {"bytes": 10, "sha256": "0" * 64}},
    }
    from lightweight_decoder.bank import Manifest

    manifest = Manifest(**{**fields, "files": {"vectors.npy": FileInfo(10, "0" * 64)}})
    content = json.dumps(fields, sort_keys=True).encode()
    assert manifest.fingerprint == hashlib.sha256(content).hexdigest()


def test_fitted_on_a_sample_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(preprocessing_file, "SAMPLE_ROWS", 500)
    bank = build_from(tmp_path / "bank", Blocks(), preprocessing=[Center()])
    mean = load_file(bank.path / "preprocessing.safetensors")["0.mean"]
    assert not np.allclose(mean, vectors().mean(axis=0), atol=1e-4)  # of 500 rows, not of all
    other = build_from(
        tmp_path / "other", iter(Blocks()), preprocessing=[Center()], sample=[vectors()[:200]]
    )
    mean = load_file(other.path / "preprocessing.safetensors")["0.mean"]
    np.testing.assert_allclose(mean, vectors()[:200].mean(axis=0), atol=1e-5)


def test_rows_that_are_gone_after_the_sample_are_refused(tmp_path):
    with pytest.raises(BankBuildError, match=r"needs the rows twice.*sample="):
        build_from(tmp_path / "bank", iter(Blocks()), preprocessing=STEPS)
    assert not any(tmp_path.iterdir())


def test_a_step_that_does_not_fit_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"preprocessing\[1\]\.pca\.dim: .*expected at most 8"):
        build_from(tmp_path / "bank", Blocks(), preprocessing=[L2(), PCA(dim=9)])
    assert not any(tmp_path.iterdir())


def rows_with(bad):
    """Rows of one length: one is bad, two are the mean of all."""
    rows = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32) + 5
    return np.concatenate([rows, np.full((2, 4), 5, np.float32), [np.full(4, bad, np.float32)]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_rows_are_dropped_and_counted(tmp_path, bad):
    blocks = Blocks(4, rows=rows_with(bad))
    report = write_bank(
        tmp_path / "bank", blocks, preprocessing=[Center(), Clip()], on_bad_row="drop"
    )
    assert report.dropped == {
        "vector with NaN or infinite numbers": 1,
        "vector without direction after preprocessing": 2,
    }
    assert PhraseBank.open(tmp_path / "bank").find(["text 8", "text 9"]).tolist() == [-1, -1]
    assert report.num_vectors == 8


def test_bad_rows_are_named(tmp_path):
    with pytest.raises(BankBuildError, match=r"row 10: a vector has no direction: .*inf in col"):
        build_from(tmp_path / "bank", Blocks(4, rows=rows_with(np.inf)), preprocessing=[Clip()])
    with pytest.raises(BankBuildError, match=r"row 8: .*no direction after preprocessing: .*zeros"):
        build_from(tmp_path / "bank", Blocks(4, rows=rows_with(5)), preprocessing=[Center()])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\0" * 200, None])
def test_a_file_that_differs_from_the_manifest_is_refused(bank, content):
    path = bank.path / "preprocessing.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    with pytest.raises(BankError, match=r"preprocessing.safetensors: the file does not match"):
        PhraseBank.open(bank.path)
    path.unlink()
    with pytest.raises(BankError, match=r"preprocessing.safetensors: .*No such file"):
        PhraseBank.open(bank.path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.pop("1.mean"), "are needed, not"),
        (lambda a: a.update({"1.mean": np.ones(3, np.float32)}), r"1.mean is \(3,\) float32"),
        (lambda a: a["1.mean"].fill(np.nan), "not finite"),
    ],
)
def test_a_forged_file_is_refused(bank, edit, message):
    path = bank.path / "preprocessing.safetensors"
    arrays = load_file(path)
    edit(arrays)
    save_file(arrays, path)
    manifest = read_manifest(bank.path)
    content = path.read_bytes()
    info = FileInfo(len(content), hashlib.sha256(content).hexdigest())
    write_manifest(bank.path, replace(manifest, files={**manifest.files, path.name: info}))
    with pytest.raises(BankError, match=rf"preprocessing.safetensors: what the .*{message}"):
        PhraseBank.open(bank.path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.pop("preprocessing"), "'manifest.preprocessing': the version is wrong"),
        (lambda m: m["preprocessing"].update(steps=[]), "manifest.preprocessing.steps"),
        (lambda m: m["preprocessing"]["steps"][0].update(step="l3"), r"steps.0.*l2"),
        (lambda m: m["preprocessing"]["steps"][3].update(dim=0), "pca.dim.*at least 1, found 0"),
        (lambda m: m["preprocessing"]["steps"][3].update(dims=1), r"steps.3.pca.dims"),
        (lambda m: m["preprocessing"]["steps"][3].update(dim="4"), r"steps.3.pca.dim.*integer"),
        (lambda m: m.update(dim=5), "fingerprint"),
    ],
)
def test_an_altered_manifest_is_refused(bank, edit, message):
    path = bank.path / "manifest.json"
    content = json.loads(path.read_text())
    edit(content["manifest"])
    del content["seal"]  # as in an old bank
    for file in content["manifest"]["files"].values():
        del file["blocks"]
    if "preprocessing" not in content["manifest"]:
        sealed = json.dumps(content["manifest"], sort_keys=True).encode()
        content["fingerprint"] = hashlib.sha256(sealed).hexdigest()
    path.write_text(json.dumps(content))
    with pytest.raises(BankError, match=message):
        PhraseBank.open(bank.path)


def test_a_width_that_the_steps_do_not_give_is_refused(bank):
    write_manifest(bank.path, replace(read_manifest(bank.path), dim=5))
    with pytest.raises(BankError, match=r"manifest.dim.*the width is wrong: expected 4, found 5"):
        PhraseBank.open(bank.path)
