"""``manifest.json``: typed values in, canonical bytes out, and back with every bound checked.

A manifest is untrusted input. ``from_json`` reads the version first, because another version may
mean anything by the other fields; then it builds each value through one of the small readers at the
end of this file, so that nothing of a type, size or range that is not written here gets past it.
The fields of an object are those of the dataclass in ``edgeexit.types``: all of them, and no other.

``to_json`` is canonical: equal manifests give equal bytes (keys sorted, one line for each field at
the top, ASCII, shortest float that reads back as the same number, newline at the end). It reads its
own output before it returns, so that what cannot be opened is not written either.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

import numpy as np

from edgeexit.errors import ArgumentError, BundleError, BundleVersionError
from edgeexit.runtime import decision as rules
from edgeexit.runtime.preprocess import byte_table
from edgeexit.types import (
    ArtifactSpec,
    DecisionSpec,
    FileSpec,
    FirmwareSpec,
    InputSpec,
    LayerSpec,
    Manifest,
    OperatingPoint,
    SegmentSpec,
    TensorSpec,
)

SCHEMA_VERSION = 1

MAX_MANIFEST_BYTES = 4 << 20
MAX_EXITS = 64
MAX_TENSORS = 64
MAX_LAYERS = 4096
MAX_DIMS = 8
MAX_ELEMENTS = 1 << 28
MAX_COUNT = 1 << 53
"""Counts (MACs, parameters, bytes) stay exact in a double, which is what other readers may use."""
MAX_FILE_BYTES = 1 << 31
MAX_POINTS = 64
MAX_TEXT = 200

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_BACKENDS = ("tflite", "executorch")
_T = TypeVar("_T")


def to_json(manifest: Manifest) -> bytes:
    """The canonical bytes of a manifest.

    Raises:
        BundleError: If the manifest breaks a rule of the format.
    """
    values = _plain(asdict(manifest))
    lines = [
        f"{json.dumps(key)}: {json.dumps(values[key], sort_keys=True, allow_nan=False)}"
        if _all_finite(values[key])
        else _fail("a number is not finite", key, "finite numbers", values[key])
        for key in sorted(values)
    ]
    content = ("{\n" + ",\n".join(lines) + "\n}\n").encode("ascii")
    from_json(content)
    return content


def from_json(content: bytes) -> Manifest:
    """Reads a manifest and checks every field.

    Args:
        content: The bytes of ``manifest.json``; nothing is assumed of them.

    Raises:
        BundleVersionError: If it was written for another schema.
        BundleError: If anything else about it is not as this module's rules ask.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        _fail("is too large", "", f"up to {MAX_MANIFEST_BYTES} bytes", f"{len(content)} bytes")
    try:
        document = json.loads(
            content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except BundleError:
        raise
    except (ValueError, RecursionError) as exc:
        raise BundleError(
            "the manifest is not valid JSON", given=str(exc)[:MAX_TEXT], where="manifest.json"
        ) from exc
    if not isinstance(document, dict) or "schema_version" not in document:
        _fail("has no version", "", "an object with schema_version", type(document).__name__)
    _check_version(document["schema_version"])
    return _manifest(document)


def _check_version(version: object) -> None:
    number = _integer(version, "schema_version", 0, 1 << 31)
    if number != SCHEMA_VERSION:
        newer = number > SCHEMA_VERSION
        raise BundleVersionError(
            f"the bundle was written for {'a newer' if newer else 'an older'} schema",
            wanted=f"schema_version {SCHEMA_VERSION}",
            given=f"schema_version {number}",
            where="manifest.json",
            hint="install a newer edgeexit" if newer else "compile the model again",
        )


# ------------------------------------------------------------------ one reader for each type


def _manifest(document: object) -> Manifest:
    value = _object(document, "", Manifest)
    num_classes = _integer(value["num_classes"], "num_classes", 2, rules.MAX_CLASSES)
    class_names = _sequence(value["class_names"], "class_names", 0, rules.MAX_CLASSES, plain_text)
    if class_names and len(class_names) != num_classes:
        _fail("are not one for each class", "class_names", f"{num_classes}, or none",
              len(class_names))  # fmt: skip
    segments = _sequence(value["segments"], "segments", 1, MAX_EXITS, _segment)
    model_input = _input(value["input"], "input")
    decision = _decision(value["decision"], "decision", len(segments))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=file_name(value["name"], "name"),
        target=plain_text(value["target"], "target"),
        num_classes=num_classes,
        class_names=class_names,
        static_macs=_integer(value["static_macs"], "static_macs", 1, MAX_COUNT),
        static_num_parameters=_integer(
            value["static_num_parameters"], "static_num_parameters", 0, MAX_COUNT
        ),
        input=model_input,
        segments=segments,
        decision=decision,
        points=_points(value["points"], "points", decision, len(segments)),
        artifacts=_sequence(
            value["artifacts"], "artifacts", 1, len(_BACKENDS) * (MAX_EXITS + 1), _artifact
        ),
        firmware=None
        if value["firmware"] is None
        else _firmware(value["firmware"], "firmware", len(segments)),
        golden=_file(value["golden"], "golden"),
        tools=_tools(value["tools"], "tools"),
    )
    _check_chain(manifest)
    _check_artifacts(manifest)
    return manifest


