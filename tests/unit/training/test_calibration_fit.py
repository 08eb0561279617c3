from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.calibration import fit_calibration
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.decoder.splits import Split, no_own_vectors, out_of_bank_split
from lightweight_decoder.errors import ConfigError
from lightweight_decoder.training.calibration_fit import calibrate


@pytest.fixture
def split(tiny_bank):
    """Queries near bank vectors, some with two right phrases, and some near none."""
    random = np.random.default_rng(0)
    rows = random.integers(tiny_bank.num_vectors, size=120)
    targets = np.full((120, 2), NO_ID)
    targets[:, 0] = tiny_bank.owners[rows]
    targets[::4, 1] = (targets[::4, 0] + 1) % 200
    noise = random.normal(scale=0.25, size=(120, 16))
    outside = random.normal(size=(40, 16)).astype(np.float32)
    return Split(
        name="calib",
        queries=(tiny_bank.vectors[rows] + noise).astype(np.float32),
        targets=targets,
        own_vectors=no_own_vectors(120),
        texts=None,
        out_of_bank=out_of_bank_split("calib", outside, None),
    )


def examples(decoder, split, hidden=None):
    """Values, similarities and whether right, by the definition."""
    queries = torch.from_numpy(split.queries)
    found = decoder.candidates(queries, 32, exclude_vectors=hidden)
    similarity = decoder.similarities(queries, found, exclude_vectors=hidden)
    first = found.phrase_ids[:, 0].tolist()
    right = [p in set(row) - {NO_ID} for p, row in zip(first, split.targets.tolist(), strict=True)]
    return found.values.numpy(), similarity.numpy(), np.array(right)


def all_vectors_of_targets(bank, split):
    hidden = np.full((len(split), 8), NO_ID)
    for row, targets in enumerate(split.targets):
        owned = np.flatnonzero(np.isin(bank.owners, targets[targets != NO_ID]))
        hidden[row, : len(owned)] = owned
    return torch.from_numpy(hidden)


@pytest.mark.parametrize("has_examples", [True, False])
def test_queries_out_of_the_bank_are_given_or_made(tiny_bank, split, has_examples):
    decoder = PhraseBankDecoder(tiny_bank)
    split = split if has_examples else replace(split, out_of_bank=None)
    inside = examples(decoder, split)
    if has_examples:
        outside = examples(decoder, split.out_of_bank)
    else:
        outside = examples(decoder, split, all_vectors_of_targets(tiny_bank, split))
    assert not outside[2].any()
    values, similarity, right = (np.concatenate(pair) for pair in zip(inside, outside, strict=True))
    expected = fit_calibration(
        values,
        right,
        similarity=similarity,
        in_bank=np.arange(len(right)) < 120,
        out_of_bank_share=0.2,
    )

    calibrate(decoder, split, out_of_bank_share=0.2)

    assert decoder.calibration.weights == pytest.approx(expected.weights, rel=1e-3)
    assert decoder.calibration.bias == pytest.approx(expected.bias, rel=1e-3)
    assert decoder.calibration.operating_points.coverages[0] == 1


def test_without_a_share_they_are_not_looked_at(tiny_bank, split):
    decoder = PhraseBankDecoder(tiny_bank)
    values, similarity, right = examples(decoder, split)
    expected = fit_calibration(values, right, similarity=similarity)

    calibrate(decoder, split)

    assert decoder.calibration.weights == pytest.approx(expected.weights, rel=1e-3)


def test_a_bank_that_runs_out_of_phrases(single_bank):
    random = np.random.default_rng(1)
    targets = np.stack([random.choice(40, 20, replace=False) for _ in range(60)])
    noise = random.normal(scale=0.3, size=(60, 16))
    split = Split(
        name="calib",
        queries=(single_bank.vectors[targets[:, 0]] + noise).astype(np.float32),
        targets=targets,
        own_vectors=no_own_vectors(60),
        texts=None,
    )
    decoder = PhraseBankDecoder(single_bank)

    calibrate(decoder, split, out_of_bank_share=0.5)

    assert decoder.calibration.num_candidates == 20
    assert np.isfinite(decoder.decode(split.queries).confidence).all()


@pytest.mark.parametrize("share", [-0.5, 1.0])
def test_a_share_out_of_range_is_refused(tiny_bank, split, share):
    with pytest.raises(ConfigError, match="out_of_bank_share: is not a share"):
        calibrate(PhraseBankDecoder(tiny_bank), split, out_of_bank_share=share)
