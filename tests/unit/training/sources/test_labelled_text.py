from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lightweight_decoder.datatypes import NO_ID
from lightweight_decoder.decoder.splits import SPLIT_NAMES
from lightweight_decoder.errors import BankError, ConfigError, InputDataError
from lightweight_decoder.training.sources.labelled_text import LabelledText, readable_label

BANKING = Path(__file__).parents[4] / "shared" / "data" / "banking77"
LABELS = ["card_arrival", "lost_card", "top_up"]
ROWS = [(f"text {i}", LABELS[i % 3]) for i in range(30)]


def write(path, rows, header="text,label"):
    path.write_text("".join(f"{line}\n" for line in [header, *(",".join(row) for row in rows)]))
    return path


@pytest.fixture
def make_source(encoder, tmp_path):
    def make(train=ROWS, test=(("unseen", "top_up"),), **changes):
        arguments = {
            "encoder": encoder,
            "bank_root": tmp_path / "banks",
            "train": write(tmp_path / "train.csv", train),
            "test": None if test is None else write(tmp_path / "test.csv", test),
            **changes,
        }
        return LabelledText(**arguments)

    return make


def of_row(ids):
    return [int(i) for i in ids if i != NO_ID]


def test_labels_are_phrases_and_texts_are_their_vectors(make_source, encoder):
    source = make_source()
    source.prepare()
    bank = source.bank
    assert bank.texts([0, 1, 2]) == LABELS
    assert bank.num_vectors == 33
    np.testing.assert_allclose(bank.vectors[0], encoder.unit_vector("card arrival"), atol=1e-6)
    for row, (text, label) in enumerate(ROWS, start=3):
        np.testing.assert_allclose(bank.vectors[row], encoder.unit_vector(text), atol=1e-6)
        assert LABELS[bank.owners[row]] == label
    assert bank.column("num_examples").tolist() == [10, 10, 10]


def test_a_text_that_is_query_and_example_has_the_vector_of_each_side(make_source, encoder):
    """Training texts are queries and vectors of the bank: the sides are kept apart."""
    encoder.knows_sides = True
    encoder.encode_queries = lambda texts: np.stack([-encoder.vector(text) for text in texts])
    source = make_source()
    source.prepare()
    np.testing.assert_allclose(source.bank.vectors[3], encoder.unit_vector("text 0"), atol=1e-6)
    for name in SPLIT_NAMES:
        split = source.split(name)
        expected = np.stack([-encoder.vector(text) for text in split.texts])
        np.testing.assert_array_equal(split.queries, expected)


@pytest.mark.parametrize(
    ("label", "text"),
    [("card_arrival", "card arrival"), ("top  up", "top up"), ("__x_", "x"), ("_", "_")],
)
def test_labels_are_encoded_as_people_spell_them(label, text):
    assert readable_label(label) == text


def test_rows_are_divided_and_each_keeps_its_label(make_source):
    source = make_source()
    source.prepare()
    splits = {name: source.split(name) for name in ("train", "val", "calib", "test")}
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 24,
        "val": 3,
        "calib": 3,
        "test": 1,
    }
    known = [*splits["train"].texts, *splits["val"].texts, *splits["calib"].texts]
    assert sorted(known) == sorted(text for text, _ in ROWS)
    label_of = dict(ROWS)
    for name in ("train", "val", "calib"):
        labels = source.bank.texts(splits[name].targets[:, 0])
        assert labels == [label_of[text] for text in splits[name].texts]


def test_a_query_is_hidden_from_itself_and_nothing_else_is(make_source):
    repeated = [*ROWS, ("text 4", "lost_card"), ("text 5", "top_up"), ("text 6", "top_up")]
    source = make_source(train=repeated)
    source.prepare()
    bank = source.bank
    for name in ("train", "val", "calib"):
        split = source.split(name)
        for query, own in zip(split.queries, split.own_vectors, strict=True):
            cosines = bank.vectors @ (query / np.linalg.norm(query))
            assert np.flatnonzero(cosines > 1 - 1e-5).tolist() == of_row(own)
    assert source.split("test").own_vectors.shape == (1, 0)


def test_a_row_that_comes_again_is_one_vector(make_source):
    source = make_source(train=[*ROWS, ROWS[0], ROWS[0]])
    source.prepare()
    assert source.bank.num_vectors == 33
    assert sum(len(source.split(name)) for name in ("train", "val", "calib")) == 32


def test_without_a_test_file_a_share_of_train_never_joins_the_bank(make_source):
    source = make_source(test=None, test_fraction=0.3)
    source.prepare()
    test = source.split("test")
    assert len(test) == 9
    assert source.bank.num_vectors == 3 + 21
    queries = test.queries / np.linalg.norm(test.queries, axis=1, keepdims=True)
    assert (source.bank.vectors @ queries.T).max() < 1 - 1e-3


