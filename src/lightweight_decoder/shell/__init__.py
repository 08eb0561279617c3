"""From configuration to objects: the only part of the package that knows Hydra and OmegaConf.

One module a command; each command is a function of a composed configuration.
"""

from lightweight_decoder.shell.bank_building import build_bank
from lightweight_decoder.shell.calibrating import calibrate
from lightweight_decoder.shell.checking import check
from lightweight_decoder.shell.decoding import decode
from lightweight_decoder.shell.errors import reported_errors
from lightweight_decoder.shell.evaluating import evaluate
from lightweight_decoder.shell.optuna_sweep import register_sweeper
from lightweight_decoder.shell.parts import resolve
from lightweight_decoder.shell.schemas import register_schemas
from lightweight_decoder.shell.sweep import as_job
from lightweight_decoder.shell.training import train

__all__ = [
    "as_job",
    "build_bank",
    "calibrate",
    "check",
    "decode",
    "evaluate",
    "reported_errors",
    "resolve",
    "train",
]

register_schemas()
register_sweeper()
