"""Pass 6: picks thresholds on the logits that the device will see.

The artifacts themselves run over the whole calibration split, in the engine that the target names
or its twin on this machine. Test data has no place here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.compiler.artifacts import load
from edgeexit.data.types import Splits
from edgeexit.exits.points import operating_points
from edgeexit.runtime.preprocess import quantize_input
from edgeexit.runtime.session import all_logits
from edgeexit.types import Artifact, DecisionSpec, InputSpec, OperatingPoint, Segment


def select(
    segments: Sequence[Segment],
    static_macs: int,
    artifacts: Sequence[Artifact],
    input_spec: InputSpec,
    decision: DecisionSpec,
    data: Splits,
    engine: str,
    drops: Mapping[str, float],
    say: Callable[[str], None] | None = None,
) -> tuple[OperatingPoint, ...]:
    """Operating points of one backend.

    Args:
        segments: The chain.
        static_macs: MACs of the network without early exits.
        artifacts: Those of the backend.
        input_spec: How raw samples become int8.
        decision: The rule and its tables.
        data: Only its calibration split is used.
        engine: What runs the artifacts.
        drops: Name of a point -> accuracy that it may lose against the last exit.
        say: Told the name of each point before it is searched for.

    Raises:
        EngineError: The engine is not installed, or failed.
    """
    specs = [segment.spec for segment in segments]
    inputs: NDArray[np.int8] = quantize_input(data.calibration.images, input_spec)
    logits = all_logits(load(engine, artifacts, specs), specs, inputs)
    return operating_points(
        logits,
        data.calibration.labels,
        decision,
        [spec.macs for spec in specs],
        static_macs,
        drops=drops,
        dataset=f"{data.name}/calibration",
        engine=engine,
        say=say,
    )
