"""Times the whole decode beside its search alone, and the first answer of a fresh process.

    python scripts/benchmarks/end_to_end.py RUN [--queries 2048] [--compile]

RUN is a finished run, for the largest bank one of `data=reverse_dictionary data.size=full`. Queries
are definitions. Prints medians of interleaved repeats; the search alone is that of the adapted
queries, for as many candidates as the reranker re-orders. The first answer is that of plain search
in the same bank, timed from the start of Python.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lightweight_decoder import PhraseBankDecoder
from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.files import user_cache_dir
from lightweight_decoder.training.sources.reverse_dictionary import read_wordnet

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 5
FIRST_ANSWER = """
import time
started = {started}
import numpy as np
import torch
torch_at = time.time()
from lightweight_decoder import PhraseBank, PhraseBankDecoder
ours_at = time.time()
bank = PhraseBank.open({bank!r})
opened_at = time.time()
decoder = PhraseBankDecoder(bank)
decoder.decode(np.ones(bank.dim, dtype=np.float32))
ended = time.time()
print(f"first answer {{ended - started:.2f}} s: Python and torch {{torch_at - started:.2f}}, "
      f"our modules {{ours_at - torch_at:.2f}}, opening {{opened_at - ours_at:.2f}}, "
      f"decoder and decoding {{ended - opened_at:.2f}}")
"""


def main() -> None:
    """Take turns and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--queries", type=int, default=2_048)
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    options = parser.parse_args()
    decoder = PhraseBankDecoder.from_checkpoint(options.run / "checkpoints" / "best.ckpt")
    queries = definitions(options.queries)
    adapted = decoder.adapt(queries)
    plain = PhraseBankDecoder(decoder.bank, search=decoder.search)
    ways = {
        "search alone": lambda: decoder.search.search(adapted, decoder.depth),
        "decode, no reranker": lambda: plain.decode(queries),
        "decode": lambda: decoder.decode(queries),
    }
    if options.compile:
        ways["decode, compiled reranker"] = decode_compiled(options.run, queries)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    for name, median in medians.items():
        share = median / medians["search alone"]
        print(f"{name}: {median * 1e3:,.0f} ms for {len(queries)} queries, {share:.2f}")
    script = FIRST_ANSWER.format(started=time.time(), bank=str(decoder.bank.path))
    subprocess.run([sys.executable, "-c", script], check=True)


def decode_compiled(run: Path, queries: torch.Tensor) -> Callable[[], object]:
    """Decode with a compiled reranker; prints what the first answers wait for the compiler."""
    decoder = PhraseBankDecoder.from_checkpoint(run / "checkpoints" / "best.ckpt")
    if decoder.reranker is not None:
        decoder.reranker.compile()
    started = time.perf_counter()
    decoder.decode(queries)
    print(f"compiled reranker: first answers {time.perf_counter() - started:.1f} s")
    return lambda: decoder.decode(queries)


def definitions(count: int) -> torch.Tensor:
    """Definitions of WordNet, encoded, (count, d) float32."""
    texts = [synset.definition for synset in read_wordnet()]
    encoder = TextEncoder(cache_dir=user_cache_dir())
    return torch.from_numpy(encoder.encode_queries(texts[:: len(texts) // count][:count]))


if __name__ == "__main__":
    main()
