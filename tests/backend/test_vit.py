"""A vision transformer through the whole compiler: int8 throughout, in every engine of the host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import c_host
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert import schema_py_generated as schema
from networks import PREPROCESSING, samples, splits
from tflite_micro.python.tflite_micro import runtime as tflm

from edgeexit.backends.c import Core, build
from edgeexit.backends.c.build import CProgram
from edgeexit.backends.c.from_bundle import program_inputs
from edgeexit.backends.c.program import BatchMatMul, Copy, Softmax
from edgeexit.compiler.pipeline import compile_model
from edgeexit.errors import ModelError
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.heads import Pooled
from edgeexit.nn.model import MultiExitModel, example_logits
from edgeexit.nn.zoo.vit import Block, VisionTransformer
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.decision import batch_exits, batch_scores
from edgeexit.runtime.session import Session

WIDTH, HEADS, DEPTH, PATCH = 24, 3, 2, 4
NUM_TOKENS = (16 // PATCH) ** 2
CORES = (
    c_host.GENERIC,
    Core("cortex-m4", dsp=True, mve=False, cost="m4"),
    Core("cortex-m55", dsp=True, mve=True, cost="m55"),
)
_CODES = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}


def images() -> torch.Tensor:
    raw = torch.from_numpy(samples().images).permute(0, 3, 1, 2).float()
    return (raw - PREPROCESSING.offset[0]) * PREPROCESSING.multiplier[0]


@pytest.fixture(scope="module")
def model() -> MultiExitModel:
    """Knows the samples by heart: random attention makes much of every rounding."""
    torch.manual_seed(0)
    backbone = VisionTransformer(
        3, 5, image_size=16, patch=PATCH, width=WIDTH, depth=DEPTH, num_heads=HEADS
    )
    example = torch.zeros(1, 3, 16, 16)
    model = attach_exits(backbone, {"blocks.0": Pooled()}, example=example).train()
    labels = torch.from_numpy(samples().labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(50):
        optimizer.zero_grad()
        loss = torch.stack([F.cross_entropy(z, labels) for z in model(images())]).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
    return model.eval()


@pytest.fixture(scope="module")
def bundle(model: MultiExitModel, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    # `compile_model` compares each artifact with the quantized graph; it raises where they differ.
    return compile_model(
        model,
        data=splits(32),
        output=tmp_path_factory.mktemp("bundles") / "vit.eexit",
        backends=("tflite", "executorch"),
        num_range_samples=8,
    )


def test_every_tensor_of_every_segment_is_int8(bundle: Bundle) -> None:
    files = sorted((bundle.path / "segments").glob("*.tflite"))
    assert [path.name for path in files] == ["0.tflite", "1.tflite", "static.tflite"]
    for path in files:
        (main,) = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).subgraphs
        for tensor in main.tensors:
            is_number = tensor.buffer != 0 and tensor.type == schema.TensorType.INT32
            assert is_number or tensor.type == schema.TensorType.INT8, tensor.name


def test_a_block_is_its_layers_and_four_moves(bundle: Bundle) -> None:
    content = (bundle.path / "segments" / "1.tflite").read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    names = [
        _CODES[model.operatorCodes[op.opcodeIndex].builtinCode]
        for op in model.subgraphs[0].operators
    ]
    # Queries and keys are turned, then values, then what comes out of all heads.
    assert " ".join(name for name in names if name != "RESHAPE") == (
        "CONV_2D CONV_2D CONV_2D TRANSPOSE TRANSPOSE BATCH_MATMUL SOFTMAX TRANSPOSE BATCH_MATMUL "
        "TRANSPOSE CONV_2D ADD CONV_2D HARD_SWISH CONV_2D ADD MEAN CONV_2D"
    )


def test_products_count_as_work(bundle: Bundle) -> None:
    linear = NUM_TOKENS * WIDTH * WIDTH * (4 + 2 * 2)
    products = 2 * NUM_TOKENS * NUM_TOKENS * WIDTH
    head = WIDTH * 5
    _, second = bundle.manifest.segments
    assert second.macs == linear + products + head


def test_what_is_left_of_the_float_network(bundle: Bundle, model: MultiExitModel) -> None:
    golden = bundle.golden()
    raw = golden["inputs"].astype(np.float32) + 128
    batch = torch.from_numpy((raw - 128) / 128).permute(0, 3, 1, 2)
    for index, wanted in enumerate(example_logits(model, batch)):
        spec = bundle.manifest.segments[index].logits
        given = (golden["logits"][:, index].astype(np.float32) - spec.zero_point) * spec.scale
        error = np.abs(given - wanted.numpy()).mean()
        assert error < 0.06 * float(wanted.max() - wanted.min())


@pytest.mark.parametrize(("backend", "engine"), [("tflite", "litert"), ("executorch",) * 2])
def test_a_session_agrees_with_the_quantized_graph(
    bundle: Bundle, backend: str, engine: str
) -> None:
    golden = bundle.golden()
    given = golden[f"logits_{backend}"]
    off = np.abs(golden["logits"].astype(np.int32) - given)
    # TFLite computes softmax and additions in fixed point. XNNPACK and PyTorch round floats, each
    # in an order of its own: close to the middle of two integers one op differs by 1, an addition
    # or a linear layer in some of 10^5 values.
    assert off.max() <= {"tflite": 4, "executorch": 1}[backend]
    assert off.mean() <= {"tflite": 0.5, "executorch": 0.1}[backend]
    session = Session(bundle, engine)
    for row, wanted, logits in zip(
        golden["inputs"], golden[f"exits_{backend}"], given, strict=True
    ):
        result = session.run((row.astype(np.int16) + 128).astype(np.uint8))
        assert result.exit == wanted
        assert result.label == logits[wanted].argmax()


@pytest.fixture(scope="module")
def built(bundle: Bundle) -> dict[str, CProgram]:
    contents, links, chain = program_inputs(bundle)
    return {
        core.name: build(contents, links, replace(chain, name=core.name), core) for core in CORES
    }


def test_attention_in_c_moves_no_byte(built: dict[str, CProgram]) -> None:
    kinds = [type(step) for step in built["generic"].program.steps]
    assert kinds.count(BatchMatMul) == 2 * DEPTH
    assert kinds.count(Softmax) == DEPTH
    assert Copy not in kinds


def test_cores_get_products_of_their_own(built: dict[str, CProgram]) -> None:
    functions = {
        name: {layer.function for layer in program.layers if layer.kind == BatchMatMul.__name__}
        for name, program in built.items()
    }
    assert functions == {
        "generic": {"ee_batch_matmul_portable"},
        "cortex-m4": {"ee_batch_matmul_dsp"},
        "cortex-m55": {"ee_batch_matmul_mve"},
    }


def test_c_for_microcontrollers_is_tflite_micro_to_the_bit(
    bundle: Bundle, built: dict[str, CProgram], tmp_path: Path
) -> None:
    golden = bundle.golden()["inputs"]
    static = (bundle.path / "segments" / "static.tflite").read_bytes()
    interpreter = tflm.Interpreter.from_bytes(static, arena_size=1 << 20)
    wanted = []
    for row in golden:
        interpreter.set_input(row[None], 0)
        interpreter.invoke()
        wanted.append(interpreter.get_output(0).ravel())
    models = {
        name: c_host.Model(
            each.program,
            each.implementations,
            each.plan,
            each.emission,
            tuple(segment.logits for segment in each.program.segments),
        )
        for name, each in built.items()
    }
    host = c_host.Host(models, tmp_path)
    spec, point = bundle.manifest.decision, bundle.manifest.points["tflite"][0]
    for name in models:
        logits = host.outputs(name, golden)
        np.testing.assert_array_equal(logits[-1], np.stack(wanted), err_msg=name)
        scores = batch_scores(np.stack(logits, axis=1), spec)
        exits = batch_exits(scores, point.thresholds, spec.rule)
        np.testing.assert_array_equal(host.decisions(name, golden).exits, exits, err_msg=name)


def test_a_fresh_block_passes_on_what_comes_in() -> None:
    block = Block(12, 2, 24).eval()
    tokens = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(tokens), tokens)


@pytest.mark.parametrize(
    ("options", "given"), [({"patch": 5}, "32, 5"), ({"num_heads": 5}, "96, 5")]
)
def test_sizes_that_do_not_come_out_even(options: dict[str, int], given: str) -> None:
    with pytest.raises(ModelError, match=f"does not come out even(.|\n)*{given}"):
        VisionTransformer(**options)  # type: ignore[arg-type]
