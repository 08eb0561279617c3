from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.evaluation.metrics_file import read_metrics, write_metrics


@given(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)))
def test_what_is_written_is_read(tmp_path_factory, metrics):
    folder = tmp_path_factory.mktemp("run")

    path = write_metrics(metrics, folder)

    assert path == folder / "metrics.json"
    assert read_metrics(path) == metrics
    assert list(json.loads(path.read_text())) == sorted(metrics)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "metrics.json: the file holds no metrics"),
        ("[1]", "found list"),
        ('{"test/decoder/mrr": "high"}', "test/decoder/mrr: 'high'"),
        ('{"test/decoder/mrr": true}', "test/decoder/mrr: True"),
        ('{"test/decoder/mrr": NaN}', "test/decoder/mrr: nan"),
    ],
)
def test_another_file_is_refused(tmp_path, content, found):
    (tmp_path / "metrics.json").write_text(content)

    with pytest.raises(InputDataError, match=found):
        read_metrics(tmp_path / "metrics.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputDataError, match=r"none\.json: cannot be read: found No such file"):
        read_metrics(tmp_path / "none.json")
