"""torch's files: ``.pt``/``.pth`` and ``.safetensors``, both mapped, neither able to run code."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open

from lightweight_decoder.errors import InputDataError
from lightweight_decoder.vectors.reader import (
    FLOAT_DTYPES,
    FileReader,
    check_array,
    check_text_count,
    choose_entry,
    choose_text_entry,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import numpy.typing as npt

    from lightweight_decoder.vectors.reader import StoredBlock

SAFETENSORS_DTYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "I8": "int8",
}


class TorchReader(FileReader):
    """A tensor saved with ``torch.save``, alone or in a dict, mapped and loaded without code.

    Args:
        path: The file, in the zip format that torch writes since version 1.6.
        key: Name of the (n, d) tensor in the dict; may be left out where only one could be meant.
        text_column: Name of a list of n strings in the dict; may be left out as for tables. The
            list is held in memory.
    """

    def __init__(
        self, path: Path, *, key: str | None = None, text_column: str | None = None
    ) -> None:
        self._key = key
        self._text_key = text_column
        tensor, texts = self._load(path)
        dtype = _dtype_name(tensor)
        num_rows, dim = check_array(path, "the tensor", tensor.shape, dtype)
        if texts is not None:
            check_text_count(path, len(texts), num_rows)
        super().__init__(path, num_rows=num_rows, dim=dim, dtype=dtype, has_texts=texts is not None)

    def _load(self, path: Path) -> tuple[torch.Tensor, list[str] | None]:
        """Map the file and return the tensor that was asked for, with its texts."""
        try:
            loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except pickle.UnpicklingError as error:
            # Not chained to the message: torch's own advice is to switch the protection off.
            raise InputDataError(
                "the file holds Python objects, which are never loaded",
                where=path,
                expected="a tensor, or a dict of tensors",
                found="other pickled objects",
                advice="Save the tensor alone, best as .safetensors.",
            ) from error
        texts = None
        if isinstance(loaded, dict):
            tensors = [name for name, value in loaded.items() if _may_hold_vectors(value)]
            loaded, entries = loaded[choose_entry(path, tensors, self._key, option="key")], loaded
            names = [name for name, value in entries.items() if _is_text_list(value)]
            text_key = choose_text_entry(path, names, self._text_key)
            texts = None if text_key is None else entries[text_key]
        if not isinstance(loaded, torch.Tensor) or not _is_whole(loaded):
            raise InputDataError(
                "the file does not hold embeddings",
                where=path,
                expected="a dense tensor of shape (n, d), or a dict with one",
                found=type(loaded).__name__,
                advice="Save tensor.contiguous().cpu().",
            )
        return loaded.detach(), texts

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        tensor, texts = self._load(self.path)
        tensor = tensor.reshape(-1, self.dim)
        for start in range(0, len(tensor), block_rows):
            end = start + block_rows
            yield _to_numpy(tensor[start:end]), None if texts is None else texts[start:end]


class SafetensorsReader(FileReader):
    """A tensor of a ``.safetensors`` file, mapped.

    Args:
        path: The file.
        key: Name of the (n, d) tensor; may be left out where only one could hold embeddings.
    """

    def __init__(self, path: Path, *, key: str | None = None) -> None:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            names = [name for name, part in slices.items() if _is_candidate(part)] or list(slices)
            matrices = [name for name in names if len(slices[name].get_shape()) > 1]
            self._key = choose_entry(path, matrices or names, key, option="key")
            shape = slices[self._key].get_shape()
            stored = slices[self._key].get_dtype()
        self._is_one_vector = len(shape) == 1
        dtype = SAFETENSORS_DTYPES.get(stored, stored)
        num_rows, dim = check_array(path, self._key, shape, dtype)
        super().__init__(path, num_rows=num_rows, dim=dim, dtype=dtype, has_texts=False)

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        with safe_open(self.path, framework="pt") as file:
            if self._is_one_vector:
                yield _to_numpy(file.get_tensor(self._key)[None]), None
                return
            rows = file.get_slice(self._key)
            for start in range(0, self.num_rows or 0, block_rows):
                yield _to_numpy(rows[start : start + block_rows]), None


def _is_candidate(part: Any) -> bool:  # noqa: ANN401 - safetensors has no types
    """Say whether a tensor of a file could be the embeddings."""
    return part.get_dtype() in SAFETENSORS_DTYPES and len(part.get_shape()) in (1, 2)


def _dtype_name(tensor: torch.Tensor) -> str:
    """Return ``"float16"`` for torch.float16."""
    return str(tensor.dtype).removeprefix("torch.")


def _may_hold_vectors(value: object) -> bool:
    """Say whether a dict's entry could be the embeddings."""
    if not isinstance(value, torch.Tensor):
        return False
    return value.ndim == 2 and _dtype_name(value) in FLOAT_DTYPES  # noqa: PLR2004


def _is_text_list(value: object) -> bool:
    """Say whether a dict's entry is a list of strings."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_whole(tensor: torch.Tensor) -> bool:
    """Say whether every number of the tensor is in the file: no views that repeat a row."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _to_numpy(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """Return a tensor's memory as an array; bfloat16, which numpy has not, as float32."""
    if tensor.dtype == torch.bfloat16:
        bits: npt.NDArray[np.uint32] = tensor.view(torch.uint16).numpy().astype(np.uint32)
        return np.left_shift(bits, 16, out=bits).view(np.float32)
    array: npt.NDArray[np.generic] = tensor.numpy()
    return array
