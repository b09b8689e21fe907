"""Which transpositions a product of matrices reads and writes around.

Attention turns its operands so that heads come before tokens, and turns its result back. A product
reads its operands by strides and writes its result by strides, so that none of that has to move a
byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgeexit.backends.c.fold import Constants
from edgeexit.backends.c.program import dense_strides
from edgeexit.backends.c.tflite_model import TfliteModel, TfliteOperator


@dataclass(frozen=True)
class View:
    """A tensor, and how many of its elements one step moves in each dimension of another one.

    The other one has the same elements in another order.
    """

    tensor: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Turns:
    """The TRANSPOSEs that are left out, ``operators``, and what takes their place.

    ``sources``: a turned tensor -> what it is read from. ``targets``: what a product makes -> the
    turned tensor that is written instead.
    """

    sources: dict[int, View] = field(default_factory=dict)
    targets: dict[int, View] = field(default_factory=dict)
    operators: set[int] = field(default_factory=set)


def around_products(
    model: TfliteModel,
    operators: Iterable[TfliteOperator],
    known: Constants,
    outputs: Iterable[int],
) -> Turns:
    """The TRANSPOSEs between a BATCH_MATMUL and what it reads, or what alone reads its result.

    What they make must be read by products only, and of what a product makes they must be the only
    reader; outputs of the model are read by somebody else.
    """
    live, found = list(operators), Turns()
    kept = set(outputs)
    readers = Counter(index for op in live for index in op.inputs)
    by_products = Counter(index for op in live if op.kind == "BATCH_MATMUL" for index in op.inputs)
    made = {op.outputs[0] for op in live if op.kind == "BATCH_MATMUL" and len(op.outputs) == 1}
    for op in live:
        order = _order(model, op, known)
        if order is None:
            continue
        source, turned = op.inputs[0], op.outputs[0]
        if turned not in kept and readers[turned] == by_products[turned] > 0:
            strides = dense_strides(model.tensors[source].shape)
            found.sources[turned] = View(source, tuple(strides[d] for d in order))
        elif source in made and source not in kept and readers[source] == 1:
            strides = dense_strides(model.tensors[turned].shape)
            places = sorted(range(len(order)), key=lambda place: order[place])
            found.targets[source] = View(turned, tuple(strides[place] for place in places))
        else:
            continue
        found.operators.add(op.index)
    return found


def _order(model: TfliteModel, op: TfliteOperator, known: Constants) -> list[int] | None:
    """The order of dimensions of a TRANSPOSE; None where its lowering would have to complain."""
    if op.kind != "TRANSPOSE" or len(op.inputs) != 2 or len(op.outputs) != 1 or min(op.inputs) < 0:
        return None
    source, turned = model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
    numbers = known.get(op.inputs[1])
    if numbers is None or numbers.dtype.name not in ("int32", "int64"):
        return None
    rank = len(source.shape)
    order = [int(d) % rank if rank else int(d) for d in numbers.ravel()]
    if sorted(order) != list(range(rank)):
        return None
    same = (turned.dtype, turned.scales, turned.zero_points) == (
        source.dtype,
        source.scales,
        source.zero_points,
    )
    fits = turned.shape == tuple(source.shape[d] for d in order)
    return order if same and fits else None
