"""From configuration to objects: the only part of the package that knows Hydra and OmegaConf.

One module a command; each command is a function of a composed configuration.
"""

from lightweight_decoder.wiring.bank_building import build_bank
from lightweight_decoder.wiring.calibrating import calibrate
from lightweight_decoder.wiring.checking import check
from lightweight_decoder.wiring.decoding import decode
from lightweight_decoder.wiring.errors import reported_errors
from lightweight_decoder.wiring.evaluating import evaluate
from lightweight_decoder.wiring.optuna_sweep import sweep as optuna_sweep
from lightweight_decoder.wiring.parts import resolve
from lightweight_decoder.wiring.schemas import register_schemas
from lightweight_decoder.wiring.sweep import as_job
from lightweight_decoder.wiring.training import train

__all__ = [
    "as_job",
    "build_bank",
    "calibrate",
    "check",
    "decode",
    "evaluate",
    "optuna_sweep",
    "reported_errors",
    "resolve",
    "train",
]

register_schemas()