def _tensor(document: object, where: str) -> TensorSpec:
    value = _object(document, where, TensorSpec)
    shape = _sequence(value["shape"], f"{where}.shape", 1, MAX_DIMS, _dimension)
    layout = _choice(value["layout"], f"{where}.layout", ("NHWC", "NCHW", "ND"))
    if math.prod(shape) > MAX_ELEMENTS:
        _fail("is too large", f"{where}.shape", f"up to {MAX_ELEMENTS} elements", shape)
    if shape[0] != 1:
        _fail("has another batch than one", f"{where}.shape", "1 as the first dimension", shape)
    if layout != "ND" and len(shape) != 4:
        _fail("does not fit the layout", f"{where}.shape", f"4 dimensions for {layout}", shape)
    return TensorSpec(
        name=plain_text(value["name"], f"{where}.name"),
        shape=shape,
        scale=_scale(value["scale"], f"{where}.scale"),
        zero_point=_integer(value["zero_point"], f"{where}.zero_point", -128, 127),
        layout=layout,
    )


def _input(document: object, where: str) -> InputSpec:
    value = _object(document, where, InputSpec)
    tensor = _tensor(value["tensor"], f"{where}.tensor")
    spec = InputSpec(
        tensor=tensor,
        raw_dtype=_choice(value["raw_dtype"], f"{where}.raw_dtype", ("uint8", "float32")),
        offset=_sequence(value["offset"], f"{where}.offset", 1, 1 << 16, _number),
        multiplier=_sequence(value["multiplier"], f"{where}.multiplier", 1, 1 << 16, _number),
        raw_is_subtraction=_flag(value["raw_is_subtraction"], f"{where}.raw_is_subtraction"),
    )
    for name, numbers in (("offset", spec.offset), ("multiplier", spec.multiplier)):
        if len(numbers) not in (1, tensor.shape[-1]):
            _fail("has the wrong length", f"{where}.{name}",
                  f"1 number, or {tensor.shape[-1]} (one for each channel)",
                  len(numbers))  # fmt: skip
    if spec.raw_is_subtraction:
        subtracted = np.arange(-128, 128)[:, np.newaxis]
        if spec.raw_dtype != "uint8" or (byte_table(spec) != subtracted).any():
            _fail("is not what scale, offset and multiplier give", f"{where}.raw_is_subtraction",
                  "true only where int8 = uint8 - 128 for all 256 values", True)  # fmt: skip
    return spec


