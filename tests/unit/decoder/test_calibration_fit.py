from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import BankRows, PhraseBank, write_bank
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.calibration import Calibration
from lightweight_decoder.decoder.calibration_fit import fit_calibration
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.errors import ConfigError, EmbeddingError, InputDataError
from lightweight_decoder.vectors.preprocessing import PCA


def built(folder, rows, **options):
    write_bank(folder, rows, **options)
    return PhraseBank.open(folder)


@pytest.fixture
def asked(tiny_bank):
    """Queries near bank vectors, some with two right phrases, and some near none."""
    random = np.random.default_rng(0)
    rows = random.integers(tiny_bank.num_vectors, size=120)
    targets = np.full((120, 2), NO_ID)
    targets[:, 0] = tiny_bank.owners[rows]
    targets[::4, 1] = targets[::4, 0]
    targets[::4, 0] = (targets[::4, 1] + 1) % 200
    noise = random.normal(scale=0.25, size=(120, 16))
    return SimpleNamespace(
        queries=(tiny_bank.vectors[rows] + noise).astype(np.float32),
        targets=targets,
        own_vectors=np.where(np.arange(120) % 2 == 0, rows, NO_ID)[:, None],
        out_of_bank=random.normal(size=(40, 16)).astype(np.float32),
    )


def examples(decoder, queries, targets, hidden=None):
    """Values, similarities and whether right, by the definition."""
    queries = torch.from_numpy(queries)
    hidden = None if hidden is None else torch.from_numpy(hidden)
    found = decoder.candidates(queries, 32, exclude_vectors=hidden)
    similarity = decoder.similarities(queries, found, exclude_vectors=hidden)
    first = found.phrase_ids[:, 0].tolist()
    right = [p in set(row) - {NO_ID} for p, row in zip(first, targets.tolist(), strict=True)]
    return found.values.numpy(), similarity.numpy(), np.array(right)


def all_vectors_of_targets(bank, targets):
    hidden = np.full((len(targets), 8), NO_ID)
    for row, of_row in enumerate(targets):
        owned = np.flatnonzero(np.isin(bank.owners, of_row[of_row != NO_ID]))
        hidden[row, : len(owned)] = owned
    return hidden


@pytest.mark.parametrize("has_examples", [True, False])
def test_queries_out_of_the_bank_are_given_or_made(tiny_bank, asked, has_examples):
    decoder = PhraseBankDecoder(tiny_bank)
    inside = examples(decoder, asked.queries, asked.targets)
    if has_examples:
        outside = examples(decoder, asked.out_of_bank, np.empty((40, 0), dtype=int))
    else:
        hidden = all_vectors_of_targets(tiny_bank, asked.targets)
        outside = examples(decoder, asked.queries, asked.targets, hidden)
    assert not outside[2].any()
    values, similarity, right = (np.concatenate(pair) for pair in zip(inside, outside, strict=True))
    expected = Calibration.fit(
        values,
        right,
        similarity=similarity,
        in_bank=np.arange(len(right)) < 120,
        out_of_bank_share=0.2,
    )

    found = fit_calibration(
        decoder,
        asked.queries,
        asked.targets,
        out_of_bank=asked.out_of_bank if has_examples else None,
        out_of_bank_share=0.2,
    )

    assert found is decoder.calibration
    assert found.weights == pytest.approx(expected.weights, rel=1e-3)
    assert found.bias == pytest.approx(expected.bias, rel=1e-3)
    assert found.operating_points.coverages[0] == 1


def test_without_a_share_they_are_not_looked_at(tiny_bank, asked):
    decoder = PhraseBankDecoder(tiny_bank)
    values, similarity, right = examples(decoder, asked.queries, asked.targets)
    expected = Calibration.fit(values, right, similarity=similarity)

    found = fit_calibration(decoder, asked.queries, asked.targets, out_of_bank=asked.out_of_bank)

    assert found.weights == pytest.approx(expected.weights, rel=1e-3)


def test_own_vectors_are_hidden(tiny_bank, asked):
    decoder = PhraseBankDecoder(tiny_bank)
    values, similarity, right = examples(decoder, *list(vars(asked).values())[:3])
    expected = Calibration.fit(values, right, similarity=similarity)

    found = fit_calibration(decoder, asked.queries, asked.targets, own_vectors=asked.own_vectors)

    assert found.weights == pytest.approx(expected.weights, rel=1e-3)
    careless = fit_calibration(decoder, asked.queries, asked.targets)
    assert found.weights != pytest.approx(careless.weights, rel=1e-3)


