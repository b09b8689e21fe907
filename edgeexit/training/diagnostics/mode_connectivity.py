"""Mode connectivity: loss and accuracy between networks, along a line and on a plane.

Two trained networks lie in one basin if the loss stays low on the straight line between their
weights. The barrier is the most by which the loss on the line exceeds the straight line between its
two ends, in nats; it is zero at least, for the ends are on the line. The plane goes through a third
network, or along a random direction if there is none. Running statistics of batch norm are wrong
for weights that were never trained with, so they are collected anew at every point, the ends
included: as plain means over a given number of training batches.

Source: Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", section
2 (barrier; against the interpolated instead of the mean loss of the ends, as in Entezari et al.
2022, definition 1); Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of
DNNs", appendix (plane through three points, batch norm); Li et al. 2018, "Visualizing the Loss
Landscape of Neural Nets", section 4 (a direction whose filters have the norms of the network's;
biases and batch norm do not move). Deviation: distances on the plane are in units of the distance
between the first two networks, so a random direction keeps its proportions between filters but not
its length.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeexit.errors import ArgumentError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.diagnostics.sample import Floats, Sample, Tick, batches, no_tick

_Weights = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Line:
    """The straight line from the first network (0) to the second (1).

    Attributes:
        exits: Names of the exits.
        positions: float64 ``[num_points]``, from 0 to 1.
        loss: float64 ``[num_points, num_exits]``: cross-entropy, in nats.
        accuracy: float64 ``[num_points, num_exits]``.
        barrier: float64 ``[num_exits]``: of the loss, in nats.
        mean_barrier: Barrier of the mean loss over exits, in nats.
        distance: Euclidean, between the parameters of the two networks.
        split: Where the sample came from.
        num_samples: Its size.
        num_statistics: Training images from which the statistics of batch norm came.
    """

    exits: tuple[str, ...]
    positions: Floats
    loss: Floats
    accuracy: Floats
    barrier: Floats
    mean_barrier: float
    distance: float
    split: str
    num_samples: int
    num_statistics: int


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane through the first network, at (0, 0), and the second, at (1, 0).

    Attributes:
        exits: Names of the exits.
        x: float64 ``[num_x]``, in units of ``distance``.
        y: float64 ``[num_y]``, in units of ``distance``.
        loss: float64 ``[num_y, num_x, num_exits]``: cross-entropy, in nats.
        accuracy: float64 ``[num_y, num_x, num_exits]``.
        points: float64 ``[2 or 3, 2]``: where the networks lie.
        direction: What spans the plane beside the line: ``third network`` or ``random``.
        distance: Euclidean, between the parameters of the first two networks.
        split: Where the sample came from.
        num_samples: Its size.
        num_statistics: Training images from which the statistics of batch norm came.
    """

    exits: tuple[str, ...]
    x: Floats
    y: Floats
    loss: Floats
    accuracy: Floats
    points: Floats
    direction: str
    distance: float
    split: str
    num_samples: int
    num_statistics: int


def line(
    first: MultiExitModel,
    second: MultiExitModel,
    sample: Sample,
    statistics: Sample,
    *,
    num_points: int = 21,
    batch_size: int = 250,
    tick: Tick = no_tick,
) -> Line:
    """Walks from one network to another.

    Args:
        first: A network; neither of the two is changed.
        second: One of the same kind.
        sample: What loss and accuracy are taken over.
        statistics: Training images for batch norm.
        num_points: Points on the line, both ends included.
        batch_size: Of all forward passes; batch norm averages over batches of that size.
        tick: Hears of every point.

    Raises:
        ArgumentError: The networks differ in kind or do not differ in weights, or ``num_points``
            is below 2.
    """
    if num_points < 2:
        raise ArgumentError(
            "a line has two ends", wanted="num_points >= 2", given=f"num_points={num_points}"
        )
    walker = _Walker(first, sample, statistics, batch_size)
    along = _difference(first, second)
    positions = np.linspace(0, 1, num_points)
    loss = np.empty((num_points, len(walker.exits)))
    accuracy = np.empty_like(loss)
    for done, position in enumerate(positions):
        loss[done], accuracy[done] = walker.at((float(position), along))
        tick(done + 1, num_points)
    return Line(
        exits=walker.exits,
        positions=positions,
        loss=loss,
        accuracy=accuracy,
        barrier=barrier(positions, loss),
        mean_barrier=float(barrier(positions, loss.mean(1, keepdims=True))[0]),
        distance=_length(first, along),
        split=sample.split,
        num_samples=len(sample),
        num_statistics=len(statistics),
    )


