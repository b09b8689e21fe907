"""``edgeexit targets``: which devices can be compiled for."""

from __future__ import annotations

import click

from edgeexit.cli.output import emit, json_option, table


@click.command(name="targets", epilog="\b\nExample:\n  edgeexit targets --json")
@json_option
def command(as_json: bool) -> None:
    """List the devices that a network can be compiled for."""
    from edgeexit.targets import list_targets

    targets = list_targets()
    rows = table("Targets", "name", "description", "backends", left=3)
    for target in targets:
        rows.add_row(target.name, target.description, ", ".join(target.backends))
    emit(targets, as_json=as_json, show=lambda console: console.print(rows))
