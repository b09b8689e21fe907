"""Lowering to ExecuTorch's Cortex-M ops, run in their Python form on what the file says."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import IMAGE, PREPROCESSING, Exits, pieces, samples
from numpy.typing import NDArray
from torch import Tensor, nn

pytest.importorskip("tosa", reason="needs tosa-tools: pip install 'edgeexit[cortex-m]'")

from edgeexit.backends import tflite
from edgeexit.backends.base import DELEGATES, load_backend
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.executorch_cortex_m import for_core
from edgeexit.compiler.artifacts import load
from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.delegates import with_delegate
from edgeexit.compiler.export import export
from edgeexit.compiler.partition import partition
from edgeexit.compiler.quantize import quantize
from edgeexit.compiler.samples import input_spec
from edgeexit.errors import ArgumentError, EngineError, LoweringError, TargetError
from edgeexit.runtime.engines import ENGINES
from edgeexit.runtime.preprocess import quantize_input
from edgeexit.runtime.session import all_logits
from edgeexit.targets import load_target
from edgeexit.types import Artifact

M4 = Core("cortex-m4", dsp=True, mve=False, cost="m4")
M55 = Core("cortex-m55", dsp=True, mve=True, cost="m55")
ENGINE = "executorch-cortex-m"
# The others' ops are in these.
CHOSEN = ("residual", "ensemble", "mobile", "assorted")

MEAN_ROUNDING_LSB = 1
"""Over a number of elements that is no power of two. TFLite divides a mean's multiplier by that
number and does not bring it back to 31 bits, so of the two roundings of a requantization the first
falls on another bit than CMSIS-NN's: a few in a thousand means are one step apart."""


@cache
def lowered(name: str, core: Core) -> tuple[Artifact, ...]:
    made = pieces(name)
    return tuple(for_core(core).lower(made.segments, made.static))


@cache
def reference_logits(name: str) -> NDArray[np.int8]:
    """Of LiteRT's reference kernels, which are TFLite Micro's: another engine, another lowering."""
    made = pieces(name)
    return logits(name, tuple(tflite.lower(made.segments, made.static)), "litert_reference")


def logits(name: str, artifacts: tuple[Artifact, ...], engine: str) -> NDArray[np.int8]:
    made = pieces(name)
    spec = input_spec(made.static.spec.inputs[0], samples(), PREPROCESSING)
    specs = [segment.spec for segment in made.segments]
    inputs = quantize_input(samples(16).images, spec)
    return all_logits(load(engine, artifacts, specs), specs, inputs)


def plans(name: str, core: Core) -> dict[str, Any]:
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(lowered(name, core)[0].content).program
    return {plan.name: plan for plan in program.execution_plan}


@pytest.mark.parametrize("name", CHOSEN)
def test_logits_are_those_of_tflite_to_the_bit(name: str) -> None:
    # No tolerance: the dialect requantizes in CMSIS-NN's integers, and so does TFLite.
    np.testing.assert_array_equal(logits(name, lowered(name, M4), ENGINE), reference_logits(name))


def test_the_form_for_helium_computes_the_same() -> None:
    made = logits("ensemble", lowered("ensemble", M55), ENGINE)
    np.testing.assert_array_equal(made, reference_logits("ensemble"))
    assert lowered("ensemble", M55)[0].content != lowered("ensemble", M4)[0].content


def test_the_comparison_notices_another_network() -> None:
    (artifact,) = lowered("ensemble", M4)
    damaged = bytearray(artifact.content)
    damaged[-64:] = bytes(64)  # constants come last: part of the last head
    other = Artifact(
        artifact.backend, artifact.path, bytes(damaged), artifact.parts, artifact.layout
    )
    assert not np.array_equal(logits("ensemble", (other,), ENGINE), reference_logits("ensemble"))


def test_a_residual_chain_is_convolutions_and_additions_in_place_of_copies() -> None:
    for method, plan in plans("residual", M4).items():
        ops = {op.name for op in plan.operators}
        assert ops <= {
            "cortex_m::quantized_conv2d_nhwc",
            "cortex_m::quantized_depthwise_conv2d_nhwc",
            "cortex_m::quantized_add",
            "cortex_m::quantized_batch_matmul",
            "cortex_m::quantized_linear",
            "cortex_m::transpose",
        }, method
        # The only moves left bring channels to the front for a mean.
        calls = [i.instr_args for chain in plan.chains for i in chain.instructions]
        names = [plan.operators[call.op_index].name for call in calls]
        assert names.count("cortex_m::transpose") == names.count("cortex_m::quantized_batch_matmul")