def _segment(document: object, where: str) -> SegmentSpec:
    value = _object(document, where, SegmentSpec)
    arena = value["arena_bytes"]
    return SegmentSpec(
        index=_integer(value["index"], f"{where}.index", 0, MAX_EXITS - 1),
        exit_name=plain_text(value["exit_name"], f"{where}.exit_name"),
        inputs=_sequence(value["inputs"], f"{where}.inputs", 1, MAX_TENSORS, _tensor),
        outputs=_sequence(value["outputs"], f"{where}.outputs", 0, MAX_TENSORS, _tensor),
        logits=_tensor(value["logits"], f"{where}.logits"),
        macs=_integer(value["macs"], f"{where}.macs", 0, MAX_COUNT),
        num_parameters=_integer(value["num_parameters"], f"{where}.num_parameters", 0, MAX_COUNT),
        arena_bytes=None
        if arena is None
        else _integer(arena, f"{where}.arena_bytes", 0, MAX_COUNT),
    )


def _decision(document: object, where: str, num_exits: int) -> DecisionSpec:
    value = _object(document, where, DecisionSpec)
    rule = _choice(value["rule"], f"{where}.rule", ("confidence", "margin", "patience"))
    length = rules.TABLE_SIZE if rule == "confidence" else 0
    tables = _sequence(
        value["tables"],
        f"{where}.tables",
        num_exits,
        num_exits,
        lambda table, at: _sequence(table, at, length, length, _table_entry),
    )
    for index, table in enumerate(tables):
        falls = all(a >= b for a, b in pairwise(table))
        if table and (table[0] != rules.ONE or not falls):
            _fail("is not a table of exp", f"{where}.tables[{index}]",
                  f"{rules.ONE} first, then never a larger number",
                  f"{table[:4]} ...")  # fmt: skip
    return DecisionSpec(rule=rule, tables=tables)


def _points(
    document: object, where: str, decision: DecisionSpec, num_exits: int
) -> dict[str, tuple[OperatingPoint, ...]]:
    points = {
        _choice(backend, where, _BACKENDS): _sequence(
            value,
            f"{where}.{backend}",
            1,
            MAX_POINTS,
            lambda point, at: _point(point, at, decision, num_exits),
        )
        for backend, value in _mapping(document, where).items()
    }
    for backend, of_backend in points.items():
        _unique_names([point.name for point in of_backend], f"{where}.{backend}")
    return points


def _point(document: object, where: str, decision: DecisionSpec, num_exits: int) -> OperatingPoint:
    value = _object(document, where, OperatingPoint)
    thresholds = _sequence(
        value["thresholds"], f"{where}.thresholds", num_exits, num_exits, _threshold
    )
    try:
        rules.check_thresholds(thresholds, decision.rule, num_exits)
    except ArgumentError as exc:
        raise BundleError(
            exc.problem, wanted=exc.wanted, given=exc.given,
            where=f"manifest.json, {where}.thresholds",
        ) from exc  # fmt: skip
    rates = _sequence(value["exit_rates"], f"{where}.exit_rates", num_exits, num_exits, _share)
    if abs(sum(rates) - 1) > 1e-6:
        _fail("do not add up to 1", f"{where}.exit_rates", "a share for each exit", rates)
    return OperatingPoint(
        name=plain_text(value["name"], f"{where}.name"),
        thresholds=thresholds,
        accuracy=None
        if value["accuracy"] is None
        else _share(value["accuracy"], f"{where}.accuracy"),
        exit_rates=rates,
        macs=_number(value["macs"], f"{where}.macs", 0, MAX_COUNT),
        macs_saved=_number(value["macs_saved"], f"{where}.macs_saved", -MAX_COUNT, 1),
        dataset=plain_text(value["dataset"], f"{where}.dataset"),
        num_samples=_integer(
            value["num_samples"], f"{where}.num_samples", value["accuracy"] is not None, MAX_COUNT
        ),
        engine=plain_text(value["engine"], f"{where}.engine"),
    )


