"""Times the text encoder in float32, in bfloat16 and compiled, and says what bfloat16 costs.

    python scripts/benchmarks/encoding.py [engines] [profile] [speed] [compile] [quality]

Without a word, everything. `engines`: texts/s of the whole `TextEncoder`, storing in a cache
included, with every engine and precision in turn, how near their vectors are to torch's in float32,
and recall of plain search in the small reverse dictionary with each; exports the model where it was
not yet. `--base FOLDER`: in turn with the encoder of another checkout, such as an older version's,
to which the gains are then. `--texts`, `--phrases`, `--queries`: fewer of them. `profile`: where
the time goes. `speed`: texts/s of every way of encoding with torch, medians of interleaved repeats.
`compile`: the same for `torch.compile`, with what compiling takes. `quality`: how near bfloat16
vectors are to float32 ones, and how often plain search finds the phrase of a definition with each;
encodes 148,730 phrases (`--phrases` for fewer). Texts are WordNet's phrases and definitions. Only
float32 vectors, for `quality`, come from the cache of this user.
`ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI` shows a processor without bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from lightweight_decoder.encoder import TextEncoder, model_runtime
from lightweight_decoder.files import user_cache_dir
from lightweight_decoder.training.sources.reverse_dictionary import read_wordnet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lightweight_decoder.datatypes import FloatArray, IntArray

KINDS = {
    "linear": ("aten::addmm", "aten::mm", "aten::linear", "mkldnn::_linear_pointwise"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "GELU": ("aten::gelu",),
    "layer norm": ("aten::native_layer_norm",),
    "copies and casts": ("aten::copy_",),
}
DEPTHS = (1, 10, 100)


def main() -> None:
    """Run the parts that were asked for."""
    parts = {
        "engines": engines,
        "profile": profile,
        "speed": speed,
        "compile": compiled,
        "quality": quality,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--phrases", type=int, default=None, help="as many in a bank")
    parser.add_argument("--texts", type=int, default=4_000, help="as many phrases timed in engines")
    parser.add_argument("--base", type=Path, default=None, help="checkout to compare engines with")
    parser.add_argument("--queries", type=int, default=3_000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for part in options.parts or parts:
        print(f"\n{part}, {options.threads} threads")
        parts[part](options)


ENGINES = (
    ("torch", "float32"),
    ("openvino", "float32"),
    ("onnx", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "bfloat16"),
    ("onnx", "int8"),
)
SMALL = 20_000


def engines(options: argparse.Namespace) -> None:
    """Every engine in every precision that it has."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        encoders = {
            f"{backend}, {precision}": TextEncoder(
                cache_dir=cache, show_progress=False, backend=backend, precision=precision
            )
            for backend, precision in ENGINES
        }
        ways = {} if options.base is None else {"base": encoder_of_checkout(options, cache)}
        ways |= {name: storing(encoder, cache) for name, encoder in encoders.items()}
        take_turns(ways, samples(options.texts, options.texts // 2), options.repeats)
        tell_recalls(encoders, options)


def storing(encoder: TextEncoder, cache: Path) -> Callable[[list[str]], object]:
    """Encode into an empty cache."""

    def encode(texts: list[str]) -> None:
        encoder.encode(texts)
        shutil.rmtree(cache / "embeddings")

    return encode


CHECKOUT = """
import json, shutil, sys
from pathlib import Path
import torch
try:
    from lightweight_decoder.encoder import TextEncoder
except ImportError:  # version 0.1
    from lightweight_decoder.embeddings.text_encoder import TextEncoder
cache = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
encoder = TextEncoder(cache_dir=cache, show_progress=False)
for line in sys.stdin:
    encoder.encode(json.loads(line))
    shutil.rmtree(cache / "embeddings")
    print("done", flush=True)
"""


def encoder_of_checkout(options: argparse.Namespace, cache: Path) -> Callable[[list[str]], object]:
    """Encode in a process with another checkout of the package."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHECKOUT, str(cache / "base"), str(options.threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(options.base / "src")},
    )

    def encode(texts: list[str]) -> None:
        child.stdin.write(json.dumps(texts) + "\n")
        child.stdin.flush()
        if child.stdout.readline() != "done\n":
            raise RuntimeError(f"the encoder of {options.base} failed")

    return encode


def tell_recalls(encoders: Mapping[str, TextEncoder], options: argparse.Namespace) -> None:
    """How near vectors are, and recall in the small reverse dictionary."""
    synsets = read_wordnet()
    uses = Counter()
    for synset in synsets:
        uses.update(dict(zip(synset.phrases, synset.tag_counts, strict=True)))
    phrases = sorted(uses, key=lambda phrase: (-uses[phrase], phrase))
    phrases = phrases[: options.phrases or SMALL]
    row_of = {phrase: row for row, phrase in enumerate(phrases)}
    asked = [synset for synset in synsets if not row_of.keys().isdisjoint(synset.phrases)]
    asked = evenly(asked, options.queries)
    targets = [{row_of[p] for p in synset.phrases if p in row_of} for synset in asked]
    exact: list[FloatArray] = []
    for name, encoder in encoders.items():
        bank = encoder.encode_phrases(phrases)
        queries = encoder.encode_queries([synset.definition for synset in asked])
        exact = exact or [bank, queries]
        tell_distance(f"{name}, phrases", bank, exact[0])
        tell_distance(f"{name}, definitions", queries, exact[1])
        recalls = [share_found(search(queries, bank, DEPTHS[-1])[:, :k], targets) for k in DEPTHS]
        shown = ", ".join(f"@{k} {r:.4f}" for k, r in zip(DEPTHS, recalls, strict=True))
        print(f"{name}: recall {shown} of {len(asked)} queries, {len(phrases)} phrases")


def profile(_: argparse.Namespace) -> None:
    """Where the time goes, in shares of the wall time."""
    for precision in ("float32", "bfloat16"):
        encoder = encoder_of(precision=precision)
        for name, texts in samples(4_000, 2_000).items():
            encoder.encode(texts[:300])
            with torch.profiler.profile() as profiler:
                started = time.perf_counter()
                encoder.encode(texts)
                wall = time.perf_counter() - started
            own = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
            shares = {
                kind: sum(own.get(key, 0.0) for key in keys) / wall for kind, keys in KINDS.items()
            }
            shares["other operations"] = sum(own.values()) / wall - sum(shares.values())
            shares["tokenizer, Python"] = 1 - sum(own.values()) / wall
            shown = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
            print(f"{precision}, {name}: {wall:.2f} s: {shown}")


def speed(options: argparse.Namespace) -> None:
    """Ways of computing, sizes of batches, order."""
    float32, bfloat16 = encoder_of(), encoder_of(precision="bfloat16")
    ways: dict[str, Callable[[list[str]], object]] = {
        "float32": float32.encode,
        "bfloat16": bfloat16.encode,
        "bfloat16 weights": encoder_of(dtype=torch.bfloat16).encode,
        "float32, eager attention": encoder_of(attn_implementation="eager").encode,
        "float32, unsorted": unsorted(float32),
        "bfloat16, unsorted": unsorted(bfloat16),
    }
    for texts, tokens in ((64, 512), (256, 512), (256, 1_024), (512, 2_048)):
        for encoder in (float32, bfloat16):
            name = f"{encoder.precision}, {texts} texts, {tokens} tokens"
            ways[name] = with_batches(encoder, texts, tokens)
    take_turns(ways, samples(1_000, 500), options.repeats)


def compiled(options: argparse.Namespace) -> None:
    """`torch.compile`, whose first texts wait for a C++ compiler."""
    encoders = {
        "float32": encoder_of(),
        "float32, compiled": encoder_of(compiles=True),
        "float32, compiled, dynamic": encoder_of(compiles=True, dynamic=True),
        "bfloat16": encoder_of(precision="bfloat16"),
        "bfloat16, compiled, dynamic": encoder_of("bfloat16", compiles=True, dynamic=True),
    }
    some = samples(1_000, 500)
    for name, encoder in encoders.items():
        started = time.perf_counter()
        for texts in some.values():
            encoder.encode(texts)
        print(f"{name}: first texts {time.perf_counter() - started:.1f} s")
    take_turns({name: encoder.encode for name, encoder in encoders.items()}, some, options.repeats)


def quality(options: argparse.Namespace) -> None:
    """Nearness, and recall of plain search with each kind of bank and query."""
    synsets = read_wordnet()
    phrases = sorted({phrase for synset in synsets for phrase in synset.phrases})
    phrases = evenly(phrases, options.phrases or len(phrases))
    row_of = {phrase: row for row, phrase in enumerate(phrases)}
    asked = [s for s in synsets if not row_of.keys().isdisjoint(s.phrases)]
    asked = evenly(asked, options.queries)
    targets = [{row_of[p] for p in s.phrases if p in row_of} for s in asked]
    texts = [synset.definition for synset in asked]
    encoders = {
        "float32": TextEncoder(cache_dir=user_cache_dir(), backend="torch"),
        "bfloat16": TextEncoder(cache_dir=None, precision="bfloat16", backend="torch"),
    }
    banks = {name: encoder.encode_phrases(phrases) for name, encoder in encoders.items()}
    queries = {name: encoder.encode_queries(texts) for name, encoder in encoders.items()}
    beside = encoders["bfloat16"].encode(texts[:300])
    alone = np.concatenate([encoders["bfloat16"].encode([text]) for text in texts[:300]])
    tell_distance("phrases, bfloat16 to float32", banks["bfloat16"], banks["float32"])
    tell_distance("definitions, bfloat16 to float32", queries["bfloat16"], queries["float32"])
    tell_distance("bfloat16, alone to beside others", alone, beside)
    for bank, query in (
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("float32", "bfloat16"),
        ("bfloat16", "float32"),
    ):
        found = search(queries[query], banks[bank], DEPTHS[-1])
        recalls = [share_found(found[:, :k], targets) for k in DEPTHS]
        shown = ", ".join(f"@{k} {r:.4f}" for k, r in zip(DEPTHS, recalls, strict=True))
        print(f"bank {bank}, queries {query}: recall {shown}")
    print(f"{len(texts)} queries, {len(phrases)} phrases")


def encoder_of(
    precision: Any = "float32",  # noqa: ANN401, one of three words
    *,
    compiles: bool = False,
    dynamic: bool | None = None,
    **model_options: object,
) -> TextEncoder:
    """Return an encoder without a cache, its model loaded with other options, or compiled."""
    encoder = TextEncoder(cache_dir=None, show_progress=False, precision=precision, backend="torch")
    model = SentenceTransformer(
        str(encoder.folder), device="cpu", local_files_only=True, model_kwargs=model_options
    ).eval()
    if compiles:
        inner = model[0].auto_model
        inner.forward = torch.compile(inner.forward, dynamic=dynamic)
    encoder.__dict__["_model"] = model  # where the cached property would put it
    return encoder


def unsorted(encoder: TextEncoder) -> Callable[[list[str]], object]:
    """Encode batches of 32 texts as they come, as a plain loop would."""

    def encode(texts: list[str]) -> None:
        shuffled = np.random.default_rng(0).permutation(texts).tolist()
        with model_runtime.computing_in(encoder.precision, device="cpu"):
            for start in range(0, len(texts), 32):
                encoder._model.encode(shuffled[start : start + 32], show_progress_bar=False)  # noqa: SLF001, ours

    return encode


def with_batches(encoder: TextEncoder, texts: int, tokens: int) -> Callable[[list[str]], object]:
    """Encode with other batches than those built in."""

    def encode(some: list[str]) -> None:
        batch = model_runtime.Batch(texts, tokens)
        with mock.patch.dict(model_runtime._CPU_BATCHES, {encoder.precision: batch}):  # noqa: SLF001
            encoder.encode(some)

    return encode


def take_turns(
    ways: Mapping[str, Callable[[list[str]], object]], some: Mapping[str, list[str]], repeats: int
) -> None:
    """Medians of interleaved repeats, after one that does not count."""
    rates: dict[str, dict[str, list[float]]] = {way: {name: [] for name in some} for way in ways}
    for _ in range(repeats + 1):
        for way, encode in ways.items():
            for name, texts in some.items():
                started = time.perf_counter()
                encode(texts)
                rates[way][name].append(len(texts) / (time.perf_counter() - started))
    first = next(iter(rates.values()))
    for way, of_way in rates.items():
        medians = {name: statistics.median(of_way[name][1:]) for name in some}
        gains = {name: medians[name] / statistics.median(first[name][1:]) for name in some}
        shown = ", ".join(f"{name} {medians[name]:,.0f}/s ({gains[name]:.2f})" for name in some)
        print(f"{way}: {shown}")


def samples(num_phrases: int, num_definitions: int) -> dict[str, list[str]]:
    """Short and longer texts, drawn evenly from WordNet."""
    synsets = read_wordnet()
    phrases = sorted({phrase for synset in synsets for phrase in synset.phrases})
    definitions = [synset.definition for synset in synsets]
    return {
        "phrases": evenly(phrases, num_phrases),
        "definitions": evenly(definitions, num_definitions),
    }


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """As many items, from all over a list."""
    return list(items[:: max(len(items) // count, 1)][:count])


def tell_distance(name: str, vectors: FloatArray, others: FloatArray) -> None:
    """Print how far unit vectors are from others, row by row."""
    apart = 1 - (vectors.astype(np.float64) * others.astype(np.float64)).sum(axis=1)
    print(f"{name}: 1 - cosine mean {apart.mean():.1e}, max {apart.max():.1e}")


def search(queries: FloatArray, bank: FloatArray, depth: int) -> IntArray:
    """Rows of the nearest, (q, k)."""
    columns = torch.from_numpy(bank).T
    blocks = np.array_split(queries, -(-len(queries) // 256))
    nearest = [(torch.from_numpy(block) @ columns).topk(depth).indices for block in blocks]
    return torch.cat(nearest).numpy()


def share_found(found: IntArray, targets: list[set[int]]) -> float:
    """Return the share of queries that have one of their phrases among what was found."""
    hits = [not right.isdisjoint(rows.tolist()) for rows, right in zip(found, targets, strict=True)]
    return float(np.mean(hits))


if __name__ == "__main__":
    main()
