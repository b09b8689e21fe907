"""``edgeexit compile``: from a trained network to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeexit.cli.ignored_options import refuse_given
from edgeexit.cli.inspect import facts_of, show_bundle
from edgeexit.cli.models import load_trained, trained_core, trained_rule
from edgeexit.cli.output import emit, json_option, progress
from edgeexit.errors import ArgumentError

_NOT_FOR_TFLITE = (
    *("source", "weights", "backends", "delegate", "rule", "core", "finetune_epochs"),
    "max_accuracy_drop",
)


@click.command(
    name="compile",
    epilog="\b\nExamples:\n"
    "  edgeexit compile resnet8 --weights cifar10 --data cifar10 -o resnet8.eexit\n"
    "  edgeexit compile resnet8 --weights cifar10 --data cifar10 --target cortex-m4 -o m4.eexit\n"
    "  edgeexit compile model.tflite --target cortex-m55 -o model.eexit",
)
@click.argument("model")
@click.option(
    "--data",
    "source",
    metavar="SOURCE",
    help="Where ranges and thresholds come from: a name, an .npz file, an image folder or a .toml "
    "file of a stream. Needed for everything but a .tflite file.",
)
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="The folder to write, by convention NAME.eexit.",
)
@click.option("--weights", metavar="DATASET", help="Weights that ship with a zoo network.")
@click.option("--target", default="host", show_default=True, help="A name, or a TOML file.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME",
    help="Lower with this backend only; may be repeated. All of the target's if not given.",
)
@click.option(
    "--delegate",
    metavar="NAME",
    help="What ExecuTorch runs on: xnnpack, or cortex-m for a target with such a core.",
)
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="What the point 'balanced' may lose of the accuracy without early exits; 'accurate' may "
    "lose half of it, 'frugal' three times as much.",
)
@click.option(
    "--rule",
    type=click.Choice(["confidence", "margin", "patience"]),
    help="When an exit answers; what the checkpoint's training method was made for if not given, "
    "which is mostly confidence.",
)
@click.option(
    "--core",
    is_flag=True,
    help="Compile the low-rank core that training with --method partially_masked left inside the "
    "network, as a smaller network of its own.",
)
@click.option(
    "--finetune-epochs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Epochs of training in int8, on the training split; kept where the exits get better.",
)
@click.option(
    "--cmsis-nn",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="CMSIS_NN_PATH",
    metavar="DIR",
    help="CMSIS-NN's root, for C; the extra 'mcu' brings one. [$CMSIS_NN_PATH]",
)
@click.option("--name", help="The model's name in the bundle; that of the folder if not given.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there already.")
@json_option
def command(
    model: str,
    source: str | None,
    output: Path,
    weights: str | None,
    target: str,
    backends: tuple[str, ...],
    delegate: str | None,
    max_accuracy_drop: float,
    rule: str | None,
    core: bool,
    finetune_epochs: int,
    cmsis_nn: Path | None,
    name: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn MODEL into a bundle.

    MODEL is a network of the zoo (resnet8, resnet20, vit), a folder made by edgeexit train, or
    package.module:function, called without arguments. An int8 .tflite file becomes a chain with
    one exit, as it is.
    """
    from edgeexit.targets import load_target

    device = load_target(target)  # complains before the seconds that loading the compiler takes
    if "cmsis_nn" not in device.kernel_sets:
        refuse_given(
            ("cmsis_nn",),
            f"the target {device.name} uses no CMSIS-NN",
            wanted="no --cmsis-nn, or a target whose kernel_sets have cmsis_nn",
        )
    shared: dict[str, Any] = {
        "target": target,
        "output": output,
        "name": name,
        "overwrite": overwrite,
        "cmsis_nn": cmsis_nn,
    }
    with progress() as report:
        report("load the compiler", 0, 0)
        if model.endswith(".tflite"):
            refuse_given(
                _NOT_FOR_TFLITE,
                "a .tflite file is compiled as it is",
                wanted="no --data, --weights, --backend, --delegate, --rule, --core, "
                "--finetune-epochs or --max-accuracy-drop",
            )
            from edgeexit.compiler.from_tflite import compile_tflite

            bundle = compile_tflite(model, progress=report, **shared)
        elif source is None:
            raise ArgumentError(
                "ranges and thresholds come from data",
                wanted="--data SOURCE; only a .tflite file needs none",
                given=f"compile {model}",
            )
        else:
            from edgeexit import data
            from edgeexit.compiler.check import check_name
            from edgeexit.compiler.pipeline import compile_model

            check_name(name or output.name.removesuffix(".eexit"))
            splits = data.load(source, progress=report)
            network = load_trained(
                model,
                weights=weights,
                num_classes=splits.num_classes,
                in_channels=splits.image_shape[2],
                image_size=splits.image_shape[:2],
            )
            if core:
                report("split the core off", 0, 0)
                network = trained_core(model, network, splits)
            bundle = compile_model(
                network,
                data=splits,
                backends=backends or None,
                delegate=delegate,
                max_accuracy_drop=max_accuracy_drop,
                finetune_epochs=finetune_epochs,
                rule=rule or trained_rule(model),
                progress=report,
                **shared,
            )
    emit(facts_of(bundle), as_json=as_json, show=lambda out: show_bundle(out, bundle))
