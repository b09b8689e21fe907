"""Compiled networks of several exits in C, with the kernels that each core would get.

The packed kernels run with plain C in the place of their instructions. What is compared with runs
the same program in numpy; `test_c_program` holds that equal to TFLite-Micro.
"""

from __future__ import annotations

import c_host
import numpy as np
import program_reference
import pytest
from networks import int8_images, pieces

from edgeexit.backends.c import ChainInfo, ChainPoint, Core, build, links_of
from edgeexit.backends.tflite import lower
from edgeexit.runtime.decision import batch_exits, batch_scores
from edgeexit.types import DecisionSpec

NAMES = ("residual", "dense", "two_scale", "ensemble", "mobile", "assorted")
CORES = (
    c_host.GENERIC,
    Core("cortex-m4", dsp=True, mve=False, cost="m4"),
    Core("cortex-m55", dsp=True, mve=True, cost="m55"),
)


@pytest.fixture(scope="module")
def models() -> dict[str, c_host.Model]:
    made = {}
    for name in NAMES:
        parts = pieces(name)
        *artifacts, _ = lower(parts.segments, parts.static)
        links = links_of([segment.spec for segment in parts.segments])
        always = (0,)
        points = (ChainPoint("early", (40,) * (len(links) - 1) + always),)
        for core in CORES:
            key = f"{name}_{core.name}"
            chain = ChainInfo(key, DecisionSpec("margin", ()), points)
            built = build([each.content for each in artifacts], links, chain, core)
            made[key] = c_host.Model(
                built.program,
                built.implementations,
                built.plan,
                built.emission,
                tuple(segment.logits for segment in built.program.segments),
            )
    return made


@pytest.mark.parametrize("compiler", c_host.COMPILERS)
def test_networks_compute_and_stop_as_they_should(
    models: dict[str, c_host.Model], compiler: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    host = c_host.Host(models, tmp_path_factory.mktemp(compiler), compiler=compiler)
    images = int8_images(12).permute(0, 2, 3, 1).contiguous().numpy()
    for name in NAMES:
        program = models[f"{name}_{CORES[0].name}"].program
        expected = np.array([program_reference.logits(program, image) for image in images])
        scores = batch_scores(expected, DecisionSpec("margin", ()))
        thresholds = (40,) * (len(program.segments) - 1) + (0,)
        exits = batch_exits(scores, thresholds, "margin")
        for core in CORES:
            key = f"{name}_{core.name}"
            given = np.stack(host.outputs(key, images), axis=1)
            np.testing.assert_array_equal(given, expected, err_msg=key)
            np.testing.assert_array_equal(host.decisions(key, images).exits, exits, err_msg=key)


def test_cores_get_kernels_of_their_own(models: dict[str, c_host.Model]) -> None:
    sets = {
        core.name: {each.kernel_set for each in models[f"residual_{core.name}"].implementations}
        for core in CORES
    }
    assert sets["generic"] == {"portable"}
    assert "packed" in sets["cortex-m4"]
    assert "packed" in sets["cortex-m55"]
