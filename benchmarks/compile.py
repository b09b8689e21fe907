"""How long does the compiler take from process start to bundle, and does it write the same twice?

ResNet-8 with the shipped weights, CIFAR-10 in the cache, both backends.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from figures import arguments, publish

WORDS = ("compile", "resnet8", "--weights", "cifar10", "--data", "cifar10", "--target", "host")


def main() -> None:
    options = arguments(__doc__).parse_args()
    subprocess.run([sys.executable, "-m", "edgeexit", "data", "fetch", "cifar10"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        # Different names and folders: neither may leak into the bytes.
        bundles = [Path(folder, "first", "a.eexit"), Path(folder, "second", "b.eexit")]
        times = [seconds(bundle) for bundle in bundles]
        contents = [digests(bundle) for bundle in bundles]
        num_bytes = sum(path.stat().st_size for path in bundles[0].rglob("*") if path.is_file())
    figures = {
        "seconds": times[0],
        "seconds_again": times[1],
        "identical": contents[0] == contents[1],
        "num_files": len(contents[0]),
        "num_bytes": num_bytes,
    }
    publish("compile ResNet-8, tflite and executorch", figures, options.json)


def seconds(bundle: Path) -> float:
    bundle.parent.mkdir()
    start = perf_counter()
    command = [sys.executable, "-m", "edgeexit", *WORDS, "--name", "resnet8", "-o", str(bundle)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


def digests(bundle: Path) -> dict[str, str]:
    return {
        str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    main()
