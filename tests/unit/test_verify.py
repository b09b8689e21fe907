"""The comparer and the checks after each pass notice what is wrong."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import PREPROCESSING, pieces, samples

from edgeexit.backends.integer_ops import is_quantize
from edgeexit.compiler import verify
from edgeexit.compiler.samples import real_batches
from edgeexit.errors import VerificationError
from edgeexit.types import OperatingPoint

VALUES = np.random.default_rng(0).integers(-100, 100, (4, 8, 8, 16)).astype(np.int8)


def test_equal_tensors() -> None:
    assert verify.compare(VALUES, VALUES, "here") == verify.Difference(0, 0.0)


def test_rounding_is_tolerated_and_counted() -> None:
    rounded = VALUES.copy()
    rounded[0, 0, 0, :4] += 3
    assert verify.compare(rounded, VALUES, "here") == verify.Difference(3, 12 / VALUES.size)


def test_segments_that_pool_averages_may_differ_by_more() -> None:
    pools = [verify._allowed_mean(segment) for segment in pieces("assorted").segments]
    assert verify.AVERAGE_POOL_MEAN_LSB in pools
    others = [verify._allowed_mean(segment) for segment in pieces("residual").segments]
    assert set(others) == {verify.KERNEL_ROUNDING_MEAN_LSB}


def test_one_wild_value_is_not() -> None:
    wild = VALUES.copy()
    wild[0, 0, 0, 0] += verify.KERNEL_ROUNDING_MAX_LSB + 1
    with pytest.raises(VerificationError, match="disagrees with the quantized graph") as error:
        verify.compare(wild, VALUES, "litert, segment 0")
    assert "largest 17 LSB" in str(error.value)
    assert error.value.where == "litert, segment 0"


@pytest.mark.parametrize("change", [lambda v: v + 1, lambda v: v[..., ::-1], lambda v: v[:, ::-1]])
def test_a_wrong_offset_or_layout_is_not(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(VerificationError, match="disagrees"):
        verify.compare(change(VALUES).astype(np.int8), VALUES, "here")


def test_another_shape_is_not() -> None:
    with pytest.raises(VerificationError, match="another shape"):
        verify.compare(VALUES[:2], VALUES, "here")


def test_an_exported_graph_that_is_off() -> None:
    made = pieces("residual")
    batch = next(real_batches(samples(4), PREPROCESSING))
    verify.exported(made.exported, made.model, batch)  # type: ignore[arg-type]
    other = copy.deepcopy(made.model)
    with torch.no_grad():
        other.heads[1][2].bias[0] += 1.0  # type: ignore[index]
    with pytest.raises(VerificationError, match="disagrees with the network") as error:
        verify.exported(made.exported, other, batch)  # type: ignore[arg-type]
    assert error.value.where == "exit 'early1'"


def test_a_value_that_stayed_float() -> None:
    made = pieces("residual").quantized
    module = copy.deepcopy(made.module)
    quantize_node = next(
        n for n in module.graph.nodes if is_quantize(n) and n.args[0].op != "placeholder"
    )
    for reader in list(quantize_node.users):
        reader.replace_all_uses_with(quantize_node.args[0])
    module.graph.eliminate_dead_code()
    with pytest.raises(VerificationError, match="float"):
        verify.quantized(replace(made, module=module))


def test_parameters_that_are_not_shared() -> None:
    made = pieces("dense").quantized
    module = copy.deepcopy(made.module)
    concatenation = next(n for n in module.graph.nodes if str(n.target) == "aten.cat.default")
    (quantize_node,) = concatenation.users
    source, scale, *others = quantize_node.args
    quantize_node.args = (source, 2 * scale, *others)
    with pytest.raises(VerificationError, match="other parameters than those it shares"):
        verify.quantized(replace(made, module=module))


def test_a_point_that_breaks_its_promise() -> None:
    def point(name: str, accuracy: float) -> OperatingPoint:
        return OperatingPoint(name, (0, 1), accuracy, (0.5, 0.5), 1.0, 0.5, "toy", 100, "litert")

    kept = [point("static", 0.9), point("balanced", 0.89)]
    verify.selected(kept, {"balanced": 0.01})
    with pytest.raises(VerificationError, match="loses more accuracy"):
        verify.selected([kept[0], point("balanced", 0.88)], {"balanced": 0.01})
