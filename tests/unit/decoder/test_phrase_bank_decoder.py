from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.calibration import Calibration
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.decoder.query_cache import QueryCache
from lightweight_decoder.errors import CheckpointError, ConfigError, EmbeddingError
from lightweight_decoder.rerank import ListwiseReranker, QueryAdapter
from lightweight_decoder.search import phrase_ranks
from lightweight_decoder.vectors.preprocessing import L2, PCA


@pytest.fixture
def decoder(tiny_bank):
    return PhraseBankDecoder(tiny_bank)


@pytest.fixture
def learned(tiny_bank):
    """A decoder whose adapter and reranker have random weights, 24 candidates."""
    torch.manual_seed(0)
    adapter = QueryAdapter(query_dim=16, bank_dim=16)
    reranker = ListwiseReranker(
        query_dim=16, bank_dim=16, num_phrases=200, num_candidates=24, rank_dim=8, hidden_dim=12
    ).eval()
    for part in (adapter, reranker):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter.data, std=0.2)
    return PhraseBankDecoder(tiny_bank, adapter=adapter, reranker=reranker)


def calibrated(decoder, queries, k=8):
    found = decoder.candidates(queries, k)
    similarity = decoder.similarities(queries, found)
    right = np.arange(len(queries)) % 2 == 0
    decoder.calibration = Calibration.fit(
        found.values.numpy(), right, similarity=similarity.numpy()
    )
    return decoder


def test_gives_the_phrases_of_highest_cosine(tiny_bank, decoder, queries):
    answer = decoder.decode(queries, top_k=4)
    unit = queries.double().numpy() / np.linalg.norm(queries.double().numpy(), axis=1)[:, None]
    cosines = np.full((30, 200), -np.inf)
    np.maximum.at(cosines.T, tiny_bank.owners, tiny_bank.vectors.astype(np.float64) @ unit.T)
    order = np.argsort(-cosines, axis=1)[:, :4]
    np.testing.assert_array_equal(answer.phrase_ids, order)
    np.testing.assert_allclose(answer.values, np.take_along_axis(cosines, order, 1), atol=1e-6)
    assert answer.texts == tiny_bank.texts(order)
    assert answer.kind == "cosine"
    assert answer.confidence is None
    assert not answer.abstained.any()


def test_it_shows_what_it_is_made_of(tiny_bank, learned, queries):
    assert repr(PhraseBankDecoder(tiny_bank)) == (
        f"PhraseBankDecoder({tiny_bank!r}, search=ExactSearch, device=cpu, not calibrated)"
    )
    assert repr(calibrated(learned, queries)) == (
        f"PhraseBankDecoder({tiny_bank!r}, adapter=QueryAdapter, reranker=ListwiseReranker, "
        "search=ExactSearch, device=cpu, Calibration(temperature, reads 8 values and "
        "2 similarities of a query))"
    )


def read_only(rows):
    rows = rows.numpy().copy()
    rows.flags.writeable = False
    return rows


