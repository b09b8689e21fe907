"""How much code is in each file of the runtime, its kernels and CMSIS-NN?

Compiled as profiling compiles them, for every core that can run them; the largest size counts.
``--write`` puts them into edgeexit/compiler/code_bytes.json, by which the compiler estimates flash.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from figures import arguments, publish

from edgeexit.backends.c.cmsis_nn_sources import CmsisNn, find_cmsis_nn
from edgeexit.backends.c.emit import RUNTIME_SOURCES
from edgeexit.compiler.flash import CODE_BYTES_PATH
from edgeexit.profiling.qemu.elf import read_elf
from edgeexit.resources import resource_folder
from edgeexit.targets import Target, list_targets

RUNTIME = resource_folder("runtime")


def sources(target: Target, library: CmsisNn) -> dict[str, Path]:
    """Name -> path of what a program for a target may need."""
    assert target.core is not None
    folder = RUNTIME / "src"
    found = {name: folder / name for name in RUNTIME_SOURCES}
    sets = ["portable"]
    sets += ["mve"] if target.core.mve else ["dsp"] if target.core.dsp else []
    sets += ["cmsis_nn"] if "cmsis_nn" in target.kernel_sets else []
    for name in sets:
        found |= {f"kernels/{p.name}": p for p in (folder / "kernels").glob(f"{name}_*.c")}
    if "cmsis_nn" in sets:
        found |= {f"cmsis_nn:{name}": path for name, path in library.sources.items()}
    return found


def size(target: Target, path: Path, optimize: str, library: CmsisNn) -> int:
    """Bytes of code and constants in the object file."""
    assert target.toolchain is not None
    folders = (
        *(RUNTIME / name for name in ("include", "src", "src/kernels")),
        *library.include_folders,
    )
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "one.o"
        subprocess.run(
            [
                f"{target.toolchain.prefix}gcc", *target.toolchain.cflags, "-std=c11", "-w",
                *(("--specs=picolibc.specs",) if "riscv" in target.toolchain.prefix else ()),
                optimize, "-ffunction-sections", "-fdata-sections",
                *(f"-I{folder}" for folder in folders), "-c", str(path), "-o", str(compiled),
            ],
            check=True,
        )  # fmt: skip
        return sum(s.size for s in read_elf(compiled).sections if s.allocated and s.stored)


def main() -> None:
    """Measures, prints a table, and writes it if asked to."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--write", action="store_true", help="keep the sizes for the compiler")
    options = parser.parse_args()
    library = find_cmsis_nn()
    assert library is not None
    sizes: dict[str, int] = {}
    for target in list_targets():
        if target.core is None or target.limits is not None:
            continue  # a board has one of the cores
        for name, path in sources(target, library).items():
            optimize = "-O2" if name in RUNTIME_SOURCES else "-O3"
            sizes[name] = max(sizes.get(name, 0), size(target, path, optimize, library))
    sizes = dict(sorted(sizes.items()))
    publish("Bytes of code in each file, where it is largest", sizes, options.json)
    if options.write:
        CODE_BYTES_PATH.write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
