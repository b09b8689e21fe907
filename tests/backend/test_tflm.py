"""Segments of compiled networks under TFLite-Micro, wired as a firmware would wire them.

They give the bytes of LiteRT's reference kernels, which a bundle's thresholds belong to, and those
of our own C on the host.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import c_host
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from networks import int8_images, pieces
from numpy.typing import NDArray

from edgeexit.backends.c import CHAIN_INPUT, ChainInfo, ChainPoint, Link, build, links_of
from edgeexit.backends.tflite import lower
from edgeexit.types import DecisionSpec

tflm = pytest.importorskip(
    "tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is not installed"
)

Int8 = NDArray[np.int8]
NUM_IMAGES = 24
NAMES = ("residual", "mobile")


class Micro:
    """A segment under TFLite-Micro."""

    def __init__(self, content: bytes, num_outputs: int) -> None:
        self.num_outputs = num_outputs
        self.interpreter = tflm.Interpreter.from_bytes(content, arena_size=1 << 20)

    def __call__(self, inputs: list[Int8]) -> list[Int8]:
        for position, value in enumerate(inputs):
            shape = self.interpreter.get_input_details(position)["shape"]
            self.interpreter.set_input(value.reshape(shape), position)
        self.interpreter.invoke()
        return [self.interpreter.get_output(k) for k in range(self.num_outputs)]


class Reference:
    """A segment under LiteRT with its reference kernels."""

    def __init__(self, content: bytes) -> None:
        self.interpreter = Interpreter(
            model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
        )
        self.interpreter.allocate_tensors()
        self.num_outputs = len(self.interpreter.get_output_details())

    def __call__(self, inputs: list[Int8]) -> list[Int8]:
        for detail, value in zip(self.interpreter.get_input_details(), inputs, strict=True):
            self.interpreter.set_tensor(detail["index"], value.reshape(detail["shape"]))
        self.interpreter.invoke()
        details = self.interpreter.get_output_details()
        return [self.interpreter.get_tensor(detail["index"]).copy() for detail in details]


def chain_logits(
    engines: list[Micro] | list[Reference], links: list[list[Link]], image: Int8
) -> list[Int8]:
    """The last output of each segment."""
    made: list[list[Int8]] = []
    for engine, sources in zip(engines, links, strict=True):
        inputs = [
            image if link.segment == CHAIN_INPUT else made[link.segment][link.output]
            for link in sources
        ]
        made.append(engine(inputs))
    return [outputs[-1].ravel() for outputs in made]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is missing")
def test_segments_give_the_bytes_of_litert_and_of_c(name: str, tmp_path: Path) -> None:
    parts = pieces(name)
    *artifacts, _ = lower(parts.segments, parts.static)
    contents = [artifact.content for artifact in artifacts]
    links = links_of([segment.spec for segment in parts.segments])
    references = [Reference(content) for content in contents]
    micros = [
        Micro(content, reference.num_outputs)
        for content, reference in zip(contents, references, strict=True)
    ]
    images = int8_images(NUM_IMAGES).permute(0, 2, 3, 1).contiguous().numpy()
    under_micro = np.array([chain_logits(micros, links, image) for image in images])
    under_litert = np.array([chain_logits(references, links, image) for image in images])
    points = (ChainPoint("all", (256,) * (len(links) - 1) + (0,)),)
    chain = ChainInfo(name, DecisionSpec("margin", ()), points)
    made = build(contents, links, chain, c_host.GENERIC)
    outputs = tuple(segment.logits for segment in made.program.segments)
    model = c_host.Model(made.program, made.implementations, made.plan, made.emission, outputs)
    host = c_host.Host({name: model}, tmp_path)
    in_c = np.stack(host.outputs(name, images), axis=1)
    np.testing.assert_array_equal(in_c, under_micro)
    # Exact because linear layers are written as convolutions: LiteRT rounds FULLY_CONNECTED once.
    np.testing.assert_array_equal(under_litert, under_micro)
