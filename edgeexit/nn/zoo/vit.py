"""Vision transformers for 32 x 32 images that become integers without loss of form.

Nothing in them is normalised at inference: every linear layer is followed by a batch norm, which
the compiler folds into the layer's weights. A layer norm would need statistics of every token on
the device, in eight bits and with a reciprocal square root. What is left are linear layers, the two
products of attention, a softmax, hard swish and additions, all of which have int8 kernels.

Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; batch norm in the place of layer
norm, and within the perceptron: Yao et al. 2021, "Leveraging Batch Normalization for Vision
Transformers"; after every linear layer, with the last gain of each branch starting at zero, hard
swish, and a perceptron of twice the width: Graham et al. 2021, "LeViT", section 4.
Deviations: one resolution throughout; the mean of all tokens in the place of a class token; the
scores' factor, 1 / sqrt(width of a head), is where the gain of the queries' batch norm starts, so
that no multiplication is left.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit.nn.heads import TokenMean


class NormedLinear(nn.Module):
    """A linear layer and a batch norm over all tokens of the batch: one layer once compiled.

    Args:
        in_features: Width of a token before.
        out_features: Width of a token after.
        gain: What the batch norm multiplies by at first.
    """

    def __init__(self, in_features: int, out_features: int, gain: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=False)
        self.norm = nn.BatchNorm1d(out_features)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.constant_(self.norm.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, T, in_features]`` -> ``[N, T, out_features]``."""
        x = self.linear(x)
        return cast(Tensor, self.norm(x.flatten(0, 1))).reshape(x.shape)


class Attention(nn.Module):
    """Every token looks at every token, in ``num_heads`` ways."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = NormedLinear(width, width, gain=(width / num_heads) ** -0.5)
        self.key = NormedLinear(width, width)
        self.value = NormedLinear(width, width)
        self.out = NormedLinear(width, width, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, T, width]`` -> the same shape."""
        query, key, value = (self._heads(part(x)) for part in (self.query, self.key, self.value))
        shares = torch.softmax(query @ key.transpose(2, 3), dim=-1)
        return cast(Tensor, self.out((shares @ value).transpose(1, 2).flatten(2)))

    def _heads(self, x: Tensor) -> Tensor:
        """``[N, T, width]`` -> ``[N, num_heads, T, width / num_heads]``."""
        return torch.unflatten(x, 2, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention, then a perceptron for each token; each adds to what comes in."""

    def __init__(self, width: int, num_heads: int, hidden_width: int) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads)
        self.expand = NormedLinear(width, hidden_width)
        self.reduce = NormedLinear(hidden_width, width, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, T, width]`` -> the same shape."""
        x = x + self.attention(x)
        return x + cast(Tensor, self.reduce(F.hardswish(self.expand(x))))


class VisionTransformer(nn.Module):
    """Patches become tokens, ``depth`` blocks, the mean of all tokens, one linear layer.

    Args:
        in_channels: Channels of the image.
        num_classes: Number of logits.
        image_size: Height and width of the image.
        patch: Height and width of a patch; 4 makes 64 tokens of 32 x 32 pixels.
        width: Of a token.
        depth: Number of blocks: ``blocks.0`` to ``blocks.{depth - 1}``.
        num_heads: Of each attention; divides ``width``.
        expansion: Width within the perceptron, in multiples of ``width``.

    Raises:
        ModelError: The patches do not fill the image, or the heads do not divide the width.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        *,
        image_size: int = 32,
        patch: int = 4,
        width: int = 96,
        depth: int = 6,
        num_heads: int = 3,
        expansion: int = 2,
    ) -> None:
        super().__init__()
        for whole, part, names in (
            (image_size, patch, "image_size, patch"),
            (width, num_heads, "width, num_heads"),
        ):
            if whole % part:
                raise ModelError(
                    "a vision transformer does not come out even",
                    wanted="the first a multiple of the second",
                    given=f"{names} = {whole}, {part}",
                )
        num_tokens = (image_size // patch) ** 2
        self.embed = nn.Conv2d(in_channels, width, patch, stride=patch, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.position = nn.Parameter(torch.empty(1, num_tokens, width))
        self.blocks = nn.Sequential(
            *(Block(width, num_heads, expansion * width) for _ in range(depth))
        )
        self.pool = TokenMean()
        self.fc = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """float32 ``[N, in_channels, image_size, image_size]`` -> logits ``[N, num_classes]``."""
        x = self.norm(self.embed(x)).flatten(2).transpose(1, 2) + self.position
        return cast(Tensor, self.fc(self.pool(self.blocks(x))))
