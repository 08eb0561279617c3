"""Measure when the cache of answers pays: time a query against the share that comes again.

    python scripts/benchmarks/query_cache.py BANK OUTPUT --indexes DIR [--checkpoint CKPT]

Queries are vectors of the bank with noise. Those that come again are in the cache when the clock
starts, in random places among new ones; the decoder without a cache gets the same batches in turn.
With ``--checkpoint`` a reranked decoder is measured too. Writes ``query_cache.csv``, and prints the
memory of 10,000 kept answers.
"""

from __future__ import annotations

import argparse
import csv
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.decoder.phrase_bank_decoder import PhraseBankDecoder
from lightweight_decoder.search import ExactSearch, FaissSearch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightweight_decoder.datatypes import FloatArray

SHARES = (0.0, 0.25, 0.5, 0.9)
NUM_BATCHES = {1: 40, 1024: 1}
NUM_KEPT = 10_000
NOISE = 0.5  # length of what is added to a unit vector


def main() -> None:
    """Measure every decoder, batch size and share."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    bank = PhraseBank.open(arguments.bank)
    print(f"{bytes_a_query(bank):.0f} bytes a query, {bank.dim} dimensions, 5 phrases each")
    rows = []
    for name, make in decoders(bank, arguments):
        for batch_size in NUM_BATCHES:
            for share, (plain, cached) in zip(SHARES, measure(make, bank, batch_size), strict=True):
                row = {
                    "decoder": name,
                    "batch": batch_size,
                    "repeats": share,
                    "plain_ms": round(1000 * plain, 3),
                    "cached_ms": round(1000 * cached, 3),
                    "times_as_fast": round(plain / cached, 2),
                }
                rows.append(row)
                print(*row.values(), flush=True)
    with (arguments.output / "query_cache.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bank", type=Path)
    parser.add_argument("output", type=Path, help="folder for query_cache.csv")
    parser.add_argument("--indexes", type=Path, required=True, help="folder to keep FAISS's in")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def decoders(
    bank: PhraseBank, arguments: argparse.Namespace
) -> Iterator[tuple[str, Callable[[int], PhraseBankDecoder]]]:
    """Name what makes a decoder that keeps so many queries, for each kind."""
    folder = str(arguments.indexes)
    for name, search in (("exact", ExactSearch(bank)), ("faiss", FaissSearch(bank, folder=folder))):
        yield name, lambda n, s=search: PhraseBankDecoder(bank, search=s, cached_queries=n)
        if arguments.checkpoint is not None:
            yield (
                f"{name}, reranked",
                lambda n, s=search: PhraseBankDecoder.from_checkpoint(
                    arguments.checkpoint, bank=bank.path, search=lambda _: s, cached_queries=n
                ),
            )


def noisy_vectors(bank: PhraseBank, seed: int, num_queries: int) -> FloatArray:
    """Draw queries near the bank's vectors."""
    generator = np.random.default_rng(seed)
    rows = bank.vectors[generator.integers(0, len(bank.vectors), num_queries)].astype(np.float32)
    noise = generator.standard_normal(rows.shape, dtype=np.float32)
    return rows + np.float32(NOISE / np.sqrt(bank.dim)) * noise


def measure(
    make: Callable[[int], PhraseBankDecoder], bank: PhraseBank, batch_size: int
) -> Iterator[tuple[float, float]]:
    """Give the seconds a query takes without and with a cache, for each share, in turn."""
    plain, cached = make(0), make(NUM_KEPT)
    known = noisy_vectors(bank, 0, 1024)
    plain.decode(known[:batch_size])
    cached.decode(known)
    num_batches = NUM_BATCHES[batch_size]
    for seed, share in enumerate(SHARES, start=1):
        queries = noisy_vectors(bank, seed, num_batches * batch_size)
        again = np.random.default_rng(seed).permutation(len(queries))
        again = again[: round(share * len(queries))]
        queries[again] = known[np.arange(len(again)) % len(known)]
        seconds = np.zeros(2)
        for batch in np.split(queries, num_batches):
            for place, decoder in enumerate((plain, cached)):
                start = time.perf_counter()
                decoder.decode(batch)
                seconds[place] += time.perf_counter() - start
        plain_s, cached_s = seconds / len(queries)
        yield float(plain_s), float(cached_s)


def bytes_a_query(bank: PhraseBank) -> float:
    """Give the memory that an answer is kept in, with the query's own bytes."""
    decoder = PhraseBankDecoder(bank, cached_queries=NUM_KEPT)
    decoder.decode(noisy_vectors(bank, 0, 8))
    decoder.cache.clear()
    queries = noisy_vectors(bank, 1, NUM_KEPT)
    tracemalloc.start()
    for batch in np.split(queries, 10):
        decoder.decode(batch)
    before, _ = tracemalloc.get_traced_memory()
    decoder.cache.clear()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (before - after) / NUM_KEPT


if __name__ == "__main__":
    main()
