"""Targets: what a device can run, read from one TOML file each.

A file is read strictly. A key that this version does not know is an error and not a comment,
because a limit that is misspelt would otherwise be no limit. Sizes are in bytes, clocks in hertz,
power in milliwatts.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from edgeexit.backends.c.kernels.base import Core
from edgeexit.errors import TargetError
from edgeexit.resources import resource_folder
from edgeexit.runtime.engines import ENGINES
from edgeexit.target_table import TargetTable, read_toml
from edgeexit.types import BackendName

_BACKENDS: tuple[str, ...] = get_args(BackendName)
_KERNEL_SETS = ("packed", "cmsis_nn", "portable")
_COSTS = ("m0plus", "m4", "m7", "m33", "m55", "generic")


@dataclass(frozen=True)
class Limits:
    """The memory of a device, in bytes.

    ``ram_bytes`` is the largest piece without a gap, since an arena is one piece. What is reserved
    is for all else: stack, vectors, the C library, the program around the model.
    """

    flash_bytes: int
    ram_bytes: int
    reserved_flash_bytes: int
    reserved_ram_bytes: int

    @property
    def model_flash_bytes(self) -> int:
        """What the model may take: its weights, its tables, and the code that runs it."""
        return self.flash_bytes - self.reserved_flash_bytes

    @property
    def arena_bytes(self) -> int:
        """What the arena may take."""
        return self.ram_bytes - self.reserved_ram_bytes


@dataclass(frozen=True)
class Toolchain:
    """The compiler is ``<prefix>gcc``; ``cflags`` choose the core and the calling convention."""

    prefix: str
    cflags: tuple[str, ...]


@dataclass(frozen=True)
class Emulator:
    """``machine`` is a core of `profiling.qemu`; ``note`` says how it differs from the device."""

    machine: str
    note: str | None


@dataclass(frozen=True)
class Span:
    """A number that is known to lie between two others; ``mid`` is the best guess."""

    low: float
    mid: float
    high: float


@dataclass(frozen=True)
class CostProfile:
    """What turns counted instructions into time and energy, for one board, clock and supply.

    ``cycles_per_instruction`` and ``power_mw`` are spans whose origin ``time_source`` and
    ``power_source`` state. ``power_mw`` is None where nobody published an energy, and then no
    energy is modelled.
    """

    name: str
    supply: str
    clock_hz: int
    cycles_per_instruction: Span
    time_source: str
    power_mw: Span | None
    power_source: str | None


@dataclass(frozen=True)
class Target:
    """A device that a model can be compiled for.

    ``backends`` are tried in this order. ``engines`` maps each of them to the engine whose logits
    thresholds are chosen on. ``system`` and ``architectures`` name the machine as
    `platform.system` and `platform.machine` do; a microcontroller has the system ``none``.

    The rest is there for microcontrollers. ``kernel_sets`` are those that C may be made of; none
    for a target that takes no C. ``clock_hz`` and ``limits`` are None for a core that is no board.
    The first of ``cost_profiles`` is taken where none is named.
    """

    name: str
    description: str
    system: str
    architectures: tuple[str, ...]
    backends: tuple[str, ...]
    engines: Mapping[str, str]
    kernel_sets: tuple[str, ...] = ()
    core: Core | None = None
    clock_hz: int | None = None
    limits: Limits | None = None
    toolchain: Toolchain | None = None
    emulator: Emulator | None = None
    cost_profiles: tuple[CostProfile, ...] = ()

    @property
    def emits_c(self) -> bool:
        """Whether a bundle for it holds the chain as C."""
        return bool(self.kernel_sets)

    def cost_profile(self, name: str | None = None) -> CostProfile | None:
        """The profile called ``name``, or the first one; None if the target has none.

        Raises:
            TargetError: There is no profile of that name.
        """
        if name is None:
            return self.cost_profiles[0] if self.cost_profiles else None
        for profile in self.cost_profiles:
            if profile.name == name:
                return profile
        raise TargetError(
            f"the target {self.name!r} has no cost profile {name!r}",
            wanted=", ".join(profile.name for profile in self.cost_profiles) or None,
            given=repr(name),
        )


def list_targets() -> tuple[Target, ...]:
    """Every target that ships with this version, by name.

    Raises:
        TargetError: A file is not a target.
    """
    return tuple(_read(path) for path in sorted(resource_folder("targets").glob("*.toml")))


def load_target(name_or_path: str | Path) -> Target:
    """One target, by name or from a TOML file of one's own.

    Args:
        name_or_path: A name that ``edgeexit targets`` lists, or the path of a ``.toml`` file.

    Raises:
        TargetError: No such target, or its file is not one.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return _read(path)
    known = {file.stem: file for file in resource_folder("targets").glob("*.toml")}
    name = str(name_or_path)
    if name in known:
        return _read(known[name])
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    raise TargetError(
        f"there is no target {name!r}",
        wanted=f"one of {', '.join(sorted(known))}, or the path of a .toml file",
        given=repr(name),
        hint=f"did you mean {', '.join(near)}?" if near else "edgeexit targets lists them",
    )


