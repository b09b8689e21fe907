"""CMSIS-NN behind our interface: bit for bit what numpy computes, on the host and on cores.

numpy's answers are held equal to TFLite-Micro's by `test_c_program`. Each core compiles another of
the three libraries that CMSIS-NN is: plain C for the host, DSP for M4, MVE for M55.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "backend"))

import c_host
import dsp_cases
import program_reference
from test_c_portable import op_inputs, residual_programs
from tflite_ops import cases

from edgeexit.backends.c.cmsis_nn_sources import CmsisNn, find_cmsis_nn
from edgeexit.backends.c.emit import Emission
from edgeexit.backends.c.kernels import cmsis_nn
from edgeexit.backends.c.kernels.base import Core, Implementation
from edgeexit.backends.c.legalize import program_from_file
from edgeexit.backends.c.program import (
    Buffer,
    Copy,
    DepthwiseConv2D,
    Program,
    ProgramSegment,
)
from edgeexit.profiling.qemu.build import build_firmware
from edgeexit.profiling.qemu.count import count_segments
from edgeexit.profiling.qemu.machines import machine
from edgeexit.profiling.qemu.run import run_firmware
from edgeexit.targets import load_target

LIBRARY = find_cmsis_nn()
needs_library = pytest.mark.skipif(LIBRARY is None, reason="CMSIS-NN (extra mcu) is missing")
needs_emulator = [
    pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is missing")
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm")
]
pytestmark = needs_library
ON_HOST = ("-D__GNUC_PYTHON__", "-D__RESTRICT=__restrict")
CASES_IN_A_CHAIN = 60


def library() -> CmsisNn:
    assert LIBRARY is not None
    return LIBRARY


def core(place: str) -> Core:
    found = load_target(f"cortex-{place}").core
    assert found is not None
    return found


@cache
def programs() -> dict[str, Program]:
    """Every op and way of using it that CMSIS-NN has an offer for."""
    made = {name: program_from_file(content, name) for name, content in cases()}
    made |= residual_programs()
    return {
        name: program
        for name, program in made.items()
        if any(cmsis_nn.offer(step, program, c_host.GENERIC) for step in program.steps)
    }


def test_all_kernels_have_cases() -> None:
    functions = {
        offer.function
        for program in programs().values()
        for step in program.steps
        if (offer := cmsis_nn.offer(step, program, c_host.GENERIC)) is not None
    }
    assert functions == {
        "ee_average_pool_cmsis_nn",
        "ee_conv2d_cmsis_nn",
        "ee_conv2d_cmsis_nn_add",
        "ee_depthwise_cmsis_nn",
        "ee_depthwise_cmsis_nn_add",
        "ee_fully_connected_cmsis_nn",
        "ee_max_pool_cmsis_nn",
    }


def test_on_the_host_under_sanitizers(tmp_path: Path) -> None:
    _compare_on_host(programs(), tmp_path)


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=needs_emulator) for place in ("m4", "m55")]
)
def test_on_a_core(place: str, tmp_path: Path) -> None:
    names = iter(programs())
    while part := {name: programs()[name] for name in islice(names, CASES_IN_A_CHAIN)}:
        _compare(part, place, tmp_path)


def test_dense_layers_are_convolutions_where_their_kernel_does_not_do() -> None:
    functions = {
        (name, place): offer.function
        for name in ("fc_64_10_act0", "fc_per_channel")
        for place in ("m4", "m55")
        if (offer := cmsis_nn.offer(programs()[name].steps[0], programs()[name], core(place)))
    }
    assert functions == {
        ("fc_64_10_act0", "m4"): "ee_fully_connected_cmsis_nn",
        ("fc_64_10_act0", "m55"): "ee_conv2d_cmsis_nn",
        ("fc_per_channel", "m4"): "ee_conv2d_cmsis_nn",
        ("fc_per_channel", "m55"): "ee_conv2d_cmsis_nn",
    }


def beyond_the_row(columns: int, residual: bool) -> Program:
    """Six windows in a row of an image; of ``columns`` 5, the last window has only its first."""
    single = dsp_cases.depthwise("window", (6, 6, 8), 1)
    (step,), (whole, result) = single.steps, single.buffers
    assert isinstance(step, DepthwiseConv2D)
    image = Buffer("image", (1, 6, columns, 8), 0.05, 3)
    copy = Copy(
        name="copy",
        inputs=(0,),
        output=1,
        extents=(1, 6, columns, 8),
        input_start=0,
        input_strides=(0, 48, 8, 1),
        output_start=0,
        output_strides=(0, 8 * columns, 8, 1),
    )
    window = replace(step, inputs=(1,), output=2)
    if residual:
        addition = dsp_cases.addition(np.random.default_rng(3))
        window = replace(window, inputs=(1, 0), residual=addition)
    return Program((whole, image, result), 0, (ProgramSegment((copy, window), 2),))


def rows_that_end() -> dict[str, Program]:
    return {
        f"{'residual' if residual else 'plain'}_{columns}": beyond_the_row(columns, residual)
        for columns in (5, 6)
        for residual in (False, True)
    }


def test_a_window_of_one_column_is_left_to_others() -> None:
    for name, program in rows_that_end().items():
        for place in ("m0plus", "m4", "m55"):
            offer = cmsis_nn.offer(program.steps[1], program, core(place))
            assert (offer is None) == (name.endswith("5") and place != "m55"), (name, place)


@pytest.mark.parametrize("place", ["host", pytest.param("m4", marks=needs_emulator)])
def test_windows_at_the_end_of_a_row(place: str, tmp_path: Path) -> None:
    if place == "host":
        _compare_on_host(rows_that_end(), tmp_path)
    else:
        _compare(rows_that_end(), place, tmp_path)


def _compare_on_host(part: Mapping[str, Program], folder: Path) -> None:
    models = {
        name: c_host.make(program, kernel_sets=("cmsis_nn",), cmsis_nn=library().root, name=name)
        for name, program in part.items()
    }
    host = c_host.Host(models, folder, flags=ON_HOST, cmsis_nn=library().root)
    for name, program in part.items():
        inputs = op_inputs(program)
        expected = [program_reference.logits(program, sample)[-1].ravel() for sample in inputs]
        np.testing.assert_array_equal(host.outputs(name, inputs)[-1], expected, err_msg=name)


def _compare(part: Mapping[str, Program], place: str, folder: Path) -> None:
    program, chain = dsp_cases.merged(part)
    made = c_host.make(
        program,
        core=core(place),
        kernel_sets=("cmsis_nn",),
        cmsis_nn=library().root,
        chain=chain,
    )
    firmware = build_firmware(
        made.emission, machine(place), folder, cmsis_nn=library().root, cache=folder / "objects"
    )
    inputs = dsp_cases.samples(program, 2)
    for sample, answers in zip(inputs, run_firmware(firmware, inputs).logits, strict=True):
        expected = program_reference.logits(program, sample)
        for name, one, answer in zip(part, expected, answers, strict=True):
            np.testing.assert_array_equal(answer, one, err_msg=name)


def offers(place: str) -> list[Implementation]:
    return [
        offer
        for program in programs().values()
        for step in program.steps
        if (offer := cmsis_nn.offer(step, program, core(place))) is not None
    ]


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=needs_emulator) for place in ("m0plus", "m4", "m55")]
)
def test_scratch_is_what_cmsis_nn_asks_for(place: str, tmp_path: Path) -> None:
    """A program whose answer is what its own functions say, for every case."""
    asked = [(offer, query) for offer in offers(place) if (query := _query(offer)) is not None]
    lines = [f"    sizes[{index}] = {query};" for index, (_, query) in enumerate(asked)]
    num_bytes = 4 * len(asked)
    source = SIZES_C.replace("NUM_SIZES", str(num_bytes)).replace("LINES", "\n".join(lines))
    emission = Emission(
        symbol="ee_model_sizes",
        files={
            "ee_model.h": SIZES_H.replace("NUM_ARENA", str(num_bytes + 16)),
            "ee_model.c": source,
        },
        sources=tuple(sorted({source for offer, _ in asked for source in offer.sources})),
        headers=(),
    )
    firmware = build_firmware(emission, machine(place), tmp_path, cmsis_nn=library().root)
    outputs = run_firmware(firmware, np.zeros((1, 16), np.int8))
    given = outputs.logits.reshape(-1).view(np.int32)
    for (offer, query), size in zip(asked, given, strict=True):
        fields = offer.parameters.fields
        behind = 0
        if offer.function.endswith("_add"):
            num_outputs = np.prod([fields[f"output_{side}"] for side in "hwc"])
            behind = -(-int(num_outputs) // 16) * 16
        assert offer.scratch_bytes == size + behind, query


def _query(offer: Implementation) -> str | None:
    fields = dict(offer.parameters.fields)
    if offer.function == "ee_average_pool_cmsis_nn":
        return "arm_avgpool_s8_get_buffer_size({output_w}, {channels})".format(**fields)
    if offer.parameters.ctype != "ee_conv2d":
        return None
    sizes = (
        "&(cmsis_nn_dims){{1, {input_h}, {input_w}, {input_c}}}, "
        "&(cmsis_nn_dims){{1, {kernel_h}, {kernel_w}, {input_c}}}, "
        "&(cmsis_nn_dims){{1, {output_h}, {output_w}, {output_c}}})"
    )
    places = ".stride = {{{stride_w}, {stride_h}}}, .padding = {{{pad_left}, {pad_top}}}, "
    places += ".dilation = {{{dilation_w}, {dilation_h}}}"
    if "depthwise" in offer.function:
        call = "arm_depthwise_conv_wrapper_s8_get_buffer_size(&(cmsis_nn_dw_conv_params){{"
        call += ".ch_mult = {depth_multiplier}, "
    else:
        call = "arm_convolve_wrapper_s8_get_buffer_size(&(cmsis_nn_conv_params){{"
    return f"{call}{places}}}}}, {sizes}".format(**fields)


SIZES_H = """#include "edgeexit.h"
#define EE_MODEL_SIZES_ARENA_BYTES NUM_ARENA
extern const ee_model ee_model_sizes;
"""
SIZES_C = """#include "ee_model.h"
#include "arm_nnfunctions.h"
static ee_status run_segment(void *context, uint32_t segment, uint8_t *arena) {
    int32_t *sizes = (int32_t *)(void *)arena;
    (void)context;
    (void)segment;
LINES
    return EE_OK;
}
static const ee_exit exits[] = {{.logits_offset = 0, .cost = 1}};
static const uint32_t thresholds[] = {1};
static const ee_point points[] = {{"all", thresholds}};
const ee_model ee_model_sizes = {
    .magic = EE_MODEL_MAGIC,
    .abi_version = EE_ABI_VERSION,
    .name = "sizes",
    .arena_bytes = NUM_SIZES + 16,
    .input_offset = NUM_SIZES,
    .input_bytes = 16,
    .num_exits = 1,
    .num_classes = NUM_SIZES,
    .num_points = 1,
    .rule = EE_RULE_PATIENCE,
    .exits = exits,
    .points = points,
    .cost_unit = "calls",
    .engine = {run_segment, NULL},
};
"""


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=needs_emulator) for place in ("m4", "m55")]
)
def test_costs_are_about_what_is_counted(place: str, tmp_path: Path) -> None:
    program = dsp_cases.conv("conv", (16, 16, 16), 16, (3, 3), (1, 1))
    made = c_host.make(
        program, core=core(place), kernel_sets=("cmsis_nn",), cmsis_nn=library().root
    )
    firmware = build_firmware(made.emission, machine(place), tmp_path, cmsis_nn=library().root)
    counts, _ = count_segments(firmware, dsp_cases.samples(program, 1))
    assert made.implementations[0].instructions == pytest.approx(counts.layers[0][0][0], rel=0.05)
