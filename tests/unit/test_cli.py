from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeexit import __version__
from edgeexit import data as datasets
from edgeexit.cli import models
from edgeexit.cli.app import main
from edgeexit.cli.output import count, duration, jsonable, percent
from edgeexit.cli.train import _kept_accuracy
from edgeexit.data.folder import read_folder
from edgeexit.errors import ArgumentError, CheckpointError, DataError, ModelError
from edgeexit.runtime.bundle import open_bundle
from edgeexit.storage import only_writer
from edgeexit.training import EpochRecord
from edgeexit.training.batches import to_device
from edgeexit.training.loop import evaluate
from edgeexit.types import Result

COMMANDS = [
    "data", "train", "diagnose", "compile", "inspect", "run", "profile", "export", "targets",
    "completion",
]  # fmt: skip


class Cli:
    """Runs a command line in this process and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        self.out, self.err = self.capsys.readouterr()
        assert caught.value.code == code, self.err
        return self.out

    def json(self, *words: str | Path, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def grey_data(tmp_path: Path) -> Path:
    """4 x 4 grey images; the first pixel of a test image is the exit to leave at, and its label
    is in the second."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 255, (30, 4, 4, 1), dtype=np.uint8)
    test = np.zeros((4, 4, 4, 1), np.uint8)
    test[:, 0, 0, 0] = [0, 0, 1, 1]
    test[:, 0, 1, 0] = [0, 1, 2, 0]
    path = tmp_path / "grey.npz"
    np.savez(
        path,
        train_images=train,
        train_labels=np.arange(30) % 3,
        test_images=test,
        test_labels=np.array([0, 1, 2, 1]),
    )
    return path


def rewrite(bundle: Path, **fields: object) -> None:
    """Sets fields of a bundle's manifest."""
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class FakeSession:
    """Leaves at the exit, and with the label, that the first two pixels name."""

    def __init__(self, bundle: Path, *, static: bool, operating_point: str, **_: object) -> None:
        self.bundle = open_bundle(bundle)
        self.static = static
        self.operating_point = None if static else operating_point

    def run(self, raw: Any) -> Result:
        return Result(int(raw[0, 1, 0]), 1 if self.static else int(raw[0, 0, 0]), 0.75)

    def run_batch(self, raw: Any) -> list[Result]:
        return [self.run(image) for image in raw]


# ------------------------------------------------------------------ the group


def test_help_lists_the_commands_in_the_order_of_the_work(cli: Cli) -> None:
    out = cli("--help")
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line[:3]]
    assert listed[: len(COMMANDS)] == COMMANDS


@pytest.mark.parametrize(
    "words",
    [[name] for name in COMMANDS] + [["data", name] for name in ("fetch", "list", "describe")],
)
def test_every_help_has_an_example_that_starts_with_its_command(cli: Cli, words: list[str]) -> None:
    assert f"edgeexit {' '.join(words)}" in cli(*words, "--help").partition("Example")[2]


def test_version(cli: Cli) -> None:
    assert cli("--version").split()[-1] == __version__


def test_unknown_command_names_a_near_one(cli: Cli) -> None:
    cli("complie", code=2)
    assert "Did you mean 'compile'?" in cli.err
    assert cli.json("complie", code=2)["error"] == "UsageError"


def test_an_error_is_text_or_json(cli: Cli, tmp_path: Path) -> None:
    cli("inspect", tmp_path / "absent.eexit", code=1)
    assert cli.out == ""
    assert "absent.eexit" in cli.err
    facts = cli.json("inspect", tmp_path / "absent.eexit", code=1)
    assert facts["error"] == "BundleError"
    assert {"problem", "wanted", "where", "try"} <= facts.keys()


def test_interrupt(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeexit.targets.list_targets", interrupted)
    cli("targets", code=130)
    assert "interrupted" in cli.err


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("torch", "edgeexit[compile]"),
        ("flatbuffers", "edgeexit[compile]"),
        ("ai_edge_litert.schema_py_generated", "edgeexit[compile]"),
    ],
)
def test_what_is_not_installed_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, module: str, message: str
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("edgeexit.targets.list_targets", missing)
    cli("targets", code=1)
    assert message in cli.err


