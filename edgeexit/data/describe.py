"""Says what a dataset holds, as plain data for tables and JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeexit.data.types import Splits


def describe(splits: Splits) -> dict[str, Any]:
    """What a dataset holds, made of dicts, lists, texts and numbers only.

    Returns:
        ``name``, ``image_shape`` (height, width, channels), ``dtype``, ``class_names``,
        ``preprocessing``, ``augmentation`` and ``splits``: for each split ``num_samples`` and
        ``per_class``, the number of samples by class name (None where a stream does not tell).
        Where two classes share a name, as the cranes of ImageNet do, every name is preceded by
        its number: ``0: tench``.
    """
    names = list(splits.class_names)
    if len(set(names)) < len(names):
        names = [f"{number}: {name}" for number, name in enumerate(names)]
    return {
        "name": splits.name,
        "image_shape": list(splits.image_shape),
        "dtype": str(splits.calibration.images.dtype),
        "class_names": names,
        "preprocessing": {
            "offset": list(splits.preprocessing.offset),
            "multiplier": list(splits.preprocessing.multiplier),
        },
        "augmentation": {
            "crop_padding": splits.augmentation.crop_padding,
            "horizontal_flip": splits.augmentation.horizontal_flip,
        },
        "splits": {
            part: {
                "num_samples": len(samples),
                "per_class": None
                if samples.labels is None
                else dict(
                    zip(
                        names,
                        np.bincount(samples.labels, minlength=splits.num_classes).tolist(),
                        strict=True,
                    )
                ),
            }
            for part, samples in splits.parts().items()
        },
    }