def test_targets_may_be_texts_or_ids_one_a_query_or_several(tiny_bank, asked):
    decoder = PhraseBankDecoder(tiny_bank)
    texts = [
        [text for text, phrase in zip(of_row, row, strict=True) if phrase != NO_ID]
        for of_row, row in zip(tiny_bank.texts(asked.targets), asked.targets, strict=True)
    ]
    several = [
        fit_calibration(decoder, asked.queries, targets)
        for targets in (asked.targets, torch.from_numpy(asked.targets), texts)
    ]
    assert several[0] == several[1] == several[2]

    first = [row[0] for row in texts]
    single = [
        fit_calibration(decoder, asked.queries.tolist(), targets)
        for targets in (asked.targets[:, 0], asked.targets[:, 0].tolist(), first, np.array(first))
    ]
    assert single[0] == single[1] == single[2] == single[3]
    assert single[0] != several[0]


def test_embeddings_go_through_the_banks_preprocessing(tmp_path):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(50, 16)).astype(np.float32)
    rows = BankRows([f"phrase {i}" for i in range(50)], vectors)
    bank = built(tmp_path / "reduced", [rows], preprocessing=[PCA(dim=6)])
    queries = vectors.repeat(3, axis=0) + random.normal(size=(150, 16)).astype(np.float32)
    targets = np.arange(50).repeat(3)

    raw = fit_calibration(PhraseBankDecoder(bank), queries, targets)
    processed = fit_calibration(
        PhraseBankDecoder(bank), bank.preprocess(queries), targets, preprocessed=True
    )
    assert raw == processed


def test_a_bank_that_runs_out_of_phrases(single_bank):
    random = np.random.default_rng(1)
    targets = np.stack([random.choice(40, 20, replace=False) for _ in range(60)])
    noise = random.normal(scale=0.3, size=(60, 16))
    queries = (single_bank.vectors[targets[:, 0]] + noise).astype(np.float32)
    decoder = PhraseBankDecoder(single_bank)

    fit_calibration(decoder, queries, targets, out_of_bank_share=0.5)

    assert decoder.calibration.num_candidates == 20
    assert np.isfinite(decoder.decode(queries).confidence).all()


@pytest.mark.parametrize("share", [-0.5, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(tiny_bank, asked, share):
    with pytest.raises(ConfigError, match=r"out_of_bank_share: .*a share from 0 to below 1"):
        fit_calibration(
            PhraseBankDecoder(tiny_bank), asked.queries, asked.targets, out_of_bank_share=share
        )


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["phrase 0"] * 3, "targets: .*expected 4, one a query, found 3"),
        (["phrase 0", ["phrase 0", "Phrase long 1"], ["no such"], "phrase 0"], "row 2.*'no such'"),
        ([0, 1, 2, 200], "row 3: .*a phrase of the bank, found 200"),
        ([0, -2, 2, 3], "row 1: .*a phrase of the bank, found -2"),
    ],
)
def test_targets_that_do_not_fit_are_refused(tiny_bank, asked, targets, message):
    decoder = PhraseBankDecoder(tiny_bank)
    with pytest.raises(InputDataError, match=message):
        fit_calibration(decoder, asked.queries[:4], targets)
    assert decoder.calibration is None


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.ones((4, 15)), r"expected \(q, 16\), found \(4, 15\)"),
        (np.ones(16), r"expected \(q, 16\), found \(16,\)"),
        (np.eye(4, 16, k=-1), "row 0.*only zeros"),
        (np.full((4, 16), 1e300), "row 0.*inf"),
    ],
)
def test_embeddings_that_cannot_be_searched_for_are_refused(tiny_bank, queries, message):
    with pytest.raises(EmbeddingError, match=message):
        fit_calibration(PhraseBankDecoder(tiny_bank), queries, [0, 1, 2, 3])


def test_no_queries_teach_nothing(tiny_bank):
    with pytest.raises(InputDataError, match=r"one class: .*found 0"):
        fit_calibration(PhraseBankDecoder(tiny_bank), np.empty((0, 16)), np.empty((0, 1), int))