def test_a_module_of_our_own_that_is_missing_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'edgeexit.lost'", name="edgeexit.lost")

    monkeypatch.setattr("edgeexit.targets.list_targets", missing)
    with pytest.raises(ModuleNotFoundError, match="lost"):
        main(["targets"])


def test_completion_in_a_fresh_shell(cli: Cli) -> None:
    assert "_EDGEEXIT_COMPLETE=bash_complete" in cli("completion", "bash")
    words = {"COMP_WORDS": "edgeexit com", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "edgeexit"],
        env={**os.environ, **words, "_EDGEEXIT_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["plain,compile", "plain,completion"]


# ------------------------------------------------------------------ looking at things


def test_targets(cli: Cli) -> None:
    shown = cli("targets")
    assert "host" in shown
    line = next(line for line in shown.splitlines() if "nucleo-u575zi-q" in line)
    words = "cortex-m33 tflite, c m33 160 MHz 2,048 768"
    assert " ".join(line.split()[1:]) == words
    told = {target["name"]: target for target in cli.json("targets")}
    assert told["host"]["engines"]["tflite"] == "litert"
    assert told["nucleo-u575zi-q"]["cost_profiles"][0]["power_mw"]["mid"] == 23.1


def test_data_describe(cli: Cli, grey_data: Path) -> None:
    assert "4 x 4 x 1 uint8" in cli("data", "describe", grey_data)
    assert cli.json("data", "describe", grey_data)["splits"]["test"]["num_samples"] == 4


def test_data_list(cli: Cli) -> None:
    assert "CIFAR-10" in cli("data", "list")
    assert [entry["name"] for entry in cli.json("data", "list")] == ["cifar10", "fashion-mnist"]


def test_inspect(cli: Cli, bundle_folder: Path) -> None:
    out = cli("inspect", bundle_folder)
    for text in ("layer1", "1x2x2x8", "1.10 k", "balanced", "46.67 %", "static.tflite", "0.1.0"):
        assert text in out
    facts = cli.json("inspect", bundle_folder)
    assert facts["segments"][0]["outputs"][0]["shape"] == [1, 2, 2, 8]
    assert facts["decision"] == {"rule": "confidence"}


def test_inspect_says_how_raw_samples_are_quantized(cli: Cli, bundle_folder: Path) -> None:
    given = json.loads((bundle_folder / "manifest.json").read_text())["input"]
    assert given["raw_is_subtraction"]
    assert "from uint8, uint8 - 128;" in cli("inspect", bundle_folder)
    channels = given["tensor"]["shape"][-1]
    offset = [123.5 + c for c in range(channels)]
    rewrite(
        bundle_folder,
        input={**given, "offset": offset, "multiplier": [0.25], "raw_is_subtraction": False},
    )
    said = " ".join(cli("inspect", bundle_folder).split())
    numbers = ", ".join(map(str, offset))
    assert f"(raw - offset) * multiplier, offset {numbers}, multiplier 0.25, scale " in said


def test_inspect_says_why_a_point_takes_no_early_exit(cli: Cli, bundle_folder: Path) -> None:
    assert "no early exit kept the promise" not in cli("inspect", bundle_folder)
    points = json.loads((bundle_folder / "manifest.json").read_text())["points"]
    points["tflite"][1] = {**points["tflite"][0], "name": "balanced"}
    rewrite(bundle_folder, points=points)
    said = " ".join(cli("inspect", bundle_folder).split())
    assert "balanced: no early exit kept the promise. On 64 samples none below 1.56 % can" in said


def test_foreign_names_are_printed_as_they_are(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, bundle_folder: Path, grey_data: Path
) -> None:
    rewrite(bundle_folder, target="[/x]", tools={"[bold]": ":smile:"})
    assert "for [/x], in" in cli("inspect", bundle_folder)
    assert "made with [bold] :smile:" in cli.out
    with np.load(grey_data) as arrays:
        named = {**arrays, "class_names": np.array(["[/b]", "[red]ant", ":bee:"])}
    path = grey_data.with_name("[bold]grey.npz")
    np.savez(path, **named)
    cli("data", "describe", path)
    assert all(text in cli.out for text in ("[/b]", "[red]ant", ":bee:", "[bold]grey"))
    monkeypatch.setattr("edgeexit.exporting.export_project", lambda *_, **__: ("a", "b"))
    assert "2 files in [/c]; its" in cli("export", bundle_folder, "--format", "cmake", "-o", "[/c]")


# ------------------------------------------------------------------ running


@pytest.fixture
def fake_session(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("edgeexit.profiling.host")  # which would import the fake, and keep it
    monkeypatch.setattr("edgeexit.runtime.session.Session", FakeSession)


@pytest.mark.usefixtures("fake_session")
def test_run_on_a_split(cli: Cli, bundle_folder: Path, grey_data: Path) -> None:
    facts = cli.json("run", bundle_folder, "--data", grey_data)
    assert facts["accuracy"] == 0.75
    assert facts["macs"] == (1100 + 3100) / 2
    early, late = facts["exits"]
    assert (early["rate"], early["accuracy"], early["macs"]) == (0.5, 1.0, 1100)
    assert (late["rate"], late["accuracy"], late["macs"]) == (0.5, 0.5, 3100)
    out = cli("run", bundle_folder, "--data", grey_data, "--limit", "2")
    assert "2 samples" in out
    assert "100.00 %" in out


@pytest.mark.usefixtures("fake_session")
def test_run_without_early_exits(cli: Cli, bundle_folder: Path, grey_data: Path) -> None:
    facts = cli.json("run", bundle_folder, "--data", grey_data, "--static")
    assert facts["macs"] == 3000
    assert facts["macs_saved"] == 0
    assert [row["exit"] for row in facts["exits"]] == [1]
    assert "without early exits" in cli("run", bundle_folder, "--data", grey_data, "--static")


@pytest.mark.usefixtures("fake_session")
def test_run_on_images(cli: Cli, bundle_folder: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.zeros((4, 4), np.uint8)
    pixels[0, :2] = (1, 2)
    good, large, broken = (tmp_path / name for name in ("good.png", "large.png", "broken.png"))
    image.fromarray(pixels).save(good)
    image.fromarray(np.zeros((8, 8), np.uint8)).save(large)
    broken.write_bytes(b"\x89PNG nothing more")
    assert "final" in cli("run", bundle_folder, good)
    (answer,) = cli.json("run", bundle_folder, good)
    assert (answer["class"], answer["exit_name"], answer["confidence"]) == ("cat", "final", 0.75)
    assert cli.json("run", bundle_folder, large, code=1)["wanted"] == "4 x 4 pixels"
    assert cli.json("run", bundle_folder, broken, code=1)["error"] == "DataError"
    assert cli.json("run", bundle_folder, tmp_path / "no.png", code=1)["error"] == "DataError"


@pytest.mark.usefixtures("fake_session")
def test_classes_of_a_picture_are_as_the_bundle_says(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, bundle_folder: Path, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    monkeypatch.chdir(tmp_path)
    path = Path("[bold]picture.png")
    image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    rewrite(bundle_folder, class_names=["[/b]", "bee", "cat"])
    assert "[/b]" in cli("run", bundle_folder, path)
    assert "[bold]picture.png" in cli.out
    rewrite(bundle_folder, class_names=[])
    assert [answer["class"] for answer in cli.json("run", bundle_folder, path)] == ["0"]


@pytest.mark.usefixtures("fake_session")
def test_pictures_that_would_be_read_wrongly(cli: Cli, bundle_folder: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    ramp = np.arange(16).reshape(4, 4)
    for name, dtype in (("short.png", np.uint16), ("int.tif", np.int32), ("real.tif", np.float32)):
        image.fromarray((ramp * 60).astype(dtype)).save(tmp_path / name)
        told = cli.json("run", bundle_folder, tmp_path / name, code=1)
        assert (told["error"], told["wanted"]) == ("DataError", "8 bits a channel")


# A grey TIFF of 4 x 4 pixels, but for the type of its StripOffsets, which is not that of numbers.
WRONG_TYPE = (
    "49492a000800000009000001040001000000040000000101040001000000040000000201"
    "030001000000080000000301030001000000010000000601030001000000010000001101"
    "0700010000007a0000001601040001000000040000001701040001000000100000001c01"
    "0300010000000100000000000000"
)


@pytest.mark.usefixtures("fake_session")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        # Pillow raises ValueError over a largest value of 0 and over 8x as a height, and TypeError
        # over the TIFF; GIF it knows, but no class folder may hold it.
        ("zero.ppm", b"P6\n4 4\n0\n" + bytes(48)),
        ("digits.ppm", b"P6\n4 8x\n255\n" + bytes(48)),
        ("offset.tiff", bytes.fromhex(WRONG_TYPE) + bytes(16)),
        ("other.png", b"GIF89a\x04\x00\x04\x00\x00\x00\x00;"),
    ],
)
def test_damaged_pictures(
    cli: Cli, bundle_folder: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    path = tmp_path / "images" / "class" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    told = cli.json("run", bundle_folder, path, code=1)
    assert told["problem"] == "the image cannot be read"
    with pytest.raises(DataError, match="cannot be read"):
        read_folder(tmp_path / "images")


@pytest.mark.usefixtures("fake_session")
@pytest.mark.parametrize(
    ("given", "known", "problem"),
    [
        (["ant", "bee", "cat"], ["ant", "bee", "cat"], None),
        (["ant", "cat", "bee"], ["ant", "bee", "cat"], "other classes"),
        (["ant", "bee", "cat", "dog"], ["ant", "bee", "cat"], "another number of classes"),
        (["ant", "bee", "cat", "dog"], [], "another number of classes"),
        (["0", "1", "2"], ["ant", "bee", "cat"], None),
        (["ant", "cat", "bee"], ["0", "1", "2"], None),
        (["ant", "cat", "bee"], [], None),
    ],
)
def test_data_of_other_classes(
    cli: Cli,
    bundle_folder: Path,
    tmp_path: Path,
    given: list[str],
    known: list[str],
    problem: str | None,
) -> None:
    data = tmp_path / "data.npz"
    labels = np.arange(60) % len(given)
    np.savez(data, images=np.zeros((60, 4, 4, 1), np.uint8), labels=labels, class_names=given)
    rewrite(bundle_folder, class_names=known)
    words = (bundle_folder, "--data", data)
    if problem is None:
        cli("run", *words)
        return
    for command in ("run", "profile"):
        told = cli.json(command, *words, code=1)
        assert told["error"] == "DataError"
        assert problem in told["problem"]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("run B a.png --limit 3", "--limit"),
        ("run B a.png --split test", "--split"),
        ("run B a.png --static --point balanced", "--point"),
        ("profile B --data D --on qemu --engine litert", "--engine"),
        ("profile B --data D --on qemu --threads 1", "--threads"),
        ("profile B --data D --on qemu --rounds 5", "--rounds"),
        ("profile B --data D --on qemu --warmup 5", "--warmup"),
        ("profile B --data D --target cortex-m4", "--target"),
        ("profile B --data D --cmsis-nn x", "--cmsis-nn"),
        ("compile x.tflite -o B --max-accuracy-drop 0.01", "--max-accuracy-drop"),
        ("compile x.tflite -o B --finetune-epochs 0", "--finetune-epochs"),
        ("compile resnet8 --data D -o B --cmsis-nn x", "--cmsis-nn"),
        ("compile resnet8 --data D -o B --target riscv32 --cmsis-nn x", "--cmsis-nn"),
    ],
)
def test_options_that_would_be_ignored(cli: Cli, words: str, option: str) -> None:
    told = cli.json(*words.split(), code=1)
    assert (told["error"], told["given"]) == ("ArgumentError", option)


@pytest.mark.parametrize("on", ["host", "qemu"])
def test_a_profile_goes_to_standard_output(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, bundle_folder: Path, grey_data: Path, on: str
) -> None:
    @contextlib.contextmanager
    def bars(**_: bool) -> Iterator[Any]:
        # As rich's do, on a terminal, if they are not told otherwise.
        with contextlib.redirect_stdout(sys.stderr):
            yield lambda *_: None

    monkeypatch.setattr("edgeexit.cli.profile.progress", bars)
    monkeypatch.setattr("edgeexit.profiling.profile", lambda *_, **given: given["dataset"])
    told = cli.json("profile", bundle_folder, "--data", grey_data, "--on", on)
    assert told == f"{grey_data}/test"


def test_a_device_that_there_is_not_is_wrong_usage(cli: Cli) -> None:
    told = cli.json("profile", "absent.eexit", "--data", "absent.npz", "--on", "toaster", code=2)
    assert told["error"] == "UsageError"
    assert "'host', 'qemu'" in told["problem"]


def test_run_on_nothing_is_wrong_usage(cli: Cli, bundle_folder: Path) -> None:
    cli("run", bundle_folder, code=2)
    assert "either --data or image files" in cli.err


# ------------------------------------------------------------------ making things


def test_train_resume_and_load(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data, output = tmp_path / "data.npz", tmp_path / "run"
    images = rng.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(data, images=images, labels=np.arange(40) % 2)
    words = ("train", "resnet8", "--data", data, "-o", output, "--epochs", "2", "--batch-size", "8")
    words = (*words, "--backbone-share", "0.5")
    cli(*words, "--resume", code=1)
    assert not output.exists()
    log = cli.json(*words)["log"]
    assert [record["phase"] for record in log] == ["backbone", "everything"]
    assert "everything 1/1" in cli.err
    cli(*words, code=1)
    assert "--resume" in cli.err
    assert cli.json(*words, "--resume")["log"] == log
    model = models.load_trained(str(output), weights=None, num_classes=9, in_channels=9)
    assert model.num_classes == 2
    with pytest.raises(ArgumentError, match="weights of its own"):
        models.load_trained(str(output), weights="cifar10", num_classes=2, in_channels=3)


def test_a_training_of_frozen_backbones_ends_with_every_exit(cli: Cli, tmp_path: Path) -> None:
    data, output = tmp_path / "data.npz", tmp_path / "run"
    np.savez(data, images=np.zeros((40, 32, 32, 3), np.uint8), labels=np.arange(40) % 2)
    words = ("train", "resnet8", "--data", data, "-o", output, "--epochs", "2", "--batch-size", "8")
    shown = cli(*words, "--strategy", "disjoint", "--backbone-share", "0.5")
    first, second = json.loads((output / "run.json").read_text())["log"]
    assert (len(first["accuracy"]), len(second["accuracy"])) == (1, 2)
    ended = [*second["accuracy"], *first["accuracy"]]
    assert re.findall(r"([\d.]+) %", shown) == [f"{100 * value:.2f}" for value in ended]


def test_a_training_that_stops_early_shows_the_weights_that_were_kept(
    cli: Cli, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    data, output = tmp_path / "data.npz", tmp_path / "run"
    images = rng.integers(0, 255, (80, 32, 32, 3), dtype=np.uint8)
    np.savez(data, images=images, labels=np.arange(80) % 2)
    words = ("train", "resnet8", "--data", data, "-o", output, "--epochs", "6", "--batch-size", "8")
    facts = cli.json(*words, "--strategy", "disjoint", "--patience", "1")
    splits = datasets.load(str(data))
    model = models.load_trained(str(output), weights=None, num_classes=2, in_channels=3)
    device = (torch.device("cpu"), torch.contiguous_format)
    left = evaluate(model, to_device(splits.calibration, splits.preprocessing, *device), 3)
    assert facts["accuracy"] == dict(zip(facts["exits"], left, strict=True))


def test_the_accuracy_after_phases_that_stopped_early() -> None:
    log = [
        EpochRecord(phase, epoch, 9, 0.1, 1.0, accuracy, accuracy, 1.0)
        for phase, epoch, accuracy in (
            *(("everything", 0, (0.5, 0.6)), ("everything", 1, (0.4, 0.5))),
            *(("backbone", 0, (0.7,)), ("backbone", 1, (0.8,)), ("backbone", 2, (0.1,))),
            *(("heads", 0, (0.3,)), ("heads", 1, (0.2,))),
        )
    ]
    assert _kept_accuracy(("early", "final"), log, 2) == {"early": 0.3, "final": 0.8}
    assert _kept_accuracy(("early", "final"), log, None) == {"early": 0.2, "final": 0.1}
    # A backbone that moved on leaves the early exit without a figure.
    assert _kept_accuracy(("early", "final"), log[:5], 2) == {"final": 0.8}


@pytest.mark.skipif(os.name != "posix", reason="needs locks on folders")
def test_a_second_process_does_not_train_into_the_same_folder(cli: Cli, tmp_path: Path) -> None:
    data, output = tmp_path / "data.npz", tmp_path / "run"
    np.savez(data, images=np.zeros((40, 32, 32, 3), np.uint8), labels=np.arange(40) % 2)
    words = ("train", "resnet8", "--data", data, "-o", output, "--epochs", "1")
    words = (*words, "--strategy", "joint", "--batch-size", "8")
    # Before its first checkpoint, the run of another process is an empty folder that is held.
    with only_writer(output):
        told = cli.json(*words, code=1)
        assert told["problem"] == "another process writes to the folder"
        assert list(output.iterdir()) == []
    cli(*words)


def test_train_complains_before_it_writes(cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "run"
    cli("train", "resnet8", "--data", "absent.npz", "-o", output, "--epochs", "0", code=1)
    assert "epochs=0" in cli.err
    assert not output.exists()


@pytest.mark.parametrize("content", [None, "[]", "{", '{"name": 1}', "x" * (1 << 17)])
def test_not_a_checkpoint(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "model.json").write_text(content)
    with pytest.raises(CheckpointError, match="not a checkpoint of edgeexit train"):
        models.load_trained(str(tmp_path), weights=None, num_classes=2, in_channels=3)


def test_a_folder_that_is_not_there_is_no_network_of_the_zoo() -> None:
    with pytest.raises(CheckpointError, match="no trained network here"):
        models.load_trained("runs/absent", weights=None, num_classes=2, in_channels=3)


def test_compile_hands_on_what_it_was_told(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, bundle_folder: Path, grey_data: Path, networks: str
) -> None:
    told: dict[str, Any] = {}

    def compile_model(model: Any, **options: Any) -> Any:
        told.update(options, exits=model.exit_names, calls=[options["progress"]("pass", 1, 2)])
        return open_bundle(bundle_folder)

    monkeypatch.setattr("edgeexit.compiler.pipeline.compile_model", compile_model)
    words = ("compile", f"{networks}:good", "--data", grey_data, "-o", "x.eexit")
    assert "tiny for host" in cli(*words)
    assert told["backends"] is None
    assert (told["max_accuracy_drop"], told["overwrite"], told["name"]) == (0.01, False, None)
    options = ("--backend", "tflite", "--max-accuracy-drop", "0.02", "--overwrite", "--name", "net")
    assert cli.json(*words, *options)["name"] == "tiny"
    assert "pass" in cli.err
    assert (told["backends"], told["name"], told["overwrite"]) == (("tflite",), "net", True)
    assert (told["max_accuracy_drop"], told["target"]) == (0.02, "host")
    assert (str(told["output"]), told["exits"]) == ("x.eexit", ("0", "final"))
    assert cli.json(*words, "--target", "hots", code=1)["error"] == "TargetError"


def test_compile_complains_of_names_first(
    cli: Cli, tmp_path: Path, networks: str, grey_data: Path
) -> None:
    words = ("compile", f"{networks}:good", "--data", "absent.npz", "-o", tmp_path / "my net.eexit")
    told = cli.json(*words, code=1)
    assert (told["error"], told["given"]) == ("ArgumentError", "'my net'")
    assert "--name" in told["try"]
    assert cli.json(*words, "--name", "net", code=1)["error"] == "DataError"  # there are no data
    with np.load(grey_data) as arrays:
        np.savez(grey_data, **{**arrays, "class_names": np.array(["ant", "b\ne", "x" * 201])})
    words = ("compile", f"{networks}:good", "--data", grey_data, "-o", tmp_path / "net.eexit")
    told = cli.json(*words, code=1)
    assert (told["error"], told["where"], told["given"]) == (
        *("DataError", "class_names[1]", "'b\\ne'"),
    )


NETWORKS = """
import torch
from edgeexit import attach_exits, heads

def good():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    return attach_exits(net, at={"0": heads.Pooled()}, example=torch.zeros(1, 1, 4, 4))

def plain():
    return torch.nn.Linear(2, 2)

def broken():
    raise RuntimeError("out of coffee")

number = 7
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "networks_of_mine.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "networks_of_mine", raising=False)
    return "networks_of_mine"


def load(name: str, weights: str | None = None) -> Any:
    return models.load_trained(name, weights=weights, num_classes=3, in_channels=1)


def test_a_function_of_ones_own(networks: str) -> None:
    assert load(f"{networks}:good").exit_names == ("0", "final")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("absent", ArgumentError, "has no function 'absent'"),
        ("number", ArgumentError, "has no function 'number'"),
        ("plain", ModelError, r"did not return a network with exits(.|\n)*Linear"),
        ("broken", ModelError, r"failed(.|\n)*RuntimeError: out of coffee"),
    ],
)
def test_a_function_that_does_not_do(
    networks: str, function: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(f"{networks}:{function}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import nothere", "ModuleNotFoundError: No module named 'nothere'"),
        ("import broken", "ModuleNotFoundError: No module named 'broken'"),
        ("from edgeexit import attach_exit", "ImportError: cannot import name 'attach_exit'"),
        ("def f(:", "SyntaxError: .*line 1"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    # "broken" is no package around this one, although its name begins so.
    (tmp_path / "broken_module.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ModelError, match=rf"(?s)cannot be imported.*broken_module:f.*{message}"):
        load("broken_module:f")


@pytest.mark.parametrize("name", [":f", "networks_of_mine:", ".networks_of_mine:good", ":"])
def test_a_function_without_its_module(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)named with its module.*package.module:function"):
        load(name)


def test_a_module_that_is_not_there(networks: str) -> None:
    with pytest.raises(ArgumentError, match="no module 'network_of_mine'"):
        load("network_of_mine:good")
    with pytest.raises(ArgumentError, match=r"no module 'network_of_mine\.tiny'"):
        load("network_of_mine.tiny:good")
    with pytest.raises(ArgumentError, match="networks of the zoo"):
        load(f"{networks}:good", weights="cifar10")


# ------------------------------------------------------------------ words and numbers


def test_numbers_for_people() -> None:
    assert [count(n) for n in (None, 0, 999, 12_500, 12_500_000)] == [
        *("-", "0", "999", "12.50 k", "12.50 M")
    ]
    assert [duration(n) for n in (None, 86_240, 1_430_000)] == ["-", "86.2 us", "1.43 ms"]
    assert [percent(n) for n in (None, 0.8465)] == ["-", "84.65 %"]


def test_json_has_no_numbers_that_json_does_not_know() -> None:
    given = {"a": [float("nan"), 1.5], "b": (float("inf"), np.float64("-inf"), True, 2)}
    assert jsonable(given) == {"a": [None, 1.5], "b": [None, None, True, 2]}


def test_train_has_the_defaults_of_its_config() -> None:
    from dataclasses import fields

    from edgeexit.cli.train import command
    from edgeexit.training import TrainConfig

    words = ["resnet8", "--data", "cifar10", "--output", "nowhere"]
    given = command.make_context("train", words).params
    for field in fields(TrainConfig):
        if field.name != "method_options":  # a list of texts until it is read
            assert given[field.name] == field.default, field.name