def plane(
    first: MultiExitModel,
    second: MultiExitModel,
    sample: Sample,
    statistics: Sample,
    *,
    third: MultiExitModel | None = None,
    num_points: int = 11,
    margin: float = 0.3,
    batch_size: int = 250,
    seed: int = 0,
    tick: Tick = no_tick,
) -> Plane:
    """Measures a grid on the plane through two networks and a third or a random direction.

    Args:
        first: A network; none is changed.
        second: One of the same kind.
        sample: What loss and accuracy are taken over.
        statistics: Training images for batch norm.
        third: One of the same kind, or None for a random direction.
        num_points: About how many points the grid's longer side has; the first two networks are
            points of the grid, and both sides have the same spacing.
        margin: About what the grid shows around the networks, in units of their distance.
        batch_size: Of all forward passes.
        seed: Of the random direction.
        tick: Hears of every point.

    Raises:
        ArgumentError: The networks differ in kind, lie on one line or in one point, or
            ``num_points`` is below 2.
    """
    if num_points < 2:
        raise ArgumentError(
            "a grid has two sides", wanted="num_points >= 2", given=f"num_points={num_points}"
        )
    walker = _Walker(first, sample, statistics, batch_size)
    along = _difference(first, second)
    across = (
        _difference(first, third) if third is not None else _filter_normalised(first, seed=seed)
    )
    length = _length(first, along)
    overlap = _product(first, along, across) / length**2
    height = _length(first, across) ** 2 - overlap**2 * length**2
    if height <= 1e-12 * length**2:
        raise ArgumentError(
            "the three networks lie on one line",
            wanted="a third network that is not between or beyond the other two",
            hint="leave it out: the plane then takes a random direction",
        )
    side = float(np.sqrt(height)) / length
    points = [(0.0, 0.0), (1.0, 0.0)]
    if third is not None:
        points.append((overlap, side))
    x, y = _grid(np.array(points), num_points, margin, symmetric=third is None)
    loss = np.empty((len(y), len(x), len(walker.exits)))
    accuracy = np.empty_like(loss)
    for row, up in enumerate(y):
        for column, right in enumerate(x):
            # The axes are at right angles: what `across` shares with `along` is taken back.
            share = float(up) / side
            place = walker.at((float(right) - share * overlap, along), (share, across))
            loss[row, column], accuracy[row, column] = place
            tick(row * len(x) + column + 1, len(x) * len(y))
    return Plane(
        exits=walker.exits,
        x=x,
        y=y,
        loss=loss,
        accuracy=accuracy,
        points=np.array(points),
        direction="random" if third is None else "third network",
        distance=length,
        split=sample.split,
        num_samples=len(sample),
        num_statistics=len(statistics),
    )


def barrier(positions: Floats, loss: Floats) -> Floats:
    """The most by which the loss exceeds the straight line between its ends.

    Args:
        positions: float64 ``[num_points]``, from 0 to 1.
        loss: float64 ``[num_points, num_exits]``, in nats.

    Returns:
        float64 ``[num_exits]``, in nats, zero at least.
    """
    straight = loss[0] + np.outer(positions, loss[-1] - loss[0])
    highest: Floats = np.maximum((loss - straight).max(0), 0.0)
    return highest


def collect_statistics(model: nn.Module, statistics: Sample, *, batch_size: int) -> None:
    """Replaces the running statistics of batch norm by plain means over batches, in place.

    Everything but batch norm is in evaluation mode, and is left there.
    """
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's sign for a cumulative mean
        norm.train()
    with torch.no_grad():
        for images, _ in batches(statistics, batch_size, model):
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