@pytest.mark.parametrize(
    "form",
    [
        torch.Tensor.numpy,
        torch.Tensor.double,
        lambda rows: rows.double().numpy(),
        torch.Tensor.tolist,
        lambda rows: list(rows.numpy()),
        list,
        lambda rows: rows.clone().requires_grad_(),
        lambda rows: np.asfortranarray(rows.numpy()),
        lambda rows: rows.numpy().astype(">f4"),
        lambda rows: rows.numpy()[::-1][::-1],
        lambda rows: rows.flip(0).numpy()[::-1],
        read_only,
    ],
    ids=[
        *("numpy", "float64", "numpy64", "list", "arrays", "tensors", "grad"),
        *("fortran", "big_endian", "view", "negative", "ro"),
    ],
)
@pytest.mark.parametrize("kind", ["decoder", "learned"])
def test_takes_embeddings_in_any_form(request, queries, form, kind):
    decoder = request.getfixturevalue(kind)
    expected = decoder.decode(queries)
    answer = decoder.decode(form(queries))
    np.testing.assert_array_equal(answer.phrase_ids, expected.phrase_ids)
    np.testing.assert_allclose(answer.values, expected.values, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_takes_half_precision(decoder, queries, dtype):
    rounded = queries.to(dtype)
    expected = decoder.decode(rounded.float())
    np.testing.assert_array_equal(decoder.decode(rounded).phrase_ids, expected.phrase_ids)


def test_takes_one_embedding(learned, queries):
    one, every = learned.decode(queries[3], top_k=2), learned.decode(queries, top_k=2)
    assert one.phrase_ids.shape == (1, 2)
    np.testing.assert_array_equal(one.phrase_ids[0], every.phrase_ids[3])
    assert one.texts == every.texts[3:4]


@pytest.mark.parametrize("num_cached", [0, 9])
@pytest.mark.parametrize("top_k", [5, 300])
@pytest.mark.parametrize("kind", ["plain", "learned", "calibrated"])
def test_takes_no_embeddings(request, queries, kind, top_k, num_cached):
    decoder = request.getfixturevalue("decoder" if kind == "plain" else "learned")
    if kind == "calibrated":
        calibrated(decoder, queries)
    decoder.cache = QueryCache(num_cached) if num_cached else None
    answer = decoder.decode(np.empty((0, 16), dtype=np.float32), top_k=top_k)
    assert answer.texts == []
    assert answer.phrase_ids.shape == answer.values.shape == (0, min(top_k, 200))
    assert answer.abstained.shape == (0,)
    if kind == "calibrated":
        assert answer.confidence.shape == (0,)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_length_does_not_matter(learned, queries, scale):
    answer = learned.decode(queries.double() * scale)
    np.testing.assert_array_equal(answer.phrase_ids, learned.decode(queries).phrase_ids)


def test_does_not_change_what_it_is_given(decoder, queries):
    before = queries.clone()
    decoder.decode(queries)
    assert torch.equal(queries, before)


def test_batches_change_nothing(learned, queries, monkeypatch):
    expected = calibrated(learned, queries).decode(queries)
    monkeypatch.setattr("lightweight_decoder.decoder.phrase_bank_decoder._BATCH_SIZE", 7)
    answer = learned.decode(queries)
    np.testing.assert_array_equal(answer.phrase_ids, expected.phrase_ids)
    np.testing.assert_allclose(answer.confidence, expected.confidence, atol=1e-5)
    assert answer.texts == expected.texts


def test_top_k_beyond_the_bank_gives_every_phrase(decoder, learned, queries):
    for some in (decoder, learned):
        answer = some.decode(queries, top_k=500)
        assert answer.phrase_ids.shape == (30, 200)
        assert (np.sort(answer.phrase_ids, axis=1) == np.arange(200)).all()


def test_fewer_phrases_are_the_first_of_more(learned, queries):
    few, many = learned.decode(queries, top_k=3), learned.decode(queries, top_k=90)
    np.testing.assert_array_equal(few.phrase_ids, many.phrase_ids[:, :3])


@pytest.mark.parametrize("top_k", [0, -1])
def test_refuses_to_give_no_phrase(decoder, queries, top_k):
    with pytest.raises(ConfigError, match=rf"top_k: .*expected at least 1, found {top_k}"):
        decoder.decode(queries, top_k=top_k)


@pytest.mark.parametrize("shape", [(3, 15), (17,), (2, 3, 16), ()])
def test_refuses_another_width(decoder, shape):
    with pytest.raises(EmbeddingError, match=r"wrong shape: expected \(q, 16\) or \(16,\), found"):
        decoder.decode(np.ones(shape))


@pytest.mark.parametrize(("value", "found"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_refuses_what_is_not_finite(decoder, queries, value, found):
    rows = queries.double().numpy()
    rows[4, 7] = value
    with pytest.raises(EmbeddingError, match=f"row 4: .*found {found} in column 7"):
        decoder.decode(rows)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_float64_of_any_length_is_decoded(decoder, queries, scale):
    rows = queries.double()
    expected = decoder.decode(queries)
    for given in (rows * scale, (rows * scale).numpy(), (rows * scale).tolist()):
        decoded = decoder.decode(given)
        np.testing.assert_array_equal(decoded.phrase_ids, expected.phrase_ids)
        np.testing.assert_allclose(decoded.values, expected.values, atol=1e-6)


def test_refuses_zeros(learned, queries):
    queries[2] = 0
    with pytest.raises(EmbeddingError, match=r"row 2: .*found only zeros"):
        learned.decode(queries)


@pytest.mark.parametrize("garbage", [[[1.0], [1.0, 2.0]], [["a"] * 16], {"a": 1}])
def test_refuses_what_are_no_numbers(decoder, garbage):
    with pytest.raises(EmbeddingError, match="not an array of numbers"):
        decoder.decode(garbage)


def test_abstaining_needs_a_calibration(decoder, queries):
    with pytest.raises(ConfigError, match="abstain_below: needs a calibrated decoder"):
        decoder.decode(queries, abstain_below=0.5)


def test_abstains_below_the_threshold(learned, queries):
    calibrated(learned, queries)
    confidence = learned.decode(queries).confidence
    threshold = float(np.median(confidence))
    answer = learned.decode(queries, abstain_below=threshold)
    np.testing.assert_array_equal(answer.abstained, confidence < threshold)
    assert 0 < answer.abstained.sum() < 30


def test_confidence_does_not_depend_on_top_k(learned, queries):
    calibrated(learned, queries)
    expected = learned.decode(queries, top_k=1).confidence
    for top_k in (5, 20, 100):
        found = learned.decode(queries, top_k=top_k).confidence
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_similarities_are_those_of_the_query_as_it_came(tiny_bank, learned, queries):
    hidden = torch.full((30, 1), NO_ID)
    hidden[0, 0] = tiny_bank.vector_ids_of([0])[0, 0]
    found = learned.candidates(queries, 200, exclude_vectors=hidden)
    nearest, together = learned.similarities(queries, found, exclude_vectors=hidden).T.numpy()

    unit = queries.double() / queries.double().norm(dim=1, keepdim=True)
    vectors, owners = tiny_bank.vectors.astype(np.float64), tiny_bank.owners
    for row, query in enumerate(unit.numpy()):
        kept = np.arange(len(vectors)) != (hidden[row, 0].item())
        best = found.vector_ids[row].numpy()
        assert nearest[row] == pytest.approx((vectors[best] @ query).max(), abs=1e-5)
        sum_of_first = vectors[kept & (owners == found.phrase_ids[row, 0].item())].sum(axis=0)
        cosine = sum_of_first @ query / np.linalg.norm(sum_of_first)
        assert together[row] == pytest.approx(cosine, abs=1e-5)


def test_ranks_are_those_of_the_reranked_list_then_of_the_search(tiny_bank, learned, queries):
    targets = torch.arange(200).expand(30, 200)
    ranks = learned.ranks(queries, targets)
    order = learned.candidates(queries, 200).phrase_ids
    expected = torch.empty_like(order).scatter_(1, order, torch.arange(1, 201).expand(30, 200))
    assert torch.equal(ranks, expected)
    plain = phrase_ranks(tiny_bank, learned.adapt(queries).detach(), targets)
    assert torch.equal(ranks[ranks > 24], plain[ranks > 24])
    assert (ranks != plain).any()


def test_ranks_leave_out_what_is_excluded_or_missing(tiny_bank, learned, queries):
    targets = torch.tensor([[5, NO_ID, 7]]).expand(30, 3)
    own = torch.from_numpy(tiny_bank.vector_ids_of([5])).expand(30, 3)
    ranks = learned.ranks(queries, targets, exclude_vectors=own)
    assert (ranks[:, :2] == 0).all()
    assert (ranks[:, 2] > 0).all()


def test_an_excluded_vector_leaves_no_trace(tiny_bank, learned, queries):
    """A phrase keeps its other vectors, but nothing in its logit may come from the hidden one."""
    own = torch.from_numpy(tiny_bank.vector_ids_of([5]))[:, :1]
    hidden = own.expand(30, 1)
    before = learned.candidates(queries, 200, exclude_vectors=hidden)
    learned.scorer._sums[5] += (
        1 - tiny_bank.gather(own)[0, 0]
    )  # as if the bank held another vector there
    gather = tiny_bank.gather
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(tiny_bank),
            "gather",
            lambda _, ids: torch.where((ids == own[0, 0])[..., None], 1.0, gather(ids)),
        )
        after = learned.candidates(queries, 200, exclude_vectors=hidden)
    assert torch.equal(after.phrase_ids, before.phrase_ids)
    torch.testing.assert_close(after.values, before.values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"not a checkpoint", "cannot be read"),
        (b"PK\x03\x04" + bytes(100), "cannot be read"),
    ],
)
def test_refuses_a_file_that_is_no_checkpoint(tmp_path, content, message):
    (tmp_path / "some.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"some.ckpt: {message}"):
        PhraseBankDecoder.from_checkpoint(tmp_path / "some.ckpt")


def test_never_unpickles(tmp_path):
    path = tmp_path / "some.ckpt"
    torch.save({"decoder": subprocess.Popen}, path)
    with pytest.raises(CheckpointError, match=r"some.ckpt: cannot be read"):
        PhraseBankDecoder.from_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"decoder": 3}])
