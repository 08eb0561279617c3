"""The main job's module and data, for benchmarks of training: what ``train.py`` does on the CPU."""

from __future__ import annotations

from lightweight_decoder import PhraseBankDecoder, TextEncoder
from lightweight_decoder.rerank import ListwiseReranker, QueryAdapter
from lightweight_decoder.training.module import DecoderModule
from lightweight_decoder.training.sources.datamodule import DecoderDataModule
from lightweight_decoder.training.sources.reverse_dictionary import ReverseDictionary


def main_job_data() -> DecoderDataModule:
    """Return the small reverse dictionary, its bank built and its splits read."""
    data = DecoderDataModule(ReverseDictionary(encoder=TextEncoder(cache_dir="auto")))
    data.prepare_data()
    return data


def main_job_module(data: DecoderDataModule) -> DecoderModule:
    """Return an untrained decoder for the data."""
    bank = data.bank
    dims = {"query_dim": data.split("train").queries.shape[1], "bank_dim": bank.dim}
    return DecoderModule(
        decoder=PhraseBankDecoder(
            bank,
            adapter=QueryAdapter(**dims),
            reranker=ListwiseReranker(**dims, num_phrases=bank.num_phrases),
        )
    )