def test_fewer_rows_can_be_drawn(make_source):
    test = [(f"unseen {i}", LABELS[i % 3]) for i in range(10)]
    source = make_source(test=test, num_train=20, num_test=4, seed=3)
    source.prepare()
    assert source.bank.num_vectors == 3 + 20
    assert len(source.split("train")) == 16
    assert len(source.split("test")) == 4
    again = make_source(test=test, num_train=20, num_test=4, seed=3)
    assert again.split("test").texts == source.split("test").texts


def test_another_text_is_another_bank(make_source, tmp_path):
    make_source().prepare()
    make_source().prepare()
    assert len(list((tmp_path / "banks").iterdir())) == 1
    make_source(train=[("changed", "top_up"), *ROWS[1:]]).prepare()
    assert len(list((tmp_path / "banks").iterdir())) == 2


def test_a_label_with_one_example_works_and_is_told(make_source, caplog):
    source = make_source(train=[*ROWS, ("just this", "rare_one")])
    source.prepare()
    assert "train.csv: 1 labels have one example only" in caplog.text
    assert "'rare_one'" in caplog.text
    assert source.bank.texts([3]) == ["rare_one"]


def test_many_labels_with_one_example_are_told_in_short(make_source, caplog):
    make_source(train=[(f"text {i}", f"label {i}") for i in range(20)], test=None).prepare()
    assert caplog.text.count("'label") == 5
    assert "..." in caplog.text


def test_a_single_label_is_refused(make_source):
    with pytest.raises(InputDataError, match=r"train\.csv: there is only one label.*'top_up'"):
        make_source(train=[("a", "top_up"), ("b", "top_up")]).prepare()


def test_a_test_label_that_train_lacks_is_refused(make_source):
    with pytest.raises(InputDataError, match=r"test\.csv, row 1: a test label.*'unknown'"):
        make_source(test=[("a", "top_up"), ("b", "unknown")]).prepare()


