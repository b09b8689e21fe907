"""Products of two computed tensors, and the transpositions that they make superfluous."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tflite_ops import Builder, batch_matmul

from edgeexit.backends.c.kernels.portable_work import amounts
from edgeexit.backends.c.legalize import program_from_file
from edgeexit.backends.c.program import BatchMatMul, Program
from edgeexit.errors import LoweringError

SHAPE = (1, 3, 4, 5)
SCALE, ZERO = 0.05, -3


class Product(Builder):
    """One input, once as it is and once turned, and the product of both."""

    def __init__(self) -> None:
        super().__init__()
        self.source = self.tensor(SHAPE, SCALE, ZERO)

    def turned(self, source: int, order: Sequence[int], scale: float = SCALE) -> int:
        shape = self.graph.tensors[source].shape
        output = self.tensor([shape[d] for d in order], scale, ZERO)
        self.op("TRANSPOSE", [source, self.numbers(list(order))], [output], "TransposeOptions")
        return output

    def product(self, first: int, second: int, shape: Sequence[int], **options: Any) -> int:
        output = self.tensor(shape, SCALE, ZERO)
        self.op("BATCH_MATMUL", [first, second], [output], "BatchMatMulOptions", **options)
        return output

    def program(self, *outputs: int) -> Program:
        return program_from_file(self.finish([self.source], list(outputs)), "net")


def names(program: Program) -> list[str]:
    return [type(step).__name__ for step in program.steps]


def test_what_is_turned_for_a_product_is_read_where_it_lies() -> None:
    net = Product()
    keys = net.turned(net.source, (0, 1, 3, 2))
    result = net.product(net.source, keys, (1, 3, 4, 4))
    program = net.program(net.turned(result, (0, 2, 1, 3)))
    (step,) = program.steps
    assert isinstance(step, BatchMatMul)
    assert step.inputs == (program.input, program.input)
    assert (step.extents, step.depth, step.macs) == ((1, 3, 4, 4), 5, 3 * 4 * 4 * 5)
    assert step.strides1[1:] == step.strides2[1:] == (20, 5, 1)
    assert program.buffers[step.output].shape == (1, 4, 3, 4)
    # Head, row and column of the result lie where [row][head][column] has them.
    assert step.output_strides[1:] == (4, 12, 1)


def test_an_adjoint_is_a_matter_of_strides_too() -> None:
    net = Product()
    (step,) = net.program(net.product(net.source, net.source, (1, 3, 4, 4), adjY=True)).steps
    assert isinstance(step, BatchMatMul)
    assert step.strides1 == step.strides2 == (0, 20, 5, 1)
    net = Product()
    (step,) = net.program(net.product(net.source, net.source, (1, 3, 5, 5), adjX=True)).steps
    assert isinstance(step, BatchMatMul)
    assert step.strides1 == step.strides2 == (0, 20, 1, 5)


def test_a_turned_tensor_that_others_read_stays() -> None:
    net = Product()
    keys = net.turned(net.source, (0, 1, 3, 2))
    product = net.product(net.source, keys, (1, 3, 4, 4))
    # Whatever an addition reads has to be there.
    total = net.tensor((1, 3, 5, 4), SCALE, ZERO)
    net.op("ADD", [keys, keys], [total], "AddOptions")
    again = net.product(product, net.turned(total, (0, 1, 3, 2)), (1, 3, 4, 5))
    assert names(net.program(again)) == ["Copy", "BatchMatMul", "Add", "BatchMatMul"]


def test_a_result_that_others_read_stays() -> None:
    net = Product()
    product = net.product(net.source, net.turned(net.source, (0, 1, 3, 2)), (1, 3, 4, 4))
    turned = net.turned(product, (0, 1, 3, 2))
    total = net.tensor((1, 3, 4, 4), 0.2)
    net.op("ADD", [product, turned], [total], "AddOptions")
    assert names(net.program(total)) == ["BatchMatMul", "Copy", "Add"]


def test_a_product_of_products_is_turned_once() -> None:
    net = Product()
    first = net.product(net.source, net.source, (1, 3, 4, 4), adjY=True)
    program = net.program(net.product(net.turned(first, (0, 1, 3, 2)), net.source, SHAPE))
    assert names(program) == ["BatchMatMul", "BatchMatMul"]
    assert isinstance(program.steps[1], BatchMatMul)
    assert program.steps[1].strides1[2:] == (1, 4)


def test_a_transpose_that_is_wrong_is_still_refused() -> None:
    net = Product()
    other = net.turned(net.source, (0, 1, 3, 2), scale=0.07)
    with pytest.raises(LoweringError, match="TRANSPOSE"):
        net.program(net.product(net.source, other, (1, 3, 4, 4)))


@pytest.mark.parametrize(
    ("second", "output", "problem"),
    [
        ((1, 3, 4, 5), (1, 3, 4, 5), "its inputs do not fit each other"),
        ((1, 2, 5, 4), (1, 3, 4, 4), "its inputs do not fit each other"),
        ((1, 3, 5, 4), (1, 3, 4, 5), "the output has another shape"),
    ],
)
def test_shapes_that_do_not_fit(second: Sequence[int], output: Sequence[int], problem: str) -> None:
    net = Product()
    flat = net.tensor((1, 60), SCALE, ZERO)
    net.op("RESHAPE", [net.source, net.numbers([1, 60])], [flat], "ReshapeOptions")
    part = net.tensor((1, int(np.prod(second))), SCALE, ZERO)
    bounds = [net.numbers(b) for b in ([0, 0], [1, int(np.prod(second))], [1, 1])]
    net.op("STRIDED_SLICE", [flat, *bounds], [part], "StridedSliceOptions")
    shaped = net.tensor(second, SCALE, ZERO)
    net.op("RESHAPE", [part, net.numbers(list(second))], [shaped], "ReshapeOptions")
    with pytest.raises(LoweringError, match=problem):
        net.program(net.product(net.source, shaped, output))


def test_a_constant_operand_is_refused() -> None:
    net = Product()
    data = np.ones((1, 3, 5, 4), np.int8)
    constant = net.tensor(data.shape, 0.1, data=data)
    with pytest.raises(LoweringError, match="an input is a constant"):
        net.program(net.product(net.source, constant, (1, 3, 4, 4)))


def test_a_sum_that_can_leave_32_bits_is_refused() -> None:
    b = Builder()
    source = b.tensor((1, 33_100), SCALE, ZERO)
    output = b.tensor((1, 1), 10.0)
    b.op("BATCH_MATMUL", [source, source], [output], "BatchMatMulOptions", adjY=True)
    with pytest.raises(LoweringError, match="a sum can leave 32 bits"):
        program_from_file(b.finish([source], [output]), "x")


def test_the_kernels_work_is_counted_as_it_does_it() -> None:
    rng = np.random.default_rng(0)
    program = program_from_file(batch_matmul(rng, ((2, 3, 5, 8), (2, 3, 7, 8)), (False, True)), "x")
    step = program.steps[-1]
    assert isinstance(step, BatchMatMul)
    counted = amounts(step, program)
    sums = (5 if step.offset2 else 0) + (7 if step.offset1 else 0)
    assert counted == {
        "products_by_four": 6 * 5 * 8,
        "products": 6 * 5 * 8 * 3,
        "strided_by_four": 0,
        "strided": 0,
        "summed": 6 * sums * 8,
        "sums": 6 * 12,
        "blocks": 6 * 5 * 4,
        "outputs": 6 * 5 * 7,
    }
