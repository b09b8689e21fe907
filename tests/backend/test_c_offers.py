"""What packed kernel sets offer: nothing that they cannot run, and all sources that they need."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import c_host
import dsp_cases
import mve_cases
import pytest

from edgeexit.backends.c.kernels import dsp, mve, portable
from edgeexit.backends.c.kernels.base import Implementation
from edgeexit.backends.c.program import DepthwiseConv2D, ProgramSegment

OF_THE_C_LIBRARY = {"memcpy", "memmove", "memset"}


def test_channels_that_multiply_are_left_to_plain_c() -> None:
    program = dsp_cases.depthwise("multiplied", (6, 6, 8), 1)
    step = program.steps[0]
    assert isinstance(step, DepthwiseConv2D)
    # Eight output channels of four input channels.
    step = replace(step, depth_multiplier=2)
    buffers = (replace(program.buffers[0], shape=(1, 6, 6, 4)), program.buffers[1])
    program = replace(program, buffers=buffers, segments=(ProgramSegment((step,), 1),))
    assert dsp.offer(step, program, dsp_cases.CORTEX_M4) is None
    assert mve.offer(step, program, mve_cases.CORTEX_M55) is None
    assert portable.offer(step, program, c_host.GENERIC) is not None


def offered() -> Iterator[Implementation]:
    """What each set offers for the cases of the packed sets."""
    cores = {dsp: dsp_cases.CORTEX_M4, mve: mve_cases.CORTEX_M55, portable: c_host.GENERIC}
    for program in mve_cases.programs().values():
        for step in program.steps:
            for kernels, core in cores.items():
                offer = kernels.offer(step, program, core)
                if offer is not None:
                    yield offer


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is missing")
def test_sources_define_all_that_they_call(tmp_path: Path) -> None:
    """On a host, too, where C stands in for assembly, and calls more."""
    offers = list(offered())
    names = sorted({source for offer in offers for source in offer.sources})
    include = [f"-I{c_host.RUNTIME / part}" for part in ("include", "src", "src/kernels")]

    def symbols(name: str) -> tuple[set[str], set[str]]:
        """What a source defines, and what it lacks."""
        compiled = tmp_path / f"{Path(name).stem}.o"
        source = c_host.RUNTIME / "src" / name
        flags = ["-std=c11", "-O1", "-fno-pic", *include]
        subprocess.run(["gcc", *flags, "-c", source, "-o", compiled], check=True)
        listing = subprocess.run(["nm", "-g", compiled], check=True, capture_output=True, text=True)
        rows = [row.split()[-2:] for row in listing.stdout.splitlines()]
        return ({symbol for kind, symbol in rows if kind != "U"},
                {symbol for kind, symbol in rows if kind == "U"})  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(names, pool.map(symbols, names), strict=True))
    assert len(found) > 15
    for offer in offers:
        defined = {symbol for source in offer.sources for symbol in found[source][0]}
        lacking = {symbol for source in offer.sources for symbol in found[source][1]}
        assert offer.function in defined
        assert lacking - defined <= OF_THE_C_LIBRARY, offer.function