def test_weights_are_in_the_file_once() -> None:
    made = pieces("residual")
    weights = sum(
        value.numel()
        for name, value in made.static.module.named_buffers()
        if value.dtype == torch.int8
    )
    assert weights < len(lowered("residual", M4)[0].content) < 40_000 + 2 * weights


def test_the_same_bytes_in_another_process() -> None:
    code = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from networks import pieces
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.executorch_cortex_m import for_core
made = pieces("ensemble")
(artifact,) = for_core(Core("cortex-m4", True, False, "m4")).lower(made.segments, made.static)
print(hashlib.sha256(artifact.content).hexdigest())
"""
    folder = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    (artifact,) = lowered("ensemble", M4)
    assert ran.stdout == hashlib.sha256(artifact.content).hexdigest() + "\n"
    assert ran.stderr == ""
    for path in (sys.prefix, str(folder), str(folder.parent)):
        assert path.encode() not in artifact.content


class Capped(Exits):
    """Activations whose range is not that of their results, and a mean over a whole map."""

    num_exits = 1

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=padding) for _ in range(3)])
        self.linear = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a, b, c = (conv(x) * 20 for conv in self.convs)
        # One grid for all that is joined, so it reaches below zero and beyond six.
        joined = torch.cat([torch.relu(a), torch.nn.functional.relu6(b), c], 1)
        return (self.linear(joined.mean((2, 3))),)


@pytest.mark.parametrize(("padding", "tolerance"), [(1, 0), (0, MEAN_ROUNDING_LSB)])
def test_activations_that_clamp_and_means_of_any_number(padding: int, tolerance: int) -> None:
    torch.manual_seed(0)
    exported = canonicalize(export(Capped(padding), IMAGE))  # type: ignore[arg-type]
    segments, static = partition(
        quantize(exported, samples(8), PREPROCESSING, num_range_samples=4, num_compared_samples=4)
    )
    specs = [segment.spec for segment in segments]
    inputs = quantize_input(
        samples(8).images, input_spec(static.spec.inputs[0], samples(), PREPROCESSING)
    )
    made, wanted = (
        all_logits(load(engine, artifacts, specs), specs, inputs).astype(int)
        for engine, artifacts in (
            (ENGINE, for_core(M4).lower(segments, static)),
            ("litert_reference", tflite.lower(segments, static)),
        )
    )
    assert np.abs(made - wanted).max() <= tolerance


def test_what_executorch_cannot_import(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pieces("ensemble")
    for module in [name for name in sys.modules if name.startswith("executorch.backends.cortex_m")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "executorch.backends.cortex_m.passes", None)
    with pytest.raises(LoweringError, match="Cortex-M passes is missing") as error:
        for_core(M4).lower(made.segments, made.static)
    assert error.value.hint == "pip install 'edgeexit[cortex-m]'"


def test_a_file_that_is_cut_off() -> None:
    (artifact,) = lowered("ensemble", M4)
    short = Artifact(
        artifact.backend, artifact.path, artifact.content[:200], artifact.parts, artifact.layout
    )
    with pytest.raises(EngineError, match="could not load"):
        logits("ensemble", (short,), ENGINE)


def test_a_delegate_brings_its_backend_and_engine() -> None:
    target = with_delegate(load_target("nucleo-l4r5zi"), "cortex-m")
    assert target.backends == ("tflite", "executorch")
    assert target.engines == {"tflite": "litert_reference", "executorch": ENGINE}
    assert with_delegate(target, None) is target
    assert load_backend("tflite", "cortex-m", M4) is load_backend("tflite")
    assert load_backend("executorch", "xnnpack") is load_backend("executorch")
    assert load_backend("executorch", "cortex-m", M4) == for_core(M4)
    assert {ENGINES[row.engine].backend for row in DELEGATES.values()} == {"executorch"}


def test_a_delegate_that_the_target_cannot_use() -> None:
    with pytest.raises(TargetError, match="is for Cortex-M"):
        with_delegate(load_target("host"), "cortex-m")
    with pytest.raises(TargetError, match="is for Cortex-M"):
        with_delegate(load_target("riscv32"), "cortex-m")
    with pytest.raises(TargetError, match="does not take the backend 'executorch'"):
        with_delegate(load_target("cortex-m4"), "xnnpack")
    with pytest.raises(ArgumentError, match="unknown delegate"):
        with_delegate(load_target("cortex-m4"), "ethos-u")
    with pytest.raises(ArgumentError, match="is for one core"):
        load_backend("executorch", "cortex-m")
