"""The manifest: written, read again, and refused with the key that is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightweight_decoder.bank import EncoderInfo, FileInfo, Manifest
from lightweight_decoder.bank.manifest import FILE_NAMES, read_manifest, write_manifest
from lightweight_decoder.errors import BankError


def manifest(**changes):
    fields = {
        "format_version": 1,
        "num_vectors": 7,
        "num_phrases": 4,
        "dim": 5,
        "dtype": "float16",
        "metric": "cosine",
        "normalized": True,
        "encoder": EncoderInfo("café", "12ab"),
        "files": {name: FileInfo(10 + i, f"{i:064x}") for i, name in enumerate(FILE_NAMES)},
    }
    return Manifest(**{**fields, **changes})


@pytest.mark.parametrize("encoder", [None, EncoderInfo("café", "12ab")])
def test_reading_gives_what_was_written(tmp_path, encoder):
    written = manifest(encoder=encoder)
    write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == written
    assert written.total_bytes == 10 + 11 + 12


@pytest.mark.parametrize(
    "changes", [{"num_vectors": 8}, {"dtype": "float32"}, {"encoder": None}, {"dim": 6}]
)
def test_every_field_is_part_of_the_fingerprint(changes):
    assert manifest().fingerprint == manifest().fingerprint
    assert manifest(**changes).fingerprint != manifest().fingerprint


def rewrite(folder, edit):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["manifest"].pop("dim"), "key 'manifest.dim': a key is missing"),
        (lambda c: c["manifest"].update(color=1), "key 'manifest.color': .*found 1"),
        (lambda c: c["manifest"].update(dim="5"), "key 'manifest.dim': .*integer, found '5'"),
        (lambda c: c["manifest"].update(dim=5.0), "key 'manifest.dim': .*found 5.0"),
        (lambda c: c["manifest"].update(dim=0), "key 'manifest.dim': .*greater than 0, found 0"),
        (lambda c: c["manifest"].update(dim=True), "key 'manifest.dim': .*found True"),
        (lambda c: c["manifest"].update(dtype="int8"), "key 'manifest.dtype': .*found 'int8'"),
        (lambda c: c["manifest"].update(metric="dot"), "key 'manifest.metric': .*'cosine'"),
        (
            lambda c: c["manifest"].update(format_version=3),
            "'manifest.format_version': .* format version: expected 1 or 2, found 3",
        ),
        (
            lambda c: c["manifest"]["encoder"].pop("name"),
            "key 'manifest.encoder.name': a key is missing",
        ),
        (
            lambda c: c["manifest"]["files"]["owners.npy"].update(sha256="x"),
            "key 'manifest.files.owners.npy.sha256': .*found 'x'",
        ),
        (lambda c: c["manifest"].update(num_vectors=9), "key 'fingerprint': .*was altered"),
        (lambda c: c.pop("manifest"), "key 'manifest': a key is missing"),
    ],
)
def test_an_altered_key_is_named(tmp_path, edit, message):
    write_manifest(tmp_path, manifest())
    rewrite(tmp_path, edit)
    with pytest.raises(BankError, match=f"manifest.json, .*{message}"):
        read_manifest(tmp_path)


def test_counts_must_agree(tmp_path):
    write_manifest(tmp_path, manifest(num_phrases=8))
    with pytest.raises(BankError, match=r"'manifest.num_phrases': .*at most 7 .*, found 8"):
        read_manifest(tmp_path)


def test_the_files_listed_must_be_the_bank_s(tmp_path):
    write_manifest(tmp_path, manifest(files={"vectors.npy": FileInfo(1, "0" * 64)}))
    with pytest.raises(BankError, match=r"'manifest.files': .*expected .*, found vectors.npy"):
        read_manifest(tmp_path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_cut_anywhere_is_refused(tmp_path, data):
    write_manifest(tmp_path, manifest())
    path = tmp_path / "manifest.json"
    whole = path.read_bytes().rstrip()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(BankError, match="the manifest cannot be read"):
        read_manifest(tmp_path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_with_one_other_byte_is_refused_or_says_the_same(tmp_path, data):
    write_manifest(tmp_path, manifest())
    path = tmp_path / "manifest.json"
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert read_manifest(tmp_path) == manifest()
    except BankError as error:
        assert error.where == str(path)  # noqa: PT017, either outcome is right


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BankError, match=r"manifest\.json"):
        read_manifest(tmp_path)
