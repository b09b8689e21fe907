"""Networks trained by L2W-DEN, RaPTr and partially masked training run in int8, cores included."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import samples, splits
from torch import nn
from torch.optim import SGD

from edgeexit.cli.app import main
from edgeexit.compiler.pipeline import compile_model
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.zoo.resnet import ResNet
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.session import Session
from edgeexit.training.methods import Method, Step, create
from edgeexit.training.methods.partially_masked import PartiallyMasked, split_core
from edgeexit.training.modes import decayed_groups, phase_module, set_modes, trained_exits

ROUNDING = 3
"""Steps of an int8 logit by which engines differ, carried on from segment to segment."""

QUANTIZATION = 0.1
"""Mean distance of an int8 logit from the float one, over the spread of logits at that exit."""


def images() -> torch.Tensor:
    raw = samples().images.astype(np.float32).transpose(0, 3, 1, 2)
    return torch.from_numpy((raw - 128) / 128)


def fresh() -> MultiExitModel:
    torch.manual_seed(0)
    backbone = ResNet((3, 1, 1), (8, 8, 16), in_channels=3, num_classes=5)
    at = {"layer1": heads.Convolutional((8,), 2)}
    return attach_exits(backbone, at, example=torch.zeros(1, 3, 16, 16))


def trained(method: Method) -> MultiExitModel:
    model, x = fresh(), images()
    labels = torch.from_numpy(samples().labels)
    method.rebuild(model)
    set_modes(model, "everything")
    method.start_phase(model, "everything")
    module = phase_module(model, "everything")
    optimizer = SGD(decayed_groups(module, 1e-4), lr=0.05, momentum=0.9)
    for index in range(12):
        step = Step(
            module=module,
            model=model,
            phase="everything",
            exits=trained_exits(model, "everything"),
            images=x,
            labels=labels,
            progress=torch.tensor(index / 12),
            generator=torch.Generator().manual_seed(index),
            cross_entropy=lambda z: F.cross_entropy(z, labels, reduction="none"),
        )
        loss, _ = method.loss(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    method.take_off(model)
    return model.eval()


def agrees(model: MultiExitModel, bundle: Bundle) -> None:
    """The engine gives PyTorch's int8 logits, and those are close to the float ones."""
    golden = bundle.golden()
    off = golden["logits"].astype(np.int32) - golden["logits_tflite"]
    assert np.abs(off).max() <= ROUNDING
    with torch.no_grad():
        wanted = model(torch.from_numpy(golden["inputs"].transpose(0, 3, 1, 2) / np.float32(128)))
    for index, segment in enumerate(bundle.manifest.segments):
        steps = golden["logits_tflite"][:, index].astype(np.float32) - segment.logits.zero_point
        off = np.abs(steps * segment.logits.scale - wanted[index].numpy())
        assert off.mean() < QUANTIZATION * float(wanted[index].std())
    session = Session(bundle, "litert")
    for row, exit_index, logits in zip(
        golden["inputs"], golden["exits_tflite"], golden["logits_tflite"], strict=True
    ):
        result = session.run((row.astype(np.int16) + 128).astype(np.uint8))
        assert result.exit == exit_index
        assert result.label == logits[exit_index].argmax()


@pytest.mark.parametrize("name", ["l2w_den", "raptr"])
def test_a_trained_network_runs_in_int8(name: str, tmp_path: Path) -> None:
    method = create(name)
    model = trained(method)
    # As the compiler makes it: a fresh network, rebuilt, with the trained weights.
    loaded = fresh()
    method.rebuild(loaded)
    loaded.load_state_dict(model.state_dict())
    bundle = compile_model(
        loaded.eval(), data=splits(), output=tmp_path / "net.eexit", backends=("tflite",)
    )
    agrees(loaded, bundle)


def test_a_core_runs_in_int8_with_fewer_operations(tmp_path: Path) -> None:
    model = trained(PartiallyMasked())
    loaded = fresh()
    loaded.load_state_dict(model.state_dict())
    labels = torch.from_numpy(samples().labels)
    core = split_core(loaded, 0.25, lambda: [(images(), labels)])
    bundle = compile_model(
        core, data=splits(), output=tmp_path / "core.eexit", backends=("tflite",)
    )
    agrees(core, bundle)
    macs = [static_macs(network) for network in (loaded, core)]
    assert macs[1] == bundle.manifest.static_macs
    # A block's convolution from 8 to 8 channels has 2 (72 + 8) products a position, not 72 x 8.
    assert macs[1] < 0.35 * macs[0]


def test_the_command_splits_a_core_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (120, 16, 16, 3), dtype=np.uint8)
    data = tmp_path / "noise.npz"
    np.savez(data, images=images, labels=np.arange(120) % 3)

    def run(*words: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as caught:
            main([*words, "--data", str(data)])
        out, err = capsys.readouterr()
        assert caught.value.code == code, err
        return out if code == 0 else err

    masked, plain = str(tmp_path / "masked"), str(tmp_path / "plain")
    train = ("train", "resnet8", "--strategy", "joint", "--epochs", "1", "--batch-size", "16", "-o")
    method = ("--method", "partially_masked", "--method-option", "rank_share=0.2")
    run(*train, masked, *method)
    run(*train, plain)
    compile_words = ("compile", masked, "--backend", "tflite", "--json", "-o")
    whole = json.loads(run(*compile_words, str(tmp_path / "whole.eexit")))
    core = json.loads(run(*compile_words, str(tmp_path / "core.eexit"), "--core"))
    assert core["static_macs"] < 0.6 * whole["static_macs"]
    for refused in (plain, "resnet8"):
        given = run("compile", refused, "-o", str(tmp_path / "no.eexit"), "--core", code=1)
        assert "there is no core to split off" in given
        assert "partially_masked" in given


def static_macs(model: MultiExitModel) -> int:
    """Products of the convolutions and linear layers without early exits, for one image."""
    counts = []

    def count(layer: nn.Module, _args: object, output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            counts.append(output.numel() * layer.weight[0].numel())

    with ExitStack() as stack, torch.no_grad():
        for module in model.backbone.modules():
            stack.callback(module.register_forward_hook(count).remove)
        model.backbone.eval()(images()[:1])
    return sum(counts)
