"""A network that knows nothing of exits, from training to an answer: a minute or two.

    python examples/own_network.py

Fashion-MNIST is fetched on first use. Two epochs are enough to see it work, not to see it shine.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import edgeexit as ee


class PlainNetwork(nn.Module):
    """Somebody's classifier for 28 x 28 grey images."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = self.block(1, 16)
        self.block2 = self.block(16, 32)
        self.block3 = self.block(32, 64)
        self.classifier = nn.Linear(64, 10)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(x)))
        return self.classifier(x.mean((2, 3)))


def main() -> None:
    data = ee.data.load("fashion-mnist")
    model = ee.attach_exits(
        PlainNetwork(),
        at={"block1": ee.heads.Convolutional(channels=(16,)), "block2": ee.heads.Pooled()},
        example=torch.zeros(1, 1, 28, 28),
    )
    log = ee.train(model, data, strategy="joint", epochs=2)
    print("accuracy of each exit on the calibration split:", log[-1].accuracy)

    ee.compile(model, data=data, output="fashion.eexit", overwrite=True)
    session = ee.Session("fashion.eexit", operating_point="balanced")
    for image, label in zip(data.test.images[:5], data.test.labels[:5], strict=True):
        result = session.run(image)
        print(
            f"{data.class_names[result.label]} (it is {data.class_names[label]}), "
            f"exit {result.exit}, sure to {result.confidence:.0%}"
        )


if __name__ == "__main__":
    main()