def _artifact(document: object, where: str) -> ArtifactSpec:
    value = _object(document, where, ArtifactSpec)
    segment, method = value["segment"], value["method"]
    file = _file({key: value[key] for key in ("path", "sha256", "num_bytes")}, where)
    return ArtifactSpec(
        backend=_choice(value["backend"], f"{where}.backend", _BACKENDS),
        path=file.path,
        sha256=file.sha256,
        num_bytes=file.num_bytes,
        segment=None
        if segment is None
        else _integer(segment, f"{where}.segment", 0, MAX_EXITS - 1),
        method=None if method is None else file_name(method, f"{where}.method"),
        layout=_choice(value["layout"], f"{where}.layout", ("NHWC", "NCHW", "ND")),
    )


def _firmware(document: object, where: str, num_segments: int) -> FirmwareSpec:
    value = _object(document, where, FirmwareSpec)
    return FirmwareSpec(
        core=plain_text(value["core"], f"{where}.core"),
        symbol=_symbol(value["symbol"], f"{where}.symbol"),
        files=_sequence(value["files"], f"{where}.files", 1, MAX_TENSORS, _file),
        sources=_sequence(value["sources"], f"{where}.sources", 1, MAX_LAYERS, _source),
        arena_bytes=_integer(value["arena_bytes"], f"{where}.arena_bytes", 1, MAX_COUNT),
        lower_bound_bytes=_integer(
            value["lower_bound_bytes"], f"{where}.lower_bound_bytes", 1, MAX_COUNT
        ),
        layers=_sequence(
            value["layers"],
            f"{where}.layers",
            1,
            MAX_LAYERS,
            lambda layer, at: _layer(layer, at, num_segments),
        ),
    )


def _layer(document: object, where: str, num_segments: int) -> LayerSpec:
    value = _object(document, where, LayerSpec)
    instructions = value["instructions"]
    return LayerSpec(
        name=_symbol(value["name"], f"{where}.name"),
        segment=_integer(value["segment"], f"{where}.segment", 0, num_segments - 1),
        kind=plain_text(value["kind"], f"{where}.kind"),
        kernel_set=plain_text(value["kernel_set"], f"{where}.kernel_set"),
        function=_symbol(value["function"], f"{where}.function"),
        macs=_integer(value["macs"], f"{where}.macs", 0, MAX_COUNT),
        constant_bytes=_integer(value["constant_bytes"], f"{where}.constant_bytes", 0, MAX_COUNT),
        scratch_bytes=_integer(value["scratch_bytes"], f"{where}.scratch_bytes", 0, MAX_COUNT),
        instructions=None
        if instructions is None
        else _number(instructions, f"{where}.instructions", 0, MAX_COUNT),
    )


def _file(document: object, where: str) -> FileSpec:
    value = _object(document, where, FileSpec)
    digest = plain_text(value["sha256"], f"{where}.sha256")
    if not _HASH.match(digest):
        _fail("is not a SHA-256", f"{where}.sha256", "64 hexadecimal digits, lower case", digest)
    return FileSpec(
        path=_path(value["path"], f"{where}.path"),
        sha256=digest,
        num_bytes=_integer(value["num_bytes"], f"{where}.num_bytes", 1, MAX_FILE_BYTES),
    )


def _tools(document: object, where: str) -> dict[str, str]:
    tools = _mapping(document, where)
    if len(tools) > 64:
        _fail("are too many", where, "up to 64", len(tools))
    return {
        plain_text(name, where): plain_text(version, f"{where}.{name}")
        for name, version in tools.items()
    }


# ------------------------------------------------------------------ rules between fields


