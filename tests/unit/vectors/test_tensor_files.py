"""torch's formats: dtypes, dicts, views, and the old format."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors import open_embeddings

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_dtype_comes_out_as_float32(tmp_path, read_all, dtype, suffix):
    stored = (torch.arange(-6, 24).reshape(10, 3) * 1.37 + 0.25).to(dtype)
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save(stored, path)
    else:
        safetensors.torch.save_file({"vectors": stored}, path)
    reader = open_embeddings(path)
    assert reader.dtype == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(read_all(reader, block_rows=4)[0], stored.float().numpy())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_one_vector_is_one_row(tmp_path, read_all, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save(torch.arange(4.0), path)
    else:
        safetensors.torch.save_file({"vector": torch.arange(4.0)}, path)
    np.testing.assert_array_equal(read_all(open_embeddings(path))[0], [[0, 1, 2, 3]])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_several_tensors_need_a_key(tmp_path, read_all, suffix):
    tensors = {"train": torch.ones(3, 2), "test": torch.ones(4, 2)}
    path = tmp_path / f"a{suffix}"
    save = torch.save if suffix == ".pt" else safetensors.torch.save_file
    save(tensors, path)
    with pytest.raises(InputDataError, match="which vectors"):
        open_embeddings(path)
    assert open_embeddings(path, key="test").num_rows == 4


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_tensors_of_whole_numbers_are_no_choice(tmp_path, read_all, suffix):
    tensors = {"embeddings": torch.ones(3, 2), "input_ids": torch.ones(3, 7, dtype=torch.int64)}
    path = tmp_path / f"a{suffix}"
    save = torch.save if suffix == ".pt" else safetensors.torch.save_file
    save(tensors, path)
    np.testing.assert_array_equal(read_all(open_embeddings(path))[0], np.ones((3, 2)))


def test_transposed_view_and_parameter(tmp_path, read_all):
    stored = torch.arange(1.0, 7).reshape(2, 3)
    path = tmp_path / "a.pt"
    torch.save(torch.nn.Parameter(stored.T), path)
    np.testing.assert_array_equal(read_all(open_embeddings(path))[0], stored.T.numpy())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1, 4).expand(10**15, 4),
        torch.eye(3).to_sparse(),
        torch.ones(2, 3, 4),
        torch.ones(2, 3, dtype=torch.int64),
        torch.ones(2, 3, dtype=torch.complex64),
        torch.ones(0, 3),
    ],
    ids=["repeated row", "sparse", "3-d", "int64", "complex", "no rows"],
)
def test_other_tensors_are_refused(tmp_path, tensor):
    path = tmp_path / "a.pt"
    torch.save(tensor, path)
    with pytest.raises(InputDataError, match=r"not hold embeddings|no vectors"):
        open_embeddings(path)


def test_dict_without_tensor_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": 1}, path)
    with pytest.raises(InputDataError, match="no entry that could hold embeddings"):
        open_embeddings(path)


def test_list_of_tensors_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save([torch.ones(2, 3)], path)
    with pytest.raises(InputDataError, match=r"expected a dense tensor.*found list"):
        open_embeddings(path)


def test_objects_are_refused_without_torchs_advice(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(DTYPES.append, path)
    with pytest.raises(InputDataError, match="never loaded") as caught:
        open_embeddings(path)
    assert "weights_only" not in str(caught.value)


def test_texts_of_another_count_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"vectors": torch.ones(2, 3), "text": ["a"]}, path)
    with pytest.raises(InputDataError, match="expected 2 texts, one a vector, found 1 texts"):
        open_embeddings(path)


def test_old_format_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch.ones(2, 3), path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputDataError, match=r"torch\.save before version 1\.6"):
        open_embeddings(path)


@pytest.mark.parametrize("rows", [3, 10**15])
def test_safetensors_header_that_lies_is_refused(tmp_path, rows):
    fields = {"a": {"dtype": "F32", "shape": [rows, 4], "data_offsets": [0, 16 * rows]}}
    text = json.dumps(fields).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(32))
    with pytest.raises(InputDataError, match="cannot be read"):
        open_embeddings(path)
