"""``edgeexit export``: a project that a firmware engineer builds."""

from __future__ import annotations

from pathlib import Path

import click

from edgeexit.cli.output import emit, json_option, line

FORMATS = ("cmake", "zephyr", "arduino", "esp-idf", "cmsis")


@click.command(
    name="export",
    epilog="\b\nExample:\n  edgeexit export resnet8.eexit --format cmake -o resnet8_firmware",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--format", "format_name", type=click.Choice(FORMATS), required=True)
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The folder to write.",
)
@click.option(
    "--cmsis-nn",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="CMSIS_NN_PATH",
    metavar="DIR",
    help="CMSIS-NN's root, if the model uses it; the extra 'mcu' brings one. [$CMSIS_NN_PATH]",
)
@json_option
def command(
    bundle: Path, format_name: str, output: Path, cmsis_nn: Path | None, as_json: bool
) -> None:
    """Write BUNDLE as a project for a build system: model, runtime, kernels and an example.

    BUNDLE was compiled for a target that runs C.
    """
    from edgeexit.exporting import export_project

    files = export_project(bundle, format_name, output, cmsis_nn=cmsis_nn)
    facts = {"path": str(output), "format": format_name, "files": list(files)}
    emit(
        facts,
        as_json=as_json,
        show=lambda out: out.print(
            line(
                f"{len(files)} files in ",
                (str(output), "bold"),
                "; its README.md says how to build them",
            )
        ),
    )
