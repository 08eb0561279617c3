"""Each step against numpy, scikit-learn or SciPy, and chains of them against themselves."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats.mstats import winsorize
from sklearn.decomposition import PCA as ReferencePCA  # noqa: N811, ours has the name
from sklearn.preprocessing import normalize

from lightweight_decoder.errors import ConfigError, EmbeddingError
from lightweight_decoder.vectors.preprocessing import L2, PCA, Center, Clip, Preprocessing

WIDTH = 12


def correlated(num_rows, *, seed=0, width=WIDTH):
    """Rows with a large mean and directions of different variance, as embeddings have."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(num_rows, width)) @ random.normal(size=(width, width))
    return (mixed + 20).astype(np.float32)


def fitted(*steps, sample):
    return Preprocessing.fit(steps, sample)


def test_l2_gives_unit_rows_of_any_magnitude():
    rows = correlated(50)
    rows[1] *= 1e-30
    rows[2] *= 1e30  # the square of either is beyond float32
    rows[3] = 0
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    expected = rows / np.where(lengths == 0, 1, lengths)[:, None]
    np.testing.assert_allclose(fitted(L2(), sample=rows)(rows), expected, atol=1e-6)


def test_center_subtracts_the_mean_of_the_sample():
    sample, rows = correlated(500), correlated(9, seed=1)
    expected = rows - sample.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(fitted(Center(), sample=sample)(rows), expected, atol=1e-4)


def test_clip_winsorizes_each_column():
    sample = correlated(1_001, width=70)  # more columns than are sorted at once
    clipped = fitted(Clip(quantile=0.05), sample=sample)(sample)
    expected = np.stack([winsorize(column, limits=(50 / 1001, 50 / 1001)) for column in sample.T])
    np.testing.assert_allclose(clipped, expected.T, rtol=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("dim", [None, 1, 5, WIDTH])
def test_pca_gives_what_scikit_learn_gives(dim, whiten):
    sample, rows = correlated(5_000), correlated(40, seed=1)
    reference = ReferencePCA(dim, whiten=whiten, svd_solver="full").fit(sample.astype(np.float64))
    projected = fitted(PCA(dim=dim, whiten=whiten), sample=sample)(rows)
    assert projected.dtype == np.float32
    np.testing.assert_allclose(projected, reference.transform(rows), rtol=1e-4, atol=2e-5)


def test_whitened_coordinates_have_variance_one_and_none_in_common():
    sample = correlated(5_000)
    whitened = fitted(PCA(dim=6, whiten=True), sample=sample)(sample)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(6), atol=1e-4)


def test_steps_apply_one_after_another():
    sample, rows = correlated(2_000), correlated(30, seed=1)
    chain = fitted(L2(), Center(), PCA(dim=4), L2(), sample=sample)
    unit = normalize(sample.astype(np.float64))
    reference = ReferencePCA(4, svd_solver="full").fit(unit)
    expected = normalize(reference.transform(normalize(rows.astype(np.float64))))
    np.testing.assert_allclose(chain(rows), expected, atol=1e-5)
    assert (chain.input_dim, chain.dim) == (WIDTH, 4)


steps = st.one_of(
    st.just(L2()),
    st.just(Center()),
    st.builds(Clip, quantile=st.floats(0.001, 0.499)),
    st.builds(PCA, dim=st.none() | st.integers(1, 3), whiten=st.just(False)),
)
chains = st.lists(steps, max_size=4).filter(
    lambda chain: sum(isinstance(step, PCA) for step in chain) <= 1
)


