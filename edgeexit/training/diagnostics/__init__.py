"""Why one way of training wins: what the exits do to each other, layer by layer.

A file for each diagnostic, all with the same shape: a function from a network and a fixed sample to
a frozen dataclass of arrays. `diagnose` runs them all and writes plots, tables and a summary.
"""

from edgeexit.training.diagnostics.report import Progress, diagnose
from edgeexit.training.diagnostics.results import Diagnosis, Diagnostics
from edgeexit.training.diagnostics.run import diagnose_run, with_weights
from edgeexit.training.diagnostics.settings import Settings

__all__ = [
    "Diagnosis",
    "Diagnostics",
    "Progress",
    "Settings",
    "diagnose",
    "diagnose_run",
    "with_weights",
]
