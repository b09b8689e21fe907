"""The shipped ResNet-8, compiled for this machine as a user would: what several benchmarks need."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.export import export
from edgeexit.compiler.pipeline import compile_model
from edgeexit.compiler.quantize import quantize
from edgeexit.compiler.samples import real_batches
from edgeexit.data.types import Samples, Splits
from edgeexit.nn import zoo
from edgeexit.nn.model import MultiExitModel
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.preprocess import quantize_input
from edgeexit.runtime.session import Session, all_logits


def shipped_model() -> MultiExitModel:
    """ResNet-8 with the weights for CIFAR-10 that come with the package."""
    return zoo.create("resnet8", pretrained="cifar10")


@contextmanager
def compiled_bundle(splits: Splits) -> Iterator[Bundle]:
    """A bundle with both backends, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        yield compile_model(shipped_model(), data=splits, output=Path(folder, "resnet8.eexit"))


def engine_logits(bundle: Bundle, engine: str, samples: Samples) -> NDArray[np.int8]:
    """int8 logits [num_samples, num_exits, num_classes] of a bundle's chain in an engine."""
    with Session(bundle, engine=engine) as session:
        inputs = quantize_input(samples.images, bundle.manifest.input)
        return all_logits(session.engine, bundle.manifest.segments, inputs)


def pytorch_logits(bundle: Bundle, splits: Splits, samples: Samples) -> NDArray[np.int8]:
    """The same of the quantized graph in PyTorch, from which the bundle was cut."""
    height, width, channels = splits.image_shape
    exported = canonicalize(export(shipped_model(), (channels, height, width)))
    graph = quantize(exported, splits.calibration, splits.preprocessing)
    specs = [segment.logits for segment in bundle.manifest.segments]
    batches = []
    with torch.no_grad():
        for batch in real_batches(samples, splits.preprocessing):
            steps = [
                torch.round(logits / spec.scale) + spec.zero_point
                for logits, spec in zip(graph.module(batch), specs, strict=True)
            ]
            batches.append(torch.stack(steps, dim=1).to(torch.int8).numpy())
    return np.concatenate(batches)
