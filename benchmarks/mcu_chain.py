"""The shipped chain of three exits on an emulated Cortex-M4, beside its static network."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from mcu_jobs import cached, digest

from edgeexit.backends.c import build
from edgeexit.backends.c.chain import ChainPoint
from edgeexit.backends.c.cmsis_nn_sources import CmsisNn
from edgeexit.backends.c.from_bundle import program_inputs, static_inputs
from edgeexit.data import default_cache
from edgeexit.data.types import Splits
from edgeexit.profiling.qemu.build import build_firmware
from edgeexit.profiling.qemu.count import count_runs, count_segments
from edgeexit.profiling.qemu.machines import machine
from edgeexit.profiling.qemu.sections import measure_flash
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.preprocess import Preprocessor
from edgeexit.runtime.session import Session
from edgeexit.targets import load_target
from edgeexit.types import DecisionSpec, Rule

NUM_IMAGES = 1000
NUM_STATIC = 3
POINT = "balanced"
_RULES: dict[Rule, tuple[int, ...]] = {"margin": (256, 256, 0), "patience": (9, 9, 1)}
_TIMEOUT_S = 3600.0


def chain_figures(
    bundle: Bundle, splits: Splits, library: CmsisNn, num_images: int
) -> dict[str, object]:
    """Figures of ``chain`` and ``runtime``.

    Every image runs to its exit in one emulated firmware, and each is counted: nothing is
    extrapolated. A static network costs the same for every image up to a few instructions, so
    ``NUM_STATIC`` of them say what it costs.
    """
    core = load_target("cortex-m4").core
    assert core is not None
    contents, links, info = program_inputs(bundle)
    static_parts = static_inputs(bundle)
    assert static_parts is not None
    chain = build(contents, links, info, core, cmsis_nn=library.root)
    static = build(*static_parts, core, cmsis_nn=library.root)
    images = splits.test.images[:num_images]
    inputs = Preprocessor(bundle.manifest.input).batch(images)
    point = [each.name for each in info.points].index(POINT)
    with Session(bundle, engine="litert_reference", operating_point=POINT) as session:
        answers = [session.run(image) for image in images]
    exits = np.array([answer.exit for answer in answers])
    labels = np.array([answer.label for answer in answers])

    def measure() -> dict[str, object]:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            firmware = build_firmware(
                chain.emission, machine("m4"), folder, cmsis_nn=library.root,
                cache=default_cache() / "bench" / "objects",
            )  # fmt: skip
            counts, given = count_runs(firmware, inputs, point=point, timeout_s=_TIMEOUT_S)
            flash = measure_flash(firmware)
            decisions = {info.decision.rule: _decision(firmware, inputs)}
        return {
            "exits_equal": bool((given.exits == exits).all() and (given.labels == labels).all()),
            "exit_rates": np.bincount(given.exits, minlength=len(contents)).tolist(),
            "accuracy": float((given.labels == splits.test.labels[:num_images]).mean()),
            "instructions": float(counts.mean()),
            "stack_bytes": given.stack_bytes,
            "flash": {part.name: part.bytes for part in flash.parts},
            "decisions": decisions,
        }

    def measure_static() -> dict[str, object]:
        with tempfile.TemporaryDirectory() as folder:
            firmware = build_firmware(
                static.emission, machine("m4"), Path(folder), cmsis_nn=library.root,
                cache=default_cache() / "bench" / "objects",
            )  # fmt: skip
            counts, _ = count_runs(firmware, inputs[:NUM_STATIC], timeout_s=_TIMEOUT_S)
        return {"instructions": float(counts.mean())}

    def measure_rules() -> dict[str, object]:
        found: dict[str, object] = {}
        for rule, thresholds in _RULES.items():
            other = replace(
                info,
                name=rule,
                decision=DecisionSpec(rule, ()),
                points=(ChainPoint("all", thresholds),),
                default_point=0,
            )
            made = build(contents, links, other, core, cmsis_nn=library.root)
            with tempfile.TemporaryDirectory() as folder:
                firmware = build_firmware(
                    made.emission, machine("m4"), Path(folder), cmsis_nn=library.root,
                    cache=default_cache() / "bench" / "objects",
                )  # fmt: skip
                found[rule] = _decision(firmware, inputs)
        return found

    wanted = np.stack([exits, labels, splits.test.labels[:num_images]])
    result = cached(digest(chain.emission, "m4", library, b"chain", inputs, wanted), measure)
    still = cached(digest(static.emission, "m4", library, b"static", inputs), measure_static)
    rules = cached(digest(chain.emission, "m4", library, b"rules", inputs), measure_rules)
    by_rule = {**result["decisions"], **rules}  # type: ignore[dict-item]
    flash = result["flash"]
    assert isinstance(flash, dict)
    return {
        "runtime": {
            # What it takes of the C library and the compiler's is its own, too.
            "flash_bytes": flash["runtime"] + flash.get("library", 0),
            "decision_instructions": max(by_rule.values()),
            "decision_instructions_by_rule": by_rule,
        },
        "chain": {
            "num_images": num_images,
            "operating_point": POINT,
            "exits_equal": result["exits_equal"],
            "exit_counts": result["exit_rates"],
            "accuracy": result["accuracy"],
            "balanced_instructions": result["instructions"],
            "static_instructions": still["instructions"],
            "balanced_instructions_ratio": result["instructions"] / still["instructions"],  # type: ignore[operator]
            "arena_bytes": chain.plan.arena_bytes,
            "arena_lower_bound_bytes": chain.plan.lower_bound_bytes,
            "stack_bytes": result["stack_bytes"],
            "flash": flash,
        },
    }


def _decision(firmware, inputs) -> int:  # type: ignore[no-untyped-def]
    """The most instructions that a decision took."""
    counts, _ = count_segments(firmware, inputs[:10], timeout_s=_TIMEOUT_S)
    return int(counts.decisions.max())
