"""What a process loads is asked of fresh processes: this one has loaded everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HEAVY = {
    *("torch", "nncf", "litert_torch", "executorch", "tensorflow", "jax", "transformers"),
    "matplotlib",
}


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


def command(words: str) -> str:
    return (
        "from edgeexit.cli.app import main\n"
        f"try: main({words.split()!r})\n"
        "except SystemExit as exc: assert exc.code == 0, exc.code"
    )


@pytest.mark.parametrize("code", ["import edgeexit", command("--help"), command("--version")])
def test_import_and_help_load_next_to_nothing(code: str) -> None:
    assert not loaded_by(code) & (HEAVY | {"numpy", "rich"})


@pytest.mark.parametrize(
    "name", ["train", "diagnose", "compile", "run", "profile", "inspect", "data fetch"]
)
def test_help_of_a_command_loads_nothing_heavy(name: str) -> None:
    assert not loaded_by(command(f"{name} --help")) & (HEAVY | {"numpy", "rich"})


def test_the_runtime_loads_no_compiler() -> None:
    code = "import edgeexit as ee; ee.Session; ee.open_bundle; ee.Result; ee.profile; ee.data"
    loaded = loaded_by(code)
    assert "numpy" in loaded
    assert not loaded & HEAVY


def test_arrays_and_images_need_no_toml(tmp_path: Path) -> None:
    # Python 3.10 cannot read it, and runs bundles.
    data = tmp_path / "data.npz"
    np.savez(data, images=np.zeros((60, 4, 4, 1), np.uint8), labels=np.arange(60) % 3)
    without = "import sys; sys.modules['tomllib'] = None\n"
    loaded_by(f"{without}import edgeexit.data.folder; import edgeexit as ee; ee.profile")
    loaded_by(without + command(f"data describe {data}"))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        loaded_by(without + command("data describe cifar10"))
    assert "Python 3.11 or newer" in caught.value.stderr
    with pytest.raises(subprocess.CalledProcessError) as caught:
        loaded_by(without + "import edgeexit as ee; ee.data.load('fashion-mnist')")
    assert "EdgeExitError: this Python cannot read TOML files" in caught.value.stderr


def test_the_probe_notices_torch() -> None:
    assert "torch" in loaded_by("import edgeexit as ee; ee.attach_exits")