def test_texts_and_labels_may_not_be_one_column(make_source):
    with pytest.raises(ConfigError, match=r"data\.label_column"):
        make_source(label_column="text").prepare()


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([("a", "x"), ("", "y")], "row 1: a text is empty in column 'text'"),
        ([("a", "x"), ("b", " ")], "row 1: a text is empty in column 'label'"),
        ([], "the table is empty"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(make_source, rows, problem):
    with pytest.raises(InputDataError, match=rf"train\.csv.*{problem}"):
        make_source(train=rows).prepare()


def test_columns_are_chosen_by_name(encoder, tmp_path):
    train = write(tmp_path / "a.csv", [("a", "b", "c"), ("d", "e", "f")], header="id,say,intent")
    source = LabelledText(
        encoder=encoder,
        bank_root=tmp_path,
        train=train,
        test=train,
        text_column="say",
        label_column="intent",
        val_fraction=0,
        calib_fraction=0,
    )
    source.prepare()
    assert source.bank.texts([0, 1]) == ["c", "f"]
    assert source.split("train").texts == ["b", "e"]
    assert len(source.split("val")) == 0


@pytest.mark.skipif(not BANKING.is_dir(), reason="banking77 is not beside the repository")
def test_banking77_has_the_size_it_is_known_for(encoder, tmp_path):
    source = LabelledText(
        encoder=encoder,
        bank_root=tmp_path,
        train=BANKING / "train.csv",
        test=BANKING / "test.csv",
        label_column="category",
        num_train=2_000,
        num_test=1_000,
    )
    source.prepare()
    bank = source.bank
    assert bank.num_phrases == 77
    assert bank.num_vectors == 77 + 2_000
    assert len(source.split("test")) == 1_000
    assert Counter(bank.owners.tolist()).total() == bank.column("num_examples").sum() + 77


SPELLINGS = {
    "refund": ["refund", "refund ", "  refund"],
    "caf\u00e9": ["caf\u00e9", "cafe\u0301", " cafe\u0301\t"],
    "top up": ["top up", "top  up", "top\u00a0up", "top\u2003up "],
}
SPELLED = [
    (f"text {label} {place} {row}", spelling)
    for label, spellings in SPELLINGS.items()
    for place, spelling in enumerate(spellings)
    for row in range(4)
]


def test_a_label_in_several_spellings_is_one(make_source):
    tests = [(f"unseen {spelling}.", spelling) for each in SPELLINGS.values() for spelling in each]
    source = make_source(SPELLED, tests)
    source.prepare()

    bank = source.bank
    assert bank.texts(range(bank.num_phrases)) == list(SPELLINGS)
    counts = {label: 4 * len(spellings) for label, spellings in SPELLINGS.items()}
    assert dict(zip(SPELLINGS, bank.column("num_examples").tolist(), strict=True)) == counts
    assert bank.num_vectors == 3 + sum(counts.values())
    asked = Counter(bank.texts(source.split("test").targets[:, 0]))
    assert asked == {label: len(spellings) for label, spellings in SPELLINGS.items()}


def test_one_example_with_its_label_in_two_spellings_is_one_vector(make_source):
    source = make_source([*ROWS, ("text 0", " card_arrival"), ("text 0", "card_arrival  ")])
    source.prepare()
    assert source.bank.num_vectors == 33
    assert source.bank.column("num_examples").tolist() == [10, 10, 10]


def test_a_label_that_leaves_the_bank_leaves_it_in_every_spelling(make_source):
    tests = [(f"unseen {spelling}.", spelling) for each in SPELLINGS.values() for spelling in each]
    for seed in range(4):
        source = make_source(SPELLED, tests, num_out_of_bank=1, seed=seed)
        source.prepare()
        (left_out,) = set(SPELLINGS) - set(source.bank.texts([0, 1]))
        expected = [f"unseen {spelling}." for spelling in SPELLINGS[left_out]]
        assert source.split("test").out_of_bank.texts == expected


def test_one_label_in_three_spellings_is_nothing_to_learn(make_source):
    rows = [(f"text {i}", SPELLINGS["refund"][i % 3]) for i in range(12)]
    with pytest.raises(InputDataError, match=r"train\.csv: there is only one label.*'refund'"):
        make_source(rows).prepare()


def test_test_texts_that_are_training_texts_are_counted(make_source, caplog):
    texts = ["unseen", "text 3", " text  4", "x"]
    tests = [(text, "lost_card") for text in texts]
    source = make_source(test=tests)
    source.prepare()
    assert "test.csv: 2 of 4 test texts are training texts too" in caplog.text
    assert source.split("test").texts == texts  # they are all tested


def test_test_texts_that_are_new_need_no_word(make_source, caplog):
    source = make_source(test=None)
    source.prepare()
    assert "training texts too" not in caplog.text


def test_nothing_may_be_kept_for_a_test(make_source):
    source = make_source(test=None, test_fraction=0)
    source.prepare()
    assert len(source.split("test")) == 0
    assert source.bank.num_vectors == 33


@pytest.mark.parametrize("name", ["num_train", "num_test"])
def test_drawing_no_rows_is_refused(make_source, name):
    with pytest.raises(ConfigError, match=rf"data\.{name}: .*at least 1.*found 0"):
        make_source(**{name: 0}).prepare()


MANY = [(f"text {i}", f"label_{i % 6}") for i in range(60)]
MANY_TESTS = [(f"unseen {i}", f"label_{i % 6}") for i in range(12)]


def test_labels_held_out_of_the_bank_are_asked_for_only_beside_the_test(make_source, encoder):
    source = make_source(MANY, MANY_TESTS, num_out_of_bank=2)
    source.prepare()
    bank, test = source.bank, source.split("test")

    kept = set(bank.texts(range(bank.num_phrases)))
    left_out = {f"label_{i}" for i in range(6)} - kept
    assert len(left_out) == 2
    label_of = dict([*MANY, *MANY_TESTS])
    for name in ("train", "val", "calib", "test"):
        assert {label_of[text] for text in source.split(name).texts} <= kept
    outside = test.out_of_bank
    assert {label_of[text] for text in outside.texts} == left_out
    assert len(test) + len(outside) == 12
    np.testing.assert_array_equal(outside.queries, encoder.encode_queries(outside.texts))
    assert outside.targets.shape == outside.own_vectors.shape == (len(outside), 0)
    assert source.split("calib").out_of_bank is None
    assert bank.num_vectors == 4 + 40


def test_another_seed_holds_other_labels_out(make_source):
    def banks(seed):
        source = make_source(MANY, MANY_TESTS, num_out_of_bank=2, seed=seed)
        source.prepare()
        return frozenset(source.bank.texts([0, 1, 2, 3]))

    assert len({banks(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("count", [-1, 5, 6])
def test_two_labels_stay_in_the_bank(make_source, count):
    with pytest.raises(ConfigError, match=r"data\.num_out_of_bank: .*expected 0 to 4"):
        make_source(MANY, MANY_TESTS, num_out_of_bank=count).prepare()


def test_a_bank_that_has_moved_is_opened_where_it_is(make_source, tmp_path):
    make_source().prepare()
    (folder,) = (tmp_path / "banks").glob("labelled_text-*")
    folder.rename(tmp_path / "moved")
    source = make_source(bank=tmp_path / "moved")
    source.prepare()

    assert source.bank.path == tmp_path / "moved"
    assert not list((tmp_path / "banks").iterdir())
    with pytest.raises(BankError, match="another bank than the data makes: expected 69 vectors"):
        make_source([*ROWS, *MANY[:30]], bank=tmp_path / "moved").prepare()
