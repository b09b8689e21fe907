"""How fast does the training loop go beside the bare network, on this machine?

The loop is `edgeexit.training.train`: ResNet-8 with its exits, all trained jointly in batches of
128 images of CIFAR-10's shape, with everything between its batches: the order, the augmentation,
the rates, the sums of the log. The bare loop is forward, backward and SGD step of the same network
on a batch that is on the device already, in channels-last memory. They take turns in one process:
an epoch of the loop, of a few steps, then as many steps of each bare variant. A ratio is the median
over turns, the spread the distance of its quartiles. What a turn takes is, on a CPU, seconds of CPU
time of this process in one thread, which other processes disturb less than seconds of a clock.

``ratio`` is the loop over the bare loop: one is as fast as can be, 0.9 is wanted. It leaves out the
evaluation after each epoch; ``evaluation`` is its time as a share of the loop's.
``compile_ratio`` and ``channels_last_ratio`` are bare loops: what torch.compile and channels-last
memory change. ``compiled`` is the loop with torch.compile over the compiled bare loop. On a GPU
``captured`` is the loop with captured steps over a bare step that is captured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from figures import arguments, publish
from torch import Tensor, nn
from torch.optim import SGD

from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits
from edgeexit.nn import zoo
from edgeexit.training import EpochRecord, train

BATCH_SIZE = 128
NUM_CLASSES = 10

Run = Callable[[], object]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="steps in a turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    splits = images_of_noise(options.steps)
    bare: dict[str, Run] = {
        "bare": bare_step(device),
        "contiguous": bare_step(device, memory_format=torch.contiguous_format),
        "compiled": bare_step(device, compiled=True),
    }
    eager = Turns(bare, options.steps, options.turns, device)
    loop(splits, eager, capture=False)
    compiled = Turns({"compiled": bare["compiled"]}, options.steps, options.turns, device)
    loop(splits, compiled, capture=False, compile=True)
    figures: dict[str, object] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "turns": options.turns,
        "steps_in_a_turn": options.steps,
        "batch_size": BATCH_SIZE,
        "images_per_s": eager.images_per_s("loop"),
        "bare_images_per_s": eager.images_per_s("bare"),
        "ratio": eager.ratio("loop", "bare"),
        "ratio_spread": eager.spread("loop", "bare"),
        "evaluation": eager.evaluation(),
        "compile_ratio": eager.ratio("compiled", "bare"),
        "compile_ratio_spread": eager.spread("compiled", "bare"),
        "channels_last_ratio": eager.ratio("bare", "contiguous"),
        "channels_last_ratio_spread": eager.spread("bare", "contiguous"),
        "compiled": rates(compiled, "compiled"),
    }
    if device.type == "cuda":
        captured = Turns({"captured": captured_step(device)}, options.steps, options.turns, device)
        loop(splits, captured, capture=True)
        figures["captured"] = rates(captured, "captured")
    publish("training of ResNet-8, all exits jointly", figures, options.json)


class Turns:
    """Hears of a run of the loop, and gives the bare loops their turn after each of its epochs.

    Args:
        bare: A step of each bare loop.
        num_steps: Of each in a turn.
        num_turns: That count; more come before them, in which everything warms up.
        device: On which they run.
    """

    NUM_WARM_UP = 2

    def __init__(
        self, bare: Mapping[str, Run], num_steps: int, num_turns: int, device: torch.device
    ) -> None:
        self.bare, self.num_steps, self.device = bare, num_steps, device
        self.num_epochs = self.NUM_WARM_UP + num_turns
        self.seconds: dict[str, list[float]] = {name: [] for name in ("loop", "evaluation", *bare)}
        self.steps_done = 0
        self.start = 0.0

    def now(self) -> float:
        """Seconds: of CPU time, or of the clock once a GPU is done."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
        assert num_steps == self.num_steps
        self.start = self.now()

    def step(self) -> None:
        self.steps_done += 1
        if self.steps_done % self.num_steps == 0:
            self.lap("loop")

    def epoch(self, record: EpochRecord) -> None:
        self.lap("evaluation")
        names = list(self.bare)
        first = len(self.seconds["loop"]) % len(names)
        for name in names[first:] + names[:first]:
            for _ in range(self.num_steps):
                self.bare[name]()
            self.lap(name)

    def lap(self, name: str) -> None:
        now = self.now()
        self.seconds[name].append(now - self.start)
        self.start = now

    def counted(self, name: str) -> list[float]:
        return self.seconds[name][self.NUM_WARM_UP :]

    def images_per_s(self, name: str) -> float:
        return self.num_steps * BATCH_SIZE / statistics.median(self.counted(name))

    def ratios(self, name: str, other: str) -> list[float]:
        """How many times as fast as another a loop is, in each turn."""
        pairs = zip(self.counted(name), self.counted(other), strict=True)
        return [theirs / own for own, theirs in pairs]

    def ratio(self, name: str, other: str) -> float:
        return statistics.median(self.ratios(name, other))

    def spread(self, name: str, other: str) -> float:
        low, _, high = statistics.quantiles(self.ratios(name, other))
        return high - low

    def evaluation(self) -> float:
        return sum(self.counted("evaluation")) / sum(self.counted("loop"))


def rates(turns: Turns, bare: str) -> dict[str, float]:
    """The figures of a loop that only one bare loop is compared with."""
    return {
        "images_per_s": turns.images_per_s("loop"),
        "bare_images_per_s": turns.images_per_s(bare),
        "ratio": turns.ratio("loop", bare),
        "ratio_spread": turns.spread("loop", bare),
    }


def loop(splits: Splits, turns: Turns, **options: Any) -> None:
    train(
        zoo.create("resnet8"),
        splits,
        progress=turns,
        strategy="joint",
        epochs=turns.num_epochs,
        batch_size=BATCH_SIZE,
        learning_rate=0.01,
        **options,
    )


def images_of_noise(num_steps: int) -> Splits:
    """So many batches of CIFAR-10's shape, and a ninth as many images to watch, as CIFAR-10 has."""
    rng = np.random.default_rng(0)

    def samples(count: int) -> Samples:
        images = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        return Samples(images, rng.integers(0, NUM_CLASSES, count))

    count = num_steps * BATCH_SIZE
    return Splits(
        "noise",
        samples(count),
        samples(count // 9),
        samples(1),
        tuple(map(str, range(NUM_CLASSES))),
        Preprocessing((128.0,), (1 / 128,)),
        Augmentation(4, True),
    )


def bare_step(
    device: torch.device,
    *,
    memory_format: torch.memory_format = torch.channels_last,
    compiled: bool = False,
    **options: Any,
) -> Run:
    """A step on a batch that stays the same."""
    model: nn.Module = zoo.create("resnet8").to(device, memory_format=memory_format)  # type: ignore[call-overload]
    run: Callable[[Tensor], tuple[Tensor, ...]] = torch.compile(model) if compiled else model
    shape = (BATCH_SIZE, 3, 32, 32)
    images = torch.randn(shape, device=device).contiguous(memory_format=memory_format)
    labels = torch.randint(NUM_CLASSES, (BATCH_SIZE,), device=device)
    optimizer = SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=2e-4, **options
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = [F.cross_entropy(logits, labels) for logits in run(images)]
        torch.stack(losses).mean().backward()
        optimizer.step()

    return step


def captured_step(device: torch.device) -> Run:
    """The bare step as a CUDA graph."""
    step = bare_step(device, fused=True)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()
    return graph.replay


if __name__ == "__main__":
    main()
