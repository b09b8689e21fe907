"""Splits that are read while they are used, for data that do not fit in memory.

The order of an epoch is a function of its seed alone: not of the number of processes, the batch
size or the threads. Every process computes the whole order and reads its own share of each batch,
so the shares are disjoint and complete, and a run that resumes at a later batch, with the same or
another number of processes, reads nothing of the earlier ones.

Not handled: the network. Shards are files that this machine can open.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.split import stratified_order
from edgeexit.data.streaming_decode import Decoding, decode_image
from edgeexit.data.types import Labels, Samples
from edgeexit.data.validate import check_num_bytes
from edgeexit.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Encoded: TypeAlias = "bytes | Image"
Positions: TypeAlias = NDArray[np.int64]

# Images that one task of a thread decodes.
_CHUNK = 8


@dataclass(frozen=True)
class StreamedSample:
    """One sample of a stream: its label, and how to read its image, in any thread."""

    label: int
    read: Callable[[], Encoded]
    where: Callable[[], str]


class Stream(Protocol):
    """Samples in an order that a seed fixes, without an end: the next epoch has another seed."""

    def __len__(self) -> int: ...

    def ordered(self, seed: tuple[int, ...], start: int, step: int, /) -> Iterator[StreamedSample]:
        """The samples at ``start``, ``start + step``, ... of the order."""

    def as_stored(self) -> Iterator[StreamedSample]:
        """All samples, as they lie."""


class Records(Protocol):
    """Encoded images on disk that threads may read in any order, with all their labels.

    ``unit`` says for each record in which shard (or group of rows) it is, counted from 0; records
    of a unit are next to each other and are read well together.
    """

    @property
    def labels(self) -> Labels:
        """int64 ``[num_records]``."""

    @property
    def unit(self) -> Positions:
        """int64 ``[num_records]``, ascending."""

    def read(self, position: int, /) -> Encoded:
        """The image of a record."""

    def where(self, position: int, /) -> str:
        """What an error about a record names as the place."""


@dataclass(frozen=True, eq=False)
class ShuffledRecords:
    """Records in a shuffled order that stays near the order on disk.

    Units are permuted; then each sample is moved back by a random distance below ``window``, which
    is what a shuffle buffer of that size does, without the buffer. With a window as large as the
    split the order is a uniform permutation.

    Attributes:
        records: What is read.
        positions: Those of the records that belong to the split, ascending.
        window: In samples.
    """

    records: Records
    positions: Positions
    window: int

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> Labels:
        """int64 ``[num_samples]``, as they lie."""
        return self.records.labels[self.positions]

    def order(self, seed: tuple[int, ...]) -> Positions:
        """Positions of all samples, int64 ``[num_samples]``, in the order that ``seed`` names."""
        random, positions = _random(seed), self.positions
        if self.window < len(positions):
            unit = self.records.unit[positions]
            rank = random.permutation(int(unit[-1]) + 1)
            positions = positions[np.argsort(rank[unit], kind="stable")]
            late = np.arange(len(positions)) + random.uniform(0, self.window, len(positions))
            index = np.argsort(late, kind="stable")
        else:
            index = random.permutation(len(positions))
        ordered: Positions = positions[index]
        return ordered

    def ordered(self, seed: tuple[int, ...], start: int, step: int) -> Iterator[StreamedSample]:
        """See `Stream.ordered`."""
        return map(self._sample, self.order(seed)[start::step].tolist())

    def as_stored(self) -> Iterator[StreamedSample]:
        """See `Stream.as_stored`."""
        return map(self._sample, self.positions.tolist())

    def some(self, index: Positions) -> ShuffledRecords:
        """Those of the samples that int64 positions in this split pick."""
        return ShuffledRecords(self.records, self.positions[np.sort(index)], self.window)

    def _sample(self, position: int) -> StreamedSample:
        records = self.records
        return StreamedSample(
            int(records.labels[position]),
            lambda: records.read(position),
            lambda: records.where(position),
        )


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """A training split that is decoded batch by batch.

    Attributes:
        stream: The samples.
        decoding: What an encoded image becomes.
        num_threads: How many threads decode.
    """

    stream: Stream
    decoding: Decoding
    num_threads: int = 4

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: slice) -> Samples:
        """The samples that a slice picks, decoded into memory.

        It picks them out of an order that is always the same and in which classes alternate.

        Raises:
            DataError: They would not fit, one cannot be read, or the samples have no numbers.
        """
        if not isinstance(self.stream, ShuffledRecords):
            raise DataError("the samples of this split can only be read in their own order")
        chosen = self.stream.some(stratified_order(self.stream.labels, seed=0)[index])
        check_num_bytes(len(chosen) * math.prod(self.image_shape), where="a streamed split")
        return hold(chosen, self.decoding, num_threads=self.num_threads)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return self.decoding.image_shape

    @property
    def labels(self) -> Labels | None:
        """int64 ``[num_samples]``, where they are known before the samples are read."""
        return self.stream.labels if isinstance(self.stream, ShuffledRecords) else None

    def batches(
        self,
        seed: tuple[int, ...],
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        first: int = 0,
    ) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
        """This process's share of the whole batches of an epoch; two batches are read ahead.

        Args:
            seed: Numbers that fix the order and the crops, such as (seed, phase, epoch).
            batch_size: Samples of a batch over all processes; a multiple of ``world``.
            rank: This process: it gets the samples ``rank``, ``rank + world``, ... of each batch.
            world: Number of processes.
            first: The batch to begin with; earlier ones are not read.

        Yields:
            Images uint8 ``[batch_size / world, H, W, C]`` and labels int64. The samples left over
            after the last whole batch differ from epoch to epoch.

        Raises:
            ArgumentError: ``batch_size`` is not a multiple of ``world``.
            DataError: A sample cannot be read; the error names its shard and key.
        """
        if batch_size < 1 or batch_size % world or not 0 <= rank < world:
            raise ArgumentError(
                "a batch cannot be shared evenly",
                wanted="batch_size a positive multiple of world, rank below world",
                given=f"batch_size={batch_size}, rank={rank}, world={world}",
            )
        share, num_batches = batch_size // world, len(self) // batch_size
        samples = self.stream.ordered(seed, first * batch_size + rank, world)
        with _Decoders(self.decoding, self.num_threads) as decoders:
            waiting: deque[_Batch] = deque()
            for batch in range(first, num_batches):
                numbers = range(batch * batch_size + rank, (batch + 1) * batch_size, world)
                waiting.append(decoders.start(list(islice(samples, share)), numbers, seed))
                if len(waiting) > 2:
                    yield waiting.popleft().finished()
            while waiting:
                yield waiting.popleft().finished()

    def as_stored(self, size: int) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
        """All samples once, as they lie, without random crops; at most ``size`` at a time."""
        return _as_stored(self.stream, self.decoding, self.num_threads, size)


def hold(stream: Stream, decoding: Decoding, *, num_threads: int) -> Samples:
    """Decodes a whole stream into memory, without random crops.

    It is read as it lies on disk; where the labels are known before, the samples come out in an
    order in which classes alternate, so that the first few are of all classes.

    Raises:
        DataError: A sample cannot be read, or there are fewer than the stream said.
    """
    count = len(stream)
    images = np.empty((count, *decoding.image_shape), np.uint8)
    labels = np.empty(count, np.int64)
    rows = np.arange(count)
    if isinstance(stream, ShuffledRecords):
        rows[stratified_order(stream.labels, seed=0)] = np.arange(count)
    start = 0
    for some, theirs in _as_stored(stream, decoding, num_threads, _CHUNK * num_threads):
        part = rows[start : start + len(theirs)]
        images[part], labels[part] = some, theirs
        start += len(theirs)
    return Samples(images, labels)


def _as_stored(
    stream: Stream, decoding: Decoding, num_threads: int, size: int
) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
    samples, count = stream.as_stored(), len(stream)
    with _Decoders(decoding, num_threads) as decoders:
        for start in range(0, count, size):
            numbers = range(start, min(start + size, count))
            yield decoders.start(list(islice(samples, len(numbers))), numbers, None).finished()


@dataclass(frozen=True, eq=False)
class _Batch:
    images: NDArray[np.uint8]
    labels: Labels
    tasks: list[Future[None]]

    def finished(self) -> tuple[NDArray[np.uint8], Labels]:
        for task in self.tasks:
            task.result()
        return self.images, self.labels


class _Decoders:
    """Threads that decode; Pillow and file reads let others run beside them."""

    def __init__(self, decoding: Decoding, num_threads: int) -> None:
        self.decoding = decoding
        self.pool = ThreadPoolExecutor(num_threads, "decode")

    def __enter__(self) -> _Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def start(
        self, samples: list[StreamedSample], numbers: range, seed: tuple[int, ...] | None
    ) -> _Batch:
        if len(samples) < len(numbers):
            raise DataError(
                "the stream has ended early",
                wanted=f"a sample number {numbers[len(samples)]}",
                given="the end",
                hint="state the number of samples that it has",
            )
        images = np.empty((len(samples), *self.decoding.image_shape), np.uint8)
        labels = np.array([sample.label for sample in samples], np.int64)

        def decode(part: slice) -> None:
            for row, sample, number in zip(images[part], samples[part], numbers[part], strict=True):
                # A number of its own for each crop: neither threads nor processes change it.
                random = None if seed is None else _random((*seed, number))
                row[:] = decode_image(sample.read(), self.decoding, random, sample.where)

        parts = [slice(start, start + _CHUNK) for start in range(0, len(samples), _CHUNK)]
        return _Batch(images, labels, [self.pool.submit(decode, part) for part in parts])


def _random(seed: tuple[int, ...]) -> Any:
    # RandomState's stream is frozen for good; that of numpy's newer generators may change.
    return np.random.RandomState(np.random.SeedSequence(seed).generate_state(4))
