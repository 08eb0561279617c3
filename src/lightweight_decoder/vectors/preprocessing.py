"""Steps that vectors go through before they are stored, and queries before they are searched for.

A step is a plain record of options. What it learns from a sample are named float32 arrays, which
:class:`Preprocessing` holds beside it. Everything is numpy on the CPU, so that a vector comes out
the same wherever it is searched for, and applying a step imports nothing.

Rows of what a step cannot give a direction come out as zeros; who calls decides what that means.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field

from lightweight_decoder.errors import ConfigError, EmbeddingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from lightweight_decoder.datatypes import FloatArray

_STRICT = ConfigDict(strict=True, extra="forbid")
_FIT_ROWS = 4_096
_FIT_COLUMNS = 64
_PRODUCT_ROWS = 32


class _Step(ABC):
    """What every step can do; the defaults are those of one that learns nothing."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def fit(self, sample: FloatArray) -> dict[str, FloatArray]:  # noqa: ARG002
        """Return what is learned from (m, d) float32 finite rows, m >= 1.

        Raises:
            ConfigError: If the options do not go with the sample.
        """
        return {}

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """Return the shapes of what is learned from vectors of width ``dim``."""
        return {}

    def output_dim(self, dim: int) -> int:
        """Return the width of what comes out where vectors of width ``dim`` go in."""
        return dim

    @abstractmethod
    def apply(self, rows: FloatArray, learned: Mapping[str, FloatArray]) -> FloatArray:
        """Return (m, d) float32 rows transformed, a new array; each row for itself."""


@dataclass(frozen=True, kw_only=True)
class L2(_Step):
    """Scale every row to unit length; rows of zeros stay."""

    step: Literal["l2"] = "l2"

    def apply(self, rows: FloatArray, learned: Mapping[str, FloatArray]) -> FloatArray:  # noqa: ARG002
        """See the class. By the largest entry first: no square overflows or vanishes."""
        largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
        scaled: FloatArray = np.empty_like(rows)
        np.divide(rows, np.where(largest == 0, np.float32(1), largest)[:, None], out=scaled)
        length = np.sqrt(np.vecdot(scaled, scaled))
        scaled /= np.where(length == 0, np.float32(1), length)[:, None]
        return scaled


@dataclass(frozen=True, kw_only=True)
class Center(_Step):
    """Subtract the mean of the sample.

    Sentence embeddings share a large common vector, which makes all cosines alike; see Mu and
    Viswanath, "All-but-the-Top" (ICLR 2018), section 2.
    """

    step: Literal["center"] = "center"

    def fit(self, sample: FloatArray) -> dict[str, FloatArray]:
        """Return ``mean``, (d,)."""
        return {"mean": sample.mean(axis=0, dtype=np.float64).astype(np.float32)}

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """See the base."""
        return {"mean": (dim,)}

    def apply(self, rows: FloatArray, learned: Mapping[str, FloatArray]) -> FloatArray:
        """See the class."""
        return rows - learned["mean"]


@dataclass(frozen=True, kw_only=True)
class Clip(_Step):
    """Move entries beyond a quantile of their coordinate onto it, at both ends: winsorizing.

    Keeps single coordinates from deciding cosines, as some do in transformers' embeddings (Timkey
    and van Schijndel, "All Bark and No Bite", EMNLP 2021). Winsorizing: Tukey, "The Future of Data
    Analysis" (1962), section 14.

    Attributes:
        quantile: Share of the sample's entries that is clipped at either end of each coordinate,
            above 0 and below 0.5.

    Raises:
        ConfigError: If ``quantile`` is out of range.
    """

    step: Literal["clip"] = "clip"
    quantile: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 0.5:  # noqa: PLR2004
            raise ConfigError(
                "the quantile is out of range",
                where="clip.quantile",
                expected="above 0 and below 0.5",
                found=self.quantile,
            )

    def fit(self, sample: FloatArray) -> dict[str, FloatArray]:
        """Return ``low`` and ``high``, (d,) each, interpolated linearly between entries."""
        bounds = np.empty((2, sample.shape[1]), dtype=np.float32)
        for start in range(0, sample.shape[1], _FIT_COLUMNS):  # numpy copies what it sorts
            columns = slice(start, start + _FIT_COLUMNS)
            levels = (self.quantile, 1 - self.quantile)
            bounds[:, columns] = np.quantile(sample[:, columns], levels, axis=0)
        return {"low": bounds[0], "high": bounds[1]}

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """See the base."""
        return {"low": (dim,), "high": (dim,)}

    def apply(self, rows: FloatArray, learned: Mapping[str, FloatArray]) -> FloatArray:
        """See the class."""
        return np.clip(rows, learned["low"], learned["high"])


