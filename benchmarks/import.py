"""How long do `import edgeexit` and `edgeexit --help` take, and what do they load?

Each is the median over fresh processes, the start of Python included.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from time import perf_counter

from figures import arguments, publish

NUM_RUNS = 15
HEAVY = ("torch", "nncf", "litert_torch", "executorch", "tensorflow")


def main() -> None:
    options = arguments(__doc__).parse_args()
    loads = f"import sys, edgeexit; print(any(name in sys.modules for name in {HEAVY!r}))"
    figures = {
        "import_s": seconds("-c", "import edgeexit"),
        "help_s": seconds("-m", "edgeexit", "--help"),
        "loads_torch": run("-c", loads).strip() == "True",
    }
    publish(f"import, median of {NUM_RUNS} fresh processes", figures, options.json)


def seconds(*words: str) -> float:
    run(*words)  # writes the .pyc files
    times = []
    for _ in range(NUM_RUNS):
        start = perf_counter()
        run(*words)
        times.append(perf_counter() - start)
    return statistics.median(times)


def run(*words: str) -> str:
    return subprocess.run(
        [sys.executable, *words], check=True, capture_output=True, text=True
    ).stdout


if __name__ == "__main__":
    main()
