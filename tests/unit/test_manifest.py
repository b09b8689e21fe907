"""What a manifest may hold, and one error for each thing that it may not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.errors import BundleError, BundleVersionError
from edgeexit.runtime import manifest as manifest_json
from edgeexit.runtime.manifest import SCHEMA_VERSION, from_json, to_json
from edgeexit.types import Manifest

Document = dict[str, Any]


@pytest.fixture
def document(bundle_folder: Path) -> Document:
    content: Document = json.loads((bundle_folder / "manifest.json").read_bytes())
    return content


@pytest.fixture
def manifest(document: Document) -> Manifest:
    return from_json(json.dumps(document).encode())


def test_round_trip(manifest: Manifest) -> None:
    assert from_json(to_json(manifest)) == manifest


def test_bytes_are_canonical(document: Document, manifest: Manifest) -> None:
    shuffled = json.dumps(dict(reversed(document.items())), indent=3).encode()
    content = to_json(from_json(shuffled))
    assert content == to_json(manifest)
    assert content.endswith(b"}\n")
    keys = [line.split(b":")[0].strip(b'"') for line in content.splitlines()[1:-1]]
    assert keys == sorted(keys)


def test_numbers_of_numpy_become_plain_ones(manifest: Manifest) -> None:
    numpy_input = replace(manifest.input, multiplier=(np.float64(1 / 128),))
    given = replace(manifest, static_macs=np.int64(3000), input=numpy_input)
    assert to_json(given) == to_json(manifest)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_cannot_be_read_is_not_written(manifest: Manifest, value: float) -> None:
    point = replace(manifest.points["tflite"][0], macs=value)
    with pytest.raises(BundleError, match="not finite"):
        to_json(replace(manifest, points={"tflite": (point,)}))
    with pytest.raises(BundleError, match=r"(?s)static_macs.*out of range"):
        to_json(replace(manifest, static_macs=-1))


def test_another_schema_is_named_before_anything_else() -> None:
    newer = json.dumps({"schema_version": SCHEMA_VERSION + 1, "anything": []}).encode()
    with pytest.raises(BundleVersionError, match=r"(?s)a newer schema.*install a newer edgeexit"):
        from_json(newer)
    with pytest.raises(BundleVersionError, match=r"(?s)an older schema.*compile the model again"):
        from_json(b'{"schema_version": 0}')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1, 2", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"9" * 100_000, "not valid JSON|has no version"),
        (b"[]", "has no version"),
        (b"{}", "has no version"),
        (b'{"schema_version": 1, "schema_version": 1}', "has a field twice"),
        (b'{"schema_version": NaN}', "not finite"),
        (b'{"schema_version": true}', r"(?s)schema_version has the wrong type"),
        (b'{"schema_version": "1"}', r"(?s)schema_version has the wrong type"),
        (b'{"schema_version": 1}', r"(?s)misses a field.*the field artifacts"),
        (b" " * (manifest_json.MAX_MANIFEST_BYTES + 1), "too large"),
    ],
)
def test_damaged_documents(content: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        from_json(content)


def test_many_fields_and_one_of_them_twice() -> None:
    fields = ",".join(f'"{number}": 1' for number in range(200_000))
    with pytest.raises(BundleError, match=r"(?s)a field twice.*given: '7'"):
        from_json(f'{{{fields}, "7": 1}}'.encode())


def test_as_many_channels_as_a_tensor_may_have(document: Document) -> None:
    document["input"]["tensor"]["shape"] = [1, 1, 1, manifest_json.MAX_ELEMENTS]
    document["segments"][0]["inputs"] = [document["input"]["tensor"]]
    assert from_json(json.dumps(document).encode()).input.raw_is_subtraction
    document["input"]["offset"] = [127.0]
    with pytest.raises(BundleError, match="raw_is_subtraction is not what"):
        from_json(json.dumps(document).encode())


def put(*path: str | int, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    change.__name__ = ".".join(str(step) for step in path) + f"={str(value)[:24]}"
    return change


SEGMENT, POINT = ("segments", 0), ("points", "tflite", 1)
FALLING = list(range(65536, 65536 - 256, -1))

BAD: list[tuple[Callable[[Document], None], str]] = [
    (put("extra", value=1), r"(?s)unknown field.*extra"),
    (put(*SEGMENT, "extra", value=1), r"(?s)segments\[0\] has an unknown field.*extra"),
    (lambda d: d["segments"][1].pop("macs"), r"(?s)segments\[1\] misses a field.*macs"),
    (put("name", value="../up"), "name is not a plain name"),
    (put("name", value=""), "name is not a short line"),
    (put("target", value="a\nb"), "target is not a short line"),
    (put("target", value="x" * 201), "target is not a short line"),
    (put("num_classes", value=1), "num_classes is out of range"),
    (put("num_classes", value=4097), "num_classes is out of range"),
    (put("num_classes", value=3.0), "num_classes has the wrong type"),
    (put("class_names", value=["a", "b"]), "not one for each class"),
    (put("static_macs", value=2**53 + 1), "static_macs is out of range"),
    (put("segments", value=[]), "segments has the wrong length"),
    (put("segments", value={}), "segments has the wrong type"),
    (put(*SEGMENT, "index", value=1), "out of order"),
    (put(*SEGMENT, "exit_name", value="final"), "has a name twice"),
    (put(*SEGMENT, "inputs", value=[]), r"segments\[0\].inputs has the wrong length"),
    (put("segments", 1, "inputs", 0, "name", value="nobody"), "that nothing before it gives"),
    (put("segments", 1, "inputs", 0, "scale", value=0.06), "that nothing before it gives"),
    (lambda d: d["segments"][1]["inputs"].append(d["segments"][1]["inputs"][0]), "takes a name"),
    (put("segments", 1, "logits", "name", value="early"), "gives a name twice"),
    (put("segments", 1, "logits", "shape", value=[1, 4]), "one number for each class"),
    (put(*SEGMENT, "arena_bytes", value=-1), "arena_bytes is out of range"),
    (put(*SEGMENT, "outputs", 0, "shape", value=[1, 2, 2]), "does not fit the layout"),
    (put(*SEGMENT, "outputs", 0, "shape", value=[2, 2, 2, 8]), "another batch than one"),
    (put(*SEGMENT, "outputs", 0, "shape", value=[1, 0, 2, 8]), "out of range"),
    (put(*SEGMENT, "outputs", 0, "shape", value=[1, 2**20, 2**20, 1]), "too large"),
    (put(*SEGMENT, "outputs", 0, "shape", value=[1] * 9), "wrong length"),
    (put(*SEGMENT, "outputs", 0, "layout", value="CHWN"), "not one of the choices"),
    (put(*SEGMENT, "outputs", 0, "layout", value=["NHWC"]), "not one of the choices"),
    (put(*SEGMENT, "outputs", 0, "scale", value=0), "scale is out of range"),
    (put(*SEGMENT, "outputs", 0, "scale", value=-0.1), "scale is out of range"),
    (put(*SEGMENT, "outputs", 0, "scale", value=1e300), "scale is out of range"),
    (put(*SEGMENT, "outputs", 0, "scale", value="0.1"), "scale has the wrong type"),
    (put(*SEGMENT, "outputs", 0, "zero_point", value=128), "zero_point is out of range"),
    (put(*SEGMENT, "outputs", 0, "zero_point", value=-129), "zero_point is out of range"),
    (put("input", "raw_dtype", value="int8"), "not one of the choices"),
    (put("input", "offset", value=[1.0, 2.0]), "offset has the wrong length"),
    (put("input", "offset", value=[127.0]), "raw_is_subtraction is not what"),
    (put("input", "raw_dtype", value="float32"), "raw_is_subtraction is not what"),
    (put("input", "raw_is_subtraction", value=1), "wrong type"),
    (put("decision", "rule", value="entropy"), "not one of the choices"),
    (put("decision", "rule", value="class_means"), "not one of the choices"),
    (put("decision", "rule", value="margin"), r"tables\[0\] has the wrong length"),
    (put("decision", "tables", 0, value=[65536] * 255), r"tables\[0\] has the wrong length"),
    (put("decision", "tables", 0, value=[65535] * 256), "not a table of exp"),
    (put("decision", "tables", 0, value=[*FALLING[:-1], 65536]), "not a table of exp"),
    (put("decision", "tables", 0, 9, value=65537), "out of range"),
    (put("decision", "tables", 0, 9, value=-1), "out of range"),
    (put("decision", "tables", value=[FALLING]), "tables has the wrong length"),
    (put("points", value={}), "points are not given for each backend"),
    (put("points", "onnx", value=[]), "not one of the choices"),
    (lambda d: d["points"].update(executorch=d["points"]["tflite"]), "not given for each backend"),
    (put(*POINT, "name", value="static"), "has a name twice"),
    (put(*POINT, "thresholds", value=[1]), "thresholds has the wrong length"),
    (put(*POINT, "thresholds", value=[1, 2]), "last exit has to answer"),
    (put(*POINT, "thresholds", 0, value=2**32), "out of range"),
    (put(*POINT, "thresholds", 0, value=True), "wrong type"),
    (put(*POINT, "accuracy", value=1.1), "accuracy is out of range"),
    (put(*POINT, "exit_rates", value=[0.5, 0.4]), "do not add up to 1"),
    (put(*POINT, "macs", value=-1), "macs is out of range"),
    (put(*POINT, "macs_saved", value=1.5), "macs_saved is out of range"),
    (put(*POINT, "num_samples", value=0), "num_samples is out of range"),
    (put("artifacts", 0, "sha256", value="A" * 64), "not a SHA-256"),
    (put("artifacts", 0, "num_bytes", value=0), "num_bytes is out of range"),
    (put("artifacts", 0, "num_bytes", value=2**31 + 1), "num_bytes is out of range"),
    (put("artifacts", 0, "method", value="m"), "method does not fit the backend"),
    (put("artifacts", 0, "segment", value=1), "do not cover the chain"),
    (put("artifacts", 1, "segment", value=None), "do not cover the chain"),
    (put("artifacts", 1, "path", value="segments/0.tflite"), "is listed twice"),
    (put("artifacts", 1, "path", value="golden.npz"), "no artifact"),
    (put("artifacts", 1, "path", value="manifest.json"), "no artifact"),
    (put("golden", "path", value="manifest.json"), "the manifest itself"),
    (put("tools", value={"a": 1}), "wrong type"),
    (put("tools", value={f"tool{i}": "1" for i in range(65)}), "too many"),
] + [
    (put("artifacts", 0, "path", value=path), "leaves the folder")
    for path in (
        "/etc/passwd",
        "../x",
        "segments/../../x",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "C:/x",
        ".hidden",
        "a/b/c/d/e/f/g/h/i",
        "-rf",
        "ä",
    )
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=lambda x: getattr(x, "__name__", None))
def test_each_rule_has_its_error(
    document: Document, change: Callable[[Document], None], message: str
) -> None:
    change(document)
    with pytest.raises(BundleError, match=message):
        from_json(json.dumps(document).encode())


def test_one_file_may_hold_several_methods(document: Document) -> None:
    for artifact, method in zip(
        document["artifacts"], ("segment_0", "segment_1", "static"), strict=True
    ):
        artifact.update(backend="executorch", method=method, layout="NCHW", path="model.pte")
        artifact.update(sha256="0" * 64, num_bytes=3)
    document["points"] = {"executorch": document["points"]["tflite"]}
    parsed = from_json(json.dumps(document).encode())
    assert [artifact.method for artifact in parsed.artifacts] == [
        "segment_0",
        "segment_1",
        "static",
    ]
    document["artifacts"][1]["num_bytes"] = 4
    with pytest.raises(BundleError, match="two hashes or sizes"):
        from_json(json.dumps(document).encode())


def test_earlier_logits_may_cross_a_cut(document: Document) -> None:
    document["segments"][1]["inputs"].append(document["segments"][0]["logits"])
    parsed = from_json(json.dumps(document).encode())
    assert parsed.segments[1].inputs[1] == parsed.segments[0].logits


def test_errors_carry_the_four_facts(document: Document) -> None:
    document["num_classes"] = 1
    with pytest.raises(BundleError) as caught:
        from_json(json.dumps(document).encode())
    facts = caught.value.facts()
    assert facts["wanted"] == "2 to 4096"
    assert facts["given"] == "1"
    assert facts["where"] == "manifest.json, num_classes"
    assert "compile the model again" in facts["try"]


# ------------------------------------------------------------------ the chain as C


FIRMWARE: Document = {
    "core": "cortex-m4",
    "symbol": "ee_model_tiny",
    "files": [{"path": "c/ee_model.c", "sha256": "0" * 64, "num_bytes": 1}],
    "sources": ["ee_runtime.c", "kernels/portable_conv.c", "cmsis_nn:arm_convolve_s8.c"],
    "arena_bytes": 128,
    "lower_bound_bytes": 112,
    "layers": [
        {
            "name": "conv_0",
            "segment": 0,
            "kind": "Conv2D",
            "kernel_set": "portable",
            "function": "ee_conv2d_portable",
            "macs": 100,
            "constant_bytes": 36,
            "scratch_bytes": 0,
            "instructions": None,
        }
    ],
}


def test_firmware_round_trip(document: Document) -> None:
    document["firmware"] = FIRMWARE
    manifest = from_json(json.dumps(document).encode())
    assert manifest.firmware is not None
    assert manifest.firmware.layers[0].function == "ee_conv2d_portable"
    assert from_json(to_json(manifest)) == manifest


def test_firmware_without_what_it_was_made_of(document: Document) -> None:
    document["firmware"] = FIRMWARE
    document["points"] = {"executorch": document["points"]["tflite"]}
    for index, artifact in enumerate(document["artifacts"]):
        artifact |= {"backend": "executorch", "method": f"method_{index}"}
    with pytest.raises(BundleError, match=r"(?s)firmware is there without.*artifacts of tflite"):
        from_json(json.dumps(document).encode())
    document["firmware"] = None
    assert from_json(json.dumps(document).encode()).firmware is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("symbol", value="a b"), "not a C identifier"),
        (put("layers", 0, "function", value="1st"), "not a C identifier"),
        (put("layers", 0, "segment", value=9), "out of range"),
        (put("sources", 0, value="../secret.c"), "leaves the folder"),
        (put("sources", 0, value="cmsis_nn:/etc/passwd"), "leaves the folder"),
        (put("files", 0, "path", value="golden.npz"), "names a file twice"),
        (put("files", 0, "path", value="manifest.json"), "names a file twice"),
        (put("files", value=[]), "wrong length"),
        (put("arena_bytes", value=0), "out of range"),
    ],
)
def test_firmware_that_is_refused(
    document: Document, change: Callable[[Document], None], message: str
) -> None:
    firmware = json.loads(json.dumps(FIRMWARE))
    change(firmware)
    document["firmware"] = firmware
    with pytest.raises(BundleError, match=message):
        from_json(json.dumps(document).encode())
