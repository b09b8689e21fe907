"""Runs a program under QEMU, or on the host, and reads what it wrote.

The files of samples and results are described in ``runtime/ports/qemu/profile_main.c``.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError, EngineError
from edgeexit.profiling.qemu.build import Firmware
from edgeexit.profiling.qemu.toolchain import emulator, emulator_version, find_tool

Mode = Literal["run", "all"]

_INPUTS_MAGIC = 0x49504545
_RESULTS_MAGIC = 0x52504545
_MODES: dict[Mode, int] = {"run": 0, "all": 1}
_NUM_FIELDS = 7
_PROBLEMS = {
    10: "it could not open its files",
    11: "it could not read its samples",
    12: "a kernel wrote outside of the arena",
    13: "it could not write its results",
    # QEMU aborts on a lockup, for instance where a handler finds no stack.
    -6: "a fault ended it: lockup",
    14: "the runtime refused the model or the operating point",
    **{64 + number: f"a fault ended it: {name}" for number, name in (
        (2, "NMI"), (3, "HardFault"), (4, "MemManage"), (5, "BusFault"), (6, "UsageFault"),
        (7, "SecureFault"))},
}  # fmt: skip
_DEFAULT_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Outputs:
    """What a program answered to ``n`` samples.

    Shapes in mode ``run``, for the exit that answered: ``labels``, ``exits``, ``scores``,
    ``costs``: int64 ``[n]``; ``logits``: int8 ``[n, num_classes]``. In mode ``all``, for every
    exit: ``[n, num_exits]`` and ``[n, num_exits, num_classes]``.

    ``stack_bytes`` is the most that a call into the runtime took of a painted stack; None on the
    host. ``counts`` has one row ``(mark, instructions before it)`` for each time that a mark was
    passed, uint64 ``[m, 2]``; None if nothing was counted. ``total_instructions`` counts from reset
    on.
    """

    labels: NDArray[np.int64]
    exits: NDArray[np.int64]
    scores: NDArray[np.int64]
    costs: NDArray[np.int64]
    logits: NDArray[np.int8]
    stack_bytes: int | None
    counts: NDArray[np.uint64] | None = None
    total_instructions: int | None = None


def run_firmware(
    firmware: Firmware,
    inputs: NDArray[np.int8],
    *,
    mode: Mode = "all",
    point: int = 0,
    marks: Sequence[int] | None = None,
    count_each: bool = False,
    blocks: Path | None = None,
    timeout_s: float = _DEFAULT_TIMEOUT_S,
) -> Outputs:
    """Runs samples, one after another, in one process.

    Args:
        firmware: What to run.
        inputs: int8 ``[n, ...]``, each sample as the model's input lies in the arena.
        mode: ``run`` stops at the exit that answers, with the thresholds of ``point``; ``all``
            runs every segment.
        point: The number of an operating point of the model.
        marks: Addresses to note instruction counts at; None counts nothing, and is faster.
        count_each: Counts at every instruction instead of once a block; the numbers are the same.
        blocks: A file to write to how often each block of code was executed.
        timeout_s: How long it may take.

    Raises:
        ArgumentError: The samples are not int8, or marks are asked of the host.
        EngineNotInstalledError: QEMU is missing, or, with marks, a C compiler for the host.
        EngineError: The program failed, or took too long.
    """
    if inputs.dtype != np.int8 or inputs.ndim < 2 or not len(inputs):
        raise ArgumentError(
            "samples are quantized already when they get here",
            wanted="int8 [num_samples, ...], at least one",
            given=f"{inputs.dtype} {inputs.shape}",
        )
    with tempfile.TemporaryDirectory(prefix="edgeexit-run-") as made:
        folder = Path(made)
        header = np.array([_INPUTS_MAGIC, _MODES[mode], point, len(inputs)], "<u4")
        (folder / "inputs.bin").write_bytes(header.tobytes() + inputs.tobytes())
        if firmware.machine.is_host:
            if marks is not None:
                raise ArgumentError(
                    "instructions are counted in an emulator only",
                    wanted="a core",
                    given=firmware.machine.name,
                )
            command = [str(firmware.elf)]
        else:
            command = _emulate(firmware, folder, marks, count_each, blocks)
        _execute(command, folder, timeout_s)
        outputs = _read_results(folder / "results.bin", len(inputs), mode, firmware)
        if marks is None:
            return outputs
        counts = np.fromfile(folder / "counts.bin", np.uint64).reshape(-1, 2)
        return Outputs(
            **{**vars(outputs), "counts": counts[:-1], "total_instructions": int(counts[-1, 1])}
        )


def _emulate(
    firmware: Firmware,
    folder: Path,
    marks: Sequence[int] | None,
    count_each: bool,
    blocks: Path | None,
) -> list[str]:
    qemu = emulator()
    command = [
        str(qemu),
        *firmware.machine.emulator,
        *("-display", "none", "-monitor", "none", "-serial", "null"),
        *("-semihosting-config", "enable=on,target=native"),
    ]
    if marks is not None:
        plugin = _build_plugin(qemu, folder)
        (folder / "marks.txt").write_text("".join(f"{mark:x}\n" for mark in marks))
        options = [str(plugin), "marks=marks.txt", "out=counts.bin"]
        options += ["each=on"] if count_each else []
        options += [f"blocks={blocks.resolve()}"] if blocks is not None else []
        command += ["-plugin", ",".join(options)]
    return [*command, "-kernel", str(firmware.elf)]


def _build_plugin(qemu: Path, folder: Path) -> Path:
    """Compiles the counting plugin for the QEMU that will load it, which takes a blink."""
    source = Path(__file__).with_name("count.c")
    plugin = folder / "count.so"
    version = 1 if emulator_version(qemu) < (9, 0) else 2
    command = [str(find_tool("gcc")), "-std=c11", "-O2", "-shared", "-fPIC"]
    command += [f"-DEE_PLUGIN_VERSION={version}", str(source), "-o", str(plugin)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise EngineError(
            "QEMU's counting plugin does not compile", given=done.stderr[-500:], where=source
        )
    return plugin


def _execute(command: Sequence[str], folder: Path, timeout_s: float) -> None:
    what = "the program on the host" if len(command) == 1 else "the program under QEMU"
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as exc:
        raise EngineError(
            f"{what} took too long",
            wanted=f"at most {timeout_s:g} s",
            hint="run fewer samples",
        ) from exc
    except OSError as exc:
        raise EngineError(f"{what} cannot be started", given=exc, where=command[0]) from exc
    if done.returncode:
        said = done.stderr.strip().splitlines()
        said = [line for line in said if "ockup" in line] or said
        raise EngineError(
            f"{what} failed: {_PROBLEMS.get(done.returncode, f'exit code {done.returncode}')}",
            given=said[-1] if said else None,
            where=command[-1],
        )


def _read_results(path: Path, num_samples: int, mode: Mode, firmware: Firmware) -> Outputs:
    content = path.read_bytes()
    magic, num_exits, num_classes, _ = (int(n) for n in np.frombuffer(content, "<u4", 4))
    if magic != _RESULTS_MAGIC:
        raise EngineError("the program's results are damaged", given=hex(magic))
    per_sample = num_exits if mode == "all" else 1
    record = np.dtype([("fields", "<u4", _NUM_FIELDS), ("logits", "i1", num_classes)])
    body = content[16:]
    if len(body) != num_samples * per_sample * record.itemsize:
        status = np.frombuffer(body[-4 * _NUM_FIELDS :], "<u4")
        raise EngineError(
            "the runtime could not run a sample",
            given=f"ee_status {status[0] if len(status) else 'unknown'}",
            where=f"sample {len(body) // record.itemsize // per_sample}",
        )
    records = np.frombuffer(body, record).reshape(num_samples, per_sample)
    fields = records["fields"].astype(np.int64)
    logits = records["logits"].copy()
    if mode == "run":
        fields, logits = fields[:, 0], logits[:, 0]
    stack_bytes, available = int(fields[..., 5].max()), int(fields[..., 6].min())
    if not firmware.machine.is_host and stack_bytes >= available:
        raise EngineError(
            "the program ran out of stack", wanted=f"less than {available} bytes", given=stack_bytes
        )
    return Outputs(
        labels=fields[..., 1],
        exits=fields[..., 2],
        scores=fields[..., 3],
        costs=fields[..., 4],
        logits=logits,
        stack_bytes=None if firmware.machine.is_host else stack_bytes,
    )
