"""Lowering to ExecuTorch: one program, all of it in XNNPACK's delegate."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from networks import IMAGE, PREPROCESSING, Exits, pieces, samples
from torch import Tensor, nn

from edgeexit.backends.executorch import lower
from edgeexit.compiler import verify
from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.export import export
from edgeexit.compiler.partition import partition
from edgeexit.compiler.quantize import quantize
from edgeexit.compiler.samples import input_spec
from edgeexit.errors import LoweringError
from edgeexit.types import Artifact

# The others' ops are in these: residual blocks, concatenation, depthwise, hard swish, softmax.
CHOSEN = ("ensemble", "mobile", "assorted")


@cache
def lowered(name: str) -> tuple[Artifact, ...]:
    made = pieces(name)
    return tuple(lower(made.segments, made.static))


@pytest.mark.parametrize("name", CHOSEN)
def test_methods_agree_with_pytorch(name: str) -> None:
    made = pieces(name)
    spec = input_spec(made.static.spec.inputs[0], samples(), PREPROCESSING)
    differences = verify.lowered(lowered(name), made.segments, "executorch", samples(16), spec)
    assert differences["static"] == verify.Difference(0, 0.0)
    assert max(difference.max_lsb for difference in differences.values()) <= 2
    assert max(difference.mean_lsb for difference in differences.values()) <= 0.1


def test_one_program_with_a_method_for_each_segment() -> None:
    (artifact,) = lowered("ensemble")
    assert artifact.path == "model.pte"
    assert artifact.parts == (
        (0, "segment_0"),
        (1, "segment_1"),
        (2, "segment_2"),
        (None, "static"),
    )
    # Imported by now, quietly: ExecuTorch's own imports warn.
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(artifact.content)
    assert sorted(program.method_names) == sorted(method for _, method in artifact.parts)
    third = program.load_method("segment_2").metadata
    assert third.num_inputs() == 3
    int8 = 1
    assert {third.input_tensor_meta(k).dtype() for k in range(3)} == {int8}


def test_the_same_bytes_in_another_process() -> None:
    code = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from networks import pieces
from edgeexit.backends.executorch import lower
made = pieces("ensemble")
(artifact,) = lower(made.segments, made.static)
print(hashlib.sha256(artifact.content).hexdigest())
"""
    folder = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    (artifact,) = lowered("ensemble")
    assert ran.stdout == hashlib.sha256(artifact.content).hexdigest() + "\n"
    assert ran.stderr == ""
    for path in (sys.prefix, str(folder), str(folder.parent)):
        assert path.encode() not in artifact.content


def test_an_op_that_stays_outside_of_the_delegate() -> None:
    class Wide(Exits):
        num_exits = 1

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16 * 3, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (self.linear(x.mean(2).flatten(1)),)

    exported = canonicalize(export(Wide(), IMAGE))  # type: ignore[arg-type]
    segments, static = partition(
        quantize(exported, samples(8), PREPROCESSING, num_range_samples=4, num_compared_samples=4)
    )
    with pytest.raises(LoweringError, match="XNNPACK does not take an op") as error:
        lower(segments, static)
    assert error.value.given == "aten::mean.dim"
    assert error.value.where == "method 'segment_0'"