class _Walker:
    """A copy of a network that can be moved to any point and measured there."""

    def __init__(
        self, origin: MultiExitModel, sample: Sample, statistics: Sample, batch_size: int
    ) -> None:
        self.model = copy.deepcopy(origin)
        self.start = {name: value.clone() for name, value in origin.state_dict().items()}
        self.exits = tuple(origin.exit_names)
        self.sample, self.statistics, self.batch_size = sample, statistics, batch_size

    def at(self, *moves: tuple[float, Mapping[str, Tensor]]) -> tuple[Floats, Floats]:
        """Loss in nats and accuracy of every exit, at the origin plus the weighted directions."""
        state = dict(self.start)
        for share, direction in moves:
            for name, step in direction.items():
                state[name] = state[name] + share * step
        self.model.load_state_dict(state)
        collect_statistics(self.model, self.statistics, batch_size=self.batch_size)
        loss, correct = np.zeros(len(self.exits)), np.zeros(len(self.exits))
        with torch.no_grad():
            for images, labels in batches(self.sample, self.batch_size, self.model):
                for k, z in enumerate(self.model(images)):
                    loss[k] += float(F.cross_entropy(z, labels, reduction="sum"))
                    correct[k] += int((z.argmax(1) == labels).sum())
        return loss / len(self.sample), correct / len(self.sample)


def check_kind(first: MultiExitModel, second: MultiExitModel) -> None:
    """Refuses two networks between which there is no line.

    Raises:
        ArgumentError: Their tensors differ in name or shape.
    """
    ours = {name: tuple(value.shape) for name, value in first.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in second.state_dict().items()}
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if differing:
        name = differing[0]
        raise ArgumentError(
            "the networks are not of one kind",
            wanted="the same backbone with the same exits",
            given=f"{name}: {ours.get(name, 'missing')} and {theirs.get(name, 'missing')}",
        )


def _difference(first: MultiExitModel, second: MultiExitModel) -> _Weights:
    """From the first network's numbers to the second's; integers stay those of the first."""
    check_kind(first, second)
    ours, theirs = first.state_dict(), second.state_dict()
    found = {
        name: theirs[name].to(value.device) - value
        for name, value in ours.items()
        if value.is_floating_point()
    }
    if _length(first, found) == 0:
        raise ArgumentError("the networks have the same weights", wanted="two different networks")
    return found


def _filter_normalised(model: MultiExitModel, *, seed: int) -> _Weights:
    """A random direction, each of whose filters is as long as the network's own."""
    generator = torch.Generator().manual_seed(seed)
    found: _Weights = {}
    for name, value in model.named_parameters():
        if value.ndim < 2:
            continue
        weights = value.detach().flatten(1)
        drawn = torch.randn(weights.shape, generator=generator).to(weights)
        scale = weights.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
        found[name] = (drawn * scale).reshape(value.shape)
    return found


def _product(model: MultiExitModel, a: _Weights, b: _Weights) -> float:
    """The scalar product over parameters; buffers move along but do not count."""
    names = [name for name, _ in model.named_parameters() if name in a and name in b]
    return float(sum((a[name].double() * b[name].double()).sum() for name in names))


def _length(model: MultiExitModel, a: _Weights) -> float:
    return float(np.sqrt(_product(model, a, a)))


def _grid(
    points: Floats, num_points: int, margin: float, *, symmetric: bool
) -> tuple[Floats, Floats]:
    """Coordinates with one spacing, of which a whole number makes 1: both ends are on the grid."""
    low, high = points.min(0), points.max(0)
    if symmetric:
        low[1], high[1] = -0.5, 0.5
    longest = float((high - low).max()) + 2 * margin
    spacing = 1 / max(1, round((num_points - 1) / longest))
    around = max(1, round(margin / spacing))
    first = np.floor(low / spacing + 1e-9).astype(int) - around
    last = np.ceil(high / spacing - 1e-9).astype(int) + around
    x, y = (spacing * np.arange(a, b + 1) for a, b in zip(first, last, strict=True))
    return x, y