def _check_chain(manifest: Manifest) -> None:
    """Each segment takes only what an earlier one gives, under equal specs."""
    known = {manifest.input.tensor.name: manifest.input.tensor}
    for index, segment in enumerate(manifest.segments):
        where = f"segments[{index}]"
        if segment.index != index:
            _fail("is out of order", f"{where}.index", index, segment.index)
        for tensor in segment.inputs:
            if known.get(tensor.name) != tensor:
                _fail("takes a tensor that nothing before it gives", f"{where}.inputs",
                      f"one of {sorted(known)} with the same shape and scale",
                      tensor)  # fmt: skip
        names = [tensor.name for tensor in segment.inputs]
        if len(set(names)) != len(names):
            _fail("takes a name twice", f"{where}.inputs", "each tensor once", names)
        logits = segment.logits
        if logits.shape != (1, manifest.num_classes) or logits.layout != "ND":
            _fail("is not one number for each class", f"{where}.logits",
                  f"ND [1, {manifest.num_classes}]",
                  f"{logits.layout} {list(logits.shape)}")  # fmt: skip
        for tensor in (*segment.outputs, logits):
            if tensor.name in known:
                _fail("gives a name twice", where, "a new name", tensor.name)
            known[tensor.name] = tensor
    _unique_names([segment.exit_name for segment in manifest.segments], "segments")


def _check_artifacts(manifest: Manifest) -> None:
    """Each backend implements every segment once, and files that are shared are the same file."""
    files = {manifest.golden.path: (manifest.golden.sha256, manifest.golden.num_bytes)}
    if manifest.golden.path == "manifest.json":
        _fail("names the manifest itself", "golden.path", "another file", "manifest.json")
    sources = manifest.firmware.files if manifest.firmware else ()
    for index, file in enumerate(sources):
        if file.path in files or file.path == "manifest.json":
            _fail("names a file twice", f"firmware.files[{index}]", "another file", file.path)
        files[file.path] = (file.sha256, file.num_bytes)
    seen: dict[str, list[int | None]] = {}
    parts: set[tuple[str, str | None]] = set()
    for index, artifact in enumerate(manifest.artifacts):
        where = f"artifacts[{index}]"
        if artifact.path in ("manifest.json", manifest.golden.path, *(f.path for f in sources)):
            _fail("names a file that is no artifact", f"{where}.path", "another", artifact.path)
        if (artifact.method is not None) != (artifact.backend == "executorch"):
            _fail("does not fit the backend", f"{where}.method",
                  "a name for executorch, null for tflite", artifact.method)  # fmt: skip
        if (artifact.path, artifact.method) in parts:
            _fail("is listed twice", where, "one entry", (artifact.path, artifact.method))
        parts.add((artifact.path, artifact.method))
        facts = (artifact.sha256, artifact.num_bytes)
        if files.setdefault(artifact.path, facts) != facts:
            _fail("has two hashes or sizes", where, "one for each file", artifact.path)
        seen.setdefault(artifact.backend, []).append(artifact.segment)
    for backend, segments in seen.items():
        chain = sorted(index for index in segments if index is not None)
        if chain != list(range(len(manifest.segments))) or segments.count(None) > 1:
            _fail(f"of {backend} do not cover the chain", "artifacts",
                  f"segments 0 to {len(manifest.segments) - 1} once each, the static network at "
                  "most once", segments)  # fmt: skip
    if manifest.firmware is not None and "tflite" not in seen:
        _fail("is there without what it was made of", "firmware", "artifacts of tflite",
              sorted(seen))  # fmt: skip
    if set(manifest.points) != set(seen):
        _fail("are not given for each backend", "points", sorted(seen), sorted(manifest.points))


# ------------------------------------------------------------------ readers of plain values


def _fail(problem: str, where: str, wanted: object, given: object) -> NoReturn:
    raise BundleError(
        f"the manifest is not valid: {where or 'the document'} {problem}",
        wanted=wanted,
        given=repr(given)[:MAX_TEXT],
        where=f"manifest.json{', ' if where else ''}{where}",
        hint="compile the model again, or fetch the bundle again",
    )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in pairs:
        if name in result:
            _fail("has a field twice", "", "each field once", name)
        result[name] = value
    return result


def _no_constant(name: str) -> NoReturn:
    _fail("has a number that is not finite", "", "finite numbers", name)


