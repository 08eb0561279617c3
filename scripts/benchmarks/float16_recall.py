"""What storing a bank in float16 costs: recall on WordNet's unseen definitions.

    python scripts/benchmarks/float16_recall.py --size full

Searches the same bank in float32 and in float16 for the definitions of the test split.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from lightweight_decoder.bank import PhraseBank
from lightweight_decoder.encoder import TextEncoder
from lightweight_decoder.files import user_cache_dir
from lightweight_decoder.search import ExactSearch
from lightweight_decoder.training.sources.reverse_dictionary import ReverseDictionary

DEPTHS = (1, 10, 100)


def main() -> None:
    """Print a line for each way of storing the vectors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=("small", "full"), default="full")
    options = parser.parse_args()
    encoder = TextEncoder(cache_dir=user_cache_dir())
    with tempfile.TemporaryDirectory() as folder:
        source = ReverseDictionary(encoder=encoder, bank_root=Path(folder), size=options.size)
        source.prepare()
        bank, test = source.bank, source.split("test")
        half = build_half(Path(folder) / "half", bank)
        queries, targets = torch.from_numpy(test.queries), torch.from_numpy(test.targets)
        found = {
            str(each.vectors.dtype): ExactSearch(each).search(queries, DEPTHS[-1]).phrase_ids
            for each in (bank, half)
        }
    for dtype, phrases in found.items():
        is_right = (phrases[:, :, None] == targets[:, None, :]).any(dim=2)
        recalls = [is_right[:, :k].any(dim=1).double().mean().item() for k in DEPTHS]
        shown = ", ".join(f"@{k} {r:.4f}" for k, r in zip(DEPTHS, recalls, strict=True))
        print(f"{dtype}: recall {shown} ({len(queries)} queries, {bank.num_phrases} phrases)")
    same_first, same_ten = (
        torch.stack([phrases[:, :k] for phrases in found.values()]).sort(dim=2).values
        for k in (1, 10)
    )
    print(f"same first phrase: {(same_first[0] == same_first[1]).all(dim=1).double().mean():.4f}")
    print(f"same ten phrases: {(same_ten[0] == same_ten[1]).all(dim=1).double().mean():.4f}")


def build_half(folder: Path, bank: PhraseBank) -> PhraseBank:
    """Build the same bank in float16."""
    texts = bank.texts(range(bank.num_phrases))
    owned = [texts[owner] for owner in bank.owners.tolist()]
    return PhraseBank.build(folder, owned, bank.vectors, dtype="float16")


if __name__ == "__main__":
    main()