def _read(path: Path) -> Target:
    reader = read_toml(path)
    engines = reader.table("engines")
    c, core = reader.optional_table("c"), reader.optional_table("core")
    limits = reader.optional_table("limits")
    toolchain = reader.optional_table("toolchain")
    emulator = reader.optional_table("emulator")
    target = Target(
        name=reader.line("name"),
        description=reader.text("description"),
        system=reader.text("system"),
        architectures=reader.texts("architectures"),
        backends=tuple(engines.values),
        engines={backend: engines.text(backend) for backend in engines.values},
        kernel_sets=c.choices("kernel_sets", _KERNEL_SETS) if c else (),
        core=_core(core) if core else None,
        clock_hz=core.integer("clock_hz") if core and "clock_hz" in core.values else None,
        limits=_limits(limits) if limits else None,
        toolchain=Toolchain(toolchain.text("prefix"), toolchain.texts("cflags"))
        if toolchain
        else None,
        emulator=_emulator(emulator) if emulator else None,
        cost_profiles=tuple(_cost_profile(row) for row in reader.tables("cost_profile")),
    )
    for part in (reader, c, core, limits, toolchain, emulator):
        if part is not None:
            part.done()
    for backend, engine in target.engines.items():
        _check_engine(path, backend, engine)
    if not target.backends:
        raise TargetError("a target has no backend", wanted="at least one in [engines]", where=path)
    if target.emits_c and (target.core is None or target.toolchain is None):
        raise TargetError(
            "a target that takes C lacks what C is made for",
            wanted="[core] and [toolchain] beside [c]",
            where=path,
        )
    if target.emits_c and target.engines.get("tflite") != "litert_reference":
        raise TargetError(
            "a target's C would not decide like the engine that chose its thresholds",
            wanted='tflite = "litert_reference" in [engines], whose logits C gives to the bit',
            given=target.engines.get("tflite", "no engine for tflite"),
            where=path,
        )
    names = [profile.name for profile in target.cost_profiles]
    if len(set(names)) < len(names):
        raise TargetError(
            "the target has two cost profiles of one name", given=", ".join(names), where=path
        )
    return target


def _core(reader: TargetTable) -> Core:
    return Core(
        name=reader.line("name"),
        dsp=reader.boolean("dsp"),
        mve=reader.boolean("mve"),
        cost=reader.choice("cost", _COSTS),
    )


def _limits(reader: TargetTable) -> Limits:
    limits = Limits(
        flash_bytes=reader.integer("flash_bytes"),
        ram_bytes=reader.integer("ram_bytes"),
        reserved_flash_bytes=reader.integer("reserved_flash_bytes", least=0),
        reserved_ram_bytes=reader.integer("reserved_ram_bytes", least=0),
    )
    if limits.model_flash_bytes <= 0 or limits.arena_bytes <= 0:
        raise TargetError(
            "the target reserves more than it has",
            wanted="reserved_flash_bytes < flash_bytes and reserved_ram_bytes < ram_bytes",
            where=reader.path,
        )
    return limits


def _emulator(reader: TargetTable) -> Emulator:
    machine = reader.choice("machine", _COSTS[:-1])
    return Emulator(machine, reader.text("note") if "note" in reader.values else None)


def _cost_profile(reader: TargetTable) -> CostProfile:
    has_power = "power_mw" in reader.values or "power_source" in reader.values
    profile = CostProfile(
        name=reader.text("name"),
        supply=reader.text("supply"),
        clock_hz=reader.integer("clock_hz"),
        cycles_per_instruction=Span(*reader.span("cycles_per_instruction")),
        time_source=reader.text("time_source"),
        power_mw=Span(*reader.span("power_mw")) if has_power else None,
        power_source=reader.text("power_source") if has_power else None,
    )
    reader.done()
    return profile


def _check_engine(path: Path, backend: str, engine: str) -> None:
    where = f"{path}: engines.{backend}"
    if backend not in _BACKENDS:
        raise TargetError(
            "the target names an unknown backend",
            wanted=f"one of {', '.join(_BACKENDS)}",
            given=repr(backend),
            where=where,
        )
    if engine not in ENGINES:
        raise TargetError(
            "there is no such engine",
            wanted=f"one of {', '.join(ENGINES)}",
            given=repr(engine),
            where=where,
        )
    if ENGINES[engine].backend != backend:
        fitting = [name for name, info in ENGINES.items() if info.backend == backend]
        raise TargetError(
            f"the engine does not run artifacts of {backend}",
            wanted=f"one of {', '.join(fitting)}",
            given=repr(engine),
            where=where,
        )
