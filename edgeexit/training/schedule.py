"""The learning rate as a function of the step: no state, so nothing to resume."""

from __future__ import annotations

import math

from edgeexit.training.config import Schedule

WARM_UP_SHARE = 0.2


def learning_rate(schedule: Schedule, peak: float, step: int, num_steps: int) -> float:
    """The rate of one step.

    Args:
        schedule: ``cosine`` falls from ``peak`` to zero; ``one_cycle`` first climbs linearly during
            the first fifth of the steps.
        peak: The largest rate.
        step: 0-based.
        num_steps: Steps in the phase.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts. Deviation: one_cycle
    is Smith 2018 with a linear climb from zero and no cycling of the momentum.
    """
    warm_up = int(num_steps * WARM_UP_SHARE) if schedule == "one_cycle" else 0
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, num_steps - warm_up)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
