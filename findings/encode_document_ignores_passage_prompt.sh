#!/usr/bin/env bash
# The guess: encode_document of sentence-transformers puts a model's prompt named "passage" (or
# "corpus") before a text where the model has none named "document". Its documentation says so: "it
# uses the first available prompt from the following candidates: "document", "passage", "corpus"".
#
# What happens: it puts none. Each model is given a "document" prompt by default, which is empty, and
# the search for candidates stops there. encode_query is right, so queries and documents of such a
# model do not go together.
#
# Versions: sentence-transformers 6.2.0, transformers 5.23.0 and torch 2.13.0.
# Source: sentence_transformers/sentence_transformer/model.py, _default_prompts and encode_document;
# sentence_transformers/base/model.py, __init__.
#
# Runs without lightweight-decoder; fails when the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" \
  sentence-transformers==6.2.0 transformers==5.23.0 torch==2.13.0

cd "$folder"
PYTHONPATH=$folder python3 - <<'PYTHON'
import sentence_transformers
import numpy as np
import tokenizers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

print("sentence-transformers", sentence_transformers.__version__)
words = ["[UNK]", "passage", ":", "query", "a", "road"]
tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]")
)
tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
weights = np.random.default_rng(0).standard_normal((len(words), 8)).astype("float32")


def vectors(prompts):
    model = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=weights)],
        prompts=prompts,
        device="cpu",
    )
    return {
        "encode_query": model.encode_query("a road"),
        "encode_document": model.encode_document("a road"),
        "'passage: a road'": model.encode("passage: a road", prompt=""),
        "'query: a road'": model.encode("query: a road", prompt=""),
        "'a road'": model.encode("a road", prompt=""),
    }


def alike(prompts, one, other):
    found = vectors(prompts)
    same = bool(np.allclose(found[one], found[other]))
    print(f"{prompts}: {one} is that of {other}: {same}")
    return same


passage = {"query": "query: ", "passage": "passage: "}
document = {"query": "query: ", "document": "passage: "}
assert alike(document, "encode_document", "'passage: a road'")
assert alike(passage, "encode_query", "'query: a road'")
ignored = alike(passage, "encode_document", "'a road'")
used = alike(passage, "encode_document", "'passage: a road'")
assert ignored and not used, "encode_document uses the prompt named passage: it was mended"
PYTHON