def test_refuses_a_checkpoint_without_a_decoder(tmp_path, content):
    torch.save(content, tmp_path / "some.ckpt")
    with pytest.raises(CheckpointError, match="holds no decoder"):
        PhraseBankDecoder.from_checkpoint(tmp_path / "some.ckpt")


def test_refuses_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.ckpt: there is no such checkpoint"):
        PhraseBankDecoder.from_checkpoint(tmp_path / "none.ckpt")


def test_importing_the_package_imports_neither_lightning_nor_hydra():
    code = (
        "import sys, lightweight_decoder; lightweight_decoder.PhraseBankDecoder; "
        "print([m for m in ('lightning', 'hydra', 'omegaconf', 'wandb') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def reduced_rows():
    """Rows with a large mean, of width 12."""
    return np.random.default_rng(5).normal(size=(80, 12)).astype(np.float32) + 4


@pytest.fixture
def reduced_bank(tmp_path):
    """A bank of 80 phrases whose 12 coordinates are reduced to 6."""
    texts, steps = [f"phrase {i}" for i in range(80)], [L2(), PCA(dim=6)]
    return PhraseBank.build(tmp_path / "reduced", texts, reduced_rows(), preprocessing=steps)


def test_decodes_through_the_banks_preprocessing_as_scikit_learn_would(reduced_bank):
    from sklearn.decomposition import PCA as ReferencePCA  # noqa: N811, ours has the name
    from sklearn.metrics.pairwise import cosine_similarity
    from sklearn.preprocessing import normalize

    asked = np.random.default_rng(6).normal(size=(20, 12)).astype(np.float32) + 4
    reference = ReferencePCA(6, svd_solver="full").fit(normalize(reduced_rows().astype(float)))
    stored, sought = (
        reference.transform(normalize(rows.astype(float))) for rows in (reduced_rows(), asked)
    )
    cosines = cosine_similarity(sought, stored)
    decoder = PhraseBankDecoder(reduced_bank)
    answer = decoder.decode(asked, top_k=5)
    np.testing.assert_array_equal(answer.phrase_ids, np.argsort(-cosines, axis=1)[:, :5])
    np.testing.assert_allclose(answer.values, -np.sort(-cosines, axis=1)[:, :5], atol=1e-5)
    for form in (torch.from_numpy(asked).double(), asked.tolist()):
        np.testing.assert_array_equal(decoder.decode(form).phrase_ids, answer.phrase_ids)
    assert (decoder.input_dim, decoder.query_dim) == (12, 6)
    assert decoder.preprocess(torch.empty(0, 12)).shape == (0, 6)


def test_the_banks_own_vectors_are_preprocessed_already(reduced_bank):
    decoder = PhraseBankDecoder(reduced_bank)
    own = decoder.decode(reduced_bank.vectors, top_k=1, preprocessed=True)
    np.testing.assert_array_equal(own.phrase_ids[:, 0], np.arange(80))
    with pytest.raises(EmbeddingError, match=r"expected \(q, 12\) or \(12,\), found \(80, 6\)"):
        decoder.decode(reduced_bank.vectors)
    with pytest.raises(EmbeddingError, match=r"expected \(q, 6\) or \(6,\), found \(12,\)"):
        decoder.decode(np.ones(12), preprocessed=True)


def test_an_adapter_for_another_width_replaces_the_preprocessing(reduced_bank):
    adapter = QueryAdapter(query_dim=9, bank_dim=6)
    decoder = PhraseBankDecoder(reduced_bank, adapter=adapter)
    asked = torch.from_numpy(np.random.default_rng(6).normal(size=(20, 9)).astype(np.float32))
    expected = PhraseBankDecoder(reduced_bank).decode(adapter(asked), preprocessed=True)
    np.testing.assert_array_equal(decoder.decode(asked).phrase_ids, expected.phrase_ids)
    assert decoder.input_dim == decoder.query_dim == 9


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (np.r_[np.nan, np.ones(11)], "nan"),
        (np.zeros(12), "only zeros"),
        (np.full(12, np.inf), "inf"),
    ],
)
def test_preprocessing_refuses_what_has_no_direction(reduced_bank, row, found):
    asked = reduced_rows()
    asked[3] = row
    with pytest.raises(EmbeddingError, match=f"row 3: .*no direction: .*found {found}"):
        PhraseBankDecoder(reduced_bank).decode(asked)


def test_refuses_what_has_no_direction_after_the_preprocessing(tmp_path):
    bank = PhraseBank.build(
        tmp_path / "bank", list("abcd"), 3 + np.eye(4), preprocessing=[PCA(dim=2)]
    )
    with pytest.raises(EmbeddingError, match=r"row 1: .* after the bank's preprocessing: .*zeros"):
        PhraseBankDecoder(bank).decode([[1, 2, 3, 4], [3.25] * 4])
