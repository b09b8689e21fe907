"""The C backend: a chain of int8 ``.tflite`` segments becomes constants and calls of kernels.

`build` goes all the way; `program` is what its passes hand on.
"""

from __future__ import annotations

from edgeexit.backends.c.build import CProgram, Layer, build
from edgeexit.backends.c.chain import ChainInfo, ChainPoint, ClassMeans, single_exit
from edgeexit.backends.c.emit import Emission
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.legalize import CHAIN_INPUT, Link, links_of

__all__ = [
    "CHAIN_INPUT",
    "CProgram",
    "ChainInfo",
    "ChainPoint",
    "ClassMeans",
    "Core",
    "Emission",
    "Layer",
    "Link",
    "build",
    "links_of",
    "single_exit",
]
