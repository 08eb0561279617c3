"""What preprocessing a bank costs or gains: recall on WordNet's unseen definitions, and size.

    python scripts/benchmarks/preprocessing_recall.py --size full

Builds the same bank with each list of steps and decodes the definitions of the test split.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lightweight_decoder import PhraseBankDecoder
from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.files import user_cache_dir
from lightweight_decoder.training.sources.reverse_dictionary import ReverseDictionary
from lightweight_decoder.vectors.preprocessing import PCA, Center, Clip, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightweight_decoder.decoder.splits import Split

DEPTHS = (1, 10, 100)
CHAINS: dict[str, Sequence[Step]] = {
    "none": (),
    "center": (Center(),),
    "clip": (Clip(),),
    "pca 256": (PCA(dim=256),),
    "pca 128": (PCA(dim=128),),
    "pca 64": (PCA(dim=64),),
    "pca 256, whitened": (PCA(dim=256, whiten=True),),
    "pca 128, whitened": (PCA(dim=128, whiten=True),),
}


def main() -> None:
    """Print a line for each list of steps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=("small", "full"), default="full")
    options = parser.parse_args()
    encoder = TextEncoder(cache_dir=user_cache_dir())
    with tempfile.TemporaryDirectory() as folder:
        source = ReverseDictionary(encoder=encoder, bank_root=Path(folder), size=options.size)
        source.prepare()
        plain, test = source.bank, source.split("test")
        print(f"{len(test)} queries, {plain.num_phrases} phrases")
        for name, steps in CHAINS.items():
            bank = build_with(Path(folder) / "processed", plain, steps)
            recalls = recall(bank, test)
            shown = ", ".join(f"@{k} {r:.4f}" for k, r in zip(DEPTHS, recalls, strict=True))
            print(f"{name}: recall {shown}; {bank.manifest.total_bytes / 1e6:.0f} MB")


def build_with(folder: Path, plain: PhraseBank, steps: Sequence[Step]) -> PhraseBank:
    """Build a bank's phrases and vectors again, with preprocessing."""
    texts = plain.texts(range(plain.num_phrases))
    owned = [texts[owner] for owner in plain.owners.tolist()]
    return PhraseBank.build(
        folder, owned, plain.vectors, preprocessing=steps, dtype="float32", overwrite=True
    )


def recall(bank: PhraseBank, test: Split) -> list[float]:
    """Share of queries with a right phrase among the first, for each depth."""
    decoded = PhraseBankDecoder(bank).decode(test.queries, top_k=DEPTHS[-1])
    found, targets = torch.from_numpy(decoded.phrase_ids), torch.from_numpy(test.targets)
    is_right = (found[:, :, None] == targets[:, None, :]).any(dim=2)
    return [is_right[:, :k].any(dim=1).double().mean().item() for k in DEPTHS]


if __name__ == "__main__":
    main()
