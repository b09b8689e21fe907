"""Runs a bundle's chain in tflite-runtime's reference kernels and keeps all logits.

Called by parity.py with the interpreter of the other environment: BUNDLE FOLDER, where FOLDER holds
``images.npy`` and gets ``logits.npy``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edgeexit.runtime.bundle import open_bundle
from edgeexit.runtime.preprocess import quantize_input
from edgeexit.runtime.session import Session, all_logits


def main() -> None:
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    bundle = open_bundle(path)
    images = np.load(folder / "images.npy", allow_pickle=False)
    session = Session(bundle, engine="tflite-runtime_reference")
    inputs = quantize_input(images, bundle.manifest.input)
    np.save(folder / "logits.npy", all_logits(session.engine, bundle.manifest.segments, inputs))


main()
