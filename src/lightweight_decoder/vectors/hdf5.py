"""HDF5, with the optional library h5py."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightweight_decoder.errors import InputDataError, MissingDependencyError
from lightweight_decoder.vectors.hdf5_texts import HeapTexts, mapped
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
    from mmap import mmap
    from pathlib import Path

    from lightweight_decoder.vectors.reader import StoredBlock

MAX_CHUNK_BYTES = 2**28


class Hdf5Reader(FileReader):
    """A data set of an HDF5 file, all of it in that file: links to other files are refused.

    Args:
        path: The file.
        key: Name of the (n, d) data set, such as ``"train/vectors"``; may be left out where only
            one could hold embeddings.
        text_column: Name of an (n,) data set of strings; may be left out as for tables.
    """

    def __init__(
        self, path: Path, *, key: str | None = None, text_column: str | None = None
    ) -> None:
        with _open(path) as file:
            for name in filter(None, (key, text_column)):
                _refuse_links(path, file, name)
            datasets = _datasets(file)
            vector_names = [name for name, found in datasets.items() if _may_hold_vectors(found)]
            matrices = [name for name in vector_names if datasets[name].ndim > 1]
            text_names = [name for name, found in datasets.items() if _is_text(found)]
            self._key = choose_entry(path, matrices or vector_names, _normal(key), option="key")
            self._text_key = choose_text_entry(path, text_names, _normal(text_column))
            vectors = datasets[self._key]
            num_rows, dim = check_array(path, self._key, vectors.shape, vectors.dtype.name)
            dtype = vectors.dtype.name
            _check_storage(path, self._key, vectors)
            if self._text_key is not None:
                _check_storage(path, self._text_key, datasets[self._text_key])
                check_text_count(path, len(datasets[self._text_key]), num_rows)
        super().__init__(
            path,
            num_rows=num_rows,
            dim=dim,
            dtype=dtype,
            has_texts=self._text_key is not None,
        )

    def _stored_blocks(self, block_rows: int) -> Generator[StoredBlock]:
        with _open(self.path) as file, mapped(self.path) as memory:
            vectors = file[self._key]
            texts = (
                None if self._text_key is None else _texts(self.path, memory, file[self._text_key])
            )
            if vectors.ndim == 1:
                yield vectors[:][None, :], None if texts is None else list(texts[:])
                return
            for start in range(0, len(vectors), block_rows):
                end = start + block_rows
                yield vectors[start:end], None if texts is None else list(texts[start:end])


@contextmanager
def _open(path: Path) -> Generator[Any]:
    """Open the file with h5py."""
    try:
        import h5py  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            "h5py", extra="hdf5", purpose=f"Reading the HDF5 file {path}"
        ) from error
    with h5py.File(path, "r") as file:
        yield file


def _normal(name: str | None) -> str | None:
    """Return a data set's name as h5py lists it."""
    return None if name is None else name.strip("/")


def _datasets(file: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return all data sets by name; h5py does not follow soft or external links here."""
    found: dict[str, Any] = {}
    file.visititems(
        lambda name, item: found.update({name: item}) if hasattr(item, "shape") else None
    )
    return found


def _refuse_links(path: Path, file: Any, name: str) -> None:  # noqa: ANN401
    """Refuse a name that leads through a link to somewhere else."""
    parts = name.strip("/").split("/")
    for depth in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:depth]), getlink=True)
        if link is not None and type(link).__name__ != "HardLink":
            raise InputDataError(
                "a link is not followed",
                where=path,
                at="/".join(parts[:depth]),
                expected="a data set in this file",
                found=f"{type(link).__name__} to {link.path}",
                advice="Name the data set itself, or the file that holds it.",
            )


def _may_hold_vectors(dataset: Any) -> bool:  # noqa: ANN401
    """Say whether a data set could be the embeddings."""
    return dataset.dtype.name in FLOAT_DTYPES and dataset.ndim in (1, 2)


def _is_text(dataset: Any) -> bool:  # noqa: ANN401
    """Say whether a data set holds one string a row."""
    import h5py  # noqa: PLC0415

    return dataset.ndim == 1 and h5py.check_string_dtype(dataset.dtype) is not None


def _texts(path: Path, memory: mmap, dataset: Any) -> Any:  # noqa: ANN401
    """Return what gives a data set's strings by slices."""
    import h5py  # noqa: PLC0415

    kind = h5py.check_string_dtype(dataset.dtype)
    if kind.length is not None:
        return dataset.asstr()
    return HeapTexts(path, memory, dataset, kind.encoding)


def _check_storage(path: Path, name: str, dataset: Any) -> None:  # noqa: ANN401
    """Refuse data in other files, data that were never written, and chunks too big to unpack."""
    chunks, row_type = dataset.chunks, dataset.id.get_type()
    num_bytes = dataset.size * row_type.get_size()
    if dataset.external or dataset.is_virtual:
        found = "data in other files"
    elif chunks is None:
        stored = dataset.id.get_storage_size()
        found = "" if stored >= num_bytes else f"{stored} bytes"
    elif math.prod(chunks) * row_type.get_size() > MAX_CHUNK_BYTES:
        found = f"chunks of shape {chunks}, more than {MAX_CHUNK_BYTES} bytes each"
    else:
        needed = math.prod(
            -(-size // chunk) for size, chunk in zip(dataset.shape, chunks, strict=True)
        )
        written = dataset.id.get_num_chunks()
        found = "" if written == needed else f"{written} of {needed} chunks"
    if found:
        raise InputDataError(
            f"{name} is not wholly in this file",
            where=path,
            expected=f"{num_bytes} bytes for shape {dataset.shape}",
            found=found,
            advice="Write the data set again, into this file.",
        )
