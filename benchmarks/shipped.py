"""Shipped networks, compiled for this machine as a user would: what several benchmarks need."""

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


def shipped_model(model: str, splits: Splits) -> MultiExitModel:
    """A network of the zoo with the weights for a data set that come with the package."""
    height, width, channels = splits.image_shape
    return zoo.create(
        model,
        num_classes=splits.num_classes,
        in_channels=channels,
        image_size=(height, width),
        pretrained=splits.name,
    )


@contextmanager
def compiled_bundle(splits: Splits, *, model: str = "resnet8") -> Iterator[Bundle]:
    """A bundle with both backends, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        network = shipped_model(model, splits)
        yield compile_model(network, data=splits, output=Path(folder, f"{model}.eexit"))


def engine_logits(bundle: Bundle, engine: str, samples: Samples) -> NDArray[np.int8]:
    """int8 logits [num_samples, num_exits, num_classes] of a bundle's chain in an engine."""
    with Session(bundle, engine=engine) as session:
        inputs = quantize_input(samples.images, bundle.manifest.input)
        return all_logits(session.engine, bundle.manifest.segments, inputs)


def pytorch_logits(bundle: Bundle, splits: Splits, samples: Samples) -> NDArray[np.int8]:
    """The same of the quantized graph in PyTorch, from which the bundle was cut."""
    height, width, channels = splits.image_shape
    exported = canonicalize(export(shipped_model("resnet8", splits), (channels, height, width)))
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