@settings(max_examples=60, deadline=None)
@given(chain=chains, cuts=st.lists(st.integers(0, 300), max_size=6))
def test_blocks_do_not_change_a_bit_and_rows_stay_as_they_were(chain, cuts):
    rows = correlated(300)
    before = rows.copy()
    preprocessing = Preprocessing.fit(chain, rows)
    whole = preprocessing(rows)
    parts = [preprocessing(block) for block in np.split(rows, sorted(cuts))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(rows, before)


@settings(max_examples=60, deadline=None)
@given(chain=chains)
def test_taken_apart_and_put_together_gives_identical_rows(chain):
    rows = correlated(200)
    preprocessing = Preprocessing.fit(chain, rows)
    again = Preprocessing.from_arrays(chain, WIDTH, preprocessing.arrays())
    np.testing.assert_array_equal(again(rows), preprocessing(rows))


@settings(max_examples=100, deadline=None)
@given(
    chain=chains,
    rows=arrays(np.float32, (40, 3), elements=st.floats(-(2.0**127), 2.0**127, width=32)),
)
def test_any_finite_sample_is_fitted_or_refused_in_our_words(chain, rows):
    refused = None
    try:
        preprocessing = Preprocessing.fit(chain, rows)
    except ConfigError as error:
        refused = str(error)
    if refused is None:
        assert preprocessing(rows).shape == (40, preprocessing.dim)
    else:
        assert "preprocessing[" in refused


def test_single_rows_and_none():
    sample = correlated(100)
    chain = fitted(L2(), Center(), Clip(), PCA(dim=3), sample=sample)
    assert chain(sample[:0]).shape == (0, 3)
    np.testing.assert_array_equal(chain(sample[7:8])[0], chain(sample)[7])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PCA(dim=0), r"pca.dim: there is no direction to keep: expected at least 1"),
        (lambda: Clip(quantile=0.5), r"clip.quantile: .*expected above 0 and below 0.5, found 0.5"),
        (lambda: Clip(quantile=0), r"clip.quantile: .* found 0"),
        (lambda: Clip(quantile=float("nan")), r"clip.quantile: .* found nan"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("num_rows", "dim", "message"),
    [
        (100, WIDTH + 1, r"expected at most 12 \(100 rows of width 12\), found 13"),
        (5, 6, r"expected at most 5 \(5 rows of width 12\), found 6"),
    ],
)
def test_more_directions_than_there_are_are_refused(num_rows, dim, message):
    with pytest.raises(ConfigError, match=rf"preprocessing\[1\]\.pca\.dim: .*{message}"):
        fitted(L2(), PCA(dim=dim), sample=correlated(num_rows))


@pytest.mark.parametrize("spoil", ["constant", "repeated"])
def test_a_column_without_variance_of_its_own_is_not_whitened(spoil):
    sample = correlated(3_000)
    sample[:, 4] = 0.1 if spoil == "constant" else sample[:, 5]
    with pytest.raises(ConfigError, match=r"pca\.dim: .*expected at most 11, .* found 12"):
        fitted(PCA(whiten=True), sample=sample)
    fitted(PCA(dim=11, whiten=True), sample=sample)
    assert np.isfinite(fitted(PCA(), sample=sample)(sample)).all()


def test_a_sample_of_equal_rows_is_refused():
    with pytest.raises(ConfigError, match="all rows of the sample are the same"):
        fitted(PCA(dim=2), sample=np.full((30, WIDTH), 0.3, dtype=np.float32))


@pytest.mark.parametrize("shape", [(3, WIDTH - 1), (WIDTH,), (1, 3, WIDTH)])
def test_rows_of_another_width_are_refused(shape):
    with pytest.raises(EmbeddingError, match=r"expected \(q, 12\)"):
        fitted(Center(), sample=correlated(50))(np.ones(shape, dtype=np.float32))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.pop("1.mean"), "are needed, not"),
        (lambda a: a.update(more=np.ones(3, np.float32)), "are needed, not"),
        (lambda a: a.update({"1.mean": np.ones(3, np.float32)}), r"1.mean is \(3,\) float32, not"),
        (lambda a: a.update({"1.mean": np.ones(WIDTH)}), r"1.mean is \(12,\) float64, not"),
        (lambda a: a.update({"1.mean": np.full(WIDTH, np.nan, np.float32)}), "not finite"),
    ],
)
def test_arrays_that_the_steps_did_not_learn_are_refused(edit, message):
    steps = (L2(), Center(), PCA(dim=3))
    learned = Preprocessing.fit(steps, correlated(50)).arrays()
    edit(learned)
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_arrays(steps, WIDTH, learned)


def test_neither_fitting_nor_applying_imports_scikit_learn_or_scipy():
    code = """
        import sys
        import numpy as np
        from lightweight_decoder.vectors.preprocessing import L2, PCA, Center, Clip, Preprocessing
        rows = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        Preprocessing.fit([L2(), Center(), Clip(), PCA(dim=2, whiten=True)], rows)(rows)
        sys.exit(bool({"sklearn", "scipy"} & set(sys.modules)))
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    assert subprocess.run([sys.executable, "-c", lines], check=False).returncode == 0
