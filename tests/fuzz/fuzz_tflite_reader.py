"""Fuzzes what stands between a ``.tflite`` file and C: libFuzzer, through Atheris.

    pip install 'edgeexit[dev]'
    python tests/fuzz/fuzz_tflite_reader.py [FOLDER] -max_total_time=600

Starts from the small files of ``tests/tflite_ops.py``, which are written to FOLDER if it is given
and does not exist. A finding is any exception but `LoweringError`, and any input that takes more
than ten seconds or 2 GiB.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["edgeexit.backends.c"]):
    from edgeexit.backends.c.build import build
    from edgeexit.backends.c.chain import single_exit
    from edgeexit.backends.c.kernels.base import Core
    from edgeexit.backends.c.legalize import CHAIN_INPUT, Link
from edgeexit.errors import LoweringError

CORES = (
    Core("generic", dsp=False, mve=False, cost="generic"),
    Core("cortex-m4", dsp=True, mve=False, cost="m4"),
    Core("cortex-m55", dsp=True, mve=True, cost="m55"),
)
MAX_BYTES = 1 << 16


def one_input(data: bytes) -> None:
    """Compiles ``data`` to C, or is refused."""
    try:
        compile_to_c(data)
    except LoweringError as error:
        str(error)


def compile_to_c(data: bytes) -> None:
    """All passes: read, legalize, select, plan, emit."""
    # One core for each kind of packed kernels.
    build([data], [[Link(CHAIN_INPUT)]], single_exit("fuzz"), CORES[len(data) % len(CORES)])


def write_seeds(folder: Path) -> None:
    """The files to start from."""
    from tflite_ops import cases

    folder.mkdir()
    for name, content in cases():
        if len(content) <= MAX_BYTES:
            (folder / f"{name}.tflite").write_bytes(content)


def main() -> None:
    """Runs libFuzzer with the arguments of the command line."""
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if folders and not folders[0].exists():
        write_seeds(folders[0])
    limits = ["-timeout=10", "-rss_limit_mb=2048", f"-max_len={MAX_BYTES}"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:]], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
