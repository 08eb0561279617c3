"""A source's splits as Lightning's data loaders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from lightweight_decoder.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from lightweight_decoder.bank import PhraseBank
    from lightweight_decoder.decoder.splits import Split, SplitName


class Source(Protocol):
    """Where training data comes from. Everything it gives follows from its arguments alone."""

    @property
    def bank(self) -> PhraseBank:
        """The bank, opened once; :meth:`prepare` came before, perhaps in another process."""

    def prepare(self) -> None:
        """Do the slow work, and what leaves something on disk: encode, build the bank."""

    def split(self, name: SplitName) -> Split:
        """Return a split; :meth:`prepare` came before, perhaps in another process."""


class Batch:
    """Some queries of a split.

    No tuple and no dataclass: a Trainer of another precision converts the tensors of those, and
    rounded queries have other nearest phrases.

    Attributes:
        queries: (b, d) float32, whatever the Trainer's precision.
        targets: (b, m) int64 phrase ids, filled up with ``NO_ID``.
        own_vectors: (b, w) int64 bank vectors to hide from each query, filled up with ``NO_ID``.
        query_ids: (b,) int64, which queries of the split these are.
    """

    def __init__(
        self, queries: Tensor, targets: Tensor, own_vectors: Tensor, query_ids: Tensor
    ) -> None:
        self.queries = queries
        self.targets = targets
        self.own_vectors = own_vectors
        self.query_ids = query_ids

    def __len__(self) -> int:
        return len(self.queries)

    def to(self, device: torch.device, **options: Any) -> Batch:  # noqa: ANN401 - torch's own
        """Return the batch on another device; Lightning calls it."""
        columns = (self.queries, self.targets, self.own_vectors, self.query_ids)
        return Batch(*(column.to(device, **options) for column in columns))


class SplitDataset(Dataset[Batch]):
    """A split in memory, not copied, from which a batch is cut at once, not query by query."""

    def __init__(self, split: Split) -> None:
        self._queries = torch.from_numpy(split.queries)
        self._targets = torch.from_numpy(split.targets)
        self._own_vectors = torch.from_numpy(split.own_vectors)

    def __len__(self) -> int:
        return len(self._queries)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        ids = torch.as_tensor(indices, dtype=torch.int64)
        return Batch(self._queries[ids], self._targets[ids], self._own_vectors[ids], ids)


class EpochShuffle(Sampler[int]):
    """An order of ``size`` that follows from seed and epoch alone: a resumed run goes on the same.

    Lightning calls :meth:`set_epoch` before each epoch, with the right number after a resume too.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        yield from torch.randperm(self._size, generator=generator).tolist()


class DecoderDataModule(LightningDataModule):
    """Batches of a source's splits.

    Args:
        source: Gives the bank and the splits.
        batch_size: Queries in a training batch; the last one of an epoch may have fewer.
        eval_batch_size: Queries in any other batch.
        num_workers: Loader processes; the data is in memory already, so 0 is fastest.
        seed: Decides the order of training queries.

    Raises:
        ConfigError: A size is below 1, or a number below 0.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int = 256,
        eval_batch_size: int = 512,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        least = {"batch_size": 1, "eval_batch_size": 1, "num_workers": 0}
        for name, number in zip(least, (batch_size, eval_batch_size, num_workers), strict=True):
            if number < least[name]:
                raise ConfigError.unexpected(f"batches.{name}", f"at least {least[name]}", number)
        self.source = source
        self._batch_size = batch_size
        self._eval_batch_size = eval_batch_size
        self._num_workers = num_workers
        self._seed = seed
        self._is_prepared = False
        self._splits: dict[SplitName, Split] = {}

    @property
    def bank(self) -> PhraseBank:
        """The source's bank."""
        return self.source.bank

    def prepare_data(self) -> None:
        """Encode and build what is missing, the first time.

        Lightning calls it in one process of each machine, before the fit and before the test. The
        other processes open what that one made.
        """
        if not self._is_prepared:
            self.source.prepare()
        self._is_prepared = True

    def split(self, name: SplitName) -> Split:
        """Return a split, made when it is first asked for."""
        if name not in self._splits:
            self._splits[name] = self.source.split(name)
        return self._splits[name]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Give training batches in an order of their own each epoch."""
        size = len(self.split("train"))
        return self._loader("train", self._batch_size, EpochShuffle(size, seed=self._seed))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Give validation batches in the split's order."""
        return self._loader("val", self._eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Give test batches in the split's order."""
        return self._loader("test", self._eval_batch_size)

    def _loader(
        self, name: SplitName, batch_size: int, sampler: Sampler[int] | None = None
    ) -> DataLoader[Batch]:
        """Build a loader whose dataset cuts whole batches."""
        return DataLoader(
            SplitDataset(self.split(name)),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            collate_fn=_as_it_is,
            # A loader draws a number when it starts, after a resume earlier than otherwise. It must
            # not shift the numbers that the training step draws.
            generator=torch.Generator(),
        )


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401, torch types this as a list of examples
    """Collate nothing: the dataset gave a batch."""
    return batch
