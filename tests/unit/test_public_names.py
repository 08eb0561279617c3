from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

import lightweight_decoder

HEAVY = ("torch", "numpy", "lightning", "hydra", "omegaconf", "transformers", "pyarrow", "wandb")


def modules_after(code):
    """Names of the modules that a program of its own has loaded at its end."""
    program = f"{code}\nimport sys; print('loaded', *sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split()[1:])


def test_importing_the_package_costs_nothing():
    assert not modules_after("import lightweight_decoder").intersection(HEAVY)


def test_decoding_vectors_loads_no_training_no_hydra_and_no_encoder(single_bank):
    code = f"""
from lightweight_decoder import PhraseBank, PhraseBankDecoder
bank = PhraseBank.open({str(single_bank.path)!r})
print(PhraseBankDecoder(bank).decode(bank.vectors[:2]))
"""
    heavy = {"lightning", "hydra", "omegaconf", "transformers", "sentence_transformers", "scipy"}
    assert not modules_after(code).intersection(heavy | {"wandb", "sklearn", "matplotlib"})


def test_every_public_name_is_there():
    for name in lightweight_decoder.__all__:
        assert getattr(lightweight_decoder, name).__doc__
    assert set(lightweight_decoder.__all__) <= set(dir(lightweight_decoder))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lightweight_decoder.nothing  # noqa: B018


@pytest.mark.parametrize(
    "name", [n for n in lightweight_decoder.__all__ if n[0].isupper() and not n.endswith("Error")]
)
def test_every_public_class_has_an_example_that_runs(name):
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (example,) = finder.find(getattr(lightweight_decoder, name), name)
    assert example.examples
    runner.run(example)
    assert runner.failures == 0