@dataclass(frozen=True, kw_only=True)
class PCA(_Step):
    """Project onto the directions in which the sample varies most; whiten them if asked.

    Centres, as scikit-learn's ``PCA`` does, and gives what that gives, signs included (the largest
    entry of a direction is positive). The covariance is summed in float64: in float32 a mean that
    is large against the spread, as embeddings have, takes the digits that matter.

    Attributes:
        dim: Directions to keep, at most the width and the rows of the sample; None keeps all.
        whiten: Scale each direction to variance 1.

    Raises:
        ConfigError: If ``dim`` is below 1.
    """

    step: Literal["pca"] = "pca"
    dim: int | None = None
    whiten: bool = False

    def __post_init__(self) -> None:
        if self.dim is not None and self.dim < 1:
            raise ConfigError(
                "there is no direction to keep",
                where="pca.dim",
                expected="at least 1",
                found=self.dim,
            )

    def fit(self, sample: FloatArray) -> dict[str, FloatArray]:
        """Return ``mean``, (d,), and ``components``, (d', d), whitening included.

        Raises:
            ConfigError: If there are fewer directions than ``dim``, or fewer with any variance
                where they are to be whitened.
        """
        num_rows, width = sample.shape
        dim = self.output_dim(width)
        if dim > min(num_rows, width):
            raise ConfigError(
                "there are fewer directions than asked for",
                where="pca.dim",
                expected=f"at most {min(num_rows, width)} ({num_rows} rows of width {width})",
                found=dim,
            )
        mean = sample.mean(axis=0, dtype=np.float64)
        variances, components = _principal_directions(sample, mean)
        rank = int((variances > variances[0] * max(sample.shape) * np.finfo(float).eps).sum())
        if rank < (dim if self.whiten else 1):
            raise ConfigError(
                "the sample does not vary in as many directions"
                if rank
                else "all rows of the sample are the same",
                where="pca.dim",
                expected=f"at most {rank}, to be whitened" if rank else "rows that differ",
                found=dim if rank else f"{num_rows} equal rows",
                advice="A constant or repeated column has no variance to scale" if rank else None,
            )
        components = components[:dim]
        if self.whiten:
            components /= np.sqrt(variances[:dim, None])
        return {"mean": mean.astype(np.float32), "components": components.astype(np.float32)}

    def shapes(self, dim: int) -> dict[str, tuple[int, ...]]:
        """See the base."""
        return {"mean": (dim,), "components": (self.output_dim(dim), dim)}

    def output_dim(self, dim: int) -> int:
        """See the base."""
        return dim if self.dim is None else self.dim

    def apply(self, rows: FloatArray, learned: Mapping[str, FloatArray]) -> FloatArray:
        """See the class.

        In float64 and always that many rows at a time, the last ones filled up: how a product is
        summed depends on its shape, and a row must not depend on the block it came in.
        """
        num_rows, width = rows.shape
        centered = np.zeros((-(-num_rows // _PRODUCT_ROWS), _PRODUCT_ROWS, width))
        np.subtract(rows, learned["mean"], out=centered.reshape(-1, width)[:num_rows])
        projected = centered @ learned["components"].astype(np.float64).T
        return projected.reshape(-1, projected.shape[2])[:num_rows].astype(np.float32)


Step = Annotated[L2 | Center | Clip | PCA, Field(discriminator="step")]
"""Any of the steps, as read from a manifest or a configuration."""

STEPS: dict[str, type[L2 | Center | Clip | PCA]] = {
    "l2": L2,
    "center": Center,
    "clip": Clip,
    "pca": PCA,
}
"""The steps by the names they have in a configuration."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Steps with what they learned, to be applied one after another.

    Attributes:
        steps: The steps in their order.
        learned: The arrays of each.
        input_dim: Width of the vectors that go in.
    """

    steps: tuple[Step, ...]
    learned: tuple[Mapping[str, FloatArray], ...]
    input_dim: int

    @classmethod
    def fit(cls, steps: Sequence[Step], sample: FloatArray) -> Self:
        """Fit each step on what those before it make of the sample.

        Memory: two samples, and for PCA three (d, d) float64 matrices.

        Args:
            steps: The steps in their order.
            sample: (m, d) float32, finite, m >= 1; not changed.

        Raises:
            ConfigError: If the options of a step do not go with the sample.
        """
        input_dim, learned = sample.shape[1], []
        for number, step in enumerate(steps):
            try:
                learned.append(step.fit(sample))
            except ConfigError as error:
                raise at_place(error, f"preprocessing[{number}]") from error
            sample = _transformed(step, learned[-1], sample)
        return cls(tuple(steps), tuple(learned), input_dim)

    @classmethod
    def from_arrays(
        cls, steps: Sequence[Step], input_dim: int, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> Self:
        """Put together what :meth:`arrays` took apart.

        Raises:
            ValueError: If an array is missing, unknown, of another shape or dtype, or not finite.
        """
        dims = _dims(steps, input_dim)
        expected = {
            f"{number}.{name}": shape
            for number, step in enumerate(steps)
            for name, shape in step.shapes(dims[number]).items()
        }
        if set(arrays) != set(expected):
            message = f"arrays {sorted(expected)} are needed, not {sorted(arrays)}"
            raise ValueError(message)
        for name, array in arrays.items():
            if array.shape != expected[name] or array.dtype != np.float32:
                message = f"{name} is {array.shape} {array.dtype}, not {expected[name]} float32"
                raise ValueError(message)
            if not np.isfinite(array).all():
                message = f"{name} has a number that is not finite"
                raise ValueError(message)
        learned = tuple(
            {name: arrays[f"{number}.{name}"] for name in step.shapes(1)}
            for number, step in enumerate(steps)
        )
        return cls(tuple(steps), learned, input_dim)  # type: ignore[arg-type] # checked above

    def arrays(self) -> dict[str, FloatArray]:
        """Return everything learned under one name each, such as ``"1.mean"``."""
        return {
            f"{number}.{name}": array
            for number, learned in enumerate(self.learned)
            for name, array in learned.items()
        }

    @property
    def dim(self) -> int:
        """Width of the vectors that come out."""
        return output_dim(self.steps, self.input_dim)

    def __call__(self, rows: FloatArray) -> FloatArray:
        """Return vectors as the bank stores them, up to their length.

        Args:
            rows: (m, input_dim) float32, finite; not changed.

        Returns:
            (m, dim) float32, the same for a row whatever rows come with it; all zero where a row
            has no direction left, not finite where it leaves the range of float32.

        Raises:
            EmbeddingError: If the rows have another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.input_dim:  # noqa: PLR2004
            raise EmbeddingError(
                "the vectors have the wrong shape",
                expected=f"(q, {self.input_dim}), as before preprocessing",
                found=rows.shape,
                advice="Give vectors as the bank was built from",
            )
        with np.errstate(over="ignore", invalid="ignore"):
            for step, learned in zip(self.steps, self.learned, strict=True):
                rows = step.apply(rows, learned)
        return rows


def output_dim(steps: Sequence[Step], input_dim: int) -> int:
    """Return the width that vectors of width ``input_dim`` have after all steps."""
    return _dims(steps, input_dim)[-1]


def _dims(steps: Sequence[Step], input_dim: int) -> list[int]:
    """Widths before the first step, and after each."""
    dims = [input_dim]
    for step in steps:
        dims.append(step.output_dim(dims[-1]))
    return dims


def _transformed(step: Step, learned: Mapping[str, FloatArray], sample: FloatArray) -> FloatArray:
    """Return the sample after a step, computed in blocks."""
    transformed = np.empty((len(sample), step.output_dim(sample.shape[1])), dtype=np.float32)
    for rows in _row_blocks(len(sample)):
        transformed[rows] = step.apply(sample[rows], learned)
    return transformed


def _principal_directions(
    sample: FloatArray, mean: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Variances, descending, and the unit directions that have them, as rows."""
    covariance = np.zeros((len(mean), len(mean)))
    for rows in _row_blocks(len(sample)):
        centered = sample[rows] - mean
        covariance += centered.T @ centered
    variances, columns = np.linalg.eigh(covariance / max(1, len(sample) - 1))
    components = columns.T[::-1]
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(len(mean)), largest])[:, None]
    return variances[::-1], components


def _row_blocks(num_rows: int) -> Iterator[slice]:
    """Slices that keep intermediate arrays small."""
    starts = range(0, num_rows + _FIT_ROWS, _FIT_ROWS)
    return (slice(*ends) for ends in pairwise(starts))


def at_place(error: ConfigError, place: str) -> ConfigError:
    """Return the error about a step's option with the step's place, ``"preprocessing[1]"``."""
    return ConfigError(
        error.summary,
        where=f"{place}.{error.where}",
        expected=error.expected,
        found=error.found,
        advice=error.advice,
    )