def _object(value: object, where: str, of: type[Any]) -> dict[str, Any]:
    given = _mapping(value, where)
    wanted = {field.name for field in fields(of)}
    if missing := sorted(wanted - set(given)):
        _fail("misses a field", where, f"the field {missing[0]}", sorted(given))
    if unknown := sorted(set(given) - wanted):
        _fail("has an unknown field", where, f"only {sorted(wanted)}", unknown[0])
    return given


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _fail("has the wrong type", where, "an object", value)
    return value


def _sequence(
    value: object, where: str, low: int, high: int, read: Callable[[Any, str], _T]
) -> tuple[_T, ...]:
    if not isinstance(value, list):
        _fail("has the wrong type", where, "a list", value)
    if not low <= len(value) <= high:
        span = f"{low}" if low == high else f"{low} to {high}"
        _fail("has the wrong length", where, f"{span} entries", len(value))
    return tuple(read(entry, f"{where}[{index}]") for index, entry in enumerate(value))


def plain_text(value: object, where: str) -> str:
    """A text that a manifest may hold, or `BundleError`."""
    if not isinstance(value, str):
        _fail("has the wrong type", where, "text", value)
    if not 1 <= len(value) <= MAX_TEXT or not value.isprintable():
        _fail("is not a short line of text", where, f"1 to {MAX_TEXT} printable characters", value)
    return value


def file_name(value: object, where: str) -> str:
    """A text that may be the name of a file on any system, or `BundleError`."""
    name = plain_text(value, where)
    if not _NAME.match(name):
        _fail("is not a plain name", where, "letters, digits, _ . - and no . first", name)
    return name


def _symbol(value: object, where: str) -> str:
    name = plain_text(value, where)
    if not _SYMBOL.match(name):
        _fail("is not a C identifier", where, "letters, digits and _, no digit first", name)
    return name


def _source(value: object, where: str) -> str:
    name = plain_text(value, where)
    _path(name.removeprefix("cmsis_nn:"), where)
    return name


def _path(value: object, where: str) -> str:
    path = plain_text(value, where)
    parts = path.split("/")
    if len(parts) > MAX_DIMS or not all(_NAME.match(part) for part in parts):
        _fail("leaves the folder, or is not a plain path", where,
              "names of letters, digits, _ . - with / between, none of them starting with .",
              path)  # fmt: skip
    return path


def _choice(value: object, where: str, choices: tuple[str, ...]) -> Any:
    if value not in choices or not isinstance(value, str):
        _fail("is not one of the choices", where, " or ".join(choices), value)
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        _fail("has the wrong type", where, "true or false", value)
    return value


def _integer(value: object, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        _fail("has the wrong type", where, "an integer", value)
    if not low <= value <= high:
        _fail("is out of range", where, f"{low} to {high}", value)
    return value


def _number(value: object, where: str, low: float = -1e30, high: float = 1e30) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _fail("has the wrong type", where, "a number", value)
    if not low <= value <= high:
        _fail("is out of range", where, f"{low:g} to {high:g}", value)
    return float(value)


def _share(value: object, where: str) -> float:
    return _number(value, where, 0, 1)


def _scale(value: object, where: str) -> float:
    return _number(value, where, 1e-30, 1e30)


def _dimension(value: object, where: str) -> int:
    return _integer(value, where, 1, MAX_ELEMENTS)


def _table_entry(value: object, where: str) -> int:
    return _integer(value, where, 0, rules.ONE)


def _threshold(value: object, where: str) -> int:
    return _integer(value, where, 0, (1 << 32) - 1)


def _unique_names(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            _fail("has a name twice", where, "each name once", name)


# ------------------------------------------------------------------ writing


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's own; anything that is no plain value is left to the reader."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def _all_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_all_finite(entry) for entry in value.values())
    if isinstance(value, list):
        return all(_all_finite(entry) for entry in value)
    return not isinstance(value, float) or math.isfinite(value)
