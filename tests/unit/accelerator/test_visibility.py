from __future__ import annotations

import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st

from lightweight_decoder.accelerator.machine import read_visibility


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "CUDA_VISIBLE_DEVICES='' hides every GPU"),
        ("-1", "CUDA_VISIBLE_DEVICES='-1' hides every GPU"),
        ("0,0", "CUDA_VISIBLE_DEVICES='0,0' names GPU 0 twice, which hides every GPU"),
        ("garbage", "CUDA_VISIBLE_DEVICES='garbage' names no GPU, so it hides every GPU"),
        ("GPU-a,GPU-a", "CUDA_VISIBLE_DEVICES='GPU-a,GPU-a' names GPU-a twice"),
    ],
)
def test_values_that_hide_everything_are_named(value, reason):
    visibility = read_visibility({"CUDA_VISIBLE_DEVICES": value})

    assert visibility.hides_all
    assert visibility.deliberate == (value in {"", "-1"})
    assert visibility.reason.startswith(reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1", "shows only GPU 1 of the machine"),
        ("2,0", "shows only GPU 2 and 0 of the machine"),
        ("1gpu2", "shows only GPU 1 of the machine"),
        ("0,-1,1", "shows only GPU 0 of the machine"),
        ("GPU-5f1c", "shows only the GPUs it names"),
        ("MIG-1-2-3", "shows one MIG instance of a GPU"),
    ],
)
def test_values_that_show_something(value, reason):
    visibility = read_visibility({"CUDA_VISIBLE_DEVICES": value})

    assert not visibility.hides_all
    assert visibility.reason == f"CUDA_VISIBLE_DEVICES={value!r} {reason}"


def test_nothing_set_restricts_nothing():
    assert read_visibility({}).setting is None
    assert read_visibility({"HIP_VISIBLE_DEVICES": ""}).setting is None


def test_rocm_reads_its_own_variables_first():
    variables = {"CUDA_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "2"}

    assert read_visibility(variables, hip=True).setting == "ROCR_VISIBLE_DEVICES='2'"
    assert read_visibility({**variables, "HIP_VISIBLE_DEVICES": ""}, hip=True).hides_all


@given(st.text(alphabet="0123-+,GPUMI xé", max_size=8))
def test_agrees_with_torch_on_what_is_left(value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", value)
        try:
            left = torch.cuda._parse_visible_devices()
        except ValueError:  # torch stumbles over a lone sign
            reject()

    assert read_visibility({"CUDA_VISIBLE_DEVICES": value}).hides_all == (not left)
