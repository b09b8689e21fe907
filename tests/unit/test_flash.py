"""The estimate of flash: what it is made of."""

from __future__ import annotations

import json

from edgeexit.backends.c.cmsis_nn_sources import find_cmsis_nn
from edgeexit.backends.c.emit import RUNTIME_SOURCES
from edgeexit.compiler.flash import CODE_BYTES_PATH
from edgeexit.resources import resource_folder


def test_every_file_of_code_was_measured() -> None:
    measured = json.loads(CODE_BYTES_PATH.read_text(encoding="utf-8"))
    kernels = (resource_folder("runtime") / "src" / "kernels").glob("*.c")
    library = find_cmsis_nn()
    assert library is not None
    wanted = {*RUNTIME_SOURCES, *(f"kernels/{path.name}" for path in kernels)}
    assert wanted | {f"cmsis_nn:{name}" for name in library.sources} == measured.keys()
